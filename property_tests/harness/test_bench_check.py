"""`kvlockstep bench-check`: which losses it finds between two runs, and what it cannot compare."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from property_tests.harness.ports import REPOSITORY, alone, write_port

from kvlockstep._bench_check import BenchFileError, Results, Spread, find_losses, read_results
from kvlockstep._cli import main

BENCH = "test_lookup.py::test_exact_match[10000-0.32.2]"

# A trie that searches twenty times for what it finds once.
SLOW = """
class PromptTrie(release.PromptTrie):
    def search(self, model, tokens):
        for _ in range(19):
            super().search(model, tokens)
        return super().search(model, tokens)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The JSON of one bench, run on a port that is the release itself and on a slow one."""
    folder = tmp_path_factory.mktemp("benches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        return {
            name: run_bench(write_port(folder, f"bench_{name}", body), folder / f"{name}.json")
            for name, body in (("even", ""), ("slow", SLOW))
        }


def run_bench(target: str, file: Path) -> Path:
    """Measure one short bench on that target, in a process of its own."""
    few = ("--quick", "--benchmark-min-rounds=5", "--benchmark-max-time=0.01")
    command = [sys.executable, "-m", "pytest", "bench/test_lookup.py", "-q", "-k", "exact_match"]
    options = (f"--target={target}", "--release=0.32.2", f"--benchmark-json={file}", *few)
    ran = subprocess.run(
        [*command, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env=alone(),
    )
    assert ran.returncode == 0, ran.stdout
    return file


def check(*words: object) -> Result:
    """Run `kvlockstep bench-check`."""
    return CliRunner().invoke(main, ["bench-check", *map(str, words)])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return `write(name, bench=(low, median, high), ...)`: it writes the JSON of such a run."""

    def make(name: str, /, device: str = "cpu", peak: int = 10, **benches: Any) -> Path:
        memory = {side: {"peak": 10, "held": 1} for side in ("port", "reference")}
        memory["port"]["peak"] = peak
        made = [
            {
                "fullname": f"bench/test_some.py::test_{bench}",
                "extra_info": {
                    "speedup": dict(zip(("low", "median", "high"), spread, strict=True)),
                    "memory": memory,
                    "cache_limit": "1024",
                },
            }
            for bench, spread in benches.items()
        ]
        content = {"benchmarks": made, "machine_info": {"device": device, "mlx": "1"}}
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content))
        return file

    return make


def test_slowdown_of_a_real_run(runs: dict[str, Path]) -> None:
    """A port that became twenty times slower fails, and the row, what was and what is are told."""
    result = check(runs["even"], runs["slow"])
    assert result.exit_code == 1
    assert BENCH in " ".join(result.output.split())
    was, now = (read_results(runs[name]).ratios for name in ("even", "slow"))
    (key,) = (key for key in was if key[1] == "time")
    told = " ".join(result.output.split())
    assert f"{was[key].median:,.2f} (" in told
    assert f"{now[key].median:,.2f} (" in told
    assert "1 lost more than 15 %" in told


def test_run_against_itself(runs: dict[str, Path]) -> None:
    """The same run twice has lost nothing, in time or memory."""
    result = check(runs["slow"], runs["slow"])
    assert (result.exit_code, result.output) == (0, "2 ratios compared, 0 lost more than 15 %\n")


def test_gain_is_no_loss(runs: dict[str, Path]) -> None:
    """A port that became faster passes."""
    assert check(runs["slow"], runs["even"]).exit_code == 0


@pytest.mark.parametrize(
    ("was", "now", "lost"),
    [
        ((2.0, 2.0, 2.0), (1.71, 1.71, 1.71), False),
        ((2.0, 2.0, 2.0), (1.69, 1.69, 1.69), True),
        ((1.5, 2.0, 2.5), (1.2, 1.25, 1.3), False),
        ((1.5, 2.0, 2.5), (1.2, 1.25, 1.27), True),
        ((2.0, 2.0, 2.0), (1.0, 1.0, 1.71), False),
        ((500.0, 600.0, 700.0), (2.0, 3.0, 4.0), True),
    ],
)
def test_beyond_the_spread(was: Any, now: Any, lost: bool) -> None:
    """Lost is what is more than 15 % below the lower quartile, upper quartile and all."""
    key = "bench", "time"
    machine: Any = None
    runs = [Results({key: Spread(*spread)}, machine) for spread in (was, now)]
    assert bool(find_losses(*runs)) is lost


