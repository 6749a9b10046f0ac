"""A target that has a class for all its errors lets no other through."""

from __future__ import annotations

from typing import Any

import pytest
from property_tests.harness.ports import (
    construct,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._recipes import Rows
from kvlockstep._steps import CausalMask, Depends, Mask, Update
from kvlockstep._targets import load_target
from kvreference import RELEASES

OLD = RELEASES[0]
KV = release_module(OLD).KVCache
OF_RANK_3 = Update(keys=Rows(shape=(1, 2, 1)), values=Rows(shape=(1, 2, 1)))


class PortError(Exception):
    """What a port has for all that its caches raise."""


class RankError(PortError, ValueError):
    """One of them, which a handler for the release's error catches."""


class NothingError(PortError, AttributeError):
    """Another."""


def raising(of_rank_3: type[Exception], of_nothing: type[Exception]) -> type:
    """Return a KVCache that raises these."""

    class KVCache(KV):
        def update_and_fetch(self, keys: Any, values: Any) -> Any:
            if keys.ndim == 3:
                raise of_rank_3
            return super().update_and_fetch(keys, values)

        @property
        def state(self) -> Any:
            if self.keys is None:
                raise of_nothing
            return KV.state.fget(self)

    return KVCache


@pytest.mark.parametrize(
    ("rank", "nothing", "told"),
    [
        (RankError, NothingError, []),
        (ValueError, NothingError, [(1, "raises ValueError, not a PortError")]),
        (KeyError, NothingError, [(1, "raises KeyError, not ValueError")]),
        (RankError, AttributeError, [(0, "state")]),
    ],
)
def test_errors_of_a_cache(
    rank: type[Exception], nothing: type[Exception], told: list[tuple[int, str]]
) -> None:
    """One that a handler for the release's catches is not enough, in a call or an attribute."""
    trace = trace_of(construct(), OF_RANK_3, update(1))
    port = raising(rank, nothing)

    own = lockstep_with(port, release=OLD, errors="type", own_errors="PortError").run(trace)
    any_ = lockstep_with(port, release=OLD, errors="type").run(trace)

    assert shown(own) == told
    assert shown(any_) == [one for one in told if "KeyError" in one[1]]


def test_errors_that_no_cache_was_there_for() -> None:
    """Arguments that a method does not take, a `depends` on no keys, a function of the module."""
    steps = construct(), Depends(), construct("ArraysCache", size=1), Mask(n=1, window=2)
    masks = CausalMask(n=1, left_padding=(1, 2), right_padding=(1, 2, 3))
    run = lockstep_with(own_errors="PortError").run(trace_of(*steps, masks))

    assert run.steps == 5
    assert run.divergences == []


@pytest.mark.parametrize("release", RELEASES)
def test_our_port_has_errors_of_its_own(release: str) -> None:
    """It says so, and the gate hears it."""
    engine = Lockstep(contract_of(release), load_target("py:mlxkv", release))

    assert engine.target.own_errors == "CacheError"
    assert engine.run(trace_of(construct(), OF_RANK_3)).divergences == []
