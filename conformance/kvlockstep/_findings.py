"""Differences on their way to divergences: collected, settled, and each told once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

from kvlockstep._compare import Errors, same_error, same_scalar
from kvlockstep._divergence import Divergence, Signature
from kvlockstep._facts import facts_of
from kvlockstep._sizes import Sizes
from kvlockstep._snapshots import Raised, Sequenced, Snapshot, settle, snapshots_in
from kvlockstep._trace import AnyStep

# What a finding means. `stored`: a field of the cache itself differs, the two sides have parted,
# and what follows would only repeat it. `aftermath`: parted too, by an outcome that was found
# before. After any other the trace goes on: an `outcome`, a `result`, what is `seen` of a cache
# through its methods, a reference left `half changed` by an error.
Meaning = Literal["outcome", "half changed", "stored", "aftermath", "seen", "result"]
_RANKS = {meaning: rank for rank, meaning in enumerate(get_args(Meaning))}
_ENDING = ("stored", "aftermath")

# A field's name, and the indices into the containers that it holds.
Path = tuple[Any, ...]
_FROZEN = (Snapshot, Sequenced, Raised)


class Place(NamedTuple):
    """Where something was compared: in which step, with what meaning, on which slot."""

    at: int
    meaning: Meaning
    slot: str


class Finding(NamedTuple):
    """A difference and its place."""

    place: Place
    field: str
    expected: Any
    actual: Any


class Logged(NamedTuple):
    """What a step acted on, for the signature and the facts of a divergence."""

    step: AnyStep
    cache: str
    operation: str
    sizes: Sizes
    context: dict[str, Any]


class Findings:
    """The differences of one trace."""

    def __init__(self, errors: Errors) -> None:
        self._errors = errors
        self._found: list[Finding] = []
        # Snapshots of the same shape and dtype, whose bytes are yet to be compared.
        self._pairs: list[tuple[Place, Path, Snapshot, Snapshot]] = []
        self._paired: set[tuple[Snapshot, Snapshot]] = set()
        self.ended = False

    def add(self, place: Place, path: Path, expected: Any, actual: Any) -> None:
        """Take note of a difference; of a result it is told in which item, not where in that."""
        indices = path[1:2] if path[0] == "result" else path[1:]
        field = path[0] + "".join(f"[{index}]" for index in indices)
        self._found.append(Finding(place, field, expected, actual))
        self.ended = self.ended or place.meaning in _ENDING

    def compare(self, place: Place, path: Path, expected: Any, actual: Any) -> None:
        """Compare two frozen values; the bytes of arrays are compared when they are settled."""
        kind = type(expected)
        if kind is not type(actual):
            same = kind not in _FROZEN and same_scalar(expected, actual)
        elif kind is Snapshot:
            same = expected.shape == actual.shape and expected.dtype == actual.dtype
            pair = expected, actual
            # One array may be seen in several fields: `keys`, `state`, the result.
            if same and pair not in self._paired:
                self._paired.add(pair)
                self._pairs.append((place, path, expected, actual))
        elif kind is Sequenced:
            same = expected.kind is actual.kind and len(expected.items) == len(actual.items)
            if same:
                items = zip(expected.items, actual.items, strict=True)
                for index, (one, other) in enumerate(items):
                    if one is not other:
                        self.compare(place, (*path, index), one, other)
        elif kind is int:
            same = expected == actual
        elif kind is Raised:
            same = same_error(expected, actual, self._errors)
        else:
            same = same_scalar(expected, actual)
        if not same:
            self.add(place, path, expected, actual)

    def settle(self) -> None:
        """Take the bytes of all arrays that wait for it, and compare them."""
        settle(expected for _, _, expected, _ in self._pairs)
        settle(actual for *_, actual in self._pairs)
        for place, path, expected, actual in self._pairs:
            if (expected.data, expected.failed) != (actual.data, actual.failed):
                self.add(place, path, expected, actual)
        self._pairs.clear()
        self._paired.clear()

    def divergences(self, contract: str, log: dict[int, Logged]) -> Iterator[Divergence]:
        """Yield the divergences in order.

        Of a step: its outcome, whether it left the reference half changed, and the first field
        that differs. What is seen to go on differing in the same way is told once.
        """
        end = min((f.place.at for f in self._found if f.place.meaning in _ENDING), default=None)
        told: set[tuple[int, str]] = set()
        known: set[tuple[str, object, object]] = set()
        for place, field, expected, actual in sorted(self._found, key=_order):
            if end is not None and place.at > end:
                break
            group = place.meaning if place.meaning in ("outcome", "half changed") else "field"
            if place.meaning == "seen":
                lasting = field.rpartition(": ")[2], _kind_of(expected), _kind_of(actual)
                if lasting in known:
                    continue
                known.add(lasting)
            if place.meaning == "aftermath" or (place.at, group) in told:
                continue
            told.add((place.at, group))
            settle((*snapshots_in(expected), *snapshots_in(actual)))
            step, cache, operation, sizes, context = log[place.at]
            name = place.meaning if place.meaning == "half changed" else field
            signature = Signature(contract, cache, operation, name)
            facts = facts_of(step, sizes, context)
            yield Divergence(signature, place.at, field, expected, actual, facts)


def _order(finding: Finding) -> tuple[int, int]:
    return finding.place.at, _RANKS[finding.place.meaning]


def _kind_of(value: Any) -> object:
    """Return what makes a lasting difference the same one: its kind, not its content."""
    if isinstance(value, Snapshot):
        return "array", value.dtype
    if isinstance(value, Sequenced):
        return value.kind, len(value.items)
    if isinstance(value, Raised):
        return "raised", value.kind
    return type(value)
