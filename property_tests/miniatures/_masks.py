"""Masks that go wrong: the mask functions. Each is called with the release's own function first."""

from __future__ import annotations

from property_tests.miniatures._registry import FUNCTIONS, broken
from property_tests.miniatures._steps import AttentionMask, CausalMask


@broken("0.32.2", FUNCTIONS, by_hand=(CausalMask(n=1, window=0),), shows="causal_mask",
        field="result")  # fmt: skip
class WindowClosedAtBothEnds:
    """The window is compared with `<=` for `<`: a token sees one more."""

    @staticmethod
    def create_causal_mask(release, n, offset=0, window_size=None, **padding):
        """Return the mask of a window one longer."""
        if window_size is not None:
            window_size += 1
        return release(n, offset, window_size, **padding)


@broken("0.31.3", FUNCTIONS, by_hand=(CausalMask(n=1, left_padding=(0,)),), shows="causal_mask")
class LeftPaddingOffByOne:
    """The first token behind the left padding is masked too."""

    @staticmethod
    def create_causal_mask(
        release, n, offset=0, window_size=None, right_padding=None, left_padding=None
    ):
        """Return the mask of one more row of padding."""
        if left_padding is not None:
            left_padding = left_padding + 1
        return release(n, offset, window_size, right_padding, left_padding)


@broken(
    "0.32.2", FUNCTIONS, by_hand=(AttentionMask(n=1, return_array=True),), shows="attention_mask"
)
class ArrayForOneToken:
    """A single token gets the array that was asked for, where the release returns None."""

    @staticmethod
    def create_attention_mask(release, n, offset, return_array, window_size):
        """Return an array whenever one is asked for."""
        if return_array and window_size is None:
            window_size = offset + n
        return release(n, offset, return_array, window_size)
