"""What a mutation run says: as text, as JSON, as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kvlockstep._caches import FUNCTIONS
from kvlockstep._kill import Outcome, Verdict
from kvlockstep._mutants import Mutant
from kvlockstep._mutation import Outcomes

Format = Literal["text", "json", "markdown"]

_SHARES = (0.5, 0.95, 0.99)
_TOLD: dict[Outcome, str] = {
    "divergence": "a divergence",
    "witness": "a witness of the ledger that no longer shows",
    "surface": "other parameters",
    "import": "a failing import",
    "hang": "a hang",
    "memory": "memory exhausted",
    "crash": "a crash",
}
_WORDS = "that only change what an error says, of which the target promises nothing"


@dataclass(frozen=True)
class Summary:
    """The counts of some verdicts, and the CPU seconds and steps that the kills took."""

    mutants: int
    killed: int
    equivalent: int
    survived: int
    kinds: Counter[Outcome]
    seconds: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def score(self) -> str:
        """The share of the mutants that are not equivalent which were killed; never rounded up."""
        real = self.mutants - self.equivalent
        return f"{int(1000 * self.killed / real) / 10:g} %" if real else "-"


def summarize(verdicts: Sequence[tuple[Mutant, Verdict]], reasons: dict[str, str]) -> Summary:
    """Count verdicts."""
    killed = [verdict for _, verdict in verdicts if verdict.killed]
    alive = [mutant for mutant, verdict in verdicts if not verdict.killed]
    equivalent = sum(mutant.content in reasons for mutant in alive)
    seconds = sorted(verdict.seconds for verdict in killed)
    lengths = sorted(verdict.length for verdict in killed if verdict.length is not None)
    return Summary(
        len(verdicts),
        len(killed),
        equivalent,
        len(alive) - equivalent,
        Counter(verdict.outcome for verdict in killed),
        tuple(_at(seconds, share) for share in _SHARES),
        tuple(int(_at(lengths, share)) for share in _SHARES) if lengths else (),
    )


def _at(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share is not above; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, -(-len(ordered) * round(share * 100) // 100) - 1)]


def tell(runs: Sequence[Outcomes], how: Format) -> str:
    """Return the report on some runs."""
    assert how in get_args(Format)
    if how == "json":
        return json.dumps([_as_data(run) for run in runs], indent=1)
    return _markdown(runs) if how == "markdown" else _text(runs)


def _text(runs: Sequence[Outcomes]) -> str:
    lines: list[str] = []
    for run in runs:
        whole = summarize(run.verdicts, run.reasons)
        lines.append(f"{run.plan.settings.target} beside {', '.join(run.releases)}")
        rows = [("all", whole), *_by_class(run)]
        lines += [f"  {name:<22} {_counts(one)}" for name, one in rows]
        kinds = [f"{number} by {_TOLD[kind]}" for kind, number in whole.kinds.most_common()]
        lines.append(f"  killed: {', '.join(kinds) or 'none'}")
        if run.words:
            lines.append(f"  left out: {run.words} {_WORDS}")
        for mutant, verdict in run.verdicts:
            if verdict.killed and verdict.outcome in ("hang", "memory", "crash"):
                lines.append(f"  {verdict.outcome}: {mutant.id}: {mutant.before} -> {mutant.after}")
        for mutant in run.survivors:
            lines.append(f"  survived: {mutant.id} ({mutant.content})")
            lines += [f"    - {mutant.before}", f"    + {mutant.after}"]
        lines += [f"  {problem}" for problem in run.problems]
    return "\n".join(lines)


def _counts(one: Summary) -> str:
    seconds = " / ".join(f"{second:.3f}" for second in one.seconds)
    steps = " / ".join(map(str, one.lengths))
    lengths = f", traces of {steps} steps" if steps else ""
    return (
        f"{one.mutants:>5} mutants, {one.killed:>5} killed, {one.equivalent:>3} equivalent, "
        f"{one.survived:>3} survived: {one.score}; 50 / 95 / 99 % within {seconds} s{lengths}"
    )


def _by_class(run: Outcomes) -> list[tuple[str, Summary]]:
    owners: dict[str, list[tuple[Mutant, Verdict]]] = {}
    for mutant, verdict in run.verdicts:
        owners.setdefault(mutant.unit.owner or FUNCTIONS, []).append((mutant, verdict))
    return [(name, summarize(verdicts, run.reasons)) for name, verdicts in owners.items()]


def _markdown(runs: Sequence[Outcomes]) -> str:
    lines = [
        "| target | mutants | killed | equivalent | survived | of the others | CPU s to a kill "
        "(50 / 95 / 99 %) | steps of the shrunk trace (50 / 95 / 99 %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        _row(f"`{run.plan.settings.target}`", summarize(run.verdicts, run.reasons)) for run in runs
    ]
    for run in runs:
        lines += _markdown_of(run)
    return "\n".join(lines) + "\n"


def _row(name: str, one: Summary) -> str:
    seconds = " / ".join(f"{second:.3f}" for second in one.seconds)
    lengths = " / ".join(map(str, one.lengths)) or "-"
    cells = (name, one.mutants, one.killed, one.equivalent, one.survived, one.score)
    return "| " + " | ".join([*map(str, cells), seconds, lengths]) + " |"


def _markdown_of(run: Outcomes) -> list[str]:
    whole = summarize(run.verdicts, run.reasons)
    lines = ["", f"## `{run.plan.settings.target}`", ""]
    plan = run.plan
    sampled = f", a sample of {plan.sample}" if plan.sample is not None else ""
    lines.append(
        f"Beside {' and '.join(run.releases)}, up to {plan.budget:g} CPU seconds a mutant{sampled}."
    )
    kinds = [f"{number} by {_TOLD[kind]}" for kind, number in whole.kinds.most_common()]
    lines += [f"Killed: {', '.join(kinds) or 'none'}.", ""]
    if run.words:
        lines += [f"Left out: {run.words} {_WORDS}.", ""]
    lines += [
        "| class | mutants | killed | equivalent | survived | of the others | CPU s | steps |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [_row(f"`{name}`", one) for name, one in _by_class(run)]
    if run.survivors:
        lines += ["", "Survived:", ""]
        lines += [f"- `{one.id}` in `{one.unit.function}`" for one in run.survivors]
    alive: dict[str, list[Mutant]] = {}
    for mutant, verdict in run.verdicts:
        if not verdict.killed and (reason := run.reasons.get(mutant.content)) is not None:
            alive.setdefault(reason, []).append(mutant)
    if alive:
        lines += ["", "Equivalent:", ""]
        lines += [
            f"- {', '.join(f'`{one.id}`' for one in mutants)}: {reason}"
            for reason, mutants in alive.items()
        ]
    outside: dict[str, list[str]] = {}
    for name, reason in run.outside.items():
        outside.setdefault(reason, []).append(name)
    if outside:
        lines += ["", "Outside of the contract, and not mutated:", ""]
        lines += [
            f"- {', '.join(f'`{name}`' for name in sorted(names))}: {reason}"
            for reason, names in outside.items()
        ]
    return lines + [line for problem in run.problems for line in ("", f"**{problem}**")]


def _as_data(run: Outcomes) -> dict[str, Any]:
    whole = summarize(run.verdicts, run.reasons)
    return {
        "target": run.plan.settings.target,
        "releases": run.releases,
        "budget": run.plan.budget,
        "sample": run.plan.sample,
        "mutants": whole.mutants,
        "words of errors": run.words,
        "killed": whole.killed,
        "killed by": dict(whole.kinds),
        "equivalent": whole.equivalent,
        "survived": whole.survived,
        "seconds": dict(zip(map(str, _SHARES), whole.seconds, strict=True)),
        "lengths": dict(zip(map(str, _SHARES), whole.lengths, strict=False)),
        "problems": run.problems,
        "verdicts": [
            {
                "id": mutant.id,
                "content": mutant.content,
                "class": mutant.unit.owner,
                "function": mutant.unit.function,
                "outcome": verdict.outcome,
                "equivalent": run.reasons.get(mutant.content),
                "seconds": round(verdict.seconds, 4),
                "traces": verdict.traces,
                "steps": verdict.steps,
                "by": verdict.by,
                "signature": verdict.signature,
                "length": verdict.length,
            }
            for mutant, verdict in run.verdicts
        ],
    }
