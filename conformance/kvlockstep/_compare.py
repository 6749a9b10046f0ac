"""When two frozen values are the same. The bytes of arrays are compared where they are settled."""

from __future__ import annotations

from typing import Literal

from kvlockstep._snapshots import Raised

Errors = Literal["type+message", "type", "raises"]

_SCALARS = (bool, int, float, str, bytes, type(None))


def same_error(expected: Raised, actual: Raised, errors: Errors) -> bool:
    """Tell whether the target's error is the reference's, as far as the target promises.

    `type`: a handler written for the reference's error catches the target's too.
    """
    match errors:
        case "raises":
            return True
        case "type":
            return isinstance(actual.error, type(expected.error))
        case "type+message":
            same_type = type(actual.error).__qualname__ == type(expected.error).__qualname__
            same_text = str(actual.error) == str(expected.error)
            return same_type and (same_text or actual.message == expected.message)


def is_own(actual: Raised, own: str | None) -> bool:
    """Tell whether an error is of the class, if any, that a target has for what its caches raise.

    One that no cache was there for passes: arguments that a method does not take, a `depends` on
    keys of None.
    """
    if own is None or actual.module.partition(".")[0] == __name__.partition(".")[0]:
        return True
    return any(kind.__name__ == own for kind in type(actual.error).__mro__)


def same_scalar(expected: object, actual: object) -> bool:
    """Tell whether two values that are no arrays are the same, down to 1, 1.0 and True.

    Objects of other classes have no bytes to look at: the name of the class stands for them.
    """
    if isinstance(expected, _SCALARS):
        return type(expected) is type(actual) and repr(expected) == repr(actual)
    return type(expected).__name__ == type(actual).__name__


def is_unset(field: str, error: BaseException) -> bool:
    """Tell whether the reference never set a private field: there is nothing to compare.

    What comes of it shows in the outcome of the operations that need it.
    """
    return field.startswith("_") and isinstance(error, AttributeError)
