"""Files of 0.32 as mlx-lm writes them, in one pass; all others are left to the strict reader.

What the strict reader says of one layer holds of every other one of the same class whose tensors
have the same names, dtypes and shapes, and whose scalars and counts have the same bytes. So it is
asked once for each kind of layer, and tensors are looked at and read by columns: those that have
one name in such layers. Nothing is refused here: where it would, the answer is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx

from mlxkv._files._body import VIEWED, WINDOW, Body, is_small, load_arrays
from mlxkv._files._errors import Place, PromptCacheError
from mlxkv._files._header import Source, check_header
from mlxkv._files._layers import Const, Content
from mlxkv._files._metadata import unflatten_metadata
from mlxkv._files._outline import Form, Layout, outline
from mlxkv._files._plan import Plan, make, plan
from mlxkv._files._regular import Kind, Regular, Tensor, is_sound
from mlxkv._files._scalars import Scalars, check_kind, constant

# Kinds of layers, which differ in some number or shape.
_MOST = 64
_COUNTS = ("I32", "I64")

# Of each layer its arrays, and the bytes of what is told.
Leaves: TypeAlias = tuple[list[tuple[mx.array, ...]], list[tuple[bytes, ...]]]


class Group(NamedTuple):
    """Layers of one form, all with tensors of these kinds; numbers and columns as in `Form`.

    `told` are those whose numbers the reader may look at: scalars, and counts.
    """

    form: Form
    kinds: tuple[Kind, ...]
    numbers: list[int]
    columns: list[list[int]]
    told: list[int]


def load_quickly(
    source: Source, text: bytes, parsed: Regular, classes: Mapping[str, Any]
) -> tuple[list[Any], Any] | None:
    """The caches of a file with the header of that text, and the user's metadata.

    None where the file is not of 0.32, not as mlx-lm writes it, or cannot be read.
    """
    place = Place(source.place.file, "0.32")
    begin = 8 + len(text)
    if parsed.nbytes != source.nbytes - begin:
        return None
    try:
        found, user = outline(parsed.metadata, tuple(parsed.tensors))
        metadata = unflatten_metadata(place, user)
        groups = list(_groups(found, parsed.kinds))
        kinds = {kind for group in groups for kind in group.kinds}
        if len(groups) > _MOST or not all(map(is_sound, kinds)):
            return None
        loaded = None
        if not is_small(kinds):
            loaded = load_arrays(source, check_header(source, text, parsed))
        body = Body(source, begin, few=WINDOW)
        leaves = [_read(body, parsed, group, loaded) for group in groups]
        if loaded is not None or any(dtype in VIEWED for dtype, _, _ in kinds):
            mx.eval([arrays for arrays, _ in leaves])
        made = _make(place, body, parsed, found, zip(groups, leaves, strict=True), classes)
    except (PromptCacheError, RuntimeError, MemoryError):
        return None
    return None if made is None else (made, metadata)


def _groups(found: Layout, kinds: list[Kind]) -> Iterator[Group]:
    """The layers of each form by the kinds of their tensors, which mostly are all the same."""
    for form in found.forms:
        numbers, columns = form.numbers, form.columns
        own = [[kinds[i] for i in column] for column in columns]
        if [one.count(one[0]) for one in own] == [len(numbers)] * len(own):
            yield _group(form, tuple([one[0] for one in own]), numbers, columns)
            continue
        alike: dict[tuple[Kind, ...], list[int]] = {}
        for i, row in enumerate(zip(*own, strict=True)):
            alike.setdefault(row, []).append(i)
        for row, some in alike.items():
            places = [[column[i] for i in some] for column in columns]
            yield _group(form, row, [numbers[i] for i in some], places)


def _group(
    form: Form, kinds: tuple[Kind, ...], numbers: list[int], columns: list[list[int]]
) -> Group:
    told = [
        i
        for i, ((dtype, shape, _), listed) in enumerate(zip(kinds, form.listed, strict=True))
        if listed is not None or (dtype in _COUNTS and len(shape) == 1)
    ]
    return Group(form, kinds, numbers, columns, told)


def _read(
    body: Body, parsed: Regular, group: Group, loaded: Mapping[str, mx.array] | None
) -> Leaves:
    """What is in the file of these layers, but for arrays that MLX has `loaded`.

    Raises `PromptCacheError`, and what MLX raises.
    """
    form, kinds, numbers, columns, told = group
    starts = parsed.starts
    if loaded is None:
        arrays = [body.read_alike(kinds[i], [starts[j] for j in columns[i]]) for i in form.kept]
    else:
        names = list(parsed.tensors)
        arrays = [[loaded[names[j]] for j in columns[i]] for i in form.kept]
    texts = [body.read_texts(kinds[i][2], [starts[j] for j in columns[i]]) for i in told]
    none: list[tuple[Any, ...]] = [()] * len(numbers)
    return list(zip(*arrays, strict=True)) or none, list(zip(*texts, strict=True)) or none


def _make(
    place: Place,
    body: Body,
    parsed: Regular,
    found: Layout,
    leaves: Iterable[tuple[Group, Leaves]],
    classes: Mapping[str, Any],
) -> list[Any] | None:
    """The caches; None where there are more kinds of layers than pay. Raises as above."""
    made: list[Any] = [None] * found.layers
    tensors = list(parsed.tensors.values())
    judged = 0
    for group, (arrays, texts) in leaves:
        plans: dict[tuple[bytes, ...], Plan] = {}
        every = zip(group.numbers, arrays, texts, strict=True)
        for at, (number, own, said) in enumerate(every):
            how = plans.get(said)
            if how is None:
                if judged == _MOST:
                    return None
                judged += 1
                layer = place.child(number, group.form.cache)
                entries = [tensors[column[at]] for column in group.columns]
                how = plans[said] = _judge(layer, body, group, entries, said, classes)
            made[number] = make(how, own)
    return made


def _judge(
    place: Place,
    body: Body,
    group: Group,
    tensors: list[Tensor],
    said: tuple[bytes, ...],
    classes: Mapping[str, Any],
) -> Plan:
    """What the strict reader says of a layer of the group: its tensors, and what is told of them.

    Raises what it raises.
    """
    form = group.form
    leaves: list[Tensor | Const] = [*tensors]
    for i, text in zip(group.told, said, strict=True):
        listed = form.listed[i]
        if listed is not None:
            check_kind(place, tensors[i], listed)
            leaves[i] = constant(place, tensors[i], listed, text)
    keys = {}
    for key, i in enumerate(form.kept):
        tensors[i].name = name = str(i)
        keys[name] = key
    layer = Scalars(Content(body)).layer(place, _fill(form.tree, leaves))
    return plan(layer, classes, keys)


def _fill(tree: Any, leaves: list[Tensor | Const]) -> Any:
    """The tree with leaves in their places."""
    if tree is None:
        return None
    return {
        key: leaves[node] if type(node) is int else _fill(node, leaves)
        for key, node in tree.items()
    }
