"""The benches run, and what they measured becomes tables and plots."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from property_tests.harness.ports import OFFSET_TOO_HIGH, alone, write_port

from kvlockstep._workers import cores

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python on these words, in the repository."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=alone()
    )


def test_every_bench_runs_and_its_sides_agree() -> None:
    """With tiny sizes no bench fails or is skipped; each compares what its two sides give."""
    ran = run("-m", "pytest", "bench", "-q", "--benchmark-disable", "-p", "no:cacheprovider")
    assert ran.returncode == 0, ran.stdout
    last = ran.stdout.splitlines()[-1]
    files = [file.read_text(encoding="utf-8") for file in BENCH.glob("test_*.py")]
    tests = sum(len(re.findall(r"^def test_", text, re.MULTILINE)) for text in files)
    passed = re.match(r"(\d+) passed", last)
    assert passed is not None, last
    assert int(passed[1]) >= tests
    # Two workers need two cores.
    assert "skipped" not in last or len(cores()) < 2


def test_sides_that_do_not_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench fails where the port does not give what the release gives."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    target = write_port(tmp_path, "bench_offset_too_high", OFFSET_TOO_HIGH)
    ran = run(
        "-m",
        "pytest",
        "bench",
        "-q",
        "--benchmark-disable",
        "-k",
        "not_announced",
        f"--target={target}",
    )
    assert ran.returncode == 1
    assert "the sides do not give the same" in ran.stdout


def test_every_target_has_its_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target is judged by a bench that there is, at full size."""
    monkeypatch.syspath_prepend(BENCH)
    from targets import COUNTED, TARGETS  # noqa: PLC0415

    ran = run("-m", "pytest", "bench", "-q", "--collect-only")
    names = [line for line in ran.stdout.splitlines() if "::" in line]
    benches = [{"fullname": name, "extra_info": {"cache_limit": COUNTED}} for name in names]
    assert [target.work for target in TARGETS if not any(map(target.covers, benches))] == []


def test_results_of_a_run(tmp_path: Path) -> None:
    """A run writes its JSON, its tables with the targets, and a plot over the lengths."""
    ran = run(BENCH / "run.py", "--results", tmp_path, "-k", "lookup and memory")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    benches = json.loads((tmp_path / "latest.json").read_bytes())["benchmarks"]
    assert len(benches) == 3
    page = (tmp_path / "latest.md").read_text(encoding="utf-8")
    assert re.search(
        r"\| trie memory, bytes a token \| 20 x \| [\d.]+ \| .* \| met, 3 of 3 \|", page
    )
    for bench in benches:
        ratio = f"{bench['extra_info']['speedup']['median']:,.2f} ("
        assert ratio in page
    assert "![lookup](lookup.svg)" in page
    assert "mlx-lm" in (tmp_path / "lookup.svg").read_text(encoding="utf-8")


def test_results_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a folder of their own, and are held to no target: those are a CPU's."""
    monkeypatch.syspath_prepend(BENCH)
    from run import results_of  # noqa: PLC0415

    assert results_of("gpu") != results_of("cpu") == BENCH / "results"
    ran = run(BENCH / "run.py", "--results", tmp_path, "-k", "lookup and memory and 10000")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    file = tmp_path / "latest.json"
    report = json.loads(file.read_bytes())
    report["machine_info"] |= {"device": "gpu", "chip": "A GPU"}
    file.write_text(json.dumps(report), encoding="utf-8")
    ran = run(BENCH / "run.py", "--results", tmp_path, "--report", file)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    page = (tmp_path / "latest.md").read_text(encoding="utf-8")
    assert page.startswith("A GPU, ")
    assert "| memory, 10,000 |" in page
    assert "Targets" not in page


def test_run_that_cannot_be(tmp_path: Path) -> None:
    """What pytest ends with is what the run ends with, and no table is written."""
    ran = run(BENCH / "run.py", "--results", tmp_path, "--cache-limit=much")
    assert ran.returncode == 4
    assert "--cache-limit: expected MiB or default, got 'much'" in ran.stderr
    assert not (tmp_path / "latest.md").exists()
