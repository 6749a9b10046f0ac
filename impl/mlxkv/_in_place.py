"""What an update asks first: is there anything to do but write its rows where they belong?"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

_ARRAY = mx.array


def capacity_for(k_buffer: Any, v_buffer: Any, keys: Any, values: Any) -> int:
    """The rows of both buffers, if keys and values are one token each, like theirs; else 0.

    Then nothing broadcasts, and a write inside the buffers cannot fail. It takes the fewest
    look-ups: what is wrong with an update for which it is 0 is for others to say.
    """
    if k_buffer is None or type(keys) is not _ARRAY or type(values) is not _ARRAY:
        return 0
    batch, n_kv_heads, rows, head_dim = k_buffer.shape
    if keys.shape != (batch, n_kv_heads, 1, head_dim):
        return 0
    batch, n_kv_heads, v_rows, head_dim = v_buffer.shape
    if values.shape != (batch, n_kv_heads, 1, head_dim) or v_rows != rows:
        return 0
    return rows  # type: ignore[no-any-return]
