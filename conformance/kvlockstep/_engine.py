"""The lockstep engine: one trace, two sides, step by step, everything compared.

The order within a step is what makes an alarm true. Sizes are read from the reference before
either side runs; both sides get fresh arrays; after the step every live cache of both sides is
looked at, and so is every handle that a caller may still hold.

After an error a transactional target must be unchanged, and goes on beside a reference that is put
back to where it stood before the step. That a failing release leaves its cache half changed is
itself a divergence, `half changed`, for the ledger to name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from kvlockstep._arrays import RecipeError
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._compare import same_error
from kvlockstep._contract import DERIVED, Contract, Level
from kvlockstep._divergence import Cell, Run
from kvlockstep._findings import Findings, Logged, Meaning, Place
from kvlockstep._operations import OPERATIONS, Operation, Side, destination
from kvlockstep._sizes import Sizes, resolve, sizes_of
from kvlockstep._snapshots import Camera, Raised, Snapshot, look, settle
from kvlockstep._targets import Target
from kvlockstep._trace import AnyStep, Construct, Hold, OnSlot, Trace, TraceError, Trim
from kvlockstep._undefined import zone_of


class Lockstep:
    """Runs traces of one contract against one target."""

    def __init__(self, contract: Contract, target: Target, level: Level | None = None) -> None:
        self.contract = contract
        self.target = target
        self.level = level or target.level
        self.lacking: set[str] = set()
        self._fields: dict[tuple[type, type], tuple[str, ...]] = {}

    def fields_of(self, ours: Any, theirs: Any) -> tuple[str, ...]:
        """Return the fields to compare of a cache of the reference and the target's own.

        What the target's does not have is noted as lacking, and not compared.
        """
        kinds = type(ours), type(theirs)
        fields = self._fields.get(kinds)
        if fields is None:
            name = kinds[0].__name__
            asked = self.contract.surfaces[name].fields(self.level)
            has = {*getattr(theirs, "__dict__", ()), *dir(kinds[1])}
            fields = tuple(field for field in asked if field.removesuffix("()") in has)
            self.lacking |= {f"{name}.{field}" for field in asked if field not in fields}
            self._fields[kinds] = fields
        return fields

    def run(self, trace: Trace) -> Run:
        """Run `trace` and return what it showed. Neither side's errors escape.

        Raises `RecipeError` or `TraceError` for a trace that cannot be run on either side.
        """
        with _growth_step(trace.step_size, self.contract.module, self.target.module):
            return _Course(self, trace).run()


class _Course:
    """One trace on its way."""

    def __init__(self, lockstep: Lockstep, trace: Trace) -> None:
        self.trace = trace
        self.contract = lockstep.contract
        self.target = lockstep.target
        self.fields_of = lockstep.fields_of
        self.left = Side(lockstep.contract.module)
        self.right = Side(lockstep.target.module)
        self.in_place = trace.mode == "in-place"
        # At level `state` a rollback needs the content of buffers that are not compared.
        self.unseen = lockstep.target.transactional and lockstep.level == "state"
        self.result = Run()
        self.findings = Findings(lockstep.target.errors)
        self.logged: dict[int, Logged] = {}
        self.trimmed: set[str] = set()
        # The reference as it was last seen: what a rollback puts back.
        self.before: dict[str, list[Any]] = {}
        self.contents: dict[int, Snapshot] = {}

    def run(self) -> Run:
        for index, step in enumerate(self.trace.steps):
            self.result.log.append(self._step(index, step))
            if self.findings.ended:
                break
        self.findings.settle()
        divergences = self.findings.divergences(self.contract.release, self.logged)
        self.result.divergences = list(divergences)
        return self.result

    def _step(self, index: int, step: AnyStep) -> AnyStep | None:
        """Run one step on both sides; returns it as it was run, None if it had nothing to do."""
        left, right = self.left, self.right
        operation = OPERATIONS[type(step)]
        cache = left.slots.get(step.slot) if isinstance(step, OnSlot) else None
        if cache is None and isinstance(step, OnSlot) and type(step) is not Construct:
            return None
        name = _cache_name(step, cache)
        if self._is_absent(operation, step, name, cache):
            return None
        if (zone := zone_of(step, cache)) is not None:
            self.result.undefined[zone.reason] += 1
            return None
        if type(step) is not Hold:
            left.let_go()
            right.let_go()
        sizes = sizes_of(cache) if cache is not None else {}
        step = resolve(step, sizes)
        trimmable = type(step) is Trim and _is_trimmable(cache)
        self.logged[index] = Logged(step, name, operation.name, sizes, trimmable)
        self._count(step, name, operation, cache, sizes)
        saved = _fields_of(cache) if self.target.transactional and cache is not None else None

        expected = _attempt(operation, left, step)
        actual = _attempt(operation, right, step)

        meaning: Meaning = "stored"
        if type(expected) is Raised or type(actual) is Raised:
            meaning = self._judge(index, step, expected, actual, saved)
            self._drop_unpaired(step)
            expected = actual = None
        self._look(index, step, meaning, expected, actual)
        return step

    def _judge(
        self, index: int, step: AnyStep, expected: Any, actual: Any, saved: dict[str, Any] | None
    ) -> Meaning:
        """Compare outcomes, one of them an error, and put back a reference that has to be.

        Returns what a difference in a stored field means after it.
        """
        slot = step.slot if isinstance(step, OnSlot) else ""
        both = type(expected) is Raised and type(actual) is Raised
        if both:
            field = f"raises {actual.kind}, not {expected.kind}"
            if actual.kind == expected.kind:
                field = "message"
        elif type(actual) is Raised:
            field = f"raises {actual.kind}"
        else:
            field = f"returns, not {expected.kind}"
        if not both or not same_error(expected, actual, self.target.errors):
            self.findings.add(Place(index, "outcome", slot), (field,), expected, actual)
        if saved is None:
            return "stored" if both else "aftermath"
        cache = self.left.slots[slot]
        if type(expected) is Raised:
            self._compare_half_changed(index, slot, cache)
        self._put_back(cache, saved)
        return "stored" if type(actual) is Raised else "aftermath"

    def _compare_half_changed(self, index: int, slot: str, cache: Any) -> None:
        """Compare the reference after its error with what was seen of it before."""
        if slot not in self.before:
            return
        camera = Camera(self.trace.mode)
        fields = self.fields_of(cache, self.right.slots[slot])
        after = look(cache, fields, camera)
        if self.in_place:
            settle(camera.contents().values())
        place = Place(index, "half changed", slot)
        for field, was, now in zip(fields, self.before[slot], after, strict=True):
            self.findings.compare(place, (field,), was, now)

    def _put_back(self, cache: Any, saved: dict[str, Any]) -> None:
        """Give the reference its fields back, and its arrays, the same objects, their content."""
        vars(cache).clear()
        vars(cache).update(saved)
        for array in _arrays_in(saved.values()):
            content = self.contents.get(id(array))
            if content is not None and array.size:
                array[...] = content.array()

    def _drop_unpaired(self, step: AnyStep) -> None:
        """After an error, drop what only one side may have: a result, a new cache, a handle."""
        left, right = self.left, self.right
        left.let_go()
        right.let_go()
        if isinstance(step, OnSlot) and (slot := destination(step)) is not None:
            left.slots.pop(slot, None)
            right.slots.pop(slot, None)
        held = min(len(left.held), len(right.held))
        del left.held[held:], right.held[held:]

    def _look(
        self, index: int, step: AnyStep, meaning: Meaning, expected: Any, actual: Any
    ) -> None:
        """Look at all that is alive on both sides, and compare it."""
        left, right = Camera(self.trace.mode), Camera(self.trace.mode)
        compare = self.findings.compare
        near = (getattr(step, "slot", ""), getattr(step, "to", ""))
        self.before = {}
        for slot, cache in self.left.slots.items():
            other_cache = self.right.slots[slot]
            fields = self.fields_of(cache, other_cache)
            ours = self.before[slot] = look(cache, fields, left)
            theirs = look(other_cache, fields, right)
            if self.unseen:
                for array in _arrays_in(vars(cache).values()):
                    left.take(array)
            prefix = "" if slot in near else "other cache: "
            self._compare_fields(Place(index, meaning, slot), prefix, fields, ours, theirs)
        for number, (one, other) in enumerate(zip(self.left.held, self.right.held, strict=True)):
            place = Place(index, "seen", f"held {number}")
            what = f"held {one.what}"
            if one.what != "copy":
                compare(place, (what,), left.take(one.value), right.take(other.value))
                continue
            fields = self.fields_of(one.value, other.value)
            ours = look(one.value, fields, left)
            theirs = look(other.value, fields, right)
            self._compare_fields(place, f"{what}: ", fields, ours, theirs)
        if expected is not None or actual is not None:
            place = Place(index, "result", "")
            compare(place, ("result",), left.take(expected), right.take(actual))
        self.contents = left.contents()
        if self.in_place:
            settle([*self.contents.values(), *right.contents().values()])
            self.findings.settle()
        left.forget()
        right.forget()

    def _compare_fields(
        self, place: Place, prefix: str, fields: tuple[str, ...], ours: list[Any], theirs: list[Any]
    ) -> None:
        derived = Place(place.at, "seen", place.slot) if place.meaning == "stored" else place
        for field, one, other in zip(fields, ours, theirs, strict=True):
            if one is not other:
                where = derived if field in DERIVED else place
                self.findings.compare(where, (prefix + field,), one, other)

    def _count(
        self, step: AnyStep, name: str, operation: Operation, cache: Any, sizes: Sizes
    ) -> None:
        slot = step.slot if isinstance(step, OnSlot) else ""
        state = "none"
        if cache is not None and type(step) is not Construct:
            state = CACHES[name].state_of(cache, sizes, slot in self.trimmed)
        self.result.steps += 1
        self.result.cells[Cell(name, operation.name, state)] += 1
        if type(step) is Trim:
            self.trimmed.add(slot)
        elif operation.name in ("update", "construct", "set_state"):
            self.trimmed.discard(slot)

    def _is_absent(self, operation: Operation, step: AnyStep, name: str, cache: Any) -> bool:
        """Tell whether one side has no such class or operation; note what the target lacks."""
        if type(step) is Construct:
            if name not in CACHES:
                raise TraceError(f"cache {name!r}: expected one of {', '.join(CACHES)}")
            if not hasattr(self.right.module, name):
                self.result.lacking.add(name)
            return not (hasattr(self.left.module, name) and hasattr(self.right.module, name))
        member = operation.member
        if member is None:
            return False
        ours: Any = self.left.module
        theirs: Any = self.right.module
        if isinstance(step, OnSlot):
            ours, theirs = type(cache), type(self.right.slots[step.slot])
        if not hasattr(ours, member):
            return True
        if not hasattr(theirs, member):
            self.result.lacking.add(f"{name}.{member}")
            return True
        return False


def _cache_name(step: AnyStep, cache: Any) -> str:
    if isinstance(step, Construct):
        return step.cache
    return FUNCTIONS if cache is None else type(cache).__name__


def _attempt(operation: Operation, side: Side, step: AnyStep) -> Any:
    try:
        return operation.perform(side, step)
    except RecipeError:
        raise
    except Exception as error:
        return Raised(error.with_traceback(None))


def _is_trimmable(cache: Any) -> bool:
    try:
        return bool(cache.is_trimmable())
    except Exception:
        return False


def _fields_of(cache: Any) -> dict[str, Any]:
    """Return the cache's fields; lists are copied, for they can change too."""
    return {
        name: list(value) if type(value) is list else value for name, value in vars(cache).items()
    }


def _arrays_in(values: Any) -> Iterator[mx.array]:
    for value in values:
        if isinstance(value, mx.array):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _arrays_in(value)


@contextmanager
def _growth_step(size: int, left: Any, right: Any) -> Iterator[None]:
    """Give all cache classes another growth step, where both sides have one that can be set."""
    pairs = [
        (getattr(left, name), getattr(right, name))
        for name in CACHES
        if hasattr(left, name) and hasattr(right, name)
    ]
    if size == 256 or any(hasattr(one, "step") != hasattr(other, "step") for one, other in pairs):
        yield
        return
    growing = [cls for pair in pairs for cls in pair if hasattr(cls, "step")]
    own = [(cls, vars(cls).get("step")) for cls in growing]
    for cls in growing:
        cls.step = size
    try:
        yield
    finally:
        for cls, step in own:
            if step is not None:
                cls.step = step
            elif "step" in vars(cls):
                del cls.step
