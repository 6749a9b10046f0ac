"""The server's generation thread and its prompt cache work with the port's classes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from models_tests.run import build
from models_tests.seen import differences, modules, seen
from models_tests.tokenizer import tokenizer

from mlxkv import use_in_mlx_lm

caches = importlib.import_module("mlx_lm.models.cache")
server = importlib.import_module("mlx_lm.server")

KEY = ("a model", None, None)
SYSTEM = ("system", "1 2 3 4 5 6 7")
ASKED = ("user", "10 11 12 13 14 15 16 17 18 19 20 21")
OTHER = ("user", "10 11 12 13 30 31")
# A conversation, again, another with the same beginning, the first going on, and without a system.
CONVERSATIONS = (
    (SYSTEM, ASKED),
    (SYSTEM, ASKED),
    (SYSTEM, OTHER),
    (SYSTEM, ASKED, ("assistant", "40 41 42"), OTHER),
    (ASKED,),
)


class Provider(SimpleNamespace):
    """As much of the server's `ModelProvider` as its generation thread asks for."""

    def __init__(self, model: Any) -> None:
        batchable = all(hasattr(cache, "merge") for cache in caches.make_prompt_cache(model))
        super().__init__(
            model=model,
            tokenizer=tokenizer(),
            model_key=KEY,
            is_batchable=batchable,
            draft_model=None,
            processor=None,
            cli_args=SimpleNamespace(
                decode_concurrency=4,
                prompt_concurrency=2,
                prefill_step_size=6,
                prompt_cache_bytes=1 << 20,
                kv_bits=None,
                kv_group_size=32,
                quantized_kv_start=0,
                chat_template_args={},
            ),
        )

    def load_default(self) -> None:
        """Nothing: the model is there."""

    def load(self, *_: Any) -> tuple[Any, Any]:
        return self.model, self.tokenizer

    def reset(self) -> None:
        """The thread calls this last.

        MLX 0.32.4 on the CPU often aborts the process at its end if a thread left streams behind.
        """
        mx.clear_streams()


def arguments(seed: int | None) -> Any:
    """A request's arguments; with a seed the server does not batch."""
    return server.GenerationArguments(
        model=server.ModelDescription("a model", None, None),
        sampling=server.SamplingArguments(0.0, 1.0, 0, 0.0, 0.0, 0.1),
        logits=server.LogitsProcessorArguments(None, 0.0, 20, 0.0, 20, 0.0, 20),
        stop_words=[],
        max_tokens=12,
        num_draft_tokens=0,
        logprobs=False,
        top_logprobs=-1,
        seed=seed,
        chat_template_kwargs=None,
    )


class Watched:
    """The server's prompt cache, and what it was given and gave, seen in the server's thread."""

    def __init__(self) -> None:
        self.cache = server.LRUPromptCache(3)
        self.told: list[Any] = []
        self.modules: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def __len__(self) -> int:
        return len(self.cache)

    def fetch_nearest_cache(self, *key: Any) -> Any:
        cache, rest = self.cache.fetch_nearest_cache(*key)
        self._watch("fetched", cache or [], [rest])
        return cache, rest

    def insert_cache(self, key: Any, tokens: list[int], cache: list[Any], **options: Any) -> None:
        self._watch("inserted", cache, [tokens, *options.values()])
        self.cache.insert_cache(key, tokens, cache, **options)

    def _watch(self, what: str, cache: list[Any], more: list[Any]) -> None:
        self.modules |= modules(cache)
        stats = sorted((kind, sorted(of.items())) for kind, of in self.stats_by_type().items())
        self.told.append(seen([what, cache, more, len(self), self.nbytes, stats]))


@contextmanager
def running(model: Any, prompt_cache: Any) -> Iterator[Any]:
    generator = server.ResponseGenerator(Provider(model), prompt_cache)
    try:
        yield generator
    finally:
        generator.stop_and_join()


def serve(model: Any, seed: int | None) -> tuple[Any, list[int], Watched]:
    """The answers, how many tokens of each prompt were cached, and the prompt cache."""
    watched = Watched()
    answers, cached = [], []
    with running(model, watched) as generator:
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            request = server.CompletionRequest("chat", "", messages, None, None)
            context, responses = generator.generate(request, arguments(seed))
            answers.append([(response.token, response.logprob) for response in responses])
            cached.append(context.prompt_cache_count)
    return seen(answers), cached, watched


@pytest.mark.parametrize("seed", [None, 1], ids=["batched", "alone"])
@pytest.mark.parametrize("architecture", ["gear", "qwen3"])
def test_server(architecture: str, seed: int | None) -> None:
    """Answers, hits, statistics and every cache that is fetched or kept are the same bytes."""
    model = build(architecture)
    answers, cached, expected = serve(model, seed)
    with use_in_mlx_lm():
        answers_ours, cached_ours, got = serve(model, seed)
    assert list(differences(answers, answers_ours)) == []
    assert cached == cached_ours
    # Without batches the server keeps whole answers alone, and a full window cannot be trimmed.
    assert (max(cached) > 0) is (architecture == "qwen3" or seed is None)
    assert list(differences(("list", expected.told), ("list", got.told))) == []
    assert got.modules <= {"mlxkv.mlx_lm_0_32._sequences", "mlxkv.mlx_lm_0_32._containers"}
