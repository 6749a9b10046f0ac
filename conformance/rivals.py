"""The same mutants against other tests: mlx-lm's own cache tests, and the seed's scenarios.

    python conformance/rivals.py mlx-lm --sample 128   # mutants of 0.32.2
    python conformance/rivals.py seeds --sample 128    # mutants of 0.31.3, which the seeds cite

Both rivals only judge what they pass on the intact release. mlx-lm's tests come from its source
distribution (pip); the model that three of them load from a hub is a small one of random weights
here. The sample is that of `kvlockstep mutate --sample N`, so the scores compare.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import mlx.core as mx
import pytest

from kvlockstep._contained import Died, HangError, Limits, no_longer_than, run_contained
from kvlockstep._mutants import Mutant
from kvlockstep._mutation import Plan, make_mutants
from kvlockstep._origin import Origin, origin_of
from kvlockstep._settings import Settings

HERE = Path(__file__).resolve().parent
SEEDS = sorted(HERE.glob("test_seed_*.py"))
SECONDS = 60.0


class Trial(NamedTuple):
    """One mutant, and who is to judge it; `tests` is where mlx-lm's own are."""

    rival: str
    release: str
    mutant: Mutant | None
    tests: Path


def origin(release: str) -> Origin:
    """Return what there is to mutate of a release."""
    return origin_of(f"release:{release}", (release,))


def judge(trial: Trial) -> bool:
    """Tell whether a rival's tests fail on a mutant."""
    judges: dict[str, Callable[[Trial], bool]] = {
        "mlx-lm": judge_by_mlx_lm,
        "seeds": judge_by_seeds,
    }
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            with no_longer_than(SECONDS):
                return judges[trial.rival](trial)
        except (HangError, Exception):
            return True


# The seed's scenarios ----------------------------------------------------------------------------


# Our own settings of pytest bring a `port` of their own.
_OPTIONS = (
    *("-q", "-c", os.devnull, "--rootdir", str(HERE.parent), "--import-mode=importlib"),
    *("--assert=plain", "-p", "no:cacheprovider", "-W", "ignore"),
)


class _Port:
    """A pytest plugin: the module under test, and which tests passed."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.passed: list[str] = []

    @pytest.fixture
    def port(self) -> ModuleType:
        return self.module

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.append(report.nodeid)


def _run_seeds(release: str, mutant: Mutant | None, tests: list[str]) -> list[str]:
    with origin(release).mutated(mutant) as load:
        plugin = _Port(load(release).module)
        if str(HERE.parent) not in sys.path:
            sys.path.insert(0, str(HERE.parent))
        pytest.main([*_OPTIONS, *tests], plugins=[plugin])
    return plugin.passed


@lru_cache(maxsize=1)
def _seeds_passed(release: str) -> list[str]:
    passed = _run_seeds(release, None, [str(path) for path in SEEDS])
    return [str(HERE.parent / nodeid) for nodeid in passed]


def judge_by_seeds(trial: Trial) -> bool:
    """Run the seed's scenarios that the intact release passes."""
    tests = _seeds_passed(trial.release)
    assert tests, "the intact release passes none of the seed's scenarios"
    return len(_run_seeds(trial.release, trial.mutant, tests)) < len(tests)


# mlx-lm's own tests ------------------------------------------------------------------------------


def fetch_tests(release: str, folder: Path) -> Path:
    """Download the source distribution of mlx-lm and return its test_prompt_cache.py."""
    options = ["--no-deps", "--no-binary", "mlx-lm", "--dest", str(folder), f"mlx-lm=={release}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/tests/test_prompt_cache.py"))


class _Tokenizer:
    def encode(self, text: str, **_: Any) -> mx.array:
        return mx.array([[1 + ord(letter) % 60 for letter in text]])


