"""A sample of mlx-lm's architectures: one for every combination of cache classes.

`make models` runs them all.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from models_tests.architectures import SAMPLE, CannotRun, cannot_run
from models_tests.run import CHUNKS, DECODED, NotComparableError, build, compare, generate
from models_tests.tiny import WINDOW
from models_tests.verdict import Verdict, judge

from mlxkv import mlx_lm_0_32


@pytest.mark.parametrize("architecture", SAMPLE)
def test_sample(architecture: str) -> None:
    """With the port's caches in place, logits, tokens and caches are the same bytes."""
    assert compare(architecture).differences == []


def test_the_window_wraps() -> None:
    """The runs are long enough for a rotating cache to write over its oldest rows many times."""
    with mx.stream(mx.cpu):
        run = generate(build("gemma3_text"))
    rotating = run.results["caches"][1][0][1]
    assert rotating["max_size"] == ("int", WINDOW)
    assert rotating["offset"] == ("int", sum(CHUNKS) + DECODED)
    assert sum(CHUNKS) + DECODED > 8 * WINDOW


def test_a_fault_of_the_port_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key that is written one place too far is seen in the logits, the batch and the caches."""
    update = mlx_lm_0_32.RotatingKVCache.update_and_fetch

    def shifted(self: Any, keys: mx.array, values: mx.array) -> Any:
        late = self.offset == 30
        return update(self, mx.roll(keys, 1, -1) if late else keys, values)

    monkeypatch.setattr(mlx_lm_0_32.RotatingKVCache, "update_and_fetch", shifted)
    found = compare("gemma3_text").differences
    assert found[0].startswith("decode at 30: expected")


def test_an_error_of_the_port_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that the port alone raises is a difference, not a failed set-up."""
    monkeypatch.setattr(mlx_lm_0_32.KVCache, "make_mask", lambda *_, **__: 1 / 0)
    found = compare("llama4").differences
    assert found[0] == "raised ZeroDivisionError: division by zero"


def test_the_list_is_checked_both_ways() -> None:
    """One that is listed and runs is wrong, and so is one that fails unlisted or otherwise."""
    no = CannotRun("It is too much.", "MemoryError", "too much")
    assert judge("mamba", no).problems == ["listed as one that cannot run, and runs"]
    assert "not listed, and raises SystemExit: 1" in judge("olmo", None).problems
    assert judge("olmo", no).problems == [
        "listed with MemoryError: too much, and raises SystemExit: 1"
    ]
    assert judge("olmo", cannot_run()["olmo"]) == Verdict(
        "cannot run", cannot_run()["olmo"].reason, []
    )


def test_a_large_model_is_not_evaluated() -> None:
    """Weights are counted before they are allocated."""
    with pytest.raises(NotComparableError, match=r"\d bytes of weights"):
        build("llama", hidden_size=1 << 16)
