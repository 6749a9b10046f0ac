"""The gate on the port with lengths announced: nothing of it shows, whatever was promised.

The port as it is, but each standard and each chunked cache begins with a promise: of fewer tokens
than most traces store, which is outgrown, or of more.
"""

from __future__ import annotations

import pytest

from kvlockstep import check_target
from mlxkv._backed import BackedCache


@pytest.mark.parametrize("tokens", [5, 40])
@pytest.mark.parametrize("cache", ["KVCache", "ChunkedKVCache"])
@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
def test_a_promise_does_not_show(
    release: str, cache: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, shapes, spare rows and what handles show are the release's, in both modes."""
    monkeypatch.setattr(BackedCache, "_reserved", tokens)
    report = check_target("py:mlxkv", release, cache=cache, level="buffer", steps=1500)
    assert report.steps >= 3000
