"""Tasks that hang, exhaust memory or crash end their own process, and nothing else."""

from __future__ import annotations

import os
import signal
import time

import pytest
from property_tests.harness.test_mutate import case, mutant

from kvlockstep._contained import Died, HangError, Limits, no_longer_than, run_contained
from kvlockstep._kill import judge

LIMITS = Limits(seconds=60.0, memory=512)


def work(task: str) -> str:
    """What a process of the pool does; a task says how it ends."""
    match task:
        case "sleep":
            time.sleep(60)
        case "kill":
            os.kill(os.getpid(), signal.SIGSEGV)
    return task.upper()


def test_every_task_has_a_result() -> None:
    """A process that dies, or does not answer, is replaced; the others' results all come."""
    tasks = ["a", "sleep", "b", "kill", "c", "d"]

    found = dict(run_contained(work, tasks, 2, Limits(seconds=2.0, memory=512)))

    assert {task: found[task] for task in "abcd"} == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert found["sleep"] == Died("no answer in time", hung=True)
    assert found["kill"] == Died("SIGSEGV", hung=False)


def spin() -> None:
    while True:
        try:
            sum(range(1000))
        except Exception:
            continue


def test_a_hang_is_interrupted() -> None:
    """What computes for too long is stopped by an error that no `except Exception` catches."""
    with pytest.raises(HangError), no_longer_than(0.05):
        spin()


def test_what_ends_in_time_is_left_alone() -> None:
    """The timer is off after the block."""
    with no_longer_than(0.2):
        pass
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        ("len(bytearray(1 << 31)) and min(self.offset, n)", "memory"),
        ("next(_ for _ in iter(int, 1) if _) and min(self.offset, n)", "hang"),
        ("__import__('os').abort() or min(self.offset, n)", "crash"),
    ],
)
def test_a_mutant_cannot_do_harm(after: str, outcome: str) -> None:
    """One that hangs, hoards or aborts is killed as such; the next one gets its turn."""
    texts = after, "n"
    mutants = [mutant("KVCache.trim", "min(self.offset, n)", text) for text in texts]
    cases = [case(one, "KVCache", hang=0.3, shrink=False) for one in mutants]

    found = [result for _, result in run_contained(judge, cases, 1, LIMITS)]

    if outcome == "crash":
        assert found[0] == Died("SIGABRT", hung=False)
    else:
        assert not isinstance(found[0], Died)
        assert found[0].outcome == outcome
    assert not isinstance(found[1], Died)
    assert found[1].outcome == "divergence"
