"""A corpus: the fewest traces that reach whatever any trace was seen to reach.

What a trace reaches are operations in state classes, pairs of state classes, and, where they were
measured, steps from line to line of the reference. Each trace is a file; of all traces that were
taken, those are kept that a greedy set cover chooses.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from kvlockstep._coverage import Arc
from kvlockstep._divergence import Run
from kvlockstep._trace import Trace, dumps, read

Goal = tuple[str, ...]


@dataclass(frozen=True)
class Reached:
    """A trace, and what it reaches of a release."""

    release: str
    trace: Trace
    goals: frozenset[Goal]

    @property
    def name(self) -> str:
        """The name of the trace's file: the same trace has the same one."""
        digest = hashlib.sha256(dumps(self.trace).encode()).hexdigest()[:16]
        return f"{self.release.replace('/', '-').replace(':', '-')}-{digest}.json"


def goals_of(release: str, run: Run, arcs: Collection[Arc] = ()) -> frozenset[Goal]:
    """Return what a run reached: its cells and pairs, and the arcs that were measured."""
    found: set[Goal] = {(release, "cell", *cell) for cell in run.cells}
    found |= {(release, "pair", *pair) for pair in run.pairs}
    found |= {(release, "arc", str(start), str(end)) for start, end in arcs}
    return frozenset(found)


def cover(candidates: Iterable[Reached]) -> list[Reached]:
    """Return candidates that together reach what all of them do, chosen greedily.

    The one that adds most comes first; of equals the shorter trace. Each adds something.
    """
    every = {one.name: one for one in candidates}
    heap = [(-len(one.goals), len(one.trace.steps), name) for name, one in every.items()]
    heapq.heapify(heap)
    left = set().union(*(one.goals for one in every.values()))
    chosen = []
    while left:
        gain, steps, name = heapq.heappop(heap)
        # What a trace adds only ever shrinks: the best is known when its gain is still true.
        new = len(every[name].goals & left)
        if new < -gain:
            heapq.heappush(heap, (-new, steps, name))
            continue
        chosen.append(every[name])
        left -= every[name].goals
    return chosen


class Corpus:
    """The traces in a folder, and what they reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reached: dict[str, Reached] = {}
        self.goals: set[Goal] = set()

    def traces(self) -> list[Trace]:
        """Return the traces in the folder, for a run to tell what they reach today.

        Raises `TraceError` or `OSError` for a file that is no trace.
        """
        return [read(path) for path in sorted(self.folder.glob("*.json"))]

    def add(self, new: Reached) -> int:
        """Keep a trace, in a file at once, if it adds something; return how much."""
        added = len(new.goals - self.goals)
        if added:
            trace = replace(new.trace, releases=(new.release,))
            kept = Reached(new.release, trace, new.goals)
            self.reached[kept.name] = kept
            self.goals |= kept.goals
            write_whole(self.folder / kept.name, dumps(trace))
        return added

    def drop(self, release: str, traces: Iterable[Trace]) -> None:
        """Delete those of `traces`, which ran again, that add nothing any more."""
        for trace in traces:
            name = Reached(release, trace, frozenset()).name
            if name not in self.reached:
                (self.folder / name).unlink(missing_ok=True)

    def minimize(self) -> None:
        """Keep those traces only that a set cover chooses, in memory and in the folder.

        Files that are not among those taken so far are left alone.
        """
        before = self.reached
        self.reached = {one.name: one for one in cover(before.values())}
        for name in before.keys() - self.reached.keys():
            (self.folder / name).unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
