"""The style of a trace: which shapes, dtypes and fills its arrays have."""

from __future__ import annotations

from dataclasses import dataclass

from kvlockstep._recipes import AnyRecipe, Bits, Dtype, Rows, Size
from kvlockstep._source import Source

# The values of a token carry another id than its keys, so that a mix-up of both shows.
VALUES_START = 100

_FLOATS: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")
_HEAD_DIMS = (1, 2, 4, 3, 8, 5)
# What can be quantized, in groups of 32, 64 or 128.
_WIDE_HEAD_DIMS = (32, 64, 32, 64, 32, 32, 64, 32, 32, 64, 32, 64, 32, 128, 96, 256)
# With these a large buffer is of the size where ports move rows in other ways: 64 KiB and more.
_BROAD_HEAD_DIMS = (64, 128, 64, 66)


@dataclass
class Style:
    """Shapes are [batch, heads, tokens, head_dim]; K and V may differ in head_dim.

    The batch may be "batch": as many rows as the cache has.
    """

    batch: Size
    heads: int
    k_head_dim: int
    v_head_dim: int
    dtype: Dtype
    bits: bool
    large: bool = False
    decoding: bool = False
    token: int = 0

    @classmethod
    def draw(cls, source: Source, cache: str, large: bool) -> Style:
        """Draw a style for a trace on `cache`; with `large` buffers, one of small rows."""
        dims: tuple[int, ...] = _HEAD_DIMS
        wide = cache == "QuantizedKVCache" or (cache == "KVCache" and source.one_in(8))
        if wide:
            dims = _WIDE_HEAD_DIMS[: 2 if large else 16]
        elif large and source.one_in(8):
            dims = _BROAD_HEAD_DIMS
        # The larger the rows or the buffers, the fewer of them.
        lanes = (1, 1, 1, 2) if large or wide else (1, 1, 2, 3)
        k_head_dim = source.pick(dims)
        v_head_dim = source.pick(dims) if source.one_in(3) else k_head_dim
        return cls(
            batch=source.pick(lanes),
            heads=source.pick(lanes),
            k_head_dim=k_head_dim,
            v_head_dim=v_head_dim,
            dtype=source.pick(_FLOATS),
            bits=source.one_in(2),
            large=large,
            decoding=source.one_in(8),
        )

    def pair(self, source: Source, tokens: Size) -> tuple[AnyRecipe, AnyRecipe | None]:
        """Draw the keys and values of an update; now and then ones that do not fit."""
        odd = source.below(64)
        dtype = source.pick(_FLOATS) if source.one_in(10) else self.dtype
        batch = k_batch = self.batch
        heads = v_heads = self.heads
        k_head_dim, v_head_dim, v_tokens, v_dtype = self.k_head_dim, self.v_head_dim, tokens, dtype
        match odd:
            case 63:
                batch = k_batch = _plus_one(batch)
            case 62:
                batch = k_batch = 1
            case 53:
                k_batch = _plus_one(k_batch)
            case 52:
                k_head_dim += 1
            case 61:
                heads = v_heads = 1
            case 51:
                v_heads += 1
            case 50:
                batch = _plus_one(batch)
            case 60:
                k_head_dim = 1
            case 59:
                v_head_dim += 1
            case 58:
                v_tokens = source.pick((0, 1, 2, 3))
            case 57:
                v_dtype = source.pick(_FLOATS)
            case 56:
                dtype = v_dtype = source.pick(("int32", "bool", "complex64", "uint8"))
            case 55:
                return self.array(source, (batch, heads, tokens, k_head_dim), dtype), None
            case 54:
                return self._of_rank(source, source.pick((3, 5, 2)), tokens, dtype)
        keys = self.array(source, (k_batch, heads, tokens, k_head_dim), dtype)
        shape = (batch, v_heads, v_tokens, v_head_dim)
        values = self.array(source, shape, v_dtype, VALUES_START)
        self.token = (self.token + (tokens if isinstance(tokens, int) else 7)) % 1000
        return keys, values

    def array(
        self, source: Source, shape: tuple[Size, ...], dtype: Dtype, start: int = 0
    ) -> AnyRecipe:
        """Draw one array of the trace's fill."""
        if self.bits:
            return Bits(shape=shape, dtype=dtype, seed=source.below(256))
        return Rows(shape=shape, dtype=dtype, start=self.token + start)

    def _of_rank(
        self, source: Source, rank: int, tokens: Size, dtype: Dtype
    ) -> tuple[AnyRecipe, AnyRecipe]:
        """Draw keys, values or both of another rank."""
        shape: tuple[Size, ...] = (1, self.batch, self.heads, tokens, self.k_head_dim)
        odd = self.array(source, shape[-rank:], dtype)
        even = self.array(source, shape[1:], dtype)
        return source.pick(((odd, odd), (even, odd), (odd, even)))


def _plus_one(size: Size) -> Size:
    return f"{size}+1" if isinstance(size, str) else size + 1
