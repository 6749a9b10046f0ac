"""Running one job of the gate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

import kvreference
from kvlockstep._arrays import RecipeError
from kvlockstep._caches import FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._coverage import arcs_reached
from kvlockstep._generate import generate
from kvlockstep._jobs import Job, JobReport, ledger_of
from kvlockstep._ledger import LedgerError, judge_witness
from kvlockstep._search import search
from kvlockstep._settings import Settings
from kvlockstep._smoke import smoke
from kvlockstep._surface import compare_surfaces
from kvlockstep._tally import Tally
from kvlockstep._targets import TargetError, load_target
from kvlockstep._trace import TraceError, read

_MEASURED = 0.2
# After so many traces in a row without a step there is nothing here that the target has.
_MOST_IDLE = 20


def run_job(job: Job, settings: Settings) -> JobReport:
    """Run `job` and return what it found. Raises nothing for what a target does."""
    report = JobReport(jobs=1)
    start = time.perf_counter()
    try:
        use_device(settings)
        _RUNNERS[job.kind](job, settings, report)
    except (kvreference.ReferenceError, TargetError, LedgerError) as error:
        report.broken.append(str(error))
    except (RecipeError, TraceError, OSError) as error:
        report.broken.append(f"{job.name}: {error}")
    report.seconds = time.perf_counter() - start
    return report


def use_device(settings: Settings) -> None:
    """Put MLX on the device that was asked for; raises `TargetError` if there is none."""
    if settings.device == "gpu" and not mx.is_available(mx.gpu):
        raise TargetError("device gpu: expected Metal or CUDA, got an MLX without either")
    mx.set_default_device(mx.gpu if settings.device == "gpu" else mx.cpu)


def _run_surface(job: Job, settings: Settings, report: JobReport) -> None:
    contract, target = contract_of(job.release), load_target(settings.target, job.release)
    lacking, problems = compare_surfaces(contract, target, job.release)
    report.lacking |= lacking
    report.problems += problems


def _run_smoke(job: Job, settings: Settings, report: JobReport) -> None:
    contract, target = contract_of(job.release), load_target(settings.target, job.release)
    asked = [name for name in settings.caches if name in contract.surfaces]
    if asked and not any(hasattr(target.module, name) for name in asked):
        has = ", ".join(name for name in contract.surfaces if hasattr(target.module, name))
        report.broken.append(
            f"cache {', '.join(asked)}: expected one that {target.spec} has: {has or 'none'}"
        )
    report.broken += smoke(contract, target)


def _run_corpus(job: Job, settings: Settings, report: JobReport) -> None:
    tally = Tally(job, settings, report)
    tally.run(read(Path(job.name)))
    tally.explain()


def _run_ledger(job: Job, settings: Settings, report: JobReport) -> None:
    ledger = ledger_of(settings)
    entry = next(entry for entry in ledger.entries if entry.id == job.name)
    tally = Tally(job, settings, report)
    run = tally.run(ledger.witness(entry))
    problem = judge_witness(entry, job.release, run)
    # A GPU has undefined zones of its own, and what was left out says nothing of an entry.
    if problem is not None and not (settings.device == "gpu" and run.undefined):
        report.problems.append(problem)
    tally.explain()


def _run_lockstep(job: Job, settings: Settings, report: JobReport) -> None:
    tally = Tally(job, settings, report)
    contract = tally.engine.contract
    if job.name not in (*contract.surfaces, FUNCTIONS):
        return  # The release came before this class.
    idle = 0

    def visit_until(steps: int) -> Callable[[bytes], bool]:
        def visit(data: bytes) -> bool:
            nonlocal idle
            run = tally.run(generate(data, contract, job.name, job.mode))
            idle = 0 if run.steps else idle + 1
            return report.steps < steps and idle < _MOST_IDLE

        return visit

    # A tracer halves the speed: lines are measured over the first part of the search.
    measured = max(1, int(settings.steps_each * _MEASURED))
    seed = 4 * settings.seed + (2 if job.mode == "in-place" else 0)
    with arcs_reached(contract, report.arcs.setdefault(job.release, set())):
        search(settings.engine, seed, visit_until(measured))
    if report.steps < settings.steps_each and idle < _MOST_IDLE:
        search(settings.engine, seed + 1, visit_until(settings.steps_each))
    report.searched[job.release, job.name] += report.steps
    tally.explain()


_RUNNERS = {
    "surface": _run_surface,
    "smoke": _run_smoke,
    "corpus": _run_corpus,
    "ledger": _run_ledger,
    "lockstep": _run_lockstep,
}
