"""Every architecture of mlx-lm: the same bytes with the port's caches in place as with its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlx_lm.models.cache import make_prompt_cache
from models_tests.architectures import SAMPLE, architectures, cannot_run, checked
from models_tests.run import build
from models_tests.seen import classes
from models_tests.tiny import DIFFERENT
from models_tests.verdict import judge


@pytest.mark.parametrize("architecture", checked())
def test_architecture(architecture: str, record_property: Callable[[str, object], None]) -> None:
    """It runs and gives the same bytes, or cannot run for exactly the reason that is listed."""
    verdict = judge(architecture, cannot_run().get(architecture))
    record_property("architecture", architecture)
    record_property("result", verdict.result)
    record_property("about", verdict.about)
    assert verdict.problems == []


def test_lists_name_architectures() -> None:
    """Whatever is listed by name is an architecture of the mlx-lm that is installed."""
    assert {*cannot_run(), *DIFFERENT, *SAMPLE} <= set(architectures())


def test_the_sample_has_every_combination() -> None:
    """The sample of `make test` has every combination of the classes in mlx-lm's cache module.

    deepseek_v41 has a class of its own, which the port does not replace.
    """
    running = [name for name in checked() if name not in cannot_run()]
    combinations = {name: classes(make_prompt_cache(build(name))) for name in running}
    covered = {combinations[name] for name in SAMPLE}
    assert {name for name in running if combinations[name] not in covered} == {"deepseek_v41"}
