"""Steps of the lockstep on the gate's own path, for this process and for workers."""

from __future__ import annotations

import signal
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

import mlx.core as mx
from targets import NOTHING_SEEN, Floor

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._gate import use_device
from kvlockstep._generate import generate
from kvlockstep._jobs import ledger_of
from kvlockstep._memento import arrays_in
from kvlockstep._operations import OPERATIONS
from kvlockstep._search import Engine, search, seeded_bytes
from kvlockstep._settings import Settings
from kvlockstep._side import Side, walk
from kvlockstep._targets import load_target
from kvlockstep._trace import AnyStep, Mode

RELEASE = "0.32.2"

# Seconds of the core between two samples.
INTERVAL = 0.001
# The parts of a step, by what a module of the harness begins with, or else by a folder; the
# innermost function that has one counts.
MODULES = {
    "_snapshots": "look",
    "_views": "look",
    "_watch": "look",
    "_states": "look",
    "_facts": "look",
    "_compare": "compare",
    "_findings": "compare",
    "_memento": "undo",
    "_arrays": "make arrays",
    "_perform": "perform",
    "_operations": "perform",
    "_sizes": "resolve",
    "_undefined": "resolve",
    "_generate": "generate",
    "_writ": "generate",
    "_style": "generate",
    "_source": "generate",
    "_engine": "run",
    "_search": "draw",
}
FOLDERS = {"hypothesis": "draw", "mlxkv": "the port itself", "mlx_lm": "the release itself"}


def run_steps(settings: Settings, kind: str, mode: Mode, least: int, engine: Engine) -> int:
    """Run the same traces each time, up to `least` steps; return how many they were."""
    use_device(settings)
    contract = contract_of(RELEASE)
    lockstep = Lockstep(contract, load_target(settings.target, RELEASE))
    is_meant = ledger_of(settings).is_meant
    steps = 0

    def visit(data: bytes) -> bool:
        nonlocal steps
        steps += lockstep.run(generate(data, contract, kind, mode), is_meant).steps
        return steps < least

    search(engine, 0, visit)
    return steps


def run_all(settings: Settings, mode: Mode, least: int, engine: Engine | Floor) -> int:
    """Run as many steps of each cache and of the functions; return how many they were."""
    if engine == NOTHING_SEEN:
        return _replay_all(settings, mode, least)
    return sum(run_steps(settings, kind, mode, least, engine) for kind in (*CACHES, FUNCTIONS))


@cache
def _recorded(settings: Settings, mode: Mode, least: int) -> list[list[AnyStep]]:
    """The steps of seeded traces as they were run, at least so many of each cache."""
    contract = contract_of(RELEASE)
    lockstep = Lockstep(contract, load_target(settings.target, RELEASE))
    logs: list[list[AnyStep]] = []
    for kind in (*CACHES, FUNCTIONS):
        steps = 0
        for data in seeded_bytes(0):
            log = lockstep.run(generate(data, contract, kind, mode)).log
            logs.append([step for step in log if step is not None])
            steps += len(logs[-1])
            if steps >= least:
                break
    return logs


def _replay_all(settings: Settings, mode: Mode, least: int) -> int:
    """Run the operations of those traces, each to its first error, and look at nothing.

    What the caches hold is evaluated, as often as the engine evaluates. Returns how many steps.
    """
    use_device(settings)
    modules = contract_of(RELEASE).module, load_target(settings.target, RELEASE).module
    steps = 0
    for log in _recorded(settings, mode, least):
        sides = [Side(module) for module in modules]
        for step in log:
            try:
                for side in sides:
                    OPERATIONS[type(step)].perform(side, step)
                if mode == "in-place":
                    _evaluate(sides)
            except Exception:
                break
            steps += 1
        _evaluate(sides)
    return steps


def _evaluate(sides: list[Side]) -> None:
    for side in sides:
        caches = [one for slot, root in side.slots.items() for _, one in walk(slot, root)]
        mx.eval([array for one in caches for array in arrays_in(vars(one).values())])


def sample(settings: Settings, mode: Mode, least: int, engine: Engine) -> dict[str, int]:
    """Do the same, and return the samples taken in each part of a step."""
    seen: Counter[str] = Counter()

    def look(_: int, frame: FrameType | None) -> None:
        while frame is not None and (part := _part_of(frame.f_code.co_filename)) is None:
            frame = frame.f_back
        seen[part if frame is not None else "other"] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        run_all(settings, mode, least, engine)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return dict(seen.most_common())


@cache
def _part_of(file: str) -> str | None:
    path = Path(file)
    if path.parent.name == "kvlockstep":
        return next((part for name, part in MODULES.items() if path.stem.startswith(name)), None)
    return next((FOLDERS[folder] for folder in path.parts if folder in FOLDERS), None)
