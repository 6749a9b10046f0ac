"""Files of 0.32 as mlx-lm writes them, in one pass; all others are left to the strict reader.

What the strict reader says of one layer holds of every other one of the same class whose tensors
have the same names, dtypes and shapes, and whose scalars and counts have the same bytes. So it is
asked once for each kind of layer. Nothing is refused here: where it would, the answer is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx

from mlxkv._files._body import VIEWED, Body, copier, is_small, load_arrays, numpy_dtypes
from mlxkv._files._errors import Place, PromptCacheError
from mlxkv._files._header import Header, Source
from mlxkv._files._layers import Const, Content
from mlxkv._files._metadata import unflatten_metadata
from mlxkv._files._outline import Layout, outline
from mlxkv._files._plan import Plan, make, plan
from mlxkv._files._regular import DTYPES, Arranged, Regular, Tensor
from mlxkv._files._scalars import Scalars, check_kind, constant

# Kinds of layers, which differ in some number or shape.
_MOST = 64
_COUNTS = ("I32", "I64")


class Leaves(NamedTuple):
    """Of each tensor its array, None of a scalar; and its bytes, if it is a scalar or counts."""

    arrays: list[mx.array | None]
    texts: list[bytes | None]


def load_quickly(
    source: Source, begin: int, parsed: Regular, classes: Mapping[str, Any]
) -> tuple[list[Any], Any] | None:
    """The caches of a file whose header ends at `begin`, and the user's metadata.

    None where the file is not of 0.32, not as mlx-lm writes it, or cannot be read.
    """
    place = Place(source.place.file, "0.32")
    try:
        arranged = parsed.arranged
        if arranged is None or not parsed.fills(source.nbytes - begin):
            return None
        found, user = outline(parsed.metadata, tuple(parsed.tensors))
        metadata = unflatten_metadata(place, user)
        body = Body(source, begin, keep=False)
        if is_small(arranged.longest, [shape for _, shape in arranged.kinds]):
            leaves = _read(body, arranged, found.kinds)
        else:
            header = Header(place, source.nbytes, begin, parsed.named(), parsed.metadata)
            leaves = _load(body, arranged, found, load_arrays(source, header))
        tensors = list(parsed.tensors.values())
        made = _make(place, body, tensors, arranged, found, leaves, classes)
    except (PromptCacheError, RuntimeError, MemoryError):
        return None
    return None if made is None else (made, metadata)


def _read(body: Body, arranged: Arranged, kinds: tuple[str | None, ...]) -> Leaves:
    """All leaves of a small file, evaluated. Raises `PromptCacheError`, and what MLX raises."""
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    ndarray, dtypes, copy = np.ndarray, numpy_dtypes(), copier()
    ways = [
        (dtypes[dtype], shape, DTYPES[dtype] if dtype in VIEWED else None, _counts(dtype, shape))
        for dtype, shape in arranged.kinds
    ]
    arrays: list[mx.array | None] = [None] * len(kinds)
    texts: list[bytes | None] = [None] * len(kinds)
    viewed: list[mx.array] = []
    for spans, room in body.windows(arranged.spans, arranged.longest):
        first = spans[0][0]
        for start, end, i, which in spans:
            dtype, shape, other, counts = ways[which]
            if kinds[i] is None:
                content: Any = ndarray(shape, dtype, room, start - first)
                arrays[i] = array = copy(content)
                if other is not None:
                    arrays[i] = array = array.view(other)
                    viewed.append(array)
                if not counts:
                    continue
            texts[i] = bytes(room[start - first : end - first])
    if viewed:
        mx.eval(viewed)
    return Leaves(arrays, texts)


def _load(body: Body, arranged: Arranged, found: Layout, loaded: Mapping[str, mx.array]) -> Leaves:
    """All leaves, the arrays as MLX `loaded` them, evaluated. Raises as above."""
    leaves = Leaves([None] * len(found.names), [None] * len(found.names))
    for start, end, i, which in arranged.spans:
        if found.kinds[i] is None:
            leaves.arrays[i] = loaded[found.names[i]]
        if found.kinds[i] is not None or _counts(*arranged.kinds[which]):
            leaves.texts[i] = bytes(body.read(start, end - start))
    mx.eval(leaves.arrays)
    return leaves


def _counts(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether the reader may look at the numbers of such a tensor."""
    return dtype in _COUNTS and len(shape) == 1


def _make(
    place: Place,
    body: Body,
    tensors: list[Tensor],
    arranged: Arranged,
    found: Layout,
    leaves: Leaves,
    classes: Mapping[str, Any],
) -> list[Any] | None:
    """The caches; None where there are more kinds of layers than pay."""
    which, arrays, texts = arranged.which, leaves.arrays, tuple(leaves.texts)
    made: list[Any] = [None] * len(found.layers)
    known: dict[tuple[Any, ...], Plan] = {}
    for number, name, form, begin, end in found.layers:
        kind = form, which[begin:end], texts[begin:end]
        how = known.get(kind)
        if how is None:
            if len(known) == _MOST:
                return None
            layer = place.child(number, name)
            own = zip(tensors[begin:end], found.kinds[begin:end], texts[begin:end], strict=True)
            entries = [_leaf(layer, *one) for one in own]
            names = found.names[begin:end]
            how = known[kind] = _judge(layer, body, found.trees[form], names, entries, classes)
        made[number] = make(how, arrays[begin:end])
    return made


def _leaf(place: Place, tensor: Tensor, kind: str | None, text: bytes | None) -> Tensor | Const:
    """What the strict reader would see of a tensor. Raises `PromptCacheError`."""
    if kind is None or text is None:
        return tensor
    check_kind(place, tensor, kind)
    return constant(place, tensor, kind, text)


def _judge(
    place: Place,
    body: Body,
    tree: Any,
    names: tuple[str, ...],
    leaves: list[Tensor | Const],
    classes: Mapping[str, Any],
) -> Plan:
    """What the strict reader says of a layer with these leaves. Raises what it raises."""
    places = {name: i for i, name in enumerate(names)}
    for name, leaf in zip(names, leaves, strict=True):
        if isinstance(leaf, Tensor):
            leaf.name = name
    layer = Scalars(Content(body)).layer(place, _fill(tree, leaves))
    return plan(layer, classes, places)


def _fill(tree: Any, leaves: list[Tensor | Const]) -> Any:
    """The tree with leaves in their places."""
    if isinstance(tree, dict):
        return {key: _fill(node, leaves) for key, node in tree.items()}
    return None if tree is None else leaves[tree]
