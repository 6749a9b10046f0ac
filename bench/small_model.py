"""A small model of attention layers, of MLX alone, to fill caches with."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

HEADS, HEAD_DIM, LAYERS, VOCABULARY = 4, 32, 4, 64
WIDTH = HEADS * HEAD_DIM


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def __call__(self, x: mx.array, cache: Any) -> mx.array:
        batch, tokens, _ = x.shape
        split = self.project(self.norm(x)).reshape(batch, tokens, 3 * HEADS, HEAD_DIM)
        queries, keys, values = mx.split(split.transpose(0, 2, 1, 3), 3, axis=1)
        mask = cache.make_mask(tokens, window_size=None, return_array=False)
        keys, values = cache.update_and_fetch(keys, values)
        attended = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=HEAD_DIM**-0.5, mask=mask
        )
        return x + self.out(attended.transpose(0, 2, 1, 3).reshape(batch, tokens, WIDTH))


class SmallModel(nn.Module):
    """Four layers of four heads of 32, evaluated random weights; mlx-lm's calling convention."""

    def __init__(self) -> None:
        super().__init__()
        mx.random.seed(7)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = [Layer() for _ in range(LAYERS)]
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        mx.eval(self.parameters())

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        x = self.embed(tokens)
        for layer, one in zip(self.layers, cache, strict=True):
            x = layer(x, one)
        return self.head(x)
