"""Files of 0.32 as mlx-lm writes them, in one pass; all others are left to the strict reader.

What the strict reader says of one layer holds of every other one of the same class whose tensors
have the same names, dtypes and shapes, and whose scalars and counts have the same bytes. So it is
asked once for each kind of layer. Nothing is refused here: where it would, the answer is None.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import mlx.core as mx

from mlxkv._files._body import VIEWED, Body, Window, is_small, load_arrays, numpy_dtypes
from mlxkv._files._errors import Place, PromptCacheError
from mlxkv._files._header import Header, Source
from mlxkv._files._layers import MAX_LAYERS, Const, Content, grow
from mlxkv._files._metadata import unflatten_metadata
from mlxkv._files._plan import Plan, make, plan
from mlxkv._files._regular import DTYPES, Arranged, Regular, arrange
from mlxkv._files._scalars import Scalars, check_kind, value_of

# Kinds of layers, which differ in some number or shape, and names of metadata, in one file.
_MOST = 64
_NAMES = 1 << 13
_COUNTS = ("I32", "I64")


class Outline(NamedTuple):
    """The classes of the layers by number, the kinds of the tensors listed, and the user's."""

    classes: dict[int, str]
    scalars: dict[str, str]
    metadata: Any


class Leaves(NamedTuple):
    """The arrays by name; a number for all that the strict reader would see of each leaf, the same
    for leaves that are alike; and the scalars by their numbers.
    """

    arrays: dict[str, mx.array]
    signs: dict[str, int]
    constants: dict[int, Const]


class Kind(NamedTuple):
    """Layers that are alike: the names of their leaves, their signs, and how they are made."""

    names: list[str]
    signs: list[int]
    plan: Plan


def load_quickly(
    source: Source, begin: int, parsed: Regular, classes: Mapping[str, Any]
) -> tuple[list[Any], Any] | None:
    """The caches of a file whose header ends at `begin`, and the user's metadata.

    None where the file is not of 0.32, not as mlx-lm writes it, or cannot be read.
    """
    place = Place(source.place.file, "0.32")
    try:
        outline = _outline(place, parsed.metadata)
        arranged = outline and arrange(parsed.tensors.values(), source.nbytes - begin)
        if not outline or not arranged:
            return None
        loaded = None
        if not is_small(arranged.longest, [shape for _, shape in arranged.kinds]):
            loaded = load_arrays(source, Header(place, source.nbytes, begin, *parsed))
        body = Body(source, begin, keep=False)
        leaves = _read(place, body, arranged, outline.scalars, loaded)
        made = _make(place, body, parsed, outline, leaves, classes)
    except (PromptCacheError, RuntimeError, MemoryError):
        return None
    missing = len(leaves.arrays) + len(outline.scalars) - len(leaves.signs)
    return None if made is None or missing else (made, outline.metadata)


def _outline(place: Place, metadata: dict[str, str]) -> Outline | None:
    """What the metadata say; None unless they are the entries of 0.32, sorted as mlx has them."""
    names, texts = list(metadata), list(metadata.values())
    first, second = bisect_left(names, "1."), bisect_left(names, "2.")
    count, listed = second - first, (len(names) - second - 1) // 2
    if len(names) > _NAMES or not 0 <= count <= MAX_LAYERS:
        return None
    if names[first:] != _entries(count, listed):
        return None
    user = {}
    for name in names[:first]:
        if name[:2] != "0.":
            return None
        user[name[2:]] = metadata[name]
    scalars = dict(zip(texts[second + 1 :: 2], texts[second + 2 :: 2], strict=True))
    if texts[second] or len(scalars) != listed:
        return None
    classes = dict(zip(_sorted_numbers(count), texts[first:second], strict=True))
    return Outline(classes, scalars, unflatten_metadata(place, user))


@lru_cache(4)
def _sorted_numbers(count: int) -> list[int]:
    """The numbers up to that many, sorted as their digits are."""
    return sorted(range(count), key=str)


@lru_cache(4)
def _entries(layers: int, scalars: int) -> list[str]:
    """The names of the metadata of a file with so many layers and scalars, but for the user's."""
    listed = (f"2.{i}.{j}" for i in range(1, scalars + 1) for j in (0, 1))
    return sorted(["2.0", *(f"1.{i}" for i in range(layers)), *listed])


