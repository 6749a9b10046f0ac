"""`kvlockstep hunt`: what it keeps, how it goes on, and how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from property_tests.harness.ports import (
    DIES,
    RELEASE,
    TRIM_SAYS_TOO_MANY,
    construct,
    trace_of,
    update,
)
from rich.console import Console

from kvlockstep import _hunt, _hunt_unit, _search_commands
from kvlockstep._cli import main
from kvlockstep._corpus import Corpus, Reached, cover
from kvlockstep._divergence import Signature
from kvlockstep._hunt import Hunt, Lane
from kvlockstep._hunt_display import Display, line
from kvlockstep._hunt_unit import Unit, run_unit
from kvlockstep._settings import Settings
from kvlockstep._steps import Trim
from kvlockstep._targets import TargetError
from kvlockstep._trace import read, write

ITSELF = f"release:{RELEASE}"
TRIM = Signature(RELEASE, "KVCache", "trim", "result")


def reached(number: int, *goals: str, steps: int = 1) -> Reached:
    """Return a trace of its own that reaches `goals`."""
    trace = trace_of(*[construct("KVCache", f"s{number}")] * steps)
    return Reached(RELEASE, trace, frozenset((RELEASE, goal) for goal in goals))


class InThisProcess(Executor):
    """Runs what it is given at once: starting a process takes longer than these units."""

    def submit(self, run, *args):
        future = Future()
        future.set_result(run(*args))
        return future


@pytest.fixture(autouse=True)
def short_units(monkeypatch):
    """Make units short."""
    monkeypatch.setattr(_hunt_unit, "STEPS", 60)


@pytest.fixture
def hunt(tmp_path, monkeypatch):
    """Return `hunt(target, units)`: so many units on KVCache in this process, in one folder."""
    monkeypatch.setattr(_hunt, "pool", lambda _: InThisProcess())

    def run(target: str, units: int, **fields) -> Hunt:
        settings = Settings(**{"target": target, "caches": ("KVCache",), **fields})
        hunting = Hunt(settings, tmp_path / "hunt", 1)
        stop = threading.Event()
        for number, _ in enumerate(hunting.run(None, stop), 1):
            if number >= units:
                stop.set()
        return hunting

    return run


class TestCorpus:
    """The fewest traces that reach all that was reached."""

    @given(st.lists(st.frozensets(st.sampled_from("abcdefgh")), max_size=12))
    def test_cover_reaches_all_and_wastes_none(self, sets):
        """What is chosen reaches what all of them do, and each adds something to those before."""
        every = [reached(number, *goals) for number, goals in enumerate(sets)]
        left = set().union(*(one.goals for one in every))
        for one in cover(every):
            assert one.goals & left
            left -= one.goals
        assert not left

    def test_cover_takes_the_best_first(self):
        """One trace that reaches what two others do is taken in their place, and the shorter."""
        long, short = reached(1, "a", "b", "c", steps=9), reached(2, "a", "b", "c", steps=2)
        assert cover([reached(3, "a", "b"), reached(4, "b", "c"), long, short]) == [short]

    def test_trace_is_a_file_at_once(self, tmp_path):
        """A trace that adds something is written, with its release; another one is not."""
        corpus = Corpus(tmp_path)
        assert corpus.add(reached(1, "a", "b")) == 2
        assert corpus.add(reached(2, "b")) == 0
        (trace,) = corpus.traces()
        assert trace.releases == (RELEASE,)
        assert trace.steps == reached(1).trace.steps

    def test_minimizing_deletes_what_is_not_needed(self, tmp_path):
        """What later traces made needless goes; a file that was not taken stays."""
        corpus = Corpus(tmp_path)
        for one in (reached(1, "a"), reached(2, "b"), reached(3, "a", "b", "c")):
            corpus.add(one)
        write(trace_of(construct()), tmp_path / "another.json")
        corpus.minimize()
        assert {path.name for path in tmp_path.iterdir()} == {*corpus.reached, "another.json"}
        assert [one.trace.steps for one in corpus.reached.values()] == [reached(3).trace.steps]
        assert len(corpus.goals) == 3

    def test_what_ran_again_and_adds_nothing_goes(self, tmp_path):
        """A trace of an earlier session that reaches nothing of its own today is deleted."""
        earlier = Corpus(tmp_path)
        earlier.add(reached(1, "a"))
        earlier.add(reached(2, "b"))
        corpus = Corpus(tmp_path)
        first, second = corpus.traces()
        corpus.add(Reached(RELEASE, first, frozenset({(RELEASE, "a"), (RELEASE, "b")})))
        corpus.drop(RELEASE, [first, second])
        assert corpus.traces() == [first]


class TestLane:
    """The seeds that are done."""

    @given(st.permutations(range(8)), st.integers(0, 8))
    def test_ticked_off_in_any_order(self, order, count):
        """What is ticked off is not handed out again, what is not is, whatever the order."""
        lane = Lane()
        for seed in order[:count]:
            lane.tick(seed)
        left = []
        while len(left) < 3:
            left.append(lane.first_left({*left}))
        assert left == [n for n in range(12) if n not in order[:count]][:3]
        assert not set(lane.more) & {*range(lane.below + 1)}
        assert msgspec.json.decode(msgspec.json.encode(lane), type=Lane) == lane


class TestUnit:
    """What one worker does."""

    def test_finding_is_a_shrunk_trace(self, make_port, tmp_path):
        """A new finding is a file with the shortest trace, and words; a known one is left alone."""
        settings = Settings(target=make_port(TRIM_SAYS_TOO_MANY), report=tmp_path / "report")
        unit = Unit(RELEASE, "KVCache")

        told = run_unit(unit, settings, frozenset(), frozenset())
        (found,) = told.found
        assert found.signature == TRIM
        assert [type(step).__name__ for step in read(Path(found.trace)).steps] == [
            "Construct",
            "Trim",
        ]
        Path(found.trace).unlink()
        again = run_unit(unit, settings, frozenset(), frozenset({TRIM}))
        assert (again.found, again.shown) == ([], {TRIM})
        assert not [*(tmp_path / "report").iterdir()]

    def test_finding_is_kept_before_it_is_shrunk(self, make_port, tmp_path, monkeypatch):
        """What is found is a file before it is shrunk, for that may be interrupted."""

        def interrupt(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(_hunt_unit.Tally, "explain", interrupt)
        settings = Settings(target=make_port(TRIM_SAYS_TOO_MANY), report=tmp_path / "report")
        with pytest.raises(KeyboardInterrupt):
            run_unit(Unit(RELEASE, "KVCache"), settings, frozenset(), frozenset())
        (path,) = (tmp_path / "report").iterdir()
        assert any(isinstance(step, Trim) for step in read(path).steps)

    def test_reports_what_is_new_only(self, tmp_path):
        """Traces are reported that reach what was not reached, cells and lines; no other."""
        settings = Settings(target=ITSELF, report=tmp_path)
        unit = Unit(RELEASE, "KVCache")
        first = run_unit(unit, settings, frozenset(), frozenset())
        goals = frozenset().union(*(one.goals for one in first.reached))
        assert {goal[1] for goal in goals} == {"cell", "arc"}
        assert (RELEASE, "cell", "KVCache", "construct", "none") in goals
        assert run_unit(unit, settings, goals, frozenset()).reached == []
        less = goals - {(RELEASE, "cell", "KVCache", "construct", "none")}
        assert run_unit(unit, settings, less, frozenset()).reached

    def test_same_seed_same_traces(self, tmp_path):
        """A seed is a unit for ever; the modes draw traces of their own."""
        settings = Settings(target=ITSELF, report=tmp_path)
        units = [Unit(RELEASE, "KVCache", mode, 3) for mode in ("value", "value", "in-place")]
        one, same, other = (run_unit(unit, settings, frozenset(), frozenset()) for unit in units)
        assert one.reached == same.reached
        assert [r.trace.steps for r in one.reached] != [r.trace.steps for r in other.reached]


class TestGoingOn:
    """The folder of a hunt."""

    def test_next_session_takes_the_next_seeds(self, hunt, tmp_path):
        """Seeds are ticked off in the state, and a second session goes on after them."""
        hunt(ITSELF, 4)
        first = json.loads((tmp_path / "hunt" / "state.json").read_text())
        assert [lane["below"] for lane in first["lanes"].values()] == [2, 2]
        again = hunt(ITSELF, 6)
        state = json.loads((tmp_path / "hunt" / "state.json").read_text())
        assert [lane["below"] for lane in state["lanes"].values()] > [2, 2]
        assert state["steps"] == first["steps"] + again.progress.steps
        assert state["seconds"] > first["seconds"]

    def test_corpus_runs_first(self, hunt, tmp_path):
        """What the corpus reaches is known before anything else runs, and is not new again."""
        before = hunt(ITSELF, 6).progress.corpus
        assert len(before.traces()) == len(before.reached) > 1
        again = Hunt(Settings(target=ITSELF, caches=("KVCache",)), tmp_path / "hunt", 1)
        assert [unit.traces != () for unit in again._replays] == [True] * len(again._replays)
        stop = threading.Event()
        for _ in again.run(None, stop):
            if not again._replays:
                stop.set()
        assert again.progress.corpus.goals == before.goals
        assert again.progress.new_goals == 0

    def test_finding_stays_until_it_is_mended(self, hunt, make_port, tmp_path):
        """A finding of before is new no more, and counts; one that no longer shows does not."""
        target = make_port(TRIM_SAYS_TOO_MANY)
        first = hunt(target, 3)
        assert [found.signature for found in first.progress.new] == [TRIM]
        assert first.progress.exit_status == 1
        again = hunt(target, 8)
        assert (again.progress.new, again.progress.open, again.progress.exit_status) == (
            [],
            [TRIM],
            1,
        )
        state = tmp_path / "hunt" / "state.json"
        state.write_text(state.read_text().replace(target, ITSELF))
        mended = hunt(ITSELF, 8)
        assert (mended.progress.gone, mended.progress.exit_status) == ({TRIM}, 0)
        assert mended.finding(TRIM).exists()

    def test_folder_of_another_target(self, hunt, tmp_path):
        """The folder of another hunt is refused, with what to do; so is what is no state."""
        hunt(ITSELF, 1)
        with pytest.raises(TargetError, match=f"it is a hunt on {ITSELF}.* name another --state"):
            hunt("release:0.31.3", 1)
        (tmp_path / "hunt" / "state.json").write_text("{}")
        with pytest.raises(TargetError, match="expected the state of a hunt"):
            hunt(ITSELF, 1)


def test_unit_that_kills_its_process(make_port, tmp_path):
    """A unit that kills its process is told and ticked off, and the hunt goes on."""
    settings = Settings(target=make_port(DIES), caches=("KVCache",))
    hunting = Hunt(settings, tmp_path / "hunt", 1)
    stop = threading.Event()
    for progress in hunting.run(60, stop):
        if len(progress.crashed) == 2:
            stop.set()
    first = f"{RELEASE} KVCache value, seed 0: the process died: did the target crash?"
    assert progress.crashed[0] == first
    assert progress.exit_status == 2
    state = json.loads((tmp_path / "hunt" / "state.json").read_text())
    assert state["crashed"] == progress.crashed
    assert [lane["below"] for lane in state["lanes"].values()] == [1, 1]


class TestCommand:
    """The command line, its display and its end."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_ends_it_in_order(self, tmp_path, number):
        """Ctrl-C and SIGTERM end a hunt with everything saved, and the status of what it found."""
        folder = tmp_path / "hunt"
        words = ["hunt", f"--target={ITSELF}", "--cache=TokenBuffer", "--workers=1"]
        command = [sys.executable, "-m", "kvlockstep", *words, f"--state={folder}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as done:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not [*folder.glob("corpus/*.json")]:
                time.sleep(0.05)
            # To all of the group, as a terminal sends it.
            if number == signal.SIGINT:
                os.killpg(done.pid, number)
            else:
                done.send_signal(number)
            out, _ = done.communicate(timeout=60)
        assert done.returncode == 0, out
        assert f"go on with: --state {folder}" in " ".join(out.split())
        state = json.loads((folder / "state.json").read_text())
        assert state["steps"] > 0
        assert state["lanes"][f"{RELEASE} TokenBuffer value"]["below"] > 0
        assert not list(folder.rglob(".*"))

    def test_status_and_words(self, make_port, tmp_path, monkeypatch):
        """Where it is no terminal: a line a finding, its words at the end, and status 1."""
        monkeypatch.setattr(_hunt, "pool", lambda _: InThisProcess())
        target = make_port(TRIM_SAYS_TOO_MANY)
        words = ["--time=1s", "--cache=KVCache", "--workers=1", f"--target={target}"]
        done = CliRunner().invoke(main, ["hunt", *words, f"--state={tmp_path}"])
        assert done.exit_code == 1, done.output
        assert f"found {TRIM}: " in done.output
        assert "  replay: kvlockstep replay " in done.output
        assert "1 new findings, 1 in all" in " ".join(done.output.split())

    def test_folder_that_cannot_be_made(self, tmp_path):
        """A folder for its state that there cannot be is told before the search."""
        (tmp_path / "file").write_text("")
        words = ["--target=release:0.32.2", f"--state={tmp_path / 'file' / 'hunt'}", "--time=1s"]
        done = CliRunner().invoke(main, ["hunt", *words])
        assert done.exit_code == 2
        assert "could not run: [Errno 20] Not a directory: " in done.output

    def test_target_that_cannot_be_driven(self, tmp_path):
        """A target that is not there is status 2, before anything is written."""
        folder = tmp_path / "hunt"
        words = ["--target=py:no.such.module", f"--state={folder}", "--time=1s"]
        done = CliRunner().invoke(main, ["hunt", *words])
        assert done.exit_code == 2
        assert "cannot be imported" in done.output
        assert not folder.exists()

    def test_second_signal_does_not_wait(self):
        """A second signal raises, so that units in flight are not waited for."""
        stop = threading.Event()
        before = signal.getsignal(signal.SIGTERM)
        with _search_commands._until_signalled(stop):
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
            with pytest.raises(_search_commands._StopNowError):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == before

    def test_live_table(self, hunt, make_port):
        """On a terminal: a table with steps, speed, coverage, corpus and findings."""
        progress = hunt(make_port(TRIM_SAYS_TOO_MANY), 3).progress
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=120, color_system=None)
        with Display(console, "py:mine", 3600) as display:
            display.show(progress)
        told = out.getvalue()
        assert "py:mine" in told
        assert "of 1:00:00" in told
        assert f"{progress.steps:,}, " in told
        assert "cells, " in told
        assert f"{len(progress.corpus.reached)} traces" in told
        assert "1 new, 1 in all" in told
        assert str(TRIM) in told

    def test_line(self, hunt):
        """The counts in one line, for a log."""
        progress = hunt(ITSELF, 2).progress
        assert f"{progress.steps:,} steps" in line(progress)
        assert "0 new findings, 0 in all" in line(progress)


def test_trace_of_a_corpus_is_a_trace(tmp_path):
    """What a corpus keeps replays as any trace does."""
    corpus = Corpus(tmp_path)
    corpus.add(Reached(RELEASE, trace_of(construct(), update(2)), frozenset({(RELEASE, "x")})))
    (path,) = tmp_path.iterdir()
    done = CliRunner().invoke(main, ["replay", str(path), f"--target={ITSELF}"])
    assert done.exit_code == 0, done.output
    assert "2 steps, no divergence" in done.output


def test_ctrl_c_while_a_process_starts_is_heard():
    """A Ctrl-C that comes while processes are started is heard when they are."""
    stop = threading.Event()
    with _search_commands._until_signalled(stop), _hunt._deaf():
        os.kill(os.getpid(), signal.SIGINT)
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert blocked
    assert stop.wait(5)
