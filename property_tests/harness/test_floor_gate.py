"""The gate stands on the floor: a generator that loses something fails it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner
from property_tests.harness.ports import RELEASE, whole_report

from kvlockstep import ConformanceError, check_target
from kvlockstep import _floor as floors
from kvlockstep import _generate as generating
from kvlockstep._caches import CACHES
from kvlockstep._cli import main
from kvlockstep._floor import Floor, judge_coverage
from kvlockstep._gate import run_job
from kvlockstep._jobs import Job, JobReport
from kvlockstep._settings import Settings

TARGET = f"release:{RELEASE}"


@pytest.fixture(autouse=True)
def _nothing_is_listed(monkeypatch):
    """Put an empty list in the place of ours."""
    monkeypatch.setattr(floors, "floor", Floor)


def searched(cache: str, steps: int) -> JobReport:
    """Return what a search of one class reached, with everything else there is."""
    report = whole_report()
    report.cells[RELEASE] = Counter(c for c in report.cells[RELEASE] if c.cache != cache)
    report.pairs[RELEASE] = Counter(p for p in report.pairs[RELEASE] if p.cache != cache)
    settings = Settings(target=TARGET, steps=steps)
    for mode in ("value", "in-place"):
        report.add(run_job(Job("lockstep", RELEASE, cache, mode), settings))
    assert report.undeclared.total() == 0
    return report


@pytest.mark.parametrize(
    ("cache", "writer", "told"),
    [
        ("TokenBuffer", "copy", "TokenBuffer copy when full"),
        ("PromptTrie", "trie_pop_prefixes", "PromptTrie trie_pop_prefixes when one model"),
        ("LRUPromptCache", "lru_trim_to", "LRUPromptCache lru_trim_to when several types"),
    ],
)
def test_generator_that_loses_an_operation_fails_the_gate(monkeypatch, cache, writer, told):
    """Without one of its writers the generator is below the floor, and the cell is named."""
    assert judge_coverage(searched(cache, 1500), TARGET) == []

    monkeypatch.setitem(generating._WRITERS, writer, lambda _: iter(()))
    problems = judge_coverage(searched(cache, 1500), TARGET)

    assert f"coverage {RELEASE}: never reached: {told}" in problems
    reached = [problem for problem in problems if f": {cache} " in problem]
    assert all(f"{cache} {writer} when" in problem for problem in reached)


def test_generator_that_loses_an_argument_fails_the_gate(monkeypatch):
    """With one model only no operation is lost, but a state is, and its cells are named."""
    monkeypatch.setattr("kvlockstep._write_prompts._MODELS", ("m",))

    problems = judge_coverage(searched("PromptTrie", 1000), TARGET)

    assert problems
    assert all(problem.endswith("when several models") for problem in problems)


def test_generator_that_loses_its_peers_fails_the_gate(monkeypatch):
    """Without extends of two batches no pair of states is met, and each is named."""
    for writer in ("extend", "meet"):
        monkeypatch.setitem(generating._WRITERS, writer, lambda _: iter(()))

    problems = judge_coverage(searched("BatchKVCache", 40), TARGET)

    states = CACHES["BatchKVCache"].states
    head = f"coverage {RELEASE}: never reached: BatchKVCache extend when"
    lost = {f"{head} {one} with a peer that is {other}" for one in states for other in states}
    assert lost <= {*problems}


# The front ends.


@pytest.fixture
def small(monkeypatch):
    """A floor of one class and the functions, for a run of some hundred steps."""
    kept = {name: CACHES[name] for name in ("TokenBuffer",)}
    reached = floors.reached_of_classes
    monkeypatch.setattr(floors, "CACHES", kept)
    monkeypatch.setattr(floors, "_STEPS", 1200)
    monkeypatch.setattr(
        floors,
        "reached_of_classes",
        lambda *args: {name: one for name, one in reached(*args).items() if name in kept},
    )


def lose(monkeypatch):
    """Let the generator lose an operation."""
    monkeypatch.setitem(generating._WRITERS, "copy", lambda _: iter(()))


@pytest.mark.usefixtures("small")
def test_one_call_judges_coverage(monkeypatch, tmp_path):
    """`check_target` fails below the floor, and not where a part was run."""
    (tmp_path / "none").mkdir()
    options = {"cache": ["TokenBuffer", "functions"], "traces": tmp_path / "none"}
    assert check_target(TARGET, steps=700, **options).problems == []

    lose(monkeypatch)
    assert check_target(TARGET, steps=50, **options).problems == []
    with pytest.raises(ConformanceError, match="never reached: TokenBuffer copy when empty"):
        check_target(TARGET, steps=700, **options)


@pytest.mark.usefixtures("small")
def test_pytest_judges_coverage(run_pytest, monkeypatch):
    """Under pytest the run fails below the floor though every test passed, and says why."""
    options = f"--target={TARGET}", "--cache=TokenBuffer", "--cache=functions", "--steps=700"
    assert run_pytest("lockstep", *options).status == 0

    lose(monkeypatch)
    ran = run_pytest("lockstep", *options)

    assert ran.status == 1
    assert set(ran.outcomes.values()) == {"passed"}
    assert f"coverage {RELEASE}: never reached: TokenBuffer copy when spare" in ran.flat


@pytest.mark.usefixtures("small")
def test_command_line_judges_coverage(monkeypatch, tmp_path):
    """The command line exits with 1 below the floor, and prints what was not reached."""
    (tmp_path / "none").mkdir()
    words = "--cache=TokenBuffer", "--cache=functions", "--steps=700", "--workers=1"
    # Its workers are processes of their own, with a generator that has lost nothing.
    kind = CACHES["TokenBuffer"]
    more = replace(kind, states=(*kind.states, "never seen"))
    monkeypatch.setitem(floors.CACHES, "TokenBuffer", more)

    done = CliRunner().invoke(
        main, ["run", f"--target={TARGET}", f"--traces={tmp_path / 'none'}", *words]
    )

    assert done.exit_code == 1
    assert f"coverage {RELEASE}: never reached: TokenBuffer copy when never seen" in done.output
