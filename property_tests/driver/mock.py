"""A model that stores its tokens: what each layer holds says what it was given."""

from __future__ import annotations

import io
from typing import Any

import mlx.core as mx

HEAD_DIM = 32


class Mock:
    """Keys and values of one head, every number of a row its token's id; constant logits.

    `lengths`: of the tokens of each call. `pending`: whether in a call some cache was not
    evaluated yet.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.pending: list[bool] = []

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        self.lengths.append(tokens.shape[1])
        self.pending.append(any(is_pending(*stored(one)) for one in cache if not one.empty()))
        rows = mx.broadcast_to(tokens[:, None, :, None], (1, 1, tokens.shape[1], HEAD_DIM))
        for one in cache:
            one.update_and_fetch(rows.astype(mx.float32), -rows.astype(mx.float32))
        return mx.zeros((*tokens.shape, 5))


class Layered(Mock):
    """One that says how many layers it has, as mlx-lm's models do."""

    layers = range(2)


def is_pending(*arrays: Any) -> bool:
    """Whether an evaluation is still to come for any of these arrays."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *arrays)
    return "->" in graph.getvalue()


def stored(cache: Any) -> list[mx.array]:
    """The arrays that a cache keeps, and no view that it makes of them when asked."""
    return [field for field in vars(cache).values() if isinstance(field, mx.array)]


def held(cache: Any) -> list[int]:
    """The tokens whose keys a standard cache holds."""
    ids: list[int] = cache.keys[0, 0, : cache.offset, 0].astype(mx.int32).tolist()
    return ids
