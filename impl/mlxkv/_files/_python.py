"""The layouts of mlx-lm up to 0.31: tensors <layer>.<j>, metadata [meta_states, user, classes]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlxkv._files._errors import FieldError, LayoutError, Place, UnknownClassError
from mlxkv._files._layers import MAX_TOKENS, Content, Layer, count, dense, tell, tensor, within
from mlxkv._files._rules import (
    check_buffers,
    check_padding,
    check_parts,
    check_ring,
    check_rotated,
    check_up_to,
    columns_of_ring,
)

# Its class, its node of the tree of tensors, its meta_state.
Parse: TypeAlias = Callable[[Place, Any, Any], Layer]

FLAGS = {"True": True, "False": False}


@dataclass(frozen=True)
class Dialect:
    """What differs from one of these generations to the next."""

    rotating: str
    quantized: str
    classes: tuple[str, ...]
    lists: bool = False


_SINGLE = (
    "ArraysCache",
    "ChunkedKVCache",
    "ConcatenateKVCache",
    "KVCache",
    "QuantizedKVCache",
    "RotatingKVCache",
)
_BATCHES = ("BatchKVCache", "BatchRotatingKVCache")
DIALECTS = {
    "0.27": Dialect(
        rotating="keep max_size step offset _idx",
        quantized="step offset group_size bits",
        classes=(*_SINGLE, "CacheList", "MambaCache"),
    ),
    "0.28": Dialect(
        rotating="keep max_size offset _idx",
        quantized="offset group_size bits",
        classes=(*_SINGLE, *_BATCHES, "CacheList", "MambaCache"),
    ),
    "0.31": Dialect(
        rotating="keep max_size offset _idx",
        quantized="offset group_size bits",
        classes=(*_SINGLE, *_BATCHES, "CacheList"),
        lists=True,
    ),
}


class Python:
    """The reader of one layer in one of these generations."""

    def __init__(self, generation: str, content: Content) -> None:
        self.dialect = DIALECTS[generation]
        self.content = content
        self.parsers: dict[str, Parse] = {
            "ArraysCache": self._arrays,
            "BatchKVCache": self._batch,
            "BatchRotatingKVCache": self._batch_rotating,
            "CacheList": self._list,
            "ChunkedKVCache": self._chunked,
            "ConcatenateKVCache": self._concatenate,
            "KVCache": self._standard,
            "MambaCache": self._mamba,
            "QuantizedKVCache": self._quantized,
            "RotatingKVCache": self._rotating,
        }

    def layer(self, place: Place, node: Any, meta: Any) -> Layer:
        """Read the layer of that place's class. Raises `PromptCacheError`."""
        if place.cache not in self.dialect.classes:
            expected = f"one of {', '.join(self.dialect.classes)}"
            raise UnknownClassError(place, "class", expected, tell(place.cache))
        return self.parsers[place.cache](place, node, meta)

    def _standard(self, place: Place, node: Any, meta: Any) -> Layer:
        check_no_meta(place, meta)
        fields = keys_and_values(place, node)
        fields["offset"] = check_buffers(place, **fields).rows
        return Layer("KVCache", fields)

    def _concatenate(self, place: Place, node: Any, meta: Any) -> Layer:
        fields = self._standard(place, node, meta).fields
        return Layer("ConcatenateKVCache", fields)

    def _rotating(self, place: Place, node: Any, meta: Any) -> Layer:
        fields = keys_and_values(place, node)
        counts, extras = counts_of(place, meta, self.dialect.rotating)
        rows = check_buffers(place, **fields).rows
        fields |= counts
        check_ring(place, fields, rows, cut=True, offset="offset")
        return Layer("RotatingKVCache", fields, extras=extras)

    def _quantized(self, place: Place, node: Any, meta: Any) -> Layer:
        keys, values = dense(place, "tensors", node, 2)
        fields = {name: parts_of(place, name, one) for name, one in zip(KV, (keys, values))}  # noqa: B905
        counts, extras = counts_of(place, meta, self.dialect.quantized)
        fields |= counts
        check_saved_rows(place, fields, check_parts(place, fields).rows)
        return Layer("QuantizedKVCache", fields, extras=extras)

    def _chunked(self, place: Place, node: Any, meta: Any) -> Layer:
        fields = keys_and_values(place, node)
        fields |= counts_of(place, meta, "chunk_size start_position")[0]
        check_start(place, fields["start_position"])
        fields["offset"] = check_buffers(place, fields["keys"], fields["values"]).rows
        return Layer("ChunkedKVCache", fields)

    def _arrays(self, place: Place, node: Any, meta: Any) -> Layer:
        check_no_meta(place, meta)
        slots = [] if node is None else dense(place, "slots", node)
        cache = tuple(tensor(place, f"cache[{i}]", one) for i, one in enumerate(slots))
        return Layer("ArraysCache", {"cache": cache, "left_padding": None, "lengths": None})

    def _mamba(self, place: Place, node: Any, meta: Any) -> Layer:
        dense(place, "slots", node, 2)
        return Layer("ArraysCache", self._arrays(place, node, meta).fields, spelled="MambaCache")

    def _batch(self, place: Place, node: Any, meta: Any) -> Layer:
        check_no_meta(place, meta)
        fields = dict(zip(BATCH, dense(place, "tensors", node, 4), strict=True))
        buffers = check_buffers(place, fields["keys"], fields["values"])
        fields["_idx"] = buffers.rows
        check_padding(place, self.content, fields, buffers, buffers.rows)
        return Layer("BatchKVCache", fields)

    def _batch_rotating(self, place: Place, node: Any, meta: Any) -> Layer:
        fields = dict(zip(BATCH, dense(place, "tensors", node, 4), strict=True))
        names = ("max_size", "_offset", "_idx")
        metas = dense(place, "meta_state", meta, 4)
        fields |= {name: count(place, name, text) for name, text in zip(names, metas)}  # noqa: B905
        if not isinstance(metas[3], str) or metas[3] not in FLAGS:
            raise FieldError(place, "rotated", "True or False", tell(metas[3]))
        fields["rotated"] = FLAGS[metas[3]]
        buffers = check_buffers(place, fields["keys"], fields["values"])
        check_ring(place, fields, buffers.rows, cut=True, offset="_offset")
        check_rotated(place, fields, buffers.rows)
        check_padding(place, self.content, fields, buffers, columns_of_ring(fields, buffers.rows))
        return Layer("BatchRotatingKVCache", fields)

    def _list(self, place: Place, node: Any, meta: Any) -> Layer:
        if not self.dialect.lists:
            expected = "a class whose file names its parts"
            raise LayoutError(place, "class", expected, "CacheList, which does not before 0.31")
        if meta == "":
            expected = "the children's class names, which no file has before 0.31"
            raise LayoutError(place, "meta_state", expected, "''")
        metas = within(place, "meta_state", meta, 2)
        names = dense(place, "class names", metas.get("0", {}))
        nodes = within(place, "children", node, len(names))
        child_metas = within(place, "meta_states", metas.get("1"), len(names))
        children = []
        for i, name in enumerate(names):
            if not isinstance(name, str):
                raise LayoutError(place, f"class name {i}", "a class name", tell(name))
            key = str(i)
            children.append(self.layer(place.child(i, name), nodes.get(key), child_metas.get(key)))
        return Layer("CacheList", children=tuple(children))


