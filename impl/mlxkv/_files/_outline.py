"""What a file of 0.32 says by names alone; all files of a model say the same, but for the user."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from mlxkv._files._errors import LayoutError, Place
from mlxkv._files._layers import MAX_LAYERS, grow
from mlxkv._files._scalars import CLASSES, KINDS

# Names of tensors, and of metadata.
_NAMES = 1 << 13
# So many files, of one model or another, are known by their names.
_FILES = 8
_Names: TypeAlias = tuple[str, ...]


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


class Layout(NamedTuple):
    """Of each tensor its name, and its kind if it is listed as a scalar; the layers, and of each
    form the tree of its names, with the places of the tensors in the layer.
    """

    names: _Names
    kinds: tuple[str | None, ...]
    layers: list[Span]
    trees: list[Any]


def outline(metadata: dict[str, str], names: _Names) -> tuple[Layout, dict[str, str]]:
    """What metadata say of tensors of these names, and the user's entries.

    Raises `LayoutError` unless the metadata are those of 0.32, and all are sorted as mlx has them.
    """
    keys, texts = list(metadata), list(metadata.values())
    first, second = bisect_left(keys, "1."), bisect_left(keys, "2.")
    count, listed = second - first, (len(keys) - second - 1) // 2
    if (
        max(len(keys), len(names)) > _NAMES
        or not 0 <= count <= MAX_LAYERS
        or keys[first:] != _entries(count, listed)
    ):
        raise _other()
    user = {key[2:]: text for key, text in zip(keys[:first], texts, strict=False)}
    if texts[second] or not all(key.startswith("0.") for key in keys[:first]):
        raise _other()
    scalars = tuple(texts[second + 1 :])
    return _lay_out(tuple(texts[first:second]), scalars[::2], scalars[1::2], names), user


def _other() -> LayoutError:
    return LayoutError(Place(""), "metadata", "those of 0.32, as mlx writes them", "others")


@lru_cache(_FILES)
def _lay_out(classes: _Names, scalars: _Names, kinds: _Names, names: _Names) -> Layout:
    """The layers of these classes, with the tensors that are named for them. Raises as above."""
    listed = dict(zip(scalars, kinds, strict=True))
    known = set(classes) <= set(CLASSES) and set(kinds) <= set(KINDS)
    if not known or len(listed) != len(scalars) or not listed.keys() <= set(names):
        raise _other()
    layout = Layout(names, tuple(map(listed.get, names)), [], [])
    forms: dict[Any, int] = {}
    end = 0
    for number, name in zip(sorted(range(len(classes)), key=str), classes, strict=True):
        begin, prefix = end, f"{number}."
        while end < len(names) and names[end].startswith(prefix):
            end += 1
        own = names[begin:end]
        form = name, tuple([one[len(prefix) :] for one in own]), layout.kinds[begin:end]
        if form not in forms:
            forms[form] = len(forms)
            tree = grow(Place(""), "tensor", [(one, i) for i, one in enumerate(own)])
            layout.trees.append(tree.get(str(number)))
        layout.layers.append(Span(number, name, forms[form], begin, end))
    if end != len(names):
        raise _other()
    return layout


@lru_cache(_FILES)
def _entries(layers: int, scalars: int) -> list[str]:
    """The names of the metadata of a file with so many layers and scalars, but for the user's."""
    listed = (f"2.{i}.{j}" for i in range(1, scalars + 1) for j in (0, 1))
    return sorted(["2.0", *(f"1.{i}" for i in range(layers)), *listed])
