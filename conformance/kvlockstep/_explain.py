"""Plain words: the steps of a trace, and what was expected and what came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from kvlockstep._divergence import Divergence, Run
from kvlockstep._labels import Labels
from kvlockstep._prompt_steps import LruFetch, MakePrompt
from kvlockstep._recipes import AnyRecipe, Bits
from kvlockstep._snapshots import Raised, Sequenced, Snapshot
from kvlockstep._steps import (
    AttentionMask,
    CausalMask,
    Construct,
    Copy,
    Depends,
    Extend,
    Extract,
    Fetch,
    FrontTrim,
    GetItem,
    Hold,
    Made,
    Mask,
    Merge,
    OnSlot,
    Quantize,
    Reload,
    SetItem,
    SetMetaState,
    SetState,
    Step,
    Transfer,
    Trim,
    Update,
)
from kvlockstep._trace import AnyStep, Trace, given

_FOREIGN = {"list": "a list", "numpy": "a NumPy array"}
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def tell_step(step: AnyStep) -> str:
    """Return one step in plain words."""
    match step:
        case Construct(slot=slot):
            return f"{slot} = {tell_made(step.made)}"
        case Update(slot=slot, keys=keys, values=values):
            rows = keys.shape[2] if len(keys.shape) > 2 else "?"
            what = f"{slot}: update with {rows} token{'' if rows == 1 else 's'}"
            foreign = [
                f", {name} as {_FOREIGN[kind]}"
                for name, kind in (("keys", step.keys_as), ("values", step.values_as))
                if kind is not None
            ]
            passed = "".join(foreign)
            if values is None:
                return f"{what}, keys also as values, {tell_recipe(keys)}{passed}"
            if (keys.shape, keys.dtype) == (values.shape, values.dtype):
                return f"{what}, {tell_recipe(keys)}{passed}"
            return f"{what}, keys {tell_recipe(keys)}, values {tell_recipe(values)}{passed}"
        case Trim(slot=slot, n=n):
            return f"{slot}: trim {n}"
        case FrontTrim(slot=slot):
            return f"{slot}: maybe_trim_front"
        case Fetch(slot=slot):
            return f"{slot}: keys_and_values"
        case Mask(slot=slot, n=n, bare=True):
            return f"{slot}: make_mask({n})"
        case Mask(slot=slot, n=n, window=window, return_array=array):
            return f"{slot}: make_mask({n}, window_size={window}, return_array={array})"
        case SetState(slot=slot, bare=int(bare)):
            return f"{slot}: state = {bare}"
        case SetState(slot=slot, state=state, as_list=as_list):
            told = ", ".join(_tell_item(item) for item in state)
            return f"{slot}: state = {f'[{told}]' if as_list else f'({told})'}"
        case SetMetaState(slot=slot, values=values):
            return f"{slot}: meta_state = {values}"
        case Depends(slot=slot):
            return f"{slot}: keys = mx.depends(keys, ...)"
        case Hold(slot=slot, what=what):
            return f"{slot}: keep a handle on the {what}"
        case Reload(slot=slot, to=to, state=state, meta_state=meta):
            told = f"{slot}'s state" if state is None else _tell_item(state)
            return f"{to} = from_state({told}{'' if meta is None else f', {_tell_item(meta)}'})"
        case Copy(slot=slot, to=to):
            return f"{to} = deepcopy({slot})"
        case Quantize(slot=slot, to=to, group_size=group_size, bits=bits):
            return f"{to} = {slot}.to_quantized(group_size={group_size}, bits={bits})"
        case CausalMask(n=n, offset=offset, window=window, right_padding=right, left_padding=left):
            paddings = {"right_padding": right, "left_padding": left}
            rest = {"window_size": window, **paddings}
            given = {name: value for name, value in rest.items() if value is not None}
            return f"create_causal_mask({n}, {offset}{', ' if given else ''}{_arguments(given)})"
        case AttentionMask(n=n, offset=offset, return_array=array, window=window):
            return f"create_attention_mask({n}, {offset}, {array}, {window})"
        case Transfer(slot=slot, source=source):
            return f"{slot}: state = {source}'s state"
        case Extend(slot=slot, peer=peer):
            return f"{slot}: extend with {peer}"
        case Extract(slot=slot, index=index, to=to, given=row):
            return f"{to} = {slot}.extract({index if row is None else _tell_item(row)})"
        case Merge(slot=slot, to=to, bare=True):
            return f"{to} = merge({slot})"
        case Merge(slot=slot, peers=peers, to=to):
            return f"{to} = merge([{', '.join((slot, *peers))}])"
        case SetItem(slot=slot, index=index, value=value):
            return f"{slot}[{index}] = {_tell_item(value)}"
        case GetItem(slot=slot, index=index):
            return f"{slot}[{index}]"
        case MakePrompt(to=to) | LruFetch(to=to):
            return f"{to}0, {to}1, ... = {_tell_call(step)}"
        case _:
            return _tell_call(step)


def tell_made(made: Made) -> str:
    """Return the construction of a cache in plain words."""
    children = ", ".join(map(tell_made, made.children))
    return f"{made.cache}({', '.join(filter(None, (children, _arguments(made.args))))})"


def _tell_call(step: Step) -> str:
    """Return a step as its operation with the arguments that are not at their defaults."""
    told = {name: value for name, value in given(step).items() if name not in ("slot", "to")}
    head = f"{step.slot}: " if isinstance(step, OnSlot) else ""
    return f"{head}{step.__struct_config__.tag}({_arguments(told)})"


def tell_recipe(recipe: AnyRecipe) -> str:
    """Return an array in plain words: its dtype, shape and, if it holds raw bits, that it does."""
    fill = " of raw bits" if isinstance(recipe, Bits) else ""
    return f"{recipe.dtype}{fill} [{', '.join(map(str, recipe.shape))}]"


def tell_trace(trace: Trace) -> str:
    """Return a trace in plain words, a numbered line a step."""
    lines = [f"{number:3}. {tell_step(step)}" for number, step in enumerate(trace.steps, 1)]
    settings = f"     growth step {trace.step_size}, {trace.mode} mode"
    if trace.look == "last":
        settings += ", caches looked at when the trace has ended"
    return "\n".join([*lines, settings])


def tell_divergence(divergence: Divergence, run: Run) -> str:
    """Return what was expected and what came: row ids for buffers, not a dump of numbers."""
    labels = Labels(run.log)
    expected, actual = divergence.expected, divergence.actual
    name = divergence.where
    if divergence.signature.field == "half changed":
        head = f"the reference raised and left its {name} changed; a transactional target does not"
        return "\n".join([f"  {head}", *_sides(("before", expected), ("after", actual), labels)])
    outcome = name.startswith(("raises", "returns"))
    sides = _sides(("expected", expected), ("actual", actual), labels, outcome)
    return "\n".join([f"  step {divergence.index + 1}, {name}", *sides])


def tell_side(divergence: Divergence, run: Run, side: Literal["expected", "actual"]) -> str:
    """Return what one side showed, in one line."""
    value = getattr(divergence, side)
    if divergence.signature.field == "half changed" and side == "actual":
        return "left as it was"
    told = _tell_value(value, Labels(run.log))
    if divergence.where.startswith(("raises", "returns")):
        return told if isinstance(value, Raised) else f"returns {told}"
    return f"{divergence.where} is {told}"


def _sides(
    left: tuple[str, Any], right: tuple[str, Any], labels: Labels, outcome: bool = False
) -> Iterator[str]:
    width = max(len(left[0]), len(right[0]))
    for name, value in (left, right):
        told = _tell_value(value, labels)
        if outcome and not isinstance(value, Raised):
            told = f"returns {told}"
        yield f"    {name:{width}}  {told}"
    if isinstance(left[1], Snapshot) and isinstance(right[1], Snapshot):
        yield from _first_element(left[1], right[1], width)


def _tell_value(value: Any, labels: Labels) -> str:
    match value:
        case Snapshot() if value.failed:
            return f"{tell_kind(value)} that cannot be evaluated: {value.failed}"
        case Snapshot():
            rows = labels.of(value)
            return tell_kind(value) + ("" if rows is None else f", rows: {_shorten(rows)}")
        case Raised():
            return f"raises {value.kind}: {value.message}"
        case mx.array():
            return tell_kind(value)
        case Sequenced(container, items):
            return _tell_items(container.__name__, items, labels)
        case tuple() | list():
            return _tell_items(type(value).__name__, value, labels)
        case _:
            return repr(value)


def tell_kind(array: Snapshot | mx.array) -> str:
    """Return dtype and shape of an array."""
    return f"{str(array.dtype).removeprefix('mlx.core.')} {list(array.shape)}"


def _tell_items(container: str, items: Sequence[Any], labels: Labels) -> str:
    told = "; ".join(_tell_value(item, labels) for item in items)
    return f"{container} of {len(items)}: {told}"


def _first_element(expected: Snapshot, actual: Snapshot, width: int) -> Iterator[str]:
    """Say where two arrays of one shape and dtype first differ, in bits."""
    same = (expected.shape, expected.dtype) == (actual.shape, actual.dtype)
    if not same or not expected.data or expected.data == actual.data:
        return
    index, left, right = first_difference(expected, actual)
    yield f"    {'first':{width}}  element {index}: expected bits {left}, got {right}"


def first_difference(expected: Snapshot, actual: Snapshot) -> tuple[list[int], str, str]:
    """Return the index of the first element that differs, and its bits in both arrays.

    They have one shape and dtype, and other bytes.
    """
    itemsize = expected.dtype.size
    kind = _BITS[itemsize]
    left, right = np.frombuffer(expected.data, kind), np.frombuffer(actual.data, kind)
    where = int(np.flatnonzero(left != right)[0])
    index = [int(i) for i in np.unravel_index(where, expected.shape)]
    digits = 2 * itemsize
    return index, f"0x{int(left[where]):0{digits}x}", f"0x{int(right[where]):0{digits}x}"


def _shorten(rows: str, most: int = 40) -> str:
    parts = rows.split(" ")
    if len(parts) <= most:
        return rows
    return f"{' '.join(parts[: most // 2])} ... {' '.join(parts[-most // 2 :])}"


def _tell_item(item: Any) -> str:
    if isinstance(item, tuple):
        return f"({', '.join(map(_tell_item, item))})"
    return tell_recipe(item) if isinstance(item, AnyRecipe) else repr(item)


def _arguments(args: dict[str, Any]) -> str:
    told = {k: tell_recipe(v) if isinstance(v, AnyRecipe) else v for k, v in args.items()}
    return ", ".join(f"{name}={value}" for name, value in told.items())
