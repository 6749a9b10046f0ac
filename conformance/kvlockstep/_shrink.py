"""Shrinking: delta debugging on the trace itself.

It works because every operation is total: any part of a trace is a trace. First the steps that do
not matter go, in halving chunks; then what is left is made simpler, trace by trace and argument by
argument, as long as the same signature shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from kvlockstep._divergence import Run, Signature
from kvlockstep._trace import (
    AnyRecipe,
    AnyStep,
    Construct,
    Literals,
    Mask,
    Quantize,
    Rows,
    SetState,
    Trace,
    Trim,
    Update,
)

_MAX_RUNS = 1500


@dataclass
class _Search:
    """Runs candidates until the budget is used up."""

    run: Callable[[Trace], Run]
    signature: Signature
    best: Trace
    runs: int = 0

    def accept(self, candidate: Trace) -> bool:
        """Take `candidate` as the new best if it still shows the divergence."""
        if candidate == self.best or self.runs >= _MAX_RUNS:
            return False
        self.runs += 1
        result = self.run(candidate)
        if self.signature not in result.signatures():
            return False
        self.best = _cut(candidate, result, self.signature)
        return True


def shrink(trace: Trace, signature: Signature, run: Callable[[Trace], Run]) -> Trace:
    """Return a short trace that still shows `signature`.

    `trace` must show it when run. No step of the result can be left out.
    """
    first = run(trace)
    search = _Search(run, signature, _cut(trace, first, signature))
    before = None
    while before != search.best:
        before = search.best
        _remove_steps(search)
        for simpler in _SIMPLER_TRACES:
            search.accept(simpler(search.best))
        _simplify_steps(search)
        _use_numbers(search)
    return search.best


def _cut(trace: Trace, result: Run, signature: Signature) -> Trace:
    """Drop what comes after the divergence, and the steps that had nothing to act on."""
    last = next(d.index for d in result.divergences if d.signature == signature)
    kept = zip(trace.steps[: last + 1], result.log, strict=False)
    return trace.part([step for step, ran in kept if ran is not None])


def _remove_steps(search: _Search) -> None:
    size = len(search.best.steps)
    while size >= 1:
        start = 0
        while start < len(search.best.steps):
            steps = search.best.steps
            if not search.accept(search.best.part(steps[:start] + steps[start + size :])):
                start += size
        size //= 2


def _simplify_steps(search: _Search) -> None:
    index = 0
    while index < len(search.best.steps):
        steps = search.best.steps
        for candidate in _simpler_steps(steps[index]):
            if search.accept(search.best.part([*steps[:index], candidate, *steps[index + 1 :]])):
                break
        else:
            index += 1


def _use_numbers(search: _Search) -> None:
    """Write relative sizes as the numbers that they came to."""
    log = [step for step in search.run(search.best).log if step is not None]
    search.accept(search.best.part(log))


def _simpler_steps(step: AnyStep) -> Iterator[AnyStep]:
    match step:
        case Update(keys=keys, values=None):
            yield replace(step, values=keys)
            for recipe in _simpler_recipes(keys):
                yield replace(step, keys=recipe)
        case Update(keys=keys, values=values):
            assert values is not None
            if keys.shape == values.shape:
                for recipe in _simpler_recipes(keys):
                    yield replace(step, keys=recipe, values=replace(values, shape=recipe.shape))
            for recipe in _simpler_recipes(keys):
                yield replace(step, keys=recipe)
            for recipe in _simpler_recipes(values):
                yield replace(step, values=recipe)
        case Trim(n=n):
            yield from (replace(step, n=number) for number in _simpler_numbers(n))
        case Mask(n=n, window=window):
            yield replace(step, window=None)
            yield replace(step, return_array=False)
            yield from (replace(step, n=number) for number in _simpler_numbers(n))
            yield from (replace(step, window=number) for number in _simpler_numbers(window))
        case Construct(args=args):
            for name, value in args.items():
                yield replace(step, args={k: v for k, v in args.items() if k != name})
                for number in _simpler_numbers(value):
                    yield replace(step, args={**args, name: number})
        case Quantize(group_size=64, bits=4):
            return
        case Quantize():
            yield replace(step, group_size=64, bits=4)
            yield replace(step, bits=4)
        case SetState(state=state):
            yield from (replace(step, state=items) for items in _simpler_states(state))
        case _:
            yield from _simpler_fields(step)


def _simpler_fields(step: Any) -> Iterator[Any]:
    """Yield `step` with a number smaller, a flag off, an optional argument left out."""
    for name in step.__struct_fields__:
        value = getattr(step, name)
        if value is True:
            yield replace(step, **{name: False})
        elif type(value) is int:
            yield from (replace(step, **{name: number}) for number in _simpler_numbers(value))
        elif isinstance(value, tuple) and name.endswith("padding"):
            yield replace(step, **{name: None})
            yield from (replace(step, **{name: value[:1]}) for _ in value[1:2])


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


def _simpler_recipes(recipe: AnyRecipe) -> Iterator[AnyRecipe]:
    for axis, size in enumerate(recipe.shape):
        for number in _simpler_numbers(size):
            if isinstance(recipe, Literals):
                continue
            shape = (*recipe.shape[:axis], max(0, int(number)), *recipe.shape[axis + 1 :])
            yield replace(recipe, shape=shape)
    if recipe.dtype not in ("float32", "uint32"):
        yield replace(recipe, dtype="float32")
    if not isinstance(recipe, (Rows, Literals)):
        yield Rows(shape=recipe.shape, dtype=recipe.dtype)
    if isinstance(recipe, Rows) and recipe.start:
        yield replace(recipe, start=0)


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
        if len(shape) != 4 or isinstance(recipe, Literals) or int(shape[axis]) <= size:
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
            values = replace(values, start=token)
        steps.append(replace(step, keys=keys, values=values))
        token += keys.shape[2] if len(keys.shape) > 2 and isinstance(keys.shape[2], int) else 1
    return trace.part(steps)


def _with_one_slot(trace: Trace) -> Trace:
    steps: Sequence[Any] = trace.steps
    return trace.part([replace(s, slot="a") if hasattr(s, "slot") else s for s in steps])


_SIMPLER_TRACES: tuple[Callable[[Trace], Trace], ...] = (
    lambda trace: replace(trace, mode="value"),
    lambda trace: replace(trace, step_size=256),
    lambda trace: _map_recipes(trace, _of_rows),
    lambda trace: _map_recipes(trace, _of_dtype),
    lambda trace: _map_recipes(trace, _with_axis(0, 1)),
    lambda trace: _map_recipes(trace, _with_axis(1, 1)),
    lambda trace: _map_recipes(trace, _with_axis(3, 1)),
    lambda trace: _map_recipes(trace, _with_axis(3, 32)),
    lambda trace: replace(trace, step_size=2),
    lambda trace: replace(trace, step_size=1),
    _with_one_slot,
    _count_tokens,
)
