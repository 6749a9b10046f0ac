"""Steps of the lockstep on the gate's own path, for this process and for workers."""

from __future__ import annotations

import signal
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._gate import use_device
from kvlockstep._generate import generate
from kvlockstep._search import Engine, search
from kvlockstep._settings import Settings
from kvlockstep._targets import load_target
from kvlockstep._trace import Mode

RELEASE = "0.32.2"

# Seconds of the core between two samples.
INTERVAL = 0.001
# The parts of a step, by what a module of the harness begins with, or else by a folder; the
# innermost function that has one counts.
MODULES = {
    "_snapshots": "look",
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
    steps = 0

    def visit(data: bytes) -> bool:
        nonlocal steps
        steps += lockstep.run(generate(data, contract, kind, mode)).steps
        return steps < least

    search(engine, 0, visit)
    return steps


def run_all(settings: Settings, mode: Mode, least: int, engine: Engine) -> int:
    """Run as many steps of each cache and of the functions; return how many they were."""
    return sum(run_steps(settings, kind, mode, least, engine) for kind in (*CACHES, FUNCTIONS))


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
