"""Which traces a mutant is shown first, and what is generated for it when they are used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._mutants import Mutant
from kvlockstep._scout import Key, Line, Map

# Beside the lines of a mutant, those of its whole unit count, but later.
_MOST = 600


def order_traces(mutant: Mutant, file: str, seen: Map) -> tuple[Key, ...]:
    """Return the traces to show a mutant, those that run its line first, the short ones first.

    Then those that run any line of its function; where no trace does, all of them.
    """
    unit = mutant.unit
    near = _keys(file, (mutant.line,), seen)
    inside = _keys(file, range(unit.first, unit.last + 1), seen)
    rest = inside or _own(mutant, seen)
    known = set(near)
    ordered = [*_by_length(near, seen), *_by_length([k for k in rest if k not in known], seen)]
    return tuple(ordered[:_MOST])


def caches_to_search(
    mutant: Mutant, file: str, seen: Map, releases: Sequence[str], caches: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Return releases and caches to generate traces of, by turns: the likelier, the more often."""
    unit = mutant.unit
    lines = (mutant.line,), range(unit.first, unit.last + 1)
    for numbers in lines:
        hits = Counter((k.release, k.cache) for k in _keys(file, numbers, seen) if not k.file)
        if hits:
            most = max(hits.values())
            return tuple(one for one, hit in hits.most_common() for _ in range(1 + 3 * hit // most))
    own = [unit.owner] if unit.owner in CACHES else [*caches]
    return tuple((release, cache) for release in releases for cache in own)


def _own(mutant: Mutant, seen: Map) -> list[Key]:
    owner = mutant.unit.owner or FUNCTIONS
    own = [key for key in seen.steps if key.cache == owner]
    return own or [*seen.steps]


def _keys(file: str, lines: Sequence[int], seen: Map) -> list[Key]:
    found: dict[Key, None] = {}
    for line in lines:
        where: Line = (file, line)
        found |= dict.fromkeys(seen.lines.get(where, ()))
    return [*found]


def _by_length(keys: Sequence[Key], seen: Map) -> list[Key]:
    return sorted(keys, key=lambda key: (seen.steps.get(key, 0), key))
