"""mlx-lm's llama4 forgets before each chunk: the port's caches stay the release's, in both."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import pytest
from models_tests.run import build, steps_of
from models_tests.seen import differences, seen
from models_tests.tiny import VOCABULARY, configuration

from kvreference import load
from mlxkv import LostWriteError, mlx_lm_0_31, prefill

generation = importlib.import_module("mlx_lm.generate")
DECODED = 12


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """Where results are the same bits each time."""
    with mx.stream(mx.cpu):
        yield


@pytest.fixture
def release(contract: ModuleType) -> str:
    return "0.31.3" if contract.__name__.endswith("31") else "0.32.2"


def llama4(chunk: int) -> Any:
    """A tiny one that attends to chunks of that many tokens."""
    text = {**configuration("llama4")["text_config"], "attention_chunk_size": chunk}
    return build("llama4", text_config=text)


def made_by(classes: Any, chunk: int) -> list[Any]:
    """What its `make_cache` makes, of these classes: every fourth layer attends to everything."""
    return [*(classes.ChunkedKVCache(chunk) for _ in range(3)), classes.KVCache()]


def prompt_of(length: int) -> list[int]:
    return [(7 * i * i + 3 * i + 1) % VOCABULARY for i in range(length)]


def with_mlx_lm(model: Any, prompt: list[int], cache: list[Any], step: int) -> None:
    """mlx-lm's own prefill."""
    stream = mx.default_stream(mx.cpu)
    for _ in generation.generate_step(
        mx.array(prompt), model, stream, max_tokens=0, prompt_cache=cache, prefill_step_size=step
    ):
        pass


def decode(model: Any, cache: list[Any]) -> list[Any]:
    """What is seen of the logits of a few tokens more."""
    return [seen(model(mx.array([[token]]), cache=cache)) for token in range(DECODED)]


# Chunks of the prefill that are shorter and longer than the model's, and do not divide them. In
# 0.31.3 buffers may not grow by more rows than a chunk has, or a fresh one counts as too long.
@pytest.mark.parametrize(
    ("chunk", "growth", "step"),
    [
        *((8, 8, step) for step in (1, 3, 4, 7, 8, 9, 11, 16, 40)),
        *((24, 8, step) for step in (1, 5, 8, 23, 24, 25, 60)),
        *((256, 256, step) for step in (100, 256)),
    ],
)
def test_identical_caches(
    contract: ModuleType, release: str, chunk: int, growth: int, step: int, tmp_path: Path
) -> None:
    """Caches, files, and tokens decoded on them, are the same bytes after six chunks and more."""
    classes, model = load(release).cache, llama4(chunk)
    prompt = prompt_of(6 * max(chunk, step) + 3)
    starts: list[int] = []
    done: list[int] = []

    def note(tokens: int, _total: int) -> None:
        starts.append(got[0].start_position)
        done.append(tokens)

    with steps_of(classes, growth), steps_of(contract, growth):
        expected, got = made_by(classes, chunk), made_by(contract, chunk)
        with_mlx_lm(model, prompt, expected, step)
        prefill(model, prompt, got, step, note)
        assert list(differences(seen(expected), seen(got))) == []
        files = tmp_path / "expected.safetensors", tmp_path / "got.safetensors"
        classes.save_prompt_cache(str(files[0]), expected, {"model": "llama4"})
        contract.save_prompt_cache(files[1], got, {"model": "llama4"})
        assert files[0].read_bytes() == files[1].read_bytes()
        assert decode(model, expected) == decode(model, got)
        assert list(differences(seen(expected), seen(got))) == []
        if release != "0.31.3":  # Its files do not hold the offset of a chunked cache.
            loaded = classes.load_prompt_cache(str(files[1]))
            assert decode(model, contract.load_prompt_cache(files[1])) == decode(model, loaded)
    # What is above has happened: chunks of the prefill, and of the model.
    assert len(done) >= 7
    assert len(set(starts)) >= 6
    assert got[0].start_position > 5 * chunk


@pytest.mark.parametrize("step", [1, 3, 8, 16])
def test_where_0_31_loses_tokens(step: int) -> None:
    """Where a fresh buffer is longer than a chunk the port raises, and says what would be lost.

    0.31.3 fails there as well, but for single tokens: it drops them and goes on.
    """
    model, prompt = llama4(8), prompt_of(6 * 16)
    expected = made_by(load("0.31.3").cache, 8)
    if step == 1:
        with_mlx_lm(model, prompt, expected, step)
        assert expected[0].start_position > expected[0].offset
    else:
        with pytest.raises(ValueError, match="broadcast"):
            with_mlx_lm(model, prompt, expected, step)
    with pytest.raises(LostWriteError):
        prefill(model, prompt, made_by(mlx_lm_0_31, 8), step)
