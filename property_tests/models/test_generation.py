"""mlx-lm's own ways to generate, and its prompt files, are the same with the port's caches."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from models_tests.run import PROMPT, STEP, build, steps_of
from models_tests.seen import differences, modules, seen
from models_tests.tokenizer import tokenizer

from mlxkv import mlx_lm_0_32, use_in_mlx_lm

caches = importlib.import_module("mlx_lm.models.cache")
generation = importlib.import_module("mlx_lm.generate")
TOKENS = 30


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """Where results are the same bits each time."""
    with mx.stream(mx.cpu):
        yield


def stream() -> Any:
    return mx.default_stream(mx.default_device())


def decode(model: Any, prompt_cache: list[Any], **options: Any) -> list[Any]:
    """Tokens and probabilities of `generate_step`."""
    made = generation.generate_step(
        mx.array(PROMPT), model, stream(), max_tokens=TOKENS, prompt_cache=prompt_cache, **options
    )
    return [[int(token), probabilities] for token, probabilities in made]


def twice(work: Callable[[], Any]) -> tuple[Any, Any]:
    """What is seen of the results with mlx-lm's caches, and with the port's."""
    with steps_of(caches, STEP):
        expected = seen(work())
    with use_in_mlx_lm(), steps_of(caches, STEP):
        return expected, seen(work())


def test_quantized() -> None:
    """Caches that mlx-lm quantizes on the way give the same tokens, and end as the same bytes."""
    model = build("llama", head_dim=64, sliding_window=None, layer_types=None)
    made: list[Any] = []

    def work() -> Any:
        made[:] = caches.make_prompt_cache(model)
        return decode(model, made, kv_bits=4, kv_group_size=32, quantized_kv_start=40), made

    assert list(differences(*twice(work))) == []
    assert {type(cache) for cache in made} == {mlx_lm_0_32.QuantizedKVCache}


def test_speculative() -> None:
    """A draft model's wrong guesses are trimmed, and the tokens are the same."""
    model, draft = build("qwen3"), build("qwen2")

    def work() -> Any:
        made = caches.make_prompt_cache(model) + caches.make_prompt_cache(draft)
        guessed = generation.speculative_generate_step(
            mx.array(PROMPT), model, draft, max_tokens=TOKENS, prompt_cache=made
        )
        return [(int(token), from_draft) for token, _, from_draft in guessed], made

    assert list(differences(*twice(work))) == []


def test_batch_generate() -> None:
    """Four prompts of other lengths, two at a time, give the same tokens."""
    model = build("gemma3_text")

    def work() -> Any:
        return generation.batch_generate(
            model,
            tokenizer(),
            [PROMPT[:length] for length in (12, 3, 20, 7)],
            max_tokens=[TOKENS, 5, 17, TOKENS],
            completion_batch_size=2,
            return_token_ids=True,
            stream=stream(),
        ).token_ids

    expected, got = twice(work)
    assert got == expected
    assert [len(tokens) for _, tokens in got[1]][:3] == [TOKENS, 5, 17]


@pytest.mark.parametrize("architecture", ["falcon_h1", "gear", "llama4"])
def test_prompt_files(architecture: str, tmp_path: Path) -> None:
    """mlx-lm's functions save the port's caches as its own, and load the port's meanwhile."""
    model = build(architecture)
    files: list[bytes] = []
    loaded: list[Any] = []

    def work() -> Any:
        made = caches.make_prompt_cache(model)
        mx.eval(model(mx.array([PROMPT]), cache=made))
        file = tmp_path / f"{len(files)}.safetensors"
        caches.save_prompt_cache(str(file), made, {"about": "a prompt"})
        files.append(file.read_bytes())
        loaded[:], about = caches.load_prompt_cache(str(file), return_metadata=True)
        return about["about"], decode(model, loaded), loaded

    assert list(differences(*twice(work))) == []
    assert files[0] == files[1]
    assert modules(loaded) <= {"mlxkv.mlx_lm_0_32._sequences", "mlxkv.mlx_lm_0_32._containers"}
