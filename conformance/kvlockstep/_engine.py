"""The lockstep engine: one trace, two sides, step by step, everything compared.

The order within a step is what makes an alarm true. Sizes are read from the reference before
either side runs; both sides get fresh arrays; after the step every live cache of both sides is
looked at, and so is every handle that a caller may still hold.

After an error a transactional target must be unchanged, and goes on beside a reference that is put
back to where it stood before the step. That a failing release leaves its cache half changed is
itself a divergence, `half changed`, for the ledger to name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import mlx.core as mx
import msgspec

import kvreference
from kvlockstep._arrays import RecipeError
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._compare import is_own, same_error
from kvlockstep._contract import Contract, Level
from kvlockstep._divergence import Divergence, Run
from kvlockstep._findings import Findings, Logged, Meaning, Place
from kvlockstep._growth import growing, growth_step
from kvlockstep._memento import Memento, arrays_in, exchange
from kvlockstep._operations import OPERATIONS, Operation, destination, operands, present
from kvlockstep._side import Handle, Side, walk
from kvlockstep._sizes import all_in, children_of, resolve, sizes_of
from kvlockstep._snapshots import CAUGHT, Raised, freeze, look, settle, snapshots_in
from kvlockstep._steps import (
    Construct,
    Depends,
    Hold,
    Made,
    OnSlot,
    Reserve,
)
from kvlockstep._targets import Target
from kvlockstep._trace import AnyStep, Trace, TraceError
from kvlockstep._undefined import zone_of
from kvlockstep._views import Views, compare_fields
from kvlockstep._watch import Watch


class Lockstep:
    """Runs traces of one contract against one target."""

    def __init__(self, contract: Contract, target: Target, level: Level | None = None) -> None:
        self.contract = contract
        self.target = target
        self.level = level or target.level
        self.views = Views(contract, target, self.level)
        self.lacking = self.views.lacking
        self._growing = growing(contract.module, target.module)
        known = (contract.release, target.contract)
        self.releases = {release if release in kvreference.PINNED else None for release in known}

    def run(self, trace: Trace, is_meant: Callable[[Divergence], bool] = lambda _: False) -> Run:
        """Run `trace` and return what it showed. Neither side's errors escape.

        What a trace that looks last shows is looked for step by step in another run, unless it is
        only how steps ended, and `is_meant` says of each that it is known.
        Raises `RecipeError` or `TraceError` for a trace that cannot be run on either side.
        """
        with growth_step(trace.step_size, self._growing):
            course = _Course(self, trace)
            run = course.run()
            if trace.look == "last" and run.divergences:
                if course.findings.are_outcomes() and all(map(is_meant, run.divergences)):
                    return run
                # Where looking shows the same or more, it tells in which step.
                seen = _Course(self, msgspec.structs.replace(trace, look="always")).run()
                return seen if seen.divergences else run
            return run


class _Course:
    """One trace on its way."""

    def __init__(self, lockstep: Lockstep, trace: Trace) -> None:
        self.trace = trace
        self.looks_last = trace.look == "last"
        self.contract = lockstep.contract
        self.target = lockstep.target
        self.view_of = lockstep.views.of
        self.releases = lockstep.releases
        self.left = Side(lockstep.contract.module)
        self.right = Side(lockstep.target.module)
        # At level `state` a rollback needs the content of buffers that are not compared.
        self.unseen = lockstep.target.transactional and lockstep.level == "state"
        self.result = Run()
        self.watch = Watch(self.left, self.result)
        self.findings = Findings(self.target.errors, trace.mode, self.target.own_errors)
        self.logged: dict[int, Logged] = {}

    def run(self) -> Run:
        for index, step in enumerate(self.trace.steps):
            self.result.log.append(self._step(index, step))
            if self.findings.ended:
                break
        else:
            self._look_at_last()
        self.findings.settle()
        divergences = self.findings.divergences(self.contract.release, self.logged)
        self.result.divergences = list(divergences)
        return self.result

    def _step(self, index: int, step: AnyStep) -> AnyStep | None:
        """Run one step on both sides; returns it as it was run, None if it had nothing to do."""
        left, right = self.left, self.right
        taken = operands(step)
        caches, twins = left.all_at(taken), right.all_at(taken)
        if not len(taken) == len(caches) == len(twins):
            found = present(step, self._is_there)
            if found is None:
                return None
            step, taken = found, operands(found)
            caches, twins = left.all_at(taken), right.all_at(taken)
        operation = OPERATIONS[type(step)]
        cache = caches[0] if caches and isinstance(step, OnSlot) else None
        name = _cache_name(step, cache)
        if self._is_absent(operation, step, name, cache, twins):
            return None
        sizes = sizes_of(cache) if cache is not None else {}
        step = resolve(step, sizes)
        if (zone := zone_of(step, cache, sizes, self.releases)) is not None:
            self.result.undefined[zone.reason] += 1
            return None
        if type(step) is not Hold:
            left.let_go()
            right.let_go()
        roots = {address.partition(".")[0] for address in taken}
        inside = all_in([left.slots[root] for root in roots])
        if self.looks_last and self.trace.mode == "value":
            self._note_contents(inside)
        contents = self.findings.contents
        context = self.watch.note(step, name, operation.name, taken, caches, sizes, contents)
        self.logged[index] = Logged(step, name, operation.name, sizes, context)
        saved = Memento(inside) if self.target.transactional and caches else None

        expected = _attempt(operation, left, step)
        actual = _attempt(operation, right, step)

        meaning: Meaning = "stored"
        if type(expected) is Raised or type(actual) is Raised:
            meaning = self._judge(index, expected, actual, saved, roots)
            self._drop_unpaired(step)
            expected = actual = None
        self._look(index, step, meaning, expected, actual)
        return step

    def _is_there(self, address: str) -> bool:
        return self.left.at(address) is not None and self.right.at(address) is not None

    def _judge(
        self, index: int, expected: Any, actual: Any, saved: Memento | None, roots: set[str]
    ) -> Meaning:
        """Compare outcomes, one of them an error, and put back a reference that has to be.

        Returns what a difference in a stored field means after it.
        """
        both = type(expected) is Raised and type(actual) is Raised
        if both:
            field = f"raises {actual.kind}, not {expected.kind}"
            if actual.kind == expected.kind:
                field = "message"
        elif type(actual) is Raised:
            field = f"raises {actual.kind}"
        else:
            field = f"returns, not {expected.kind}"
        same = both and same_error(expected, actual, self.target.errors)
        if not same:
            self.findings.add(Place(index, "outcome"), (field,), expected, actual)
        elif not is_own(actual, self.target.own_errors) and self.logged[index].cache != FUNCTIONS:
            field = f"raises {actual.kind}, not a {self.target.own_errors}"
            self.findings.add(Place(index, "outcome"), (field,), expected, actual)
        if saved is None:
            return "stored" if both else "aftermath"
        changed = self._freeze(roots) if same else {}
        self._exchange(saved.put_back(self.findings.contents))
        before = self._freeze(roots) if same else {}
        place = Place(index, "half changed")
        for seen, was in before.items():
            if seen in changed:
                self.findings.compare(place, seen[1:], was, changed[seen])
        if type(actual) is Raised:
            return "stored"
        # What the target has done is not undone: the two have parted, seen or not.
        self.findings.ended = True
        return "aftermath"

    def _exchange(self, new: Mapping[int, mx.array]) -> None:
        """Give all that shares arrays which could not be put back the new ones instead."""
        if new:
            Memento(all_in(self.left.slots.values())).put_back({}, new)
            held = self.left.held
            held[:] = [Handle(one.what, exchange(one.value, new)) for one in held]

    def _freeze(self, roots: set[str]) -> dict[tuple[str, str], Any]:
        """Return what can be seen of the reference's caches now, by their addresses and fields."""
        seen = {}
        for root in sorted(roots):
            for address, cache in walk(root, self.left.slots[root]):
                other = self.right.at(address)
                if other is None or not (view := self.view_of(cache, other)).is_same_class:
                    continue
                # What is kept out of sight shows in what derives from it only.
                hides = CACHES[type(cache).__name__].internal
                for field in view.fields if hides else view.stored:
                    value = look(cache, field.read)
                    seen[address, field.name] = freeze(value, self.trace.mode)
        if self.trace.mode == "in-place":
            settle(snapshots_in(*seen.values()))
        return seen

    def _drop_unpaired(self, step: AnyStep) -> None:
        """After an error, drop what only one side may have: a result, a new cache, a handle."""
        left, right = self.left, self.right
        left.let_go()
        right.let_go()
        if (slot := destination(step)) is not None:
            left.slots.pop(slot, None)
            right.slots.pop(slot, None)
        for slot in left.slots.keys() ^ right.slots.keys():
            left.slots.pop(slot, None)
            right.slots.pop(slot, None)
        held = min(len(left.held), len(right.held))
        del left.held[held:], right.held[held:]

    def _look(
        self, index: int, step: AnyStep, meaning: Meaning, expected: Any, actual: Any
    ) -> None:
        """Look at all that is alive on both sides, and compare it."""
        self.findings.contents = {}
        if not self.looks_last:
            for slot, root in self.left.slots.items():
                self._look_into(Place(index, meaning, slot), root, self.right.slots.get(slot))
        elif self.trace.mode == "in-place":
            self._note_contents(all_in(self.left.slots.values()))
        self._look_at_handles(index, "aftermath" if meaning == "aftermath" else "seen")
        if expected is not None or actual is not None:
            # What is kept out of sight shows in results only.
            own = operands(step)[:1]
            hidden = own and CACHES[type(self.left.at(*own)).__name__].internal
            place = Place(index, "stored" if hidden else "result")
            self.findings.compare(place, ("result",), expected, actual)
        self.findings.end_step()

    def _look_into(self, place: Place, root: Any, twin: Any) -> None:
        """Compare a cache of both sides, and those in it."""
        if children := children_of(root):
            # Children first: what differs in a child shows in its list's state too. A list that has
            # fewer of them, or none that can be seen, shows that itself.
            pairs = zip(children, children_of(twin), strict=False)
            for number, (child, other) in reversed([*enumerate(pairs)]):
                inside = Place(place.at, place.meaning, f"{place.address}.{number}")
                self._look_into(inside, child, other)
        view = self.view_of(root, twin)
        if not view.is_same_class:
            names = type(root).__name__, type(twin).__name__
            self.findings.add(Place(place.at, place.meaning), ("class",), *names)
            return
        compare_fields(self.findings, place, view.fields, root, twin)
        if self.unseen:
            self._note_contents([root])

    def _look_at_last(self) -> None:
        """Look at the caches of a trace that was not looked at on its way."""
        if self.looks_last and self.logged:
            where = max(self.logged)
            for slot, root in self.left.slots.items():
                self._look_into(Place(where, "stored", slot), root, self.right.slots.get(slot))
            self.findings.end_step()

    def _note_contents(self, caches: Iterable[Any]) -> None:
        """Note what the arrays of the reference's caches hold, for a step that has to be undone.

        Only where they are not compared after each step. In value mode before a step, of the caches
        that it takes; in in-place mode after it, of all, for there what is noted is evaluated.
        """
        for array in arrays_in(chain.from_iterable(vars(cache).values() for cache in caches)):
            self.findings.contents[id(array)] = freeze(array, self.trace.mode)

    def _look_at_handles(self, index: int, meaning: Meaning) -> None:
        """Compare what is still held from earlier steps."""
        for one, other in zip(self.left.held, self.right.held, strict=True):
            place, what = Place(index, meaning), f"held {one.what}"
            if one.what != "copy":
                self.findings.compare(place, (what,), one.value, other.value)
                continue
            twins = zip(walk("", one.value), walk("", other.value), strict=False)
            for (address, mine), (_, twin) in reversed([*twins]):
                prefix = f"{what}{address}: "
                fields = self.view_of(mine, twin).fields
                compare_fields(self.findings, place, fields, mine, twin, prefix)

    def _lacks_class(self, name: str) -> bool:
        if name not in CACHES:
            raise TraceError(f"cache {name!r}: expected one of {', '.join(CACHES)}")
        if not hasattr(self.right.module, name):
            self.result.lacking.add(name)
        return not (hasattr(self.left.module, name) and hasattr(self.right.module, name))

    def _is_absent(
        self, operation: Operation, step: AnyStep, name: str, cache: Any, twins: Sequence[Any]
    ) -> bool:
        """Tell whether one side has no such class or operation; note what the target lacks."""
        if isinstance(step, Construct):
            return any(self._lacks_class(made) for made in _classes_in(step))
        member = operation.member
        if member is None:
            return self._lacks_field(step, name)
        ours: Any = self.left.module
        theirs: Any = self.right.module
        if isinstance(step, OnSlot):
            ours, theirs = type(cache), type(twins[0])
        if not hasattr(ours, member):
            return True
        if not hasattr(theirs, member):
            self.result.lacking.add(f"{name}.{member}")
            return True
        return name == "CacheList" and self._child_lacks(member, operands(step))

    def _lacks_field(self, step: AnyStep, name: str) -> bool:
        """Tell whether the target's cache does not have the field that a step takes."""
        match step:
            case Reserve(slot=slot):
                if not self.target.reserves:  # What a target need not have is not lacking.
                    return True
                field, has = "reserve", hasattr(self.right.at(slot), "reserve")
            case Depends(slot=slot):
                field, has = "keys", hasattr(self.right.at(slot), "keys")
            case Hold(slot=slot, what="state"):
                field, has = "state", hasattr(type(self.right.at(slot)), "state")
            case _:
                return False
        if not has:
            self.result.lacking.add(f"{name}.{field}")
        return not has

    def _child_lacks(self, member: str, lists: Iterable[str]) -> bool:
        """Tell whether a cache in a list has no such operation: the list would hand it on."""
        for slot in lists:
            for address, child in walk(slot, self.left.at(slot)):
                twin = self.right.at(address)
                if twin is None or not hasattr(type(child), member):
                    continue
                if not hasattr(type(twin), member):
                    self.result.lacking.add(f"{type(child).__name__}.{member}")
                    return True
        return False


def _classes_in(made: Construct | Made) -> Iterator[str]:
    yield made.cache
    for child in made.children:
        yield from _classes_in(child)


def _cache_name(step: AnyStep, cache: Any) -> str:
    if cache is not None:
        return type(cache).__name__
    return step.cache if isinstance(step, Construct) else FUNCTIONS


def _attempt(operation: Operation, side: Side, step: AnyStep) -> Any:
    try:
        return operation.perform(side, step)
    except RecipeError:
        raise
    except CAUGHT as error:
        return Raised.of(error)
