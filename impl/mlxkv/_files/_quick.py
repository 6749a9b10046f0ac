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
from mlxkv._files._errors import LayoutError, Place, PromptCacheError
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
    """Of each tensor its name, its array, if it is no scalar, and a number for all that the strict
    reader would see of it, the same for those that are alike; and the scalars by their numbers.
    """

    names: list[str]
    arrays: list[mx.array | None]
    signs: list[int]
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
        tensors = list(parsed.tensors.values())
        arranged = outline and arrange(tensors, source.nbytes - begin)
        if not outline or not arranged:
            return None
        loaded = None
        if not is_small(arranged.longest, [shape for _, shape in arranged.kinds]):
            header = Header(place, source.nbytes, begin, parsed.named(), parsed.metadata)
            loaded = load_arrays(source, header)
        body = Body(source, begin, keep=False)
        leaves = _read(place, body, parsed, arranged, outline.scalars, loaded)
        made = _make(place, body, parsed, outline, leaves, classes)
    except (PromptCacheError, RuntimeError, MemoryError):
        return None
    return None if made is None else (made, outline.metadata)


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
    parsed: Regular,
    arranged: Arranged,
    scalars: dict[str, str],
    loaded: Mapping[str, mx.array] | None,
) -> Leaves:
    """All leaves, the arrays evaluated: those that are `loaded`, or all of the body.

    Raises `PromptCacheError`, and what MLX raises.
    """
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    order, which, kinds, longest = arranged
    names, tensors = list(parsed.tensors), list(parsed.tensors.values())
    window = Window(body, [tensors[i].data_offsets[1] for i in order], longest)
    texts = Content(body if loaded else window)
    make_array, ndarray, dtypes = mx.array, np.ndarray, numpy_dtypes()
    ways = [
        (dtypes[dtype], shape, dtype in VIEWED, dtype in _COUNTS and len(shape) == 1)
        for dtype, shape in kinds
    ]
    arrays: list[mx.array | None] = [None] * len(names)
    late: list[mx.array] = []
    signs, constants = which.copy(), {}
    numbers: dict[tuple[int, str | None, bytes], int] = {}
    listed = [scalars.get(name) for name in names]
    if len(listed) - listed.count(None) != len(scalars):
        raise LayoutError(place, "scalars", "tensors of these names", "none")
    data, first, end = b"", 0, 0
    for i in order:
        start, stop = tensors[i].data_offsets
        sign, kind = which[i], listed[i]
        dtype, shape, viewed, counts = ways[sign]
        if loaded is None:
            if stop > end:
                data, first, end = window.move(start)
        elif kind is not None or counts:
            data, first = body.read(start, stop - start), start
        if kind is None:
            if loaded is None:
                content: Any = ndarray(shape, dtype, data, start - first)
                view: Any = memoryview(content)  # Which MLX takes sooner.
                arrays[i] = array = make_array(view)
                if viewed:
                    arrays[i] = array = array.view(DTYPES[tensors[i].dtype])
                    late.append(array)
            else:
                arrays[i] = loaded[names[i]]
                late.append(loaded[names[i]])
            if not counts:
                continue
        seen = sign, kind, data[start - first : stop - first]
        number = numbers.get(seen)
        if number is None:
            number = numbers[seen] = -1 - len(numbers)
            if kind is not None:
                tensors[i].name = names[i]
                check_kind(place, tensors[i], kind)
                constants[number] = Const(value_of(place, tensors[i], kind, texts))
        signs[i] = number
    mx.eval(late)
    return Leaves(names, arrays, signs, constants)


def _make(
    place: Place,
    body: Body,
    parsed: Regular,
    outline: Outline,
    leaves: Leaves,
    classes: Mapping[str, Any],
) -> list[Any] | None:
    """The caches; None where the tensors are not sorted, or there are more kinds than pay."""
    arrays, signs = leaves.arrays, leaves.signs
    names = [*leaves.names, ""]  # The last one is no layer's.
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
            own = names[at:end]
            kind = _judge(place.child(i, name), body, parsed, own, signs[at:end], leaves, classes)
            known.setdefault(name, []).append(kind)
        made[i] = make(kind.plan, arrays[at:end])
        at = end
    return [made[i] for i in range(len(made))] if at == len(signs) else None


def _judge(
    place: Place,
    body: Body,
    parsed: Regular,
    names: list[str],
    signs: list[int],
    leaves: Leaves,
    classes: Mapping[str, Any],
) -> Kind:
    """What the strict reader says of a layer with leaves of these names. Raises what it raises."""
    entries = []
    for name, sign in zip(names, signs, strict=True):
        tensor = parsed.tensors[name]
        tensor.name = name
        entries.append((name, leaves.constants.get(sign, tensor)))
    node = grow(place, "tensor", entries).get(place.layer)
    layer = Scalars(Content(body)).layer(place, node)
    positions = {name: i for i, name in enumerate(names)}
    rests = [name.partition(".")[2] for name in names]
    return Kind(rests, signs, plan(layer, classes, positions))
