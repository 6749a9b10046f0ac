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


class ArrayTypeError(CacheError, TypeError, AttributeError, ValueError):
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


class MetaStateError(StateError, IndexError):
    """A `meta_state` of the wrong length, or with a field that is no non-negative integer."""


# Batches ----------------------------------------------------------------------------------------


class NotEmptyError(CacheError, ValueError):
    """The operation needs an empty cache, and there are stored keys and values."""


class PendingPaddingError(CacheError, ValueError, RuntimeError):
    """Right padding is pending, and the operation would apply it to other rows or keep it."""


class BatchStateError(CacheError, ValueError, AttributeError):
    """`left_padding`, `offset`, `_idx` and the buffers of a batch contradict each other."""


class WindowError(CacheError, ValueError):
    """Caches with different `max_size` cannot become one batch."""


# Whole caches -----------------------------------------------------------------------------------


class NotQuantizableError(CacheError, NotImplementedError):
    """The cache has no quantized form."""


class UnknownCacheError(CacheError, KeyError, ValueError, AttributeError):
    """A class name that no cache answers to."""


# Containers -------------------------------------------------------------------------------------


class ItemError(CacheError, IndexError, TypeError, ValueError):
    """No slot, or no child, answers to that index; or a slice does not take what it was given."""


class RowIndexError(CacheError, IndexError):
    """A row outside the batch; mlx would read whatever lies beside the array."""


class RowSelectionError(CacheError, ValueError, TypeError, RuntimeError):
    """Rows named by something other than integers in a list, a 1-D array or a slice."""


class SlotShapeError(CacheError, ValueError, IndexError):
    """The arrays of one slot do not fit together, or have no batch axis."""


class EmptySlotError(CacheError, TypeError):
    """The operation needs an array in the slot, and there is none."""


class MissingSlotError(EmptySlotError, RuntimeError, StopIteration):
    """A slot is empty in every cache of a merge, while others are not.

    mlx-lm raises StopIteration there, which inside a `CacheList` becomes RuntimeError.
    """


class CountError(CacheError, ValueError, IndexError):
    """Caches with different numbers of slots or of children; mlx-lm would drop the rest."""


class NothingError(CacheError, UnboundLocalError, ValueError, IndexError):
    """The operation needs at least one slot, child or cache, and there is none."""


class ListMetaStateError(MetaStateError, IndexError):
    """A `meta_state` of a list that is not the names and the meta_states of its children."""


class PeerError(CacheError, TypeError, AttributeError, ValueError):
    """Another cache takes part, and it is not of the kind that it should be."""

    @classmethod
    def between(cls, cache: object, operation: str, family: type, peer: object) -> PeerError:
        """The error for a peer of another class, whose name may be the same in another module."""
        kind = type(peer)
        got = f"{kind.__module__}.{kind.__name__}"
        return cls(cache, operation, f"another {family.__name__}", got)


class UnsupportedError(CacheError, AttributeError):
    """The cache, or a child of it, does not have the operation."""


class PaddingError(CacheError, ValueError, TypeError, IndexError, RuntimeError):
    """`left_padding`, `lengths` or what they advance by are no numbers, one a row."""


class TokensError(CacheError, ValueError, TypeError, RuntimeError):
    """Something other than token ids: integers in one dimension, of 32 bits."""


# Prompt lookup ----------------------------------------------------------------------------------


class UnhashableTokenError(CacheError, TypeError):
    """A token, or a model, that cannot be hashed."""


class TokenSequenceError(CacheError, TypeError, ValueError):
    """Something other than a sequence of tokens, or one of a kind that cannot be looked up."""


class UnknownPromptError(CacheError, KeyError):
    """Nothing is stored under this model and these tokens."""


class UnknownCacheTypeError(CacheError, KeyError, TypeError):
    """A cache type that the order has no queue for."""


class EmptyOrderError(CacheError, IndexError):
    """There is nothing left to evict."""


class LimitError(CacheError, ValueError, IndexError):
    """A negative `max_bytes`: even an empty cache holds more."""


class OrderingError(CacheError, UnboundLocalError):
    """An ordering of fewer than two cache types, which mlx-lm cannot evict by."""
