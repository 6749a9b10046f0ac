"""A unit of a hunt: some thousand steps on one cache, or traces to be run again, in a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kvlockstep._caches import FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._corpus import Goal, Reached, goals_of
from kvlockstep._coverage import Arc, arcs_reached
from kvlockstep._divergence import Run, Signature
from kvlockstep._gate import use_device
from kvlockstep._generate import generate
from kvlockstep._jobs import Found, Job, JobReport
from kvlockstep._search import seeded_bytes
from kvlockstep._settings import Settings
from kvlockstep._tally import Tally, slug
from kvlockstep._trace import Mode, Trace, write

# Steps of one unit: about a second.
STEPS = 2_000
# A tracer halves the speed: the lines of every fifth unit are measured, and of what is kept.
_MEASURED = 5
_MOST_IDLE = 20


@dataclass(frozen=True)
class Unit:
    """What one worker does: generated traces of one seed, or, if there are any, `traces`."""

    release: str
    cache: str = ""
    mode: Mode = "value"
    seed: int = 0
    traces: tuple[Trace, ...] = ()

    @property
    def lane(self) -> str:
        """The name under which seeds are ticked off."""
        return f"{self.release} {self.cache} {self.mode}"

    def __str__(self) -> str:
        return f"{self.lane}, seed {self.seed}" if self.cache else f"{self.release}, the corpus"


@dataclass
class UnitReport:
    """What a unit reached and found. `shown` are all undeclared signatures, known ones too."""

    steps: int = 0
    reached: list[Reached] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    shown: set[Signature] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def run_unit(
    unit: Unit, settings: Settings, goals: frozenset[Goal], known: frozenset[Signature]
) -> UnitReport:
    """Run a unit; traces that reach none of `goals` yet are reported, and so is what is not known.

    A new finding is a file in the folder of reports before it is shrunk, and after.
    """
    use_device(settings)
    report = JobReport(jobs=1)
    tally = Tally(Job("lockstep", unit.release, unit.cache, unit.mode), settings, report)
    told = UnitReport(reached=list(_reach(unit, tally, set(goals))))
    told.steps = report.steps
    told.shown = set(report.undeclared)
    tally.shortest = {one: trace for one, trace in tally.shortest.items() if one not in known}
    for signature, trace in tally.shortest.items():
        write(trace, settings.report / f"{slug(str(signature))}.json")
    tally.explain()
    told.found, told.problems = report.found, report.problems
    return told


def _reach(unit: Unit, tally: Tally, goals: set[Goal]) -> Iterator[Reached]:
    """Run the unit's traces, and yield those that reach something new."""
    contract = tally.engine.contract
    arcs: set[Arc] = set()
    if unit.traces or unit.seed % _MEASURED == 0:
        with arcs_reached(contract, arcs):
            ran = [(trace, tally.run(trace)) for trace in _traces(unit, tally)]
        measured = not goals_of(unit.release, Run(), arcs) <= goals
    else:
        ran = [(trace, tally.run(trace)) for trace in _traces(unit, tally)]
        measured = False
    for trace, run in ran:
        if measured or not goals_of(unit.release, run) <= goals:
            own: set[Arc] = set()
            with arcs_reached(contract, own):
                again = tally.engine.run(trace)
            reached = goals_of(unit.release, again, own)
            if not reached <= goals:
                goals |= reached
                yield Reached(unit.release, trace, reached)


def _traces(unit: Unit, tally: Tally) -> Iterator[Trace]:
    """Yield the unit's traces until their steps suffice."""
    if unit.traces:
        yield from unit.traces
        return
    contract = contract_of(unit.release)
    if unit.cache not in (*contract.surfaces, FUNCTIONS):
        return
    steps: Callable[[], int] = lambda: tally.report.steps  # noqa: E731
    idle, before = 0, 0
    for data in seeded_bytes(2 * unit.seed + (unit.mode == "in-place")):
        yield generate(data, contract, unit.cache, unit.mode)
        idle = 0 if steps() > before else idle + 1
        before = steps()
        if before >= STEPS or idle > _MOST_IDLE:
            return