@lru_cache(maxsize=1)
def _tests_of_mlx_lm(file: Path) -> ModuleType:
    from mlx_lm.models import llama  # noqa: PLC0415

    spec = importlib.util.spec_from_file_location("mlx_lm_test_prompt_cache", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    config = llama.ModelArgs(
        model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=64,
    )  # fmt: skip
    mx.random.seed(0)
    model = llama.Model(config)
    mx.eval(model.parameters())
    vars(module)["load"] = lambda _: (model, _Tokenizer())
    return module


@contextlib.contextmanager
def _in_mlx_lm(release: str, mutant: Mutant | None) -> Iterator[None]:
    """Put a mutant's classes and functions in the place of mlx-lm's, wherever they are bound."""
    if mutant is None:
        yield
        return
    own = sys.modules[f"mlx_lm.models.{mutant.unit.file.removesuffix('.py')}"]
    source = origin(release).package.sources[mutant.unit.module].text
    assert Path(str(own.__file__)).read_text(encoding="utf-8") == source, "another mlx-lm"
    changed = ModuleType(own.__name__)
    vars(changed).update({k: v for k, v in vars(own).items() if k.startswith("__")})
    exec(compile(mutant.apply(source), str(own.__file__), "exec"), vars(changed))
    new = {
        id(value): vars(changed)[name]
        for name, value in vars(own).items()
        if getattr(value, "__module__", None) == own.__name__ and name in vars(changed)
    }
    put: list[tuple[ModuleType, str, Any]] = []
    for name, module in [*sys.modules.items()]:
        if name.startswith("mlx_lm"):
            put += [(module, key, value) for key, value in vars(module).items() if id(value) in new]
    for module, key, value in put:
        setattr(module, key, new[id(value)])
    try:
        yield
    finally:
        for module, key, value in put:
            setattr(module, key, value)


def _failures(module: ModuleType, names: list[str] | None) -> set[str]:
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    tests = [test for case in suite for test in case]  # type: ignore[union-attr]
    chosen = [test for test in tests if names is None or test.id() in names]
    result = unittest.TestResult()
    result.failfast = names is not None
    unittest.TestSuite(chosen).run(result)
    failed = {test.id() for test, _ in (*result.failures, *result.errors)}
    return failed if names is not None else {test.id() for test in tests} - failed


@lru_cache(maxsize=1)
def _mlx_lm_passed(release: str, file: Path) -> list[str]:
    with _in_mlx_lm(release, None):
        return sorted(_failures(_tests_of_mlx_lm(file), None))


def judge_by_mlx_lm(trial: Trial) -> bool:
    """Run mlx-lm's test_prompt_cache.py, as far as the intact release passes it."""
    tests = _mlx_lm_passed(trial.release, trial.tests)
    assert tests, "the intact release passes none of its own tests"
    with _in_mlx_lm(trial.release, trial.mutant):
        return bool(_failures(_tests_of_mlx_lm(trial.tests), tests))


# The command -------------------------------------------------------------------------------------


@click.command()
@click.argument("rival", type=click.Choice(["mlx-lm", "seeds"]))
@click.option("--sample", type=click.IntRange(1), default=128)
@click.option("--cache", multiple=True, help="mutants of these classes only")
@click.option("--workers", type=click.IntRange(1), default=1)
def main(rival: str, sample: int, cache: tuple[str, ...], workers: int) -> None:
    """Show a sample of mutants to another suite of tests, and count what it kills."""
    warnings.simplefilter("ignore")
    release = "0.32.2" if rival == "mlx-lm" else "0.31.3"
    settings = Settings(target=f"release:{release}", releases=(release,), caches=cache)
    mutants, _ = make_mutants(Plan(settings, sample=sample), origin(release), {})
    with tempfile.TemporaryDirectory() as folder:
        tests = fetch_tests(release, Path(folder)) if rival == "mlx-lm" else HERE
        intact = Trial(rival, release, None, tests)
        trials = [intact, *(Trial(rival, release, mutant, tests) for mutant in mutants)]
        limits = Limits(seconds=20 * SECONDS)
        found = dict(run_contained(judge, trials, workers, limits))
    if found[intact] is not False:
        raise click.ClickException(f"{rival}: the intact release fails: {found[intact]}")
    killed = sum(isinstance(found[t], Died) or found[t] is True for t in trials[1:])
    of = ", ".join(cache) or "all classes"
    click.echo(f"{rival}: {killed} of {len(mutants)} mutants of {release} ({of})")


if __name__ == "__main__":
    main()
