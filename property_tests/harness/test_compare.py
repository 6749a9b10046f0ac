"""When two values are the same: to the byte, to the type, to the message where it is promised."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from kvlockstep._compare import same_error, same_scalar
from kvlockstep._facts import Context
from kvlockstep._findings import Findings, Logged, Place
from kvlockstep._snapshots import Raised, bytes_of, freeze, settle
from kvlockstep._steps import Fetch


def differs(expected, actual, mode="value") -> bool:
    """Tell whether the harness sees a difference between two results."""
    findings = Findings("type+message", mode)
    findings.compare(Place(0, "result"), ("result",), expected, actual)
    findings.end_step()
    findings.settle()
    logged = {0: Logged(Fetch(), "KVCache", "fetch", {}, Context())}
    return bool(list(findings.divergences("0.32.2", logged)))


def of_bits(*patterns: int, dtype=mx.float32) -> mx.array:
    """Return an array with these bit patterns."""
    kind = np.uint32 if dtype == mx.float32 else np.uint16
    return mx.array(np.array(patterns, kind)).view(dtype)


ONE = mx.array([1])
SAME = {
    "numbers": (mx.array([1.0, 2.0]), mx.array([1.0, 2.0])),
    "one NaN payload": (of_bits(0x7FC00001), of_bits(0x7FC00001)),
    "nothing": (None, None),
    "NaN": (float("nan"), float("nan")),
    "text": ("causal", "causal"),
    "nested": ((mx.array([1]), [None, 2]), (mx.array([1]), [None, 2])),
    "no rows": (mx.zeros((1, 0, 2)), mx.zeros((1, 0, 2))),
    "one array twice and two": ((ONE, ONE), (mx.array([1]), mx.array([1]))),
    "a view and a copy": (mx.arange(6)[::2], mx.array([0, 2, 4])),
}
OTHER = {
    "negative zero": (mx.array([0.0]), mx.array([-0.0])),
    "NaN payload": (of_bits(0x7FC00001), of_bits(0x7FC00002)),
    "sign of a NaN": (of_bits(0x7FC00000), of_bits(0xFFC00000)),
    "quiet and signalling NaN": (of_bits(0x7FC00001), of_bits(0x7F800001)),
    "NaN payload in bfloat16": (
        of_bits(0x7FC1, dtype=mx.bfloat16),
        of_bits(0x7FC2, dtype=mx.bfloat16),
    ),
    "negative zero in float16": (
        of_bits(0x0000, dtype=mx.float16),
        of_bits(0x8000, dtype=mx.float16),
    ),
    "subnormal": (of_bits(0x00000001), of_bits(0x00000000)),
    "last bit": (of_bits(0x3F800000), of_bits(0x3F800001)),
    "dtype with the same bytes": (mx.zeros((2,), mx.int32), mx.zeros((2,), mx.uint32)),
    "dtype with the same values": (mx.array([1.0]), mx.array([1.0], mx.float16)),
    "shape with the same bytes": (mx.zeros((2, 3)), mx.zeros((3, 2))),
    "rank": (mx.zeros((2,)), mx.zeros((1, 2))),
    "dtype of no rows": (mx.zeros((0,)), mx.zeros((0,), mx.float16)),
    "int and float": (1, 1.0),
    "int and bool": (1, True),
    "zero and False": (0, False),
    "float zeros": (0.0, -0.0),
    "number and text": (1, "1"),
    "nothing and False": (None, False),
    "nothing and array": (None, mx.array(0)),
    "nothing and array in a list": ([None], [mx.array(0)]),
    "array and nothing in a list": ([mx.array(0)], [None]),
    "one array twice and two": ((ONE, ONE), (mx.array([1]), mx.array([2]))),
    "number and array": (0, mx.array(0)),
    "NumPy's number": (1, np.int64(1)),
    "list and tuple": ([mx.array([1])], (mx.array([1]),)),
    "shorter": ((mx.array([1]), None), (mx.array([1]),)),
    "order": ((1, 2), (2, 1)),
    "deep inside": ([(1, [mx.array([0.0])])], [(1, [mx.array([-0.0])])]),
}


@pytest.mark.parametrize("mode", ["value", "in-place"])
@pytest.mark.parametrize(("expected", "actual"), SAME.values(), ids=SAME)
def test_same(expected, actual, mode):
    """What has the same type, shape, dtype and bytes is the same."""
    assert not differs(expected, actual, mode)


@pytest.mark.parametrize("mode", ["value", "in-place"])
@pytest.mark.parametrize(("expected", "actual"), OTHER.values(), ids=OTHER)
def test_different(expected, actual, mode):
    """What a comparison of values would miss is seen, in both directions."""
    assert differs(expected, actual, mode)
    assert differs(actual, expected, mode)


@pytest.mark.parametrize("value", [1, True, 1.0, "1", b"1", None])
def test_scalars_are_the_same_as_themselves_only(value):
    """Of 1, True, 1.0, "1", b"1" and None each is the same as itself and as no other."""
    others = [other for other in (1, True, 1.0, "1", b"1", None) if same_scalar(value, other)]

    assert len(others) == 1
    assert others[0] is value or others[0] == value


def test_other_objects_are_compared_by_class():
    """An object without bytes to look at is the same as another of a class of that name."""
    namesake = type("Odd", (), {})
    other = type("Odd", (), {})

    assert same_scalar(namesake(), other())
    assert not same_scalar(namesake(), object())
    assert not same_scalar(object(), 1)


class _RenamedError(ValueError):
    pass


ERRORS = [
    # expected, actual, and whether they are the same under raises, type, type+message
    (ValueError("a"), ValueError("a"), (True, True, True)),
    (ValueError("a"), ValueError("b"), (True, True, False)),
    (ValueError("a"), _RenamedError("a"), (True, True, False)),
    (ValueError("a"), TypeError("a"), (True, False, False)),
    (_RenamedError("a"), ValueError("a"), (True, False, False)),
    (Exception("a"), ValueError("a"), (True, True, False)),
    (KeyError("a"), KeyError("a"), (True, True, True)),
    (ValueError("at 0x7f00 a"), ValueError("at 0x1234 a"), (True, True, True)),
]


@pytest.mark.parametrize(("expected", "actual", "same"), ERRORS, ids=repr)
def test_errors(expected, actual, same):
    """An error is the same as far as the target promises: that it raises, which, with what text."""
    left, right = Raised(expected), Raised(actual)

    seen = tuple(same_error(left, right, mode) for mode in ("raises", "type", "type+message"))

    assert seen == same


def test_message_leaves_out_what_differs_from_run_to_run():
    """Addresses and the names of modules are no part of a message."""
    error = TypeError("_kvreference_0_32_2.cache.KVCache got <mlxkv._kv.KVCache at 0x7f12ab>")

    assert Raised(error).message == "KVCache got <KVCache at >"


def test_snapshot_is_not_changed_by_later_writes():
    """What was taken stays as it was when the array is written to, evaluated or not."""
    for mode in ("value", "in-place"):
        array = mx.array([1.0, 2.0])
        snapshot = freeze(array, mode)
        if mode == "in-place":
            settle([snapshot])
        array[0] = 9.0
        mx.eval(array)
        settle([snapshot])

        assert snapshot.data == bytes(memoryview(mx.array([1.0, 2.0])))
        assert bytes(memoryview(array)) == bytes(memoryview(mx.array([9.0, 2.0])))


def test_snapshot_gives_its_array_back():
    """An array made from a snapshot has its dtype, shape and bits."""
    array = of_bits(0x7FC00001, 0x80000000, 0x00000001, 0x3F800000).reshape(2, 2)
    snapshot = freeze(array, "value")
    lazily = snapshot.array()
    settle([snapshot])

    for back in (lazily, snapshot.array()):
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert bytes(memoryview(back)) == bytes(memoryview(array))


def test_bytes_of_nothing_are_not_looked_for():
    """Of an array without elements MLX's buffer may be no address, on CUDA: it is left alone."""
    assert bytes_of(SimpleNamespace(size=0)) == b""
