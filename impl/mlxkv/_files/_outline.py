"""What a file of 0.32 says by names alone; all files of a model say the same, but for the user."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from mlxkv._files._errors import LayoutError, Place
from mlxkv._files._layers import MAX_LAYERS, grow
from mlxkv._files._regular import parse_texts
from mlxkv._files._scalars import CLASSES, KINDS

# Names of tensors, or of the user; and the bytes of what metadata say of layers.
_NAMES, _LONGEST = 1 << 13, 1 << 18
# Where that begins.
_FIRST = b'"1.0":'
# So many files, of one model or another, are known by their names.
_FILES = 8
_Names: TypeAlias = tuple[str, ...]


class Form(NamedTuple):
    """Layers of one class whose tensors have the same names, and of which the same are listed as
    scalars, of the same kinds.

    Their numbers; of each of the names the places of the tensors among those of the file, and the
    kind if it is listed; which of the names are not, and the tree of all.
    """

    cache: str
    numbers: list[int]
    columns: list[list[int]]
    listed: list[str | None]
    kept: list[int]
    tree: Any


class Layout(NamedTuple):
    """How many layers there are, and of which forms."""

    layers: int
    forms: list[Form]


def outline(metadata: bytes, names: _Names) -> tuple[Layout, dict[str, str]]:
    """What metadata say of tensors of these names, and the user's entries.

    Raises `LayoutError` unless the metadata are those of 0.32, and as mlx sorts and spells them.
    """
    user, first, others = metadata.partition(_FIRST)
    if not first or len(others) > _LONGEST or len(names) > _NAMES:
        raise _other()
    return _lay_out(b"{" + first + others, names), _user(user)


def _user(text: bytes) -> dict[str, str]:
    """The user's entries, by the names that they were given."""
    if text == b"{":
        return {}
    user = parse_texts(text[:-1] + b"}") if text.endswith(b",") else None
    if user is None or len(user) > _NAMES or not all(key.startswith("0.") for key in user):
        raise _other()
    return {key[2:]: value for key, value in user.items()}


def _other() -> LayoutError:
    return LayoutError(Place(""), "metadata", "those of 0.32, as mlx writes them", "others")


@lru_cache(_FILES)
def _lay_out(metadata: bytes, names: _Names) -> Layout:
    """The layers that the metadata name, with the tensors named for them. Raises as above."""
    texts = parse_texts(metadata) or {}
    keys, values = list(texts), list(texts.values())
    count = bisect_left(keys, "2.")
    if count > MAX_LAYERS or keys != _entries(count, (len(keys) - count - 1) // 2):
        raise _other()
    classes, scalars, kinds = values[:count], values[count + 1 :: 2], values[count + 2 :: 2]
    listed = dict(zip(scalars, kinds, strict=True))
    known = set(classes) <= set(CLASSES) and set(kinds) <= set(KINDS)
    if values[count] or not known or len(listed) != len(scalars) or not listed.keys() <= set(names):
        raise _other()
    forms: dict[Any, Form] = {}
    end = 0
    for number, name in zip(sorted(range(count), key=str), classes, strict=True):
        begin, prefix = end, f"{number}."
        while end < len(names) and names[end].startswith(prefix):
            end += 1
        own = names[begin:end]
        places = range(begin, end)
        kinds_of = [listed.get(one) for one in own]
        key = name, tuple([one[len(prefix) :] for one in own]), tuple(kinds_of)
        if key not in forms:
            tree = grow(Place(""), "tensor", [(one, i) for i, one in enumerate(own)])
            columns: list[list[int]] = [[] for _ in own]
            kept = [i for i, kind in enumerate(kinds_of) if kind is None]
            forms[key] = Form(name, [], columns, kinds_of, kept, tree.get(str(number)))
        forms[key].numbers.append(number)
        for column, place in zip(forms[key].columns, places, strict=True):
            column.append(place)
    if end != len(names):
        raise _other()
    return Layout(count, list(forms.values()))


def _entries(layers: int, scalars: int) -> list[str]:
    """The names of the metadata of a file with so many layers and scalars, but for the user's."""
    listed = (f"2.{i}.{j}" for i in range(1, scalars + 1) for j in (0, 1))
    return sorted(["2.0", *(f"1.{i}" for i in range(layers)), *listed])