def _read(
    place: Place,
    body: Body,
    arranged: Arranged,
    scalars: dict[str, str],
    loaded: Mapping[str, mx.array] | None,
) -> Leaves:
    """All leaves, the arrays evaluated: those that are `loaded`, or all of the body.

    Raises `PromptCacheError`, and what MLX raises.
    """
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    order, which, kinds, longest = arranged
    make_array, ndarray = mx.array, np.ndarray
    window, dtypes = Window(body, order, longest), numpy_dtypes()
    texts = Content(body if loaded else window)
    leaves = Leaves({}, {}, {})
    arrays, signs, constants = leaves
    numbers: dict[tuple[int, str | None, bytes], int] = {}
    ways = [
        (dtypes[dtype], shape, dtype in VIEWED, dtype in _COUNTS and len(shape) == 1)
        for dtype, shape in kinds
    ]
    late: list[mx.array] = []
    data, first, end = b"", 0, 0
    for tensor, sign in zip(order, which, strict=True):
        start, stop = tensor.data_offsets
        name = tensor.name
        dtype, shape, viewed, counts = ways[sign]
        listed = scalars.get(name)
        if loaded is None:
            if stop > end:
                data, first, end = window.move(start)
        elif listed is not None or counts:
            data, first = body.read(start, stop - start), start
        if listed is None:
            if loaded is None:
                content: Any = ndarray(shape, dtype, data, start - first)
                view: Any = memoryview(content)  # Which MLX takes sooner.
                arrays[name] = make_array(view)
                if viewed:
                    arrays[name] = arrays[name].view(DTYPES[tensor.dtype])
                    late.append(arrays[name])
            else:
                arrays[name] = loaded[name]
                late.append(loaded[name])
            if not counts:
                signs[name] = sign
                continue
        seen = sign, listed, data[start - first : stop - first]
        number = numbers.get(seen)
        if number is None:
            number = numbers[seen] = -1 - len(numbers)
            if listed is not None:
                check_kind(place, tensor, listed)
                constants[number] = Const(value_of(place, tensor, listed, texts))
        signs[name] = number
    mx.eval(late)
    return leaves


def _make(
    place: Place,
    body: Body,
    parsed: Regular,
    outline: Outline,
    leaves: Leaves,
    classes: Mapping[str, Any],
) -> list[Any] | None:
    """The caches; None where the tensors are not sorted, or there are more kinds than pay."""
    names = [*parsed.tensors, ""]  # The last one is no layer's.
    signs = [leaves.signs[name] for name in parsed.tensors]
    arrays = [leaves.arrays.get(name) for name in parsed.tensors]
    made: dict[int, Any] = {}
    known: dict[str, list[Kind]] = {}
    at = count = 0
    for i, name in outline.classes.items():
        prefix = f"{i}."
        for kind in known.get(name, ()):
            end = at + len(kind.signs)
            own = [prefix + rest for rest in kind.names]
            alike = signs[at:end] == kind.signs and names[at:end] == own
            if alike and not names[end].startswith(prefix):
                break
        else:
            count += 1
            if count > _MOST:
                return None
            end = at
            while names[end].startswith(prefix):
                end += 1
            kind = _judge(place.child(i, name), body, parsed, names[at:end], leaves, classes)
            known.setdefault(name, []).append(kind)
        made[i] = make(kind.plan, arrays[at:end])
        at = end
    return [made[i] for i in range(len(made))] if at == len(signs) else None


def _judge(
    place: Place,
    body: Body,
    parsed: Regular,
    names: list[str],
    leaves: Leaves,
    classes: Mapping[str, Any],
) -> Kind:
    """What the strict reader says of a layer with leaves of these names. Raises what it raises."""
    signs = [leaves.signs[name] for name in names]
    entries = [
        (name, leaves.constants.get(sign, parsed.tensors[name]))
        for name, sign in zip(names, signs, strict=True)
    ]
    node = grow(place, "tensor", entries).get(place.layer)
    layer = Scalars(Content(body)).layer(place, node)
    positions = {name: i for i, name in enumerate(names)}
    rests = [name.partition(".")[2] for name in names]
    return Kind(rests, signs, plan(layer, classes, positions))
