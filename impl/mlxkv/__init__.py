"""A port of mlx-lm's KV caches: the same bytes, but a failed operation changes nothing.

`mlxkv.mlx_lm_0_31` and `mlxkv.mlx_lm_0_32` stand in for `mlx_lm.models.cache` of releases 0.31.3
and 0.32.2; the errors of both are here.
"""

from mlxkv._errors import (
    ArrayTypeError,
    CacheError,
    EmptyCacheError,
    LengthMismatchError,
    LostWriteError,
    MetaStateError,
    NegativeSizeError,
    NegativeTrimError,
    NotAnIntegerError,
    NotQuantizableError,
    NotTrimmableError,
    QuantizationError,
    RankError,
    RingStateError,
    ShapeError,
    StateArityError,
    StateError,
    StateScalarError,
    StepError,
    UnknownCacheError,
)

KVLOCKSTEP = {
    "contracts": {"0.31.3": "mlxkv.mlx_lm_0_31", "0.32.2": "mlxkv.mlx_lm_0_32"},
}

__all__ = [
    "KVLOCKSTEP",
    "ArrayTypeError",
    "CacheError",
    "EmptyCacheError",
    "LengthMismatchError",
    "LostWriteError",
    "MetaStateError",
    "NegativeSizeError",
    "NegativeTrimError",
    "NotAnIntegerError",
    "NotQuantizableError",
    "NotTrimmableError",
    "QuantizationError",
    "RankError",
    "RingStateError",
    "ShapeError",
    "StateArityError",
    "StateError",
    "StateScalarError",
    "StepError",
    "UnknownCacheError",
]
