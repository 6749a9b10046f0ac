"""Steps of the lockstep on the gate's own path, for this process and for workers."""

from __future__ import annotations

from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._gate import use_device
from kvlockstep._generate import generate
from kvlockstep._search import search
from kvlockstep._settings import Settings
from kvlockstep._targets import load_target
from kvlockstep._trace import Mode

RELEASE = "0.32.2"


def run_steps(settings: Settings, cache: str, mode: Mode, least: int) -> int:
    """Run the same traces, drawn by Hypothesis, up to `least` steps; return how many they were."""
    use_device(settings)
    contract = contract_of(RELEASE)
    engine = Lockstep(contract, load_target(settings.target, RELEASE))
    steps = 0

    def visit(data: bytes) -> bool:
        nonlocal steps
        steps += engine.run(generate(data, contract, cache, mode)).steps
        return steps < least

    search("hypothesis", 0, visit)
    return steps
