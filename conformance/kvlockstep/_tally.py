"""Counting what the traces of a job show, and explaining what no ledger entry declares."""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

from kvlockstep._contract import contract_of
from kvlockstep._divergence import Run, Signature
from kvlockstep._engine import Lockstep
from kvlockstep._explain import tell_divergence, tell_trace
from kvlockstep._jobs import Found, Job, JobReport, ledger_of
from kvlockstep._settings import Settings
from kvlockstep._shrink import shrink
from kvlockstep._targets import load_target
from kvlockstep._trace import Trace, write

_MOST_SHRUNK = 30


@lru_cache(maxsize=8)
def lockstep_of(settings: Settings, release: str) -> Lockstep:
    """Return the engine for one release; raises `ReferenceError` or `TargetError`."""
    target = load_target(settings.target, release)
    return Lockstep(contract_of(release), target, settings.level)


class Tally:
    """Adds the runs of a job to its report, and keeps the shortest trace of each new signature."""

    def __init__(self, job: Job, settings: Settings, report: JobReport) -> None:
        self.job = job
        self.settings = settings
        self.report = report
        self.engine = lockstep_of(settings, job.release)
        self.ledger = ledger_of(settings)
        self.shortest: dict[Signature, Trace] = {}

    def run(self, trace: Trace) -> Run:
        """Run a trace and count what it showed."""
        start = time.perf_counter()
        run = self.engine.run(trace, self.ledger.is_meant)
        self._count(run, time.perf_counter() - start)
        for divergence in run.divergences:
            signature = divergence.signature
            entry = self.ledger.declares(divergence)
            if entry is not None:
                self.report.declared[signature, entry] += 1
                continue
            self.report.undeclared[signature] += 1
            known = self.shortest.get(signature)
            if known is None or len(trace.steps) < len(known.steps):
                self.shortest[signature] = trace
        return run

    def _count(self, run: Run, seconds: float) -> None:
        release, report = self.job.release, self.report
        report.steps += run.steps
        report.cells.setdefault(release, Counter()).update(run.cells)
        report.pairs.setdefault(release, Counter()).update(run.pairs)
        times = report.times.setdefault(release, Counter())
        for cell, steps in run.cells.items():
            times[cell.cache, cell.operation] += seconds * steps / run.steps  # type: ignore[assignment]
        report.lacking |= run.lacking | self.engine.lacking
        report.undefined.update(run.undefined)

    def explain(self) -> None:
        """Shrink a trace of each undeclared signature, write it, and put it in words."""
        for number, (signature, trace) in enumerate(self.shortest.items()):
            if number >= _MOST_SHRUNK:
                left = len(self.shortest) - _MOST_SHRUNK
                self.report.problems.append(f"{self.job}: {left} more signatures were not shrunk")
                return
            self.report.found.append(self._explain(signature, trace))

    def _explain(self, signature: Signature, trace: Trace) -> Found:
        if signature not in self._undeclared_in(trace).signatures():
            return self._doubt(signature)
        small = shrink(trace, signature, self._undeclared_in)
        run = self.engine.run(small)
        divergence = next((d for d in run.divergences if d.signature == signature), None)
        if divergence is None:
            return self._doubt(signature)
        path = self.settings.report / f"{slug(str(signature))}.json"
        write(small, path)
        text = "\n".join(
            [
                str(signature),
                tell_trace(small),
                tell_divergence(divergence, run),
                self._replay(path),
            ]
        )
        return Found(signature, text, str(path), small)

    def _doubt(self, signature: Signature) -> Found:
        note = f"{signature} did not show again when its trace was replayed: is it deterministic?"
        self.report.problems.append(note)
        return Found(signature, note)

    def _undeclared_in(self, trace: Trace) -> Run:
        """Run a trace, keeping only what the ledger does not declare."""
        run = self.engine.run(trace)
        run.divergences = [d for d in run.divergences if self.ledger.declares(d) is None]
        return run

    def _replay(self, path: Path) -> str:
        options = {"target": self.settings.target, "release": self.job.release}
        if self.settings.level is not None:
            options["level"] = self.settings.level
        if self.settings.ledger is not None:
            options["ledger"] = str(self.settings.ledger)
        words = [str(path), *(f"--{name}={value}" for name, value in options.items())]
        return f"  replay: kvlockstep replay {shlex.join(words)}"


def slug(text: str) -> str:
    """Return `text` as a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
