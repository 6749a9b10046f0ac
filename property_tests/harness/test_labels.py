"""Row labels: which token is in which row, read off the bytes of a buffer."""

from __future__ import annotations

import mlx.core as mx
import pytest
from property_tests.harness.ports import update

from kvlockstep._arrays import build
from kvlockstep._labels import Labels
from kvlockstep._recipes import Bits, Literals, Rows
from kvlockstep._snapshots import freeze, settle
from kvlockstep._steps import SetItem, SetState, Trim, Update


def label(labels: Labels, array: mx.array) -> str | None:
    """Return what `labels` says of an array."""
    snapshot = freeze(array, "value")
    settle([snapshot])
    return labels.of(snapshot)


def keys_of(*steps: Update) -> mx.array:
    """Return the keys of updates, one behind the other."""
    return mx.concatenate([build(step.keys) for step in steps], axis=2)


def test_tokens_are_numbered_as_they_are_fed():
    """The rows of each update go on counting where the one before ended."""
    first, second = update(2), update(3, start=50)
    labels = Labels([first, None, Trim(n=1), second])

    assert label(labels, keys_of(first, second)) == "0 1 2 3 4"
    assert label(labels, keys_of(second, first)) == "2 3 4 0 1"


def test_values_have_the_numbers_of_their_keys():
    """Keys and values of a token have the same label."""
    step = update(3)

    assert label(Labels([step]), build(step.values)) == "0 1 2"


def test_zeros_are_a_dot_and_strangers_a_question_mark():
    """A row of zeros is a dot, a row that nobody fed a question mark."""
    step = update(2)
    labels = Labels([step])
    zeros = mx.zeros((1, 2, 2, 2))

    assert label(labels, mx.concatenate([keys_of(step), zeros], axis=2)) == "0 1 · ·"
    assert label(labels, mx.concatenate([zeros + 240, keys_of(step)], axis=2)) == "? ? 0 1"


def test_negative_zeros_are_no_zeros():
    """A row of -0.0 has bits, and is told from a row of zeros."""
    assert label(Labels([]), mx.array([0.0, -0.0]).reshape(1, 1, 2, 1)) == "· ?"


def test_lanes_that_disagree_are_both_shown():
    """Where the heads hold different tokens in a row, each is shown."""
    step = update(2)
    keys = keys_of(step)
    swapped = mx.concatenate([keys[:, :1], keys[:, 1:, ::-1]], axis=1)

    assert label(Labels([step]), swapped) == "0|1 1|0"


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_rows_are_known_after_a_cast(dtype):
    """A row that growth or a join cast to another floating dtype is still known."""
    step = update(3)

    assert label(Labels([step]), build(step.keys).astype(dtype)) == "0 1 2"


def test_rows_of_raw_bits_are_known():
    """Rows of raw bits are known by their bits, NaN payloads included."""
    recipe = Bits(shape=(1, 2, 4, 4), seed=3)
    labels = Labels([Update(keys=recipe)])

    assert label(labels, build(recipe)[:, :, ::-1]) == "3 2 1 0"


def test_rows_of_a_state_are_counted_too():
    """An assigned state feeds rows, its arrays side by side."""
    recipe = Rows(shape=(1, 1, 2, 2))
    state = SetState(state=(recipe, Rows(shape=(1, 1, 2, 2), start=90), 2))
    labels = Labels([state, update(1, start=40)])

    assert label(labels, build(recipe)) == "0 1"
    assert label(labels, build(update(1, start=40).keys)) == "2"


def test_same_bytes_have_the_lowest_number():
    """Where two tokens have the same bytes, the earlier one is named."""
    recipe = Literals(shape=(1, 1, 2, 1), values=(5.0, 5.0))

    assert label(Labels([Update(keys=recipe)]), build(recipe)) == "0 0"


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (1, 0, 2)])
def test_what_has_no_rows_has_no_labels(shape):
    """An array without heads, or without a row, is not labelled."""
    assert label(Labels([]), mx.ones(shape)) is None


def test_updates_without_rows_do_not_count():
    """An update of no tokens, or of too low a rank, leaves the count as it is."""
    empty, flat, step = update(0), Update(keys=Rows(shape=(3,))), update(1, start=9)

    assert label(Labels([empty, flat, step]), keys_of(step)) == "0"


def test_arrays_put_into_slots_are_counted_too():
    """An array assigned to a slot feeds its rows; one that is None feeds none."""
    recipe = Rows(shape=(1, 2, 2, 3), start=30)
    labels = Labels([SetItem(index=0, value=recipe), SetItem(index=1, value=None), update(1)])

    assert label(labels, build(recipe)) == "0 1"
    assert label(labels, keys_of(update(1))) == "2"
