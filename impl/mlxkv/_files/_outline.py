"""What a file of 0.32 says by names alone; the same for all files of a model."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Any, NamedTuple

from mlxkv._files._errors import Place
from mlxkv._files._layers import MAX_LAYERS, grow
from mlxkv._files._regular import parse_metadata, remembering

# Names of metadata.
_NAMES = 1 << 13


class Span(NamedTuple):
    """A layer: its number, its class, its form, and its tensors among those of the file.

    Layers of one form are of the same class, their tensors have the same names, and the same of
    them are listed as scalars, of the same kinds.
    """

    number: int
    name: str
    form: int
    begin: int
    end: int


class Outline(NamedTuple):
    """The user's metadata; of each tensor its name, and its kind if it is listed as a scalar; the
    layers, and of each form the tree of its names, with the places of the tensors in the layer.
    """

    user: dict[str, str]
    names: tuple[str, ...]
    kinds: tuple[str | None, ...]
    layers: list[Span]
    trees: list[Any]


@lru_cache(4)
def outline(spelled: bytes, names: tuple[str, ...]) -> Outline | None:
    """What metadata spelled so say of tensors of these names.

    None unless the metadata are the entries of 0.32, and all are sorted as mlx has them. Raises
    `LayoutError`.
    """
    metadata = remembering(parse_metadata, spelled)(spelled) or {}
    keys, texts = list(metadata), list(metadata.values())
    first, second = bisect_left(keys, "1."), bisect_left(keys, "2.")
    count, listed = second - first, (len(keys) - second - 1) // 2
    if len(keys) > _NAMES or not 0 <= count <= MAX_LAYERS:
        return None
    if keys[first:] != _entries(count, listed) or texts[second]:
        return None
    if not all(key.startswith("0.") for key in keys[:first]):
        return None
    scalars = dict(zip(texts[second + 1 :: 2], texts[second + 2 :: 2], strict=True))
    if len(scalars) != listed or not scalars.keys() <= set(names):
        return None
    kinds = tuple(map(scalars.get, names))
    layers, trees = _layers(texts[first:second], names, kinds)
    if (layers[-1].end if layers else 0) != len(names):
        return None
    user = {key[2:]: metadata[key] for key in keys[:first]}
    return Outline(user, names, kinds, layers, trees)


@lru_cache(4)
def _sorted_numbers(count: int) -> list[int]:
    """The numbers up to that many, sorted as their digits are."""
    return sorted(range(count), key=str)


@lru_cache(4)
def _entries(layers: int, scalars: int) -> list[str]:
    """The names of the metadata of a file with so many layers and scalars, but for the user's."""
    listed = (f"2.{i}.{j}" for i in range(1, scalars + 1) for j in (0, 1))
    return sorted(["2.0", *(f"1.{i}" for i in range(layers)), *listed])


def _layers(
    classes: list[str], names: tuple[str, ...], kinds: tuple[str | None, ...]
) -> tuple[list[Span], list[Any]]:
    """The layers of these classes, with the tensors that are named for them."""
    forms: dict[Any, int] = {}
    layers, trees = [], []
    end = 0
    for number, name in zip(_sorted_numbers(len(classes)), classes, strict=True):
        begin, prefix = end, f"{number}."
        while end < len(names) and names[end].startswith(prefix):
            end += 1
        own = names[begin:end]
        form = name, tuple([one[len(prefix) :] for one in own]), kinds[begin:end]
        if form not in forms:
            forms[form] = len(forms)
            tree = grow(Place(""), "tensor", [(one, i) for i, one in enumerate(own)])
            trees.append(tree.get(str(number)))
        layers.append(Span(number, name, forms[form], begin, end))
    return layers, trees