def variant(generation: str, cache: str) -> str:
    """Which way to read a class a generation has: those of the same one read a layer alike."""
    dialect = DIALECTS.get(generation)
    if dialect is None or cache not in dialect.classes:
        return generation
    match cache:
        case "RotatingKVCache":
            return dialect.rotating
        case "QuantizedKVCache":
            return dialect.quantized
        case "CacheList":
            return generation
    return "alike"


KV = ("keys", "values")
BATCH = ("keys", "values", "offset", "left_padding")


def keys_and_values(place: Place, node: Any) -> dict[str, Any]:
    """The two entries of a layer."""
    return dict(zip(KV, dense(place, "tensors", node, 2), strict=True))


def parts_of(place: Place, name: str, node: Any) -> tuple[Any, ...]:
    """Packed rows, scales and biases."""
    return tuple(tensor(place, name, one) for one in dense(place, name, node, 3))


def counts_of(place: Place, meta: Any, names: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers of a meta_state; apart from them `step`, which no class holds since 0.28."""
    texts = dense(place, f"meta_state ({names})", meta, len(names.split()))
    numbers = {
        name: count(place, name, text, low=name in ("group_size", "bits", "step"))
        for name, text in zip(names.split(), texts, strict=True)
    }
    step = numbers.pop("step", None)
    if step is not None:
        check_up_to(place, "step", step, MAX_TOKENS, "positions of 32 bits")
    return dict(numbers), {} if step is None else {"step": str(step)}


def check_no_meta(place: Place, meta: Any) -> None:
    """Raise unless the meta_state is the empty string."""
    if meta != "":
        raise FieldError(place, "meta_state", "''", tell(meta))


def check_saved_rows(place: Place, fields: dict[str, Any], rows: int) -> None:
    """Raise unless the offset is the rows, of which the valid ones alone are saved."""
    if fields["offset"] != rows:
        expected = f"{rows}, the rows that are saved"
        raise FieldError(place, "offset", expected, str(fields["offset"]))


def check_start(place: Place, start_position: int) -> None:
    """Raise once the front was trimmed: the file does not say how many tokens there were.

    mlx-lm takes the rows for the offset, and then writes over rows that it holds.
    """
    if start_position:
        expected = "0, for these files do not save the offset of a chunk"
        raise FieldError(place, "start_position", expected, str(start_position))
