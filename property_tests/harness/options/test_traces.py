"""`--traces`: the folder of the corpus that runs first."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import TRIM_SAYS_TOO_MANY, construct, trace_of

from kvlockstep._jobs import CORPUS
from kvlockstep._steps import Trim
from kvlockstep._trace import write

CORPUS_TEST = "test_corpus.py::test_corpus[0.32.2-{}]"


@pytest.fixture
def corpus(tmp_path):
    """A corpus of two traces, one for another release, one in a folder of its own."""
    folder = tmp_path / "corpus"
    write(trace_of(construct(), Trim(n=1)), folder / "trim.json")
    write(trace_of(construct(), releases=("0.31.3",)), folder / "deeper" / "old.json")
    return folder


def test_each_trace_is_a_test(run_pytest, make_port, corpus):
    """Each trace that is meant for the release is a test of its own, by the file's name."""
    ran = run_pytest("corpus", f"--target={make_port()}", f"--traces={corpus}")

    assert ran.outcomes == {CORPUS_TEST.format("trim"): "passed"}


def test_folders_are_searched(run_pytest, corpus):
    """Traces in folders of the folder are run too, and all releases of `releases`."""
    ran = run_pytest("corpus", f"--traces={corpus}")

    assert set(ran.tests) == {
        "test_corpus.py::test_corpus[0.31.3-old]",
        "test_corpus.py::test_corpus[0.31.3-trim]",
        CORPUS_TEST.format("trim"),
    }


def test_trace_that_shows_a_fault_fails(run_pytest, make_port, corpus):
    """A port that fails on a trace fails that test, in plain words."""
    target = make_port(TRIM_SAYS_TOO_MANY)

    ran = run_pytest("corpus", f"--target={target}", f"--traces={corpus}")

    assert ran.outcomes == {CORPUS_TEST.format("trim"): "failed"}
    assert "0.32.2/KVCache/trim/result" in ran.out


def test_ours_by_default(run_pytest):
    """Without the option our corpus runs, the ledger's witnesses left to the ledger."""
    ran = run_pytest("corpus", "--release=0.32.2", "--collect-only", "-q")

    tests = [line for line in ran.out.splitlines() if "::test_corpus[" in line]
    files = {path.stem for path in CORPUS.rglob("*.json") if path.parent.name != "ledger"}
    names = {test.partition("[0.32.2-")[2].rstrip("]") for test in tests}
    assert names
    assert names <= files


def test_missing_folder_cannot_run(run_pytest, tmp_path):
    """A folder that is not there is quoted; exit status 2."""
    ran = run_pytest("corpus", f"--traces={tmp_path / 'nowhere'}")

    assert ran.status == 2
    expected = f"traces '{tmp_path / 'nowhere'}': expected a folder of trace files"
    assert f"could not run: {expected}" in ran.out


def test_bad_trace_cannot_run_and_stays(run_pytest, corpus):
    """A file that is no trace is named with what is wrong; it is neither skipped nor deleted."""
    bad = corpus / "bad.json"
    bad.write_text('{"format": "kvlockstep-trace", "version": 9, "steps": []}')

    ran = run_pytest("corpus", f"--traces={corpus}")

    assert ran.status == 2
    assert f"{bad}: this reader knows version 1 of the trace format, got version 9" in ran.out
    assert bad.exists()


def test_trace_that_cannot_be_made_cannot_run(run_pytest, make_port, corpus):
    """A literal with too few values is the trace's fault, not the target's: its file is named."""
    recipe = '{"fill": "literal", "shape": [1, 1, 1, 2], "values": [1]}'
    steps = f'{{"op": "construct", "cache": "KVCache"}}, {{"op": "update", "keys": {recipe}}}'
    bad = corpus / "bad.json"
    bad.write_text(f'{{"format": "kvlockstep-trace", "version": 1, "steps": [{steps}]}}')

    ran = run_pytest("corpus", f"--target={make_port()}", f"--traces={corpus}")

    assert ran.status == 2
    assert str(bad) in ran.out
    assert "expected 2 values, got 1" in ran.out


def test_environment_variable(run_pytest, make_port, corpus, monkeypatch):
    """KVLOCKSTEP_TRACES does the same."""
    monkeypatch.setenv("KVLOCKSTEP_TRACES", str(corpus))

    ran = run_pytest("corpus", f"--target={make_port()}")

    assert ran.outcomes == {CORPUS_TEST.format("trim"): "passed"}
