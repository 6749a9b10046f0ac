"""What a cache raises: one class per meaning, each derived from the built-in mlx-lm raises there.

Handlers written for mlx-lm keep working, and a handler for one meaning can name it. Every message
reads "<cache class>.<operation>: expected <this>, got <that>".
"""

from __future__ import annotations


class CacheError(Exception):
    """Base of every error of this package; the cache that raised it is as it was before the call.

    `cache`, `operation`, `expected` and `got` are the four parts of the message.
    """

    def __init__(self, cache: object, operation: str, expected: str, got: str) -> None:
        name = cache if isinstance(cache, str) else type(cache).__name__
        super().__init__(name, operation, expected, got)
        self.cache, self.operation, self.expected, self.got = name, operation, expected, got

    def __str__(self) -> str:
        return f"{self.cache}.{self.operation}: expected {self.expected}, got {self.got}"


# New rows ---------------------------------------------------------------------------------------


class ArrayTypeError(CacheError, TypeError, AttributeError):
    """Something other than an `mx.array` where one is needed."""


class RankError(CacheError, ValueError, IndexError):
    """An array that is not of rank 4, (batch, n_kv_heads, tokens, head_dim)."""


class LengthMismatchError(CacheError, ValueError):
    """Keys and values of one update hold different numbers of tokens."""


class ShapeError(CacheError, ValueError):
    """Batch, n_kv_heads or head_dim of new rows do not fit the buffer."""


class LostWriteError(CacheError, ValueError, IndexError):
    """The rows would fall outside their buffer; mlx would drop them in silence."""


class StepError(CacheError, ValueError, ZeroDivisionError):
    """`step` is smaller than one, so the buffers cannot grow."""


class RingStateError(CacheError, ValueError):
    """`offset`, `_idx` and the buffers of a rotating cache contradict each other."""


class QuantizationError(CacheError, ValueError, ZeroDivisionError):
    """`group_size` and `bits` cannot quantize these rows."""


# Sizes and counts -------------------------------------------------------------------------------


class NotAnIntegerError(CacheError, TypeError):
    """A count or a size that is not an integer."""


class NegativeSizeError(CacheError, ValueError):
    """A negative `max_size`, `keep` or `chunk_size`."""


class NegativeTrimError(CacheError, ValueError):
    """A negative number of tokens to trim; mlx-lm would move the offset past the data."""


class NotTrimmableError(CacheError, ValueError):
    """The tokens to trim are no longer held."""


# State ------------------------------------------------------------------------------------------


class EmptyCacheError(CacheError, AttributeError, TypeError):
    """The operation needs stored keys and values, and there are none."""


class StateError(CacheError, ValueError, TypeError):
    """A state that the cache cannot be set to."""


class StateArityError(StateError):
    """A state, or a part of one, with the wrong number of entries."""


class StateScalarError(StateError):
    """A scalar of a state is no integer, is negative, or contradicts the buffers."""


class MetaStateError(StateError):
    """A `meta_state` of the wrong length, or with a field that is no non-negative integer."""


# Whole caches -----------------------------------------------------------------------------------


class NotQuantizableError(CacheError, NotImplementedError):
    """The cache has no quantized form."""


class UnknownCacheError(CacheError, KeyError, ValueError):
    """A class name that no cache answers to."""
