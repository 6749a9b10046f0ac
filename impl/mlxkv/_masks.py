"""Attention masks, True where a query may look. The releases agree on them, byte for byte."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import mlx.core as mx

from mlxkv._errors import PaddingError

Mask: TypeAlias = mx.array | Literal["causal"] | None


def create_causal_mask(
    N: int,  # noqa: N803 - the release's name, passed by keyword
    offset: int = 0,
    window_size: int | None = None,
    right_padding: mx.array | None = None,
    left_padding: mx.array | None = None,
) -> mx.array:
    """The mask of N queries that follow `offset` cached tokens: bool, (N, offset + N).

    With `window_size` a query sees that many tokens, itself included. Paddings are counts a batch
    row; with either the mask is (B, 1, N, offset + N). Raises what `mx.arange` raises.
    Source: base.py:24-42 of 0.31.3 and of 0.32.2.
    """
    total = offset + N
    key = mx.arange(total)[None]
    query = mx.arange(offset, total)[:, None]
    mask = query >= key
    if window_size is not None:
        mask = mask & (query < key + window_size)
    if right_padding is not None:
        mask = mask & (key < mx.expand_dims(total - right_padding, (1, 2, 3)))
    if left_padding is not None:
        mask = mask & (mx.expand_dims(left_padding, (1, 2, 3)) <= key)
    return mask


def create_attention_mask(
    N: int,  # noqa: N803 - the release's name, passed by keyword
    offset: int,
    return_array: bool,
    window_size: int | None,
) -> Mask:
    """The cheapest mask that says the same: None for one query, "causal", or an array.

    A window always needs the array. Source: 0.31.3 cache.py:114-124, 0.32.2 cache.py:141-151.
    """
    if window_size is None:
        if N == 1:
            return None
        if not return_array:
            return "causal"
    return create_causal_mask(N, offset, window_size=window_size)


def padding_mask(
    cache: object,
    N: int,  # noqa: N803 - the release's name
    left_padding: Any,
    lengths: Any,
) -> mx.array | None:
    """The mask bool (batch, N), True for tokens past the padding and within the lengths.

    None where neither is given. Raises `PaddingError`.
    """
    try:
        positions = mx.arange(N)
        if left_padding is None:
            return None if lengths is None else positions < lengths[:, None]
        mask: mx.array = positions >= left_padding[:, None]
        return mask if lengths is None else mask & (positions < lengths[:, None])
    except (ValueError, TypeError, IndexError):
        expected = "one number a row, and an integer as N"
        got = f"left_padding {left_padding}, lengths {lengths}, N {N!r}"
        raise PaddingError(cache, "make_mask", expected, got) from None
