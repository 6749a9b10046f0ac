"""The cache of a chunked-attention layer: it can forget all but the last `chunk_size` rows."""

from __future__ import annotations

import mlx.core as mx

from mlxkv._backed import BackedCache
from mlxkv._base import as_size, check_trim
from mlxkv._buffers import Pair
from mlxkv._errors import NotTrimmableError
from mlxkv._masks import Mask, create_attention_mask


class ChunkedKVCache(BackedCache):
    """Keys and values of positions `start_position` to `offset`; row 0 is `start_position`.

    `chunk_size` None never forgets (mlx-swift-lm; seed test maybe_trim_front_noop_paths).
    Each release has its own `maybe_trim_front`.
    Source: 0.31.3 cache.py:731-811, 0.32.2 cache.py:727-800.
    """

    _reference_name = "ChunkedKVCache"
    step: int = 256

    def __init__(self, chunk_size: int | None) -> None:
        size = None if chunk_size is None else as_size(self, "chunk_size", chunk_size)
        super().__init__()
        self.chunk_size = size
        self.start_position = 0

    def maybe_trim_front(self) -> None:
        """Forget the rows before the last `chunk_size`, if there are more; moves `start_position`.

        The buffers become views. Mutates neither `offset` nor any byte. Does not raise.
        """
        raise NotImplementedError

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Pair:
        """Write rows (batch, n_kv_heads, tokens, head_dim) at `offset - start_position`.

        Returns views of the rows from `start_position` on. Raises as `Cache.update_and_fetch` and
        `StepError`; a front trim past the offset leaves no row to write to: `LostWriteError`.
        """
        prev = self.offset - self.start_position
        fetched = self._overwrite(keys, values, prev)
        if fetched is not None:
            self.offset += 1
            return fetched
        self._write(keys, values, prev)
        self.offset += keys.shape[2]
        return self._fetch()

    def trim(self, n: int) -> int:
        n = check_trim(self, n)
        held = self.offset - self.start_position
        if held < 0:
            got = f"offset {self.offset} before start_position {self.start_position}"
            raise NotTrimmableError(self, "trim", "tokens that are still held", got)
        trimmed = min(held, n)
        self.offset -= trimmed
        return trimmed

    def make_mask(
        self,
        N: int,  # noqa: N803 - the release's name, passed by keyword
        window_size: int | None = None,
        return_array: bool = False,
    ) -> Mask:
        """The standard mask over all positions: None, "causal", or bool (N, offset + N).

        Beyond mlx-lm, whose chunked cache has none (seed test chunked_make_mask). mlx-lm's
        `base.create_attention_mask` looks for this method: with it, a model that passes it a
        chunked cache gets a mask that counts the offset; without, (N, N), and "causal" for a
        window that N alone does not exceed. `llama4` builds its chunk mask itself and asks only
        its full-attention layers' caches, so it gets the same masks either way.
        """
        return create_attention_mask(N, self.offset, return_array, window_size)