def test_loss_allowed(write: Callable[..., Path]) -> None:
    """`--loss` says how much a ratio may lose."""
    base, new = write("base", one=(2, 2, 2)), write("new", one=(1.5, 1.5, 1.5))
    assert check(base, new, "--loss=20").exit_code == 1
    assert check(base, new, "--loss=30").exit_code == 0


def test_further_runs(write: Callable[..., Path]) -> None:
    """With `--also` the spread is over all runs: a loss has to be beyond what they differ by."""
    base, new = write("base", one=(2, 2, 2)), write("new", one=(1.5, 1.5, 1.5))
    assert check(base, new, "--also", write("b", one=(1.7, 1.7, 1.7)), new).exit_code == 0
    assert check(base, new, "--also", base, write("n", one=(1.9, 1.9, 1.9))).exit_code == 0
    again = "--also", write("b", one=(1.9, 1.9, 1.9)), write("n", one=(1.6, 1.6, 1.6))
    result = check(base, new, *again)
    assert result.exit_code == 1
    assert "1.95 (1.90 to 2.00)" in result.output
    assert "1.55 (1.50 to 1.60)" in result.output


def test_more_memory(write: Callable[..., Path]) -> None:
    """A port that takes more memory at its peak than it did, beside the reference, fails."""
    base, new = write("base", one=(2, 2, 2)), write("new", one=(2, 2, 2), peak=12)
    result = check(base, new)
    assert result.exit_code == 1
    assert "peak memory" in result.output


def test_rows_of_one_run_only(write: Callable[..., Path]) -> None:
    """What only one run has is listed with its file, and is no loss."""
    base = write("base", one=(1, 1, 1), gone=(9, 9, 9))
    new = write("new", one=(1, 1, 1), came=(1, 1, 1))
    result = check(base, new)
    assert result.exit_code == 0
    assert f"only in {base}: test_some.py::test_gone" in result.output
    assert f"only in {new}: test_some.py::test_came" in result.output


@pytest.mark.parametrize("more", [{"other": (1, 1, 1)}, {"one": (1, 1, 1), "device": "gpu"}])
def test_nothing_to_compare(write: Callable[..., Path], more: dict[str, Any]) -> None:
    """Runs without a bench in common, or on two devices, cannot be compared."""
    result = check(write("base", one=(1, 1, 1)), write("new", **more))
    assert result.exit_code == 2
    assert "could not run: expected two runs of the same benches on the same device" in (
        result.output
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Input data was truncated"),
        (b"speed: high", "JSON is malformed"),
        (b"\xff\xfe\x00", "got "),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `benchmarks`"),
        (b'{"benchmarks": [], "machine_info": {}}', "got 0 benches without a pair"),
        (
            b'{"benchmarks": [{"fullname": "a", "extra_info": {}}], "machine_info": {}}',
            "got 1 benches without a pair",
        ),
        (
            b'{"benchmarks": [{"fullname": "a", "extra_info": {"speedup": 2}}]}',
            "Expected `object | null`, got `int`",
        ),
    ],
)
def test_no_bench_results(
    write: Callable[..., Path], tmp_path: Path, content: bytes, says: str
) -> None:
    """A file that is no result of the benches is named, with what is wrong; exit status 2."""
    file = tmp_path / "odd.json"
    file.write_bytes(content)
    with pytest.raises(BenchFileError):
        read_results(file)
    for words in ((file, write("good", one=(1, 1, 1))), (write("good", one=(1, 1, 1)), file)):
        result = check(*words)
        assert result.exit_code == 2
        told = result.output
        assert f"could not run: {file}: expected the JSON that bench/run.py writes" in told
        assert says in told


def test_no_such_file(write: Callable[..., Path], tmp_path: Path) -> None:
    """A file that is not there is named; exit status 2."""
    result = check(tmp_path / "none.json", write("good", one=(1, 1, 1)))
    assert result.exit_code == 2
    assert "does not exist" in result.output
