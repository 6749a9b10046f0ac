"""A mutation run: mutants of a target, each in lockstep against the intact release."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contained import Died, Limits, run_contained
from kvlockstep._contract import contract_of
from kvlockstep._equivalents import judge_equivalents, read_equivalents
from kvlockstep._jobs import releases_of
from kvlockstep._kill import Case, Verdict, judge
from kvlockstep._mutants import Mutant, Unit, mutants_of
from kvlockstep._order_traces import caches_to_search, order_traces
from kvlockstep._origin import Origin, origin_of
from kvlockstep._scout import Map, Patrol, scout, users_of
from kvlockstep._settings import Settings
from kvlockstep._targets import TargetError

_SCOUTED = 100
_SCOUTED_EACH = 4
# CPU seconds for a mutant that is listed as equivalent: enough to see an entry that is wrong.
_LISTED = 2.0


@dataclass(frozen=True)
class Plan:
    """What to mutate and for how long to search.

    `budget` is CPU seconds a mutant; `sample` so many mutants instead of all; `only` content ids,
    or parts of them; `every` all of cosmic-ray's operators.
    """

    settings: Settings
    budget: float = 15.0
    sample: int | None = None
    workers: int = 1
    only: str = ""
    every: bool = False
    shrink: bool = True
    equivalents: Path | None = None
    scouted: int = _SCOUTED
    limits: Limits = field(default_factory=Limits)


@dataclass
class Outcomes:
    """What a run found: a verdict for each mutant, and what is wrong with the list.

    `words` are the mutants left out because they only change what an error says, of a target that
    promises no messages.
    """

    plan: Plan
    releases: tuple[str, ...]
    mutants: int = 0
    verdicts: list[tuple[Mutant, Verdict]] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    words: int = 0

    @property
    def survivors(self) -> list[Mutant]:
        """The mutants that survived and that no entry calls equivalent."""
        return [
            mutant
            for mutant, verdict in self.verdicts
            if not verdict.killed and mutant.content not in self.reasons
        ]

    @property
    def exit_status(self) -> int:
        """0: every mutant is killed or equivalent, and the list is true. 1: not so."""
        return 1 if self.survivors or self.problems else 0


def make_mutants(
    plan: Plan, origin: Origin, outside: dict[str, str]
) -> tuple[list[Mutant], list[Mutant]]:
    """Return the mutants of a plan, and those of the words of errors that no promise is made of.

    They are of the chosen caches; the first are a sample if the plan says so.
    """
    units = [unit for unit in origin.units if unit.function not in outside]
    if chosen := plan.settings.caches:
        units = [unit for unit in units if _is_of(unit, chosen)]
    mutants = [one for one in mutants_of(units, plan.every) if plan.only in one.content]
    words: list[Mutant] = []
    if not any(one.errors == "type+message" for one in origin.targets.values()):
        words = [one for one in mutants if one.is_word]
        mutants = [one for one in mutants if not one.is_word]
    if plan.sample is not None and plan.sample < len(mutants):
        kept = set(random.Random(plan.settings.seed).sample(range(len(mutants)), plan.sample))
        mutants = [mutant for number, mutant in enumerate(mutants) if number in kept]
    return mutants, words


def _is_of(unit: Unit, caches: tuple[str, ...]) -> bool:
    return (unit.owner or FUNCTIONS) in caches


def mutate(plan: Plan, tell: Callable[[str, int, int], None] = lambda *_: None) -> Outcomes:
    """Run a plan; `tell` hears what is being done, and how much of how much.

    Raises `TargetError` where the target cannot be mutated, or where it diverges intact, and
    `EquivalentsError` for a list that cannot be read.
    """
    settings = plan.settings
    releases = releases_of(settings)
    listed = read_equivalents(*([plan.equivalents] if plan.equivalents else []))
    origin = origin_of(settings.target, releases)
    outcomes = Outcomes(plan, releases)
    outcomes.reasons = listed.reasons(settings.target)
    outcomes.outside = listed.functions(settings.target)
    functions = {unit.function for unit in origin.units}
    for name in outcomes.outside.keys() - functions:
        outcomes.problems.append(f"listed as outside of the contract, but not there: {name}")
    tell("making mutants", 0, 1)
    mutants, words = make_mutants(plan, origin, outcomes.outside)
    outcomes.mutants, outcomes.words = len(mutants), len(words)
    if not mutants:
        raise TargetError(f"target {settings.target!r}: there is nothing to mutate")
    # For a few mutants a few traces will do.
    plan = replace(plan, scouted=min(plan.scouted, _SCOUTED_EACH * len(mutants)))
    seen = _scouted(plan, releases, tell)
    outcomes.problems += _reached_outside(origin, outcomes.outside, seen)
    cases = _cases(outcomes, origin, mutants, seen)
    for number, (case, result) in enumerate(run_contained(judge, cases, plan.workers, plan.limits)):
        verdict = _of_dead(result, plan) if isinstance(result, Died) else result
        outcomes.verdicts.append((case.mutant, verdict))
        survived = f": survived: {case.mutant.id}" if not verdict.killed else ""
        tell(f"killing{survived}", number + 1, len(mutants))
    outcomes.verdicts.sort(key=lambda one: mutants.index(one[0]))
    outcomes.problems += _judge_list(plan, outcomes)
    return outcomes


def _of_dead(died: Died, plan: Plan) -> Verdict:
    """Return the verdict on a mutant whose process did not answer."""
    if died.hung:
        return Verdict("hang", plan.limits.seconds, by=died.why)
    return Verdict("crash", by=died.why)


def _judge_list(plan: Plan, outcomes: Outcomes) -> list[str]:
    """Judge the entries that this run was about: all of them, if it was a whole one."""
    made = {mutant.content for mutant, _ in outcomes.verdicts}
    killed = {mutant.content for mutant, verdict in outcomes.verdicts if verdict.killed}
    whole = plan.sample is None and not plan.only and not plan.settings.caches
    about = outcomes.reasons if whole else outcomes.reasons.keys() & made
    return judge_equivalents(sorted(about), made, killed)


def _scouted(plan: Plan, releases: tuple[str, ...], tell: Callable[[str, int, int], None]) -> Map:
    """Run traces on the intact target; raises `TargetError` if it diverges."""
    patrols = [
        Patrol(plan.settings, releases, release, cache, plan.scouted)
        for release in releases
        for cache in ("", *_caches(plan, release))
    ]
    seen = Map()
    for number, (patrol, found) in enumerate(
        run_contained(scout, patrols, plan.workers, Limits(600, plan.limits.memory))
    ):
        if isinstance(found, Died):
            raise TargetError(f"the intact target died over {patrol.cache}: {found.why}")
        seen.add(found)
        tell("scouting", number + 1, len(patrols))
    if seen.problems:
        raise TargetError(
            f"target {plan.settings.target!r} diverges before it is mutated: {seen.problems[0]}; "
            "see kvlockstep run"
        )
    for keys in seen.lines.values():
        keys.sort()
    return seen


def _caches(plan: Plan, release: str) -> list[str]:
    """Return the caches whose traces may run the chosen ones."""
    known = [name for name in (*CACHES, FUNCTIONS) if name in contract_of(release).surfaces]
    known.append(FUNCTIONS)
    if not plan.settings.caches:
        return known
    users = set().union(*(users_of(release, name, 20) for name in plan.settings.caches))
    return [name for name in known if name in users]


def _reached_outside(origin: Origin, outside: dict[str, str], seen: Map) -> list[str]:
    problems = []
    for unit in origin.units:
        if unit.function in outside:
            file = origin.file_of(unit)
            # The line of a `def` runs when the module is imported.
            ran = [n for n in range(unit.first, unit.last + 1) if seen.lines.get((file, n))]
            if ran:
                problems.append(
                    f"listed as outside of the contract, but line {ran[0]} of it ran: "
                    f"{unit.function}"
                )
    return problems


def _cases(outcomes: Outcomes, origin: Origin, mutants: list[Mutant], seen: Map) -> Iterator[Case]:
    """Yield what workers are to do, the mutants in a shuffled order."""
    plan, releases = outcomes.plan, outcomes.releases
    scouted = min(plan.scouted, _SCOUTED_EACH * len(mutants))
    caches = [*CACHES, FUNCTIONS]
    for mutant in random.Random(0).sample(mutants, len(mutants)):
        file = origin.file_of(mutant.unit)
        listed = mutant.content in outcomes.reasons
        yield Case(
            plan.settings,
            releases,
            mutant,
            order_traces(mutant, file, seen),
            caches_to_search(mutant, file, seen, releases, caches),
            scouted,
            min(plan.budget, _LISTED) if listed else plan.budget,
            shrink=plan.shrink,
        )
