"""What to compare of a cache on both sides, and how its fields are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvlockstep._compare import is_unset
from kvlockstep._contract import DERIVED, Contract, Level
from kvlockstep._findings import Findings, Place
from kvlockstep._snapshots import CAUGHT, Field, Raised, field_of
from kvlockstep._targets import Target


class View(NamedTuple):
    """What to compare of a cache: all its fields, and those that do not derive from others.

    And whether it is what the target's module has under the name of the reference's class.
    """

    fields: tuple[Field, ...]
    stored: tuple[Field, ...]
    is_same_class: bool


class Views:
    """Knows what to compare of caches; `lacking` has the fields that the target's do not have."""

    def __init__(self, contract: Contract, target: Target, level: Level) -> None:
        self.lacking: set[str] = set()
        self._contract = contract
        self._target = target
        self._level = level
        self._known: dict[tuple[type, type], View] = {}

    def of(self, ours: Any, theirs: Any) -> View:
        """Return what to compare of a cache of the reference and the target's own.

        What the target's does not have is noted as lacking, and not compared.
        """
        kinds = type(ours), type(theirs)
        view = self._known.get(kinds)
        if view is None:
            view = self._known[kinds] = self._make(kinds[0].__name__, theirs)
        return view

    def _make(self, name: str, theirs: Any) -> View:
        cls = getattr(self._target.module, name, None)
        same = not isinstance(cls, type) or isinstance(theirs, cls)
        # A state may name a class of the release that is no cache: there is nothing to see.
        surface = self._contract.surfaces.get(name)
        asked = surface.fields(self._level) if surface else ()
        has = {*dir(theirs)}
        known = [field for field in asked if field.removesuffix("()") in has]
        if same:
            self.lacking |= {f"{name}.{field}" for field in asked if field not in known}
        fields = tuple(field_of(field, field in DERIVED) for field in known)
        stored = tuple(field for field in fields if not field.is_derived)
        # At level `state` buffers are seen in nothing but what derives from them.
        return View(fields, stored if self._level == "buffer" else fields, same)


def compare_fields(
    findings: Findings,
    place: Place,
    fields: Sequence[Field],
    ours: Any,
    theirs: Any,
    prefix: str = "",
) -> None:
    """Compare fields; what is derived, or not even there, does not part the two sides."""
    derived = Place(place.at, "seen", place.address) if place.meaning == "stored" else place
    compare = findings.compare
    for name, path, read, is_derived in fields:
        where = derived if is_derived else place
        try:
            one = read(ours)
        except CAUGHT as error:
            if is_unset(name, error):
                continue
            one, where = Raised(error.with_traceback(None)), derived
        try:
            other = read(theirs)
        except CAUGHT as error:
            other = Raised.of(error)
        if one is not other:
            compare(where, (prefix + name,) if prefix else path, one, other)
