"""Filling caches with a prompt, chunk by chunk, beside them in the memory of one chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import mlx.core as mx

from mlxkv._backed import BackedCache
from mlxkv._chunked import ChunkedKVCache
from mlxkv._errors import CacheError, TokensError
from mlxkv._list import CacheList
from mlxkv._quantized import quantize

Progress = Callable[[int, int], object]

STEP_SIZE = 2048
QUANTIZED_KV_START = 5000


class EmptyPromptError(CacheError, ValueError):
    """A prompt without tokens; nothing was run or written."""


@dataclass(frozen=True)
class Quantization:
    """How to quantize the caches, and from which offset on; `bits` None is not at all."""

    bits: int | None = None
    group_size: int = 64
    start: int = QUANTIZED_KV_START

    def check(self, cache: Sequence[Any], tokens: int) -> None:
        """Raise what `apply` would after that many tokens more, before anything is computed.

        The arrays that this makes are never evaluated.
        """
        if self.bits is None:
            return
        for one in cache:
            if hasattr(one, "to_quantized") and one.offset + tokens >= self.start:
                one.to_quantized(group_size=self.group_size, bits=self.bits)
                # An empty cache does not say no; these rows fit every size that MLX knows.
                quantize(one, "to_quantized", mx.zeros((1, 512)), self.group_size, self.bits)

    def apply(self, cache: list[Any]) -> None:
        """Replace the caches that are long enough by quantized ones, in the list.

        Source: 0.31.3 generate.py:305-310, 0.32.2 generate.py:305-310.
        """
        if self.bits is not None:
            for layer, one in enumerate(cache):
                if hasattr(one, "to_quantized") and one.offset >= self.start:
                    cache[layer] = one.to_quantized(group_size=self.group_size, bits=self.bits)


def prefill(
    model: Any,
    tokens: Any,
    cache: list[Any],
    step_size: int = STEP_SIZE,
    on_progress: Progress | None = None,
    *,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = QUANTIZED_KV_START,
) -> mx.array:
    """Run the model over a prompt so that the caches hold all of it; return the last logits.

    tokens: ids, a sequence of integers or an array (tokens,). cache: a list of caches, one a
    layer, the port's or mlx-lm's own; those that are quantized on the way are replaced in it.
    Returns (1, vocabulary), evaluated, as the caches are.

    All tokens but the last go in chunks of `step_size` (at least 1), then the last one alone:
    what mlx-lm's `generate_step` does, with the same bytes. After each chunk every cache is
    materialized, its buffers themselves and not the slices of its state, so that the lazy graph
    never spans two chunks, and what is not held in the caches does not grow with their number. The
    port's caches that keep all tokens are told the length first (`reserve`), so that no buffer is
    copied as it grows. `on_progress` is called with the tokens done and all tokens: before the
    first chunk, after each, and at the end.

    With `kv_bits` caches are quantized once their offset is `quantized_kv_start` or more; what
    cannot be quantized is refused first. Raises `EmptyPromptError`, `TokensError`,
    `NotQuantizableError`, `QuantizationError`, and then what the model, the caches or
    `on_progress` raise: the caches hold the chunks that were done, and `cache` is as good as
    before only if it is empty.
    Source: 0.31.3 generate.py:361-458, 0.32.2 generate.py:361-482.
    """
    prompt = to_prompt(tokens)
    total = prompt.size
    quantization = Quantization(kv_bits, kv_group_size, quantized_kv_start)
    quantization.check(cache, total)
    report = on_progress or (lambda _done, _total: None)
    report(0, total)
    announce(cache, total)
    step = max(1, step_size)
    for start in range(0, total - 1, step):
        stop = min(start + step, total - 1)
        model(prompt[None, start:stop], cache=cache)
        quantization.apply(cache)
        materialize(cache)
        report(stop, total)
        mx.clear_cache()
    logits: mx.array = model(prompt[None, -1:], cache=cache)[:, -1, :]
    quantization.apply(cache)
    mx.eval(logits, list(buffers(cache)))
    report(total, total)
    return logits


def to_prompt(tokens: Any) -> mx.array:
    """The ids as an array (tokens,); raises `EmptyPromptError` and `TokensError`."""
    expected = "token ids, integers in one dimension"
    try:
        array = isinstance(tokens, mx.array)
        prompt = tokens if array else mx.array([index(token) for token in tokens])
    except (TypeError, ValueError, RuntimeError) as error:
        raise TokensError("mlxkv", "prefill", expected, f"{tokens!r:.80}: {error}") from error
    if not prompt.size:
        raise EmptyPromptError("mlxkv", "prefill", "a prompt of at least one token", "none")
    if prompt.ndim != 1 or not mx.issubdtype(prompt.dtype, mx.integer):
        got = f"{prompt.dtype} {prompt.shape}"
        raise TokensError("mlxkv", "prefill", expected, got)
    return prompt


def announce(cache: Iterable[Any], tokens: int) -> None:
    """Reserve room for that many tokens more in each cache, or child of one, that can.

    Not in one that forgets its first tokens on the way: it never holds as many.
    """
    for one in cache:
        if isinstance(one, ChunkedKVCache) and one.chunk_size is not None:
            continue
        if isinstance(one, BackedCache):
            one.reserve(one.offset + tokens)
        elif isinstance(one, CacheList):
            announce(one.caches, tokens)


def materialize(cache: Sequence[Any]) -> None:
    """Evaluate the buffers of each cache: the barrier between two chunks."""
    for one in cache:
        if hasattr(one, "materialize"):
            one.materialize()
        else:
            mx.eval(list(buffers(one)))


def buffers(held: Any) -> Iterator[mx.array]:
    """The arrays that caches hold, whoever's class they are: fields, not slices made of them."""
    if isinstance(held, mx.array):
        yield held
    elif isinstance(held, list | tuple):
        for item in held:
            yield from buffers(item)
    elif hasattr(type(held), "state") and hasattr(held, "__dict__"):
        for field in vars(held).values():
            yield from buffers(field)
