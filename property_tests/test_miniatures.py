"""The harness catches every miniature within its CI profile, and shrinks it to its shortest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from property_tests.miniatures import MINIATURES, Miniature

from kvlockstep import _gate
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Run, Signature
from kvlockstep._engine import Lockstep
from kvlockstep._gate import run_job
from kvlockstep._jobs import Job
from kvlockstep._settings import Settings
from kvlockstep._tally import Tally
from kvlockstep._targets import load_target
from kvlockstep._trace import Trace, dumps, read
from kvreference import RELEASES

# What the issues that asked for miniatures name.
NAMED = {
    "off-by-one-after-the-wrap",
    "keep-ignored-after-the-wrap",
    "stale-idx-after-temporal-order",
    "window-closed-at-both-ends",
    "mask-offset-capped-wrongly",
    "front-trim-drops-the-head",
    "trim-moves-the-start",
    "values-written-before-keys-fail",
    "dtype-promoted-on-growth",
    "zeros-missing-in-the-spare",
    "capacity-rounded-up",
    "k-window-used-for-v",
    "negative-zero-lost",
    "nan-payload-lost",
    "state-aliases-the-buffer",
    "error-of-another-type",
    "error-moves-the-offset",
    "copy-shares-its-future",
    "nbytes-off-by-the-spare",
    "scales-in-the-wrong-dtype",
    "left-padding-not-moved-by-the-roll",
    "idx-stays-when-a-filter-cuts-padding",
    "empty-peer-padded-with-own-batch-size",
    "mask-forgets-the-last-rows-padding",
    "rotated-flag-lost",
    "tie-goes-to-the-first",
    "bytes-of-the-overwritten-kept",
}
# The classes whose faults came with them: at least so many.
LATER = {
    "BatchKVCache",
    "BatchRotatingKVCache",
    "ArraysCache",
    "CacheList",
    "TokenBuffer",
    "PromptTrie",
    "LRUPromptCache",
}
LATER_COUNT = 25

MANY = 1_000_000_000
# The search ends when a trace of so few steps has shown the fault, or when so many traces have.
SHORT = 20
SHOWINGS = 4


@dataclass(frozen=True)
class Caught:
    """What the gate found first in a miniature, and the trace that it wrote for it."""

    signature: Signature
    trace: Trace


def hasty(miniature: Miniature) -> type[Tally]:
    """Return a tally that has seen enough when the fault has shown, and explains it alone."""

    class Hasty(Tally):
        def run(self, trace: Trace) -> Run:
            """Run a trace; no budget is larger than the steps after enough divergences."""
            run = super().run(trace)
            for signature, shortest in self.shortest.items():
                seen = self.report.undeclared[signature]
                enough = seen >= SHOWINGS or len(shortest.steps) <= SHORT
                if enough and self.report.steps < MANY and miniature.is_shown_by(signature):
                    self.report.steps += MANY
            return run

        def explain(self) -> None:
            """Shrink the shortest trace that shows the fault, whatever else has shown it."""
            shown = filter(miniature.is_shown_by, self.shortest)
            found = min(shown, key=lambda one: len(self.shortest[one].steps), default=None)
            self.shortest = {} if found is None else {found: self.shortest[found]}
            super().explain()

    return Hasty


@pytest.fixture(scope="module", params=MINIATURES, ids=lambda miniature: miniature.name)
def miniature(request: pytest.FixtureRequest) -> Miniature:
    """Return one miniature after the other; all tests of one follow each other."""
    chosen: Miniature = request.param
    chosen.build()
    return chosen


@pytest.fixture(scope="module")
def caught(miniature: Miniature, tmp_path_factory: pytest.TempPathFactory) -> Caught:
    """Run the gate's CI profile until it has caught the miniature."""
    job = Job("lockstep", miniature.release, miniature.searched or miniature.cache, miniature.mode)
    settings = Settings(
        target=miniature.target, profile="ci", report=tmp_path_factory.mktemp(miniature.name)
    )
    with mock.patch.object(_gate, "Tally", hasty(miniature)):
        report = run_job(job, settings)
    assert not report.broken
    assert report.found, f"nothing was found in {report.steps % MANY} steps: {report.undeclared}"
    found = report.found[0]
    return Caught(found.signature, read(Path(found.trace)))


def run_beside_release(miniature: Miniature, target: str, trace: Trace) -> Run:
    """Run `trace` on the miniature's release and on `target`."""
    loaded = load_target(target, miniature.release)
    return Lockstep(contract_of(miniature.release), loaded).run(trace)


def is_of_an_outcome(signature: Signature) -> bool:
    """Tell whether one side raised and the other did not, or not the same."""
    return signature.field.split()[0] in ("raises", "returns", "message")


def test_is_caught(miniature: Miniature, caught: Caught) -> None:
    """The CI profile catches each miniature, in the operation and in the way of its fault."""
    found = caught.signature
    assert miniature.is_shown_by(found)
    assert found[:3] == miniature.signature[:3]
    shown = run_beside_release(miniature, miniature.target, miniature.by_hand).signatures()
    assert is_of_an_outcome(found) == any(map(is_of_an_outcome, shown))


def test_shrinks_to_the_shortest(miniature: Miniature, caught: Caught) -> None:
    """The trace that the gate writes has no more steps than the shortest one found by hand."""
    assert len(caught.trace.steps) <= miniature.steps, dumps(caught.trace)


def test_by_hand_is_the_shortest(miniature: Miniature, caught: Caught) -> None:
    """The trace found by hand shows the fault, needs all of its steps, and no search beats it."""
    steps = miniature.by_hand.steps
    shown = run_beside_release(miniature, miniature.target, miniature.by_hand).signatures()
    assert {signature.operation for signature in shown} == {miniature.shows}
    assert any(map(miniature.is_shown_by, shown)), shown
    for index in range(len(steps)):
        part = miniature.by_hand.part(steps[:index] + steps[index + 1 :])
        assert not run_beside_release(miniature, miniature.target, part).divergences
    assert len(caught.trace.steps) >= miniature.steps, dumps(caught.trace)


def test_release_shows_nothing(miniature: Miniature, caught: Caught) -> None:
    """The release itself, as the target, shows nothing over the traces of the miniature."""
    for trace in (miniature.by_hand, caught.trace):
        run = run_beside_release(miniature, f"release:{miniature.release}", trace)
        assert run.steps == len(trace.steps)
        assert not run.divergences


def test_the_issue_is_covered() -> None:
    """All faults that were asked for are there, on both releases and all classes."""
    assert {miniature.name for miniature in MINIATURES} >= NAMED
    assert {miniature.release for miniature in MINIATURES} == set(RELEASES)
    assert {miniature.cache for miniature in MINIATURES} == {*CACHES, FUNCTIONS}
    later = [miniature for miniature in MINIATURES if miniature.cache in LATER]
    assert len(later) >= LATER_COUNT
    assert {miniature.cache for miniature in later} == LATER
    assert all(miniature.field for miniature in later)


def test_names_are_told_apart() -> None:
    """Each miniature has a name of its own, and one line that says what is broken."""
    assert len({miniature.name for miniature in MINIATURES}) == len(MINIATURES)
    for miniature in MINIATURES:
        assert miniature.fault.__doc__
        assert "\n" not in miniature.fault.__doc__
