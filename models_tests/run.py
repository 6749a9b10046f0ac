"""Running an architecture twice: with mlx-lm's caches, and with the port's in their place."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from models_tests.seen import classes, differences, modules, seen
from models_tests.tiny import VOCABULARY, WINDOW, configuration
from models_tests.tokenizer import tokenizer

from mlxkv import use_in_mlx_lm

# The prompt comes in chunks longer and shorter than the window, and as one token.
CHUNKS = (WINDOW + 3, 5, 1, WINDOW)
PROMPT = [(7 * i * i + 3 * i + 1) % VOCABULARY for i in range(sum(CHUNKS))]
DECODED = 44
# The `max_kv_size` of a second round, of which mlx-lm keeps the first four tokens.
LIMIT = WINDOW + 4
# Small, so that the buffers grow several times in so few tokens.
STEP = 16
MOST_BYTES = 64 << 20
CACHES = "mlx_lm.models.cache"


class NotComparableError(Exception):
    """A model whose results say nothing: too large to evaluate, or not numbers."""


@dataclass
class Run:
    """What is seen of each call's logits and of the caches at the end, each under a name.

    `classes`: of the model's own caches. `modules`: where the classes of all caches are from.
    """

    results: dict[str, Any] = field(default_factory=dict)
    classes: str = ""
    modules: set[str] = field(default_factory=set)


@dataclass
class Comparison:
    """The classes of mlx-lm's caches, and where the port's results are not the same bytes.

    `batches`: "batches" where `batch_generate` works with mlx-lm's caches, else the error that it
    raises with them, and has to raise with the port's.
    """

    classes: str
    batches: str
    differences: list[str]


def build(architecture: str, **changes: Any) -> Any:
    """A tiny model of that architecture, with random weights that are the same each time."""
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    mx.random.seed(7)
    arguments = module.ModelArgs.from_dict({**configuration(architecture), **changes})
    model = module.Model(arguments)
    size = sum(weight.nbytes for _, weight in tree_flatten(model.parameters()))
    if size > MOST_BYTES:  # Weights are lazy: nothing is allocated yet.
        raise NotComparableError(f"{size:,} bytes of weights")
    model.update(tree_map(_disturbed, model.parameters()))
    mx.eval(model.parameters())
    return model.eval()


def _disturbed(weight: mx.array) -> mx.array:
    """The weight with some noise: many start as constants, now and then a last projection's."""
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    return weight + (0.02 * mx.random.normal(weight.shape)).astype(weight.dtype)


def compare(architecture: str) -> Comparison:
    """Generate alone and in a batch, with both caches.

    Raises what the architecture raises with mlx-lm's caches when it generates alone.
    """
    with mx.stream(mx.cpu):
        model = build(architecture)
        alone = generate(model)
        found = _differences(alone, lambda: generate(model))
        try:
            batch = generate_batch(model)
        except Exception as error:
            return Comparison(alone.classes, _spelled(error), found + _errors(model, error))
        found += _differences(batch, lambda: generate_batch(model))
        return Comparison(alone.classes, "batches", found)


def _differences(expected: Run, with_port: Callable[[], Run]) -> list[str]:
    try:
        with use_in_mlx_lm():
            got = with_port()
    except Exception as error:
        return [f"raised {_spelled(error)}"]
    mixed = [f"{CACHES} among {got.modules}"] if CACHES in got.modules else []
    return mixed + [
        difference
        for name, result in expected.results.items()
        for difference in differences(result, got.results[name], name)
    ]


def _errors(model: Any, expected: Exception) -> list[str]:
    """Nothing, where the port's caches make a batch fail in the same way."""
    try:
        with use_in_mlx_lm():
            generate_batch(model)
    except type(expected):
        return []
    except Exception as error:
        return [f"batch: expected {_spelled(expected)}, raised {_spelled(error)}"]
    return [f"batch: expected {_spelled(expected)}, and it worked"]


def _spelled(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def generate(model: Any) -> Run:
    """Call the model without a cache, then prefill each of its caches in chunks and decode."""
    caches = importlib.import_module(CACHES)
    run = Run()

    def call(name: str, tokens: list[int], **cache: Any) -> int:
        logits = model(mx.array([tokens]), **cache)
        if mx.any(mx.isnan(logits)).item():
            raise NotComparableError(f"NaN in the logits of {name}")
        run.results[name] = seen(logits)
        return int(mx.argmax(logits[0, -1]).item())

    def fill(made: list[Any], title: str = "") -> None:
        start = 0
        for size in CHUNKS:
            tokens = PROMPT[start : start + size]
            likeliest = call(f"{title}prefill from {start}", tokens, cache=made)
            start += size
        for position in range(start, start + DECODED):
            # Not the likeliest alone, which a random model repeats.
            token = (likeliest + position) % VOCABULARY
            likeliest = call(f"{title}decode at {position}", [token], cache=made)
        run.results[f"{title}caches"] = seen(made)
        run.modules |= modules(made)

    with steps_of(caches, STEP):
        call("without a cache", PROMPT)
        own = caches.make_prompt_cache(model)
        run.classes = classes(own)
        fill(own)
        if not hasattr(model, "make_cache"):  # Then mlx-lm lets the user limit the size.
            fill(caches.make_prompt_cache(model, max_kv_size=LIMIT), "limited: ")
    return run


def generate_batch(model: Any) -> Run:
    """Generate for three prompts, two at a time: caches are merged, filtered and extracted."""
    caches = importlib.import_module(CACHES)
    batches = importlib.import_module("mlx_lm.generate")
    with steps_of(caches, STEP):
        response = batches.batch_generate(
            model,
            tokenizer(),
            [PROMPT[:9], PROMPT[3:20], PROMPT[:2]],
            max_tokens=[40, 25, 12],
            return_prompt_caches=True,
            return_token_ids=True,
            return_logprobs=True,
            prefill_step_size=5,
            prefill_batch_size=2,
            completion_batch_size=2,
            stream=mx.default_stream(mx.default_device()),
        )
    results = {
        f"batch: {name}": seen(getattr(response, name))
        for name in ("token_ids", "logprobs", "caches")
    }
    return Run(results, modules=modules([cache for made in response.caches for cache in made]))


@contextlib.contextmanager
def steps_of(caches: Any, step: int) -> Iterator[None]:
    """Let the buffers of every class in that module grow by so many rows."""
    with contextlib.ExitStack() as stack:
        for cls in vars(caches).values():
            if isinstance(cls, type) and hasattr(cls, "step"):
                stack.enter_context(patch.object(cls, "step", step))
        yield
