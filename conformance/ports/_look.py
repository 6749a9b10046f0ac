"""Running the gate on a port, in worker processes; the shortest trace of each finding."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from conformance.ports._ports import Port, PortError
from msgspec.structs import replace

from kvlockstep._jobs import Found, Job, JobReport, jobs_of
from kvlockstep._settings import Settings
from kvlockstep._tally import slug
from kvlockstep._targets import contracts_of
from kvlockstep._trace import Trace, dumps, read, write
from kvlockstep._workers import cores, run_jobs

_INTERFACE = re.compile(r"surface (?P<release>\S+): (?P<name>\S+): (?P<told>.*)")


@dataclass(frozen=True)
class Finding:
    """A divergence in plain words, and its shortest trace; none of an interface."""

    text: str
    trace: Trace | None = None


@dataclass
class Look:
    """What a run showed: generated steps by class, what the port lacks, findings by signature."""

    release: str
    steps_each: int
    steps: dict[str, int] = field(default_factory=dict)
    lacking: set[str] = field(default_factory=set)
    findings: dict[str, Finding] = field(default_factory=dict)


def look_at(port: Port, steps: int, report: Path) -> Look:
    """Run the gate on `port`: our corpus, its own traces, then `steps` for each class and mode.

    Raises `PortError` for a run that cannot be judged, `TargetError` for a port that cannot be
    loaded.
    """
    target = f"map:{port.map}"
    (release,) = contracts_of(target)
    settings = Settings(target, (release,), steps=steps, report=report)
    own = [Job("corpus", release, str(path)) for path in sorted(port.traces.glob("*.json"))]
    look = Look(release, steps)
    total = JobReport()
    found: list[Found] = []
    for _, one in run_jobs([*jobs_of(settings), *own], settings, len(cores())):
        found += one.found
        total.add(one)
    look.lacking = total.lacking
    ran = sorted((cache, steps) for (_, cache), steps in total.searched.items())
    # The traces of a class that the port does not have may run steps on others.
    look.steps = {cache: steps for cache, steps in ran if steps and cache not in total.lacking}
    look.findings = dict(sorted({**_interface(total.problems), **_shortest(found)}.items()))
    others = [text for text in total.problems if not _INTERFACE.match(text)]
    if total.broken or others:
        raise PortError(
            "\n".join([f"{port.name}: the run cannot be judged", *total.broken, *others])
        )
    return look


def write_traces(port: Port, look: Look) -> None:
    """Write the trace of each finding, and delete those of none."""
    kept = set()
    for signature, finding in look.findings.items():
        if finding.trace is not None:
            path = trace_of(port, signature)
            kept.add(path)
            if not path.exists() or read(path) != finding.trace:
                write(finding.trace, path)
    for path in port.traces.glob("*.json"):
        if path not in kept:
            path.unlink()


def trace_of(port: Port, signature: str) -> Path:
    """Return the file of the shortest trace that shows `signature`."""
    return port.traces / f"{slug(signature)}.json"


def _interface(problems: Iterable[str]) -> dict[str, Finding]:
    """Return what the surface check found, as findings with signatures."""
    told = [found for text in problems if (found := _INTERFACE.match(text)) is not None]
    return {
        f"{one['release']}/{one['name']}/interface": Finding(f"  {one['told']}") for one in told
    }


def _shortest(found: Iterable[Found]) -> dict[str, Finding]:
    """Return a finding for each signature: whichever job found it, the shortest trace."""
    shortest: dict[str, Finding] = {}
    for one in found:
        name = str(one.signature)
        if one.shortest is None:
            continue
        # It may have begun as one of our corpus, with a note of its own.
        trace = replace(one.shortest, note="", source="", releases=())
        known = shortest.get(name)
        if known is None or _length(trace) < _length(known.trace):
            # Without the signature, and without the command, which names a folder of this run.
            text = "\n".join(one.text.splitlines()[1:-1])
            shortest[name] = Finding(text, trace)
    return shortest


def _length(trace: Trace | None) -> tuple[int, int, str]:
    if trace is None:
        return 0, 0, ""
    text = dumps(trace)
    return len(trace.steps), len(text), text
