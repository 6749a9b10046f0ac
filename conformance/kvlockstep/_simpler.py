"""Simpler steps and simpler traces: what the shrinker tries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from kvlockstep._caches import CACHES
from kvlockstep._recipes import AnyRecipe, Literals, Rows
from kvlockstep._steps import (
    Construct,
    Extend,
    Made,
    Mask,
    Merge,
    Quantize,
    Reload,
    SetItem,
    SetMetaState,
    SetState,
    Trim,
    Update,
)
from kvlockstep._style import VALUES_START
from kvlockstep._trace import AnyStep, Trace


def with_other_numbers(step: AnyStep) -> Iterator[AnyStep]:
    """Yield `step` with another small number in it, larger ones too."""
    for number in (1, 2, 3, 4, 0):
        match step:
            case SetState(state=state):
                for index, item in enumerate(state):
                    if type(item) is int:
                        yield replace(step, state=(*state[:index], number, *state[index + 1 :]))
            case Update(keys=keys) if keys.shape[2:3] and not isinstance(keys, Literals):
                yield _with_rows(step, number)
            case Trim():
                yield replace(step, n=number)
            case Construct(args=args):
                yield from (replace(step, args={**args, name: number}) for name in args)


def merged(one: AnyStep, other: AnyStep) -> Iterator[AnyStep]:
    """Yield steps that do the work of both: an update of all their rows, a trim of their sum."""
    match one, other:
        case Update(slot=slot), Update(slot=to) if slot == to:
            rows = [*one.keys.shape[2:3], *other.keys.shape[2:3]]
            if len(rows) == 2 and not any(isinstance(number, str) for number in rows):
                total = sum(number for number in rows if isinstance(number, int))
                yield from (_with_rows(step, total) for step in (one, other))
        case Trim(slot=slot, n=int(n)), Trim(slot=to, n=int(m)) if slot == to:
            yield replace(one, n=n + m)


def _with_rows(step: Update, rows: int) -> Update:
    def change(recipe: AnyRecipe) -> AnyRecipe:
        if isinstance(recipe, Literals) or len(recipe.shape) < 3:
            return recipe
        return replace(recipe, shape=(*recipe.shape[:2], rows, *recipe.shape[3:]))

    values = step.values and change(step.values)
    return replace(step, keys=change(step.keys), values=values)


def simpler_steps(step: AnyStep) -> Iterator[AnyStep]:
    """Yield steps that are simpler than `step` in one argument."""
    if isinstance(step, Update):
        foreign = (name for name in ("keys_as", "values_as") if getattr(step, name))
        yield from (replace(step, **{name: None}) for name in foreign)
    match step:
        case Update(keys=keys, values=None):
            yield replace(step, values=keys)
            for recipe in _simpler_recipes(keys):
                yield replace(step, keys=recipe)
        case Update(keys=keys, values=values):
            assert values is not None
            for one, other in _simpler_shapes(keys, values):
                yield replace(step, keys=one, values=other)
            yield from (replace(step, keys=recipe) for recipe in _simpler_contents(keys))
            yield from (replace(step, values=recipe) for recipe in _simpler_contents(values))
        case Trim(n=n):
            yield from (replace(step, n=number) for number in _simpler_numbers(n))
        case Mask(n=n, window=window):
            yield replace(step, window=None)
            yield replace(step, return_array=False)
            yield from (replace(step, n=number) for number in _simpler_numbers(n))
            yield from (replace(step, window=number) for number in _simpler_numbers(window))
        case Construct(args=args, children=children):
            yield from (replace(step, args=simpler) for simpler in _simpler_args(args))
            for index, child in enumerate(children):
                rest = children[:index], children[index + 1 :]
                yield replace(step, children=(*rest[0], *rest[1]))
                for fewer in _simpler_args(child.args):
                    changed = replace(child, args=fewer)
                    yield replace(step, children=(*rest[0], changed, *rest[1]))
        case Quantize(group_size=64, bits=4):
            return
        case Quantize():
            yield replace(step, group_size=64, bits=4)
            yield replace(step, bits=4)
        case SetMetaState(values=tuple(values)):
            for index, text in enumerate(values):
                for number in _simpler_numbers(_number_in(text) if isinstance(text, str) else None):
                    simpler = (*values[:index], str(number), *values[index + 1 :])
                    yield replace(step, values=simpler)
        case SetState(state=state) | Reload(state=tuple(state)):
            yield from (replace(step, state=items) for items in _simpler_states(state))
        case Extend(slot=slot, peer=peer):
            yield from (replace(step, slot=one, peer=one) for one in (slot, peer) if slot != peer)
        case _:
            yield from _simpler_fields(step)


def constructed(steps: Sequence[AnyStep], index: int) -> Iterator[list[AnyStep]]:
    """Yield what makes a batch like the one that a merge makes: empty, or with rows of one peer."""
    match steps[index]:
        case Merge(slot=slot, peers=peers, to=to):
            rows = 1 + len(peers)
            for step in steps[:index]:
                if isinstance(step, Construct) and step.slot == slot:
                    made = _batch_of(step.made, rows)
                    batch = Construct(
                        slot=to, cache=made.cache, args=made.args, children=made.children
                    )
                    yield [batch]
                    for fed in steps[:index]:
                        if isinstance(fed, Update) and fed.slot in (slot, *peers):
                            yield [batch, _with_batch(fed, to, rows)]
                    return


def _with_batch(step: Update, slot: str, rows: int) -> Update:
    def change(recipe: AnyRecipe) -> AnyRecipe:
        if isinstance(recipe, Literals):
            return recipe
        return replace(recipe, shape=(rows, *recipe.shape[1:]))

    values = step.values and change(step.values)
    return replace(step, slot=slot, keys=change(step.keys), values=values)


def _batch_of(made: Made, rows: int) -> Made:
    """Return the batch class of a class, with its sizes, for so many rows without padding."""
    if f"Batch{made.cache}" not in CACHES:
        return replace(made, children=tuple(_batch_of(child, rows) for child in made.children))
    sizes = {name: size for name, size in made.args.items() if name == "max_size"}
    return Made(cache=f"Batch{made.cache}", args={**sizes, "left_padding": (0,) * rows})


def _simpler_args(args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in args.items():
        yield {k: v for k, v in args.items() if k != name}
        for simpler in _simpler_values(value):
            yield {**args, name: simpler}


def _simpler_values(value: Any) -> Iterator[Any]:
    """Yield simpler arguments: a flag off, smaller numbers, fewer of them."""
    if value is True:
        yield False
    elif type(value) in (int, float):
        yield from _simpler_numbers(value)
    elif isinstance(value, tuple) and not any(isinstance(item, Struct) for item in value):
        for index, item in enumerate(value):
            yield (*value[:index], *value[index + 1 :])
            for simpler in _simpler_values(item):
                yield (*value[:index], simpler, *value[index + 1 :])


def _simpler_fields(step: Any) -> Iterator[Any]:
    """Yield `step` with a number smaller, a flag off, an optional argument left out."""
    for name in step.__struct_fields__:
        value = getattr(step, name)
        if isinstance(value, AnyRecipe):
            yield from (replace(step, **{name: recipe}) for recipe in _simpler_recipes(value))
        elif name not in ("slot", "to", "peer", "source"):
            if isinstance(value, tuple) and name.endswith("padding"):
                yield replace(step, **{name: None})
            yield from (replace(step, **{name: simpler}) for simpler in _simpler_values(value))


def _simpler_states(state: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    arrays = [item for item in state if isinstance(item, AnyRecipe)]
    if arrays and all(item.shape == arrays[0].shape for item in arrays):
        for recipe in _simpler_recipes(arrays[0]):
            yield tuple(
                replace(item, shape=recipe.shape) if isinstance(item, AnyRecipe) else item
                for item in state
            )
    for index, item in enumerate(state):
        simpler: Iterator[Any] = iter(())
        if isinstance(item, AnyRecipe):
            simpler = _simpler_recipes(item)
        elif type(item) is int:
            simpler = _simpler_numbers(item)
        for other in simpler:
            yield (*state[:index], other, *state[index + 1 :])


def _simpler_shapes(keys: AnyRecipe, values: AnyRecipe) -> Iterator[tuple[AnyRecipe, AnyRecipe]]:
    """Yield keys and values with simpler shapes, of one shape if possible.

    An axis in which they agree is made smaller in both.
    """
    if isinstance(keys, Literals) or isinstance(values, Literals):
        return
    one, other = keys.shape, values.shape
    if one != other:
        yield keys, replace(values, shape=one)
        yield replace(keys, shape=other), values
    for axis, size in enumerate(one):
        for shape in _smaller(one, axis):
            if axis < len(other) and other[axis] == size:
                both = (*other[:axis], shape[axis], *other[axis + 1 :])
                yield replace(keys, shape=shape), replace(values, shape=both)
            else:
                yield replace(keys, shape=shape), values
    for axis, size in enumerate(other):
        if axis >= len(one) or one[axis] != size:
            for shape in _smaller(other, axis):
                yield keys, replace(values, shape=shape)


def _smaller(shape: tuple[Any, ...], axis: int) -> Iterator[tuple[Any, ...]]:
    """Yield shapes smaller in one axis; only the sequence axis may come down to 0."""
    least = 0 if axis == len(shape) - 2 else 1
    for number in _simpler_numbers(shape[axis]):
        if number >= least:
            yield (*shape[:axis], number, *shape[axis + 1 :])


def _simpler_contents(recipe: AnyRecipe) -> Iterator[AnyRecipe]:
    if recipe.dtype not in ("float32", "uint32"):
        yield replace(recipe, dtype="float32")
    if not isinstance(recipe, (Rows, Literals)):
        yield Rows(shape=recipe.shape, dtype=recipe.dtype)


def _simpler_recipes(recipe: AnyRecipe) -> Iterator[AnyRecipe]:
    if not isinstance(recipe, Literals):
        for axis in range(len(recipe.shape)):
            yield from (replace(recipe, shape=shape) for shape in _smaller(recipe.shape, axis))
    yield from _simpler_contents(recipe)
    if isinstance(recipe, Rows) and recipe.start:
        yield replace(recipe, start=0)


def _number_in(text: str) -> int | None:
    return int(text) if text.removeprefix("-").isdecimal() else None


def _simpler_numbers(value: float | str | None) -> Iterator[int]:
    """Yield simpler whole numbers, the simplest first: 1, then 0, 2, 3, and down towards them."""
    if value is None or isinstance(value, str):
        return
    rank = [1, 0, 2, 3, 4]
    known = rank.index(int(value)) if value in rank else len(rank)
    yield from rank[:known]
    if value > 5:
        yield int(value) // 2
        yield int(value) - 1
    if value < -1:
        yield -1


def _map_recipes(trace: Trace, change: Callable[[AnyRecipe], AnyRecipe]) -> Trace:
    def item(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(item(part) for part in value)
        return change(value) if isinstance(value, AnyRecipe) else value

    def one(step: AnyStep) -> AnyStep:
        if isinstance(step, Update):
            return replace(step, keys=item(step.keys), values=item(step.values))
        if isinstance(step, SetState):
            return replace(step, state=item(step.state))
        if isinstance(step, SetItem) and step.value is not None:
            return replace(step, value=item(step.value))
        return step

    return trace.part([one(step) for step in trace.steps])


def _of_dtype(recipe: AnyRecipe) -> AnyRecipe:
    """Make it float32; uint32 stays, for it is what quantized rows are packed in."""
    return recipe if recipe.dtype == "uint32" else replace(recipe, dtype="float32")


def _of_rows(recipe: AnyRecipe) -> AnyRecipe:
    if isinstance(recipe, (Rows, Literals)):
        return recipe
    return Rows(shape=recipe.shape, dtype=recipe.dtype)


def _with_axis(axis: int, size: int) -> Callable[[AnyRecipe], AnyRecipe]:
    def change(recipe: AnyRecipe) -> AnyRecipe:
        """Shrink one axis; batch, heads and head_dim are never relative."""
        shape = recipe.shape
        if len(shape) != 4 or isinstance(recipe, Literals):
            return recipe
        held = shape[axis]
        if isinstance(held, str) or held <= size:
            return recipe
        return replace(recipe, shape=(*shape[:axis], size, *shape[axis + 1 :]))

    return change


def _count_tokens(trace: Trace) -> Trace:
    """Number the rows of the updates through, so that each token can be told from the others."""
    token = 0
    steps: list[AnyStep] = []
    for step in trace.steps:
        if not isinstance(step, Update) or not isinstance(step.keys, Rows):
            steps.append(step)
            continue
        keys, values = replace(step.keys, start=token), step.values
        if isinstance(values, Rows):
            values = replace(values, start=token + VALUES_START)
        steps.append(replace(step, keys=keys, values=values))
        token += keys.shape[2] if len(keys.shape) > 2 and isinstance(keys.shape[2], int) else 1
    return trace.part(steps)


def _with_one_slot(trace: Trace) -> Trace:
    steps: Sequence[Any] = trace.steps
    return trace.part([replace(s, slot="a") if hasattr(s, "slot") else s for s in steps])


def always_looking(trace: Trace) -> Trace:
    """The same trace with its caches looked at after every step."""
    return replace(trace, look="always")


def _with_step_size(size: int, simpler: tuple[int, ...] = ()) -> Callable[[Trace], Trace]:
    def change(trace: Trace) -> Trace:
        return trace if trace.step_size in simpler else replace(trace, step_size=size)

    return change


def _with_short_steps(trace: Trace) -> Trace:
    """A growth step of 2, and 2 tokens for each 256 that an update fills a step with."""
    shorter = [*map(_with_short_step, trace.steps)]
    if trace.step_size != 256 or not any(shorter):
        return trace
    steps = [new or step for new, step in zip(shorter, trace.steps, strict=True)]
    return replace(trace.part(steps), step_size=2)


def _with_short_step(step: AnyStep) -> Update | None:
    """An update that fills growth steps of 2 where this one fills some of 256, None if none."""
    tokens = step.keys.shape[2:3] if isinstance(step, Update) else ()
    if not isinstance(step, Update) or not tokens or not isinstance(tokens[0], int):
        return None
    whole, rest = divmod(tokens[0], 256)
    return _with_rows(step, 2 * whole + min(rest, 1)) if whole else None


SIMPLER_TRACES: tuple[Callable[[Trace], Trace], ...] = (
    _with_step_size(256),
    _with_step_size(2, (256,)),
    _with_step_size(1, (256, 2)),
    _with_short_steps,
    lambda trace: replace(trace, mode="value"),
    always_looking,
    lambda trace: _map_recipes(trace, _of_rows),
    lambda trace: _map_recipes(trace, _of_dtype),
    lambda trace: _map_recipes(trace, _with_axis(0, 1)),
    lambda trace: _map_recipes(trace, _with_axis(1, 1)),
    lambda trace: _map_recipes(trace, _with_axis(3, 1)),
    lambda trace: _map_recipes(trace, _with_axis(3, 32)),
    _with_one_slot,
    _count_tokens,
)
