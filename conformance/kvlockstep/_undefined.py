"""Undefined zones: what is never run on the reference, each with its reason.

There a release reads or computes outside of anything defined, so that there is no answer to
compare with. What a port does there is a property test's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvlockstep._trace import AnyStep, Quantize, Update


@dataclass(frozen=True)
class Zone:
    """`holds(step, cache)` tells whether a step would enter the zone."""

    operation: type
    holds: Callable[[Any, Any], bool]
    reason: str


ZONES = (
    Zone(
        Quantize,
        lambda step, _: step.group_size == 0,
        "mx.quantize divides by a group size of 0 and kills the process (SIGFPE)",
    ),
    Zone(
        Update,
        lambda _, cache: getattr(cache, "group_size", None) == 0,
        "mx.quantize divides by a group size of 0 and kills the process (SIGFPE)",
    ),
)


def zone_of(step: AnyStep, cache: Any) -> Zone | None:
    """Return the undefined zone that `step` would enter, or None."""
    for zone in ZONES:
        if type(step) is zone.operation and zone.holds(step, cache):
            return zone
    return None
