"""The surface check: what a target has, under which names, with which parameters."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import NAMES, RELEASE, module_with, release_module

from kvlockstep._contract import contract_of, signatures
from kvlockstep._surface import compare_surfaces
from kvlockstep._targets import Target
from kvreference import RELEASES

KV = release_module().KVCache


def compare(module, release=RELEASE) -> tuple[set[str], list[str]]:
    """Return what a module lacks, and what it calls differently."""
    return compare_surfaces(contract_of(release), Target("py:port", module, release), release)


@pytest.mark.parametrize("release", RELEASES)
def test_release_has_its_own_surface(release):
    """A release lacks nothing of itself and calls nothing differently."""
    assert compare(release_module(release), release) == (set(), [])


@pytest.mark.parametrize("name", NAMES)
def test_lacking_name_is_reported_once(name):
    """A class or function that is not there is lacking, without each of its members."""
    assert compare(module_with(lacks=(name,))) == ({name}, [])


def test_lacking_member_is_reported():
    """A class without a method lacks that method."""

    class KVCache:
        step = 256
        __init__ = KV.__init__
        update_and_fetch = KV.update_and_fetch
        state = KV.state

    lacking, problems = compare(module_with(KVCache))

    assert {"KVCache.trim", "KVCache.make_mask", "KVCache.nbytes"} <= lacking
    assert {"KVCache", "KVCache.update_and_fetch", "KVCache.state"}.isdisjoint(lacking)
    assert problems == []


def test_more_is_no_problem():
    """Further methods, and further parameters that need not be given, are no difference."""

    class KVCache(KV):
        def rewind(self, n):
            return n

        def update_and_fetch(self, keys, values, *, lengths=None, **more):
            return super().update_and_fetch(keys, values), lengths, more

    assert compare(module_with(KVCache)) == (set(), [])


def renamed(self, k, v):
    """Other names."""


def swapped(self, values, keys):
    """Another order."""


def shorter(self, keys):
    """One fewer."""


def longer(self, keys, values, lengths):
    """One more that must be given."""


def positional(self, keys, values, /):
    """Names that cannot be used."""


def keyword_only(self, keys, *, values):
    """A place that cannot be used."""


def must_be_named(self, keys, values, *, lengths):
    """One more that must be given by name."""


@pytest.mark.parametrize(
    "method", [renamed, swapped, shorter, longer, positional, keyword_only, must_be_named]
)
def test_method_that_cannot_be_called_as_the_releases_is_a_problem(method):
    """Other parameters are a problem that says what was expected and what came."""
    port = type("KVCache", (KV,), {"update_and_fetch": method})

    lacking, problems = compare(module_with(port))

    assert lacking == set()
    assert len(problems) == 1
    expected = f"surface {RELEASE}: KVCache.update_and_fetch: expected parameters (keys, values)"
    assert problems[0].startswith(f"{expected}, got (")


def test_other_default_is_a_problem():
    """A parameter's default can be observed by leaving it out."""

    class RotatingKVCache(release_module().RotatingKVCache):
        def __init__(self, max_size, keep=4):
            super().__init__(max_size, keep)

    _, problems = compare(module_with(RotatingKVCache))

    assert problems == [
        f"surface {RELEASE}: RotatingKVCache: "
        "expected parameters (max_size, keep=0), got (max_size, keep=4)"
    ]


def test_method_for_a_property_is_a_problem():
    """What is a property there and a method here cannot be used alike."""

    class KVCache(KV):
        def nbytes(self):
            return 0

    _, problems = compare(module_with(KVCache))

    assert [problem.partition(": expected")[0] for problem in problems] == [
        f"surface {RELEASE}: KVCache.nbytes"
    ]


def test_annotations_are_not_compared():
    """Annotations cannot be observed by calling."""

    class KVCache(KV):
        def trim(self, n: float) -> float:
            return super().trim(n)

    assert compare(module_with(KVCache)) == (set(), [])


def test_signatures_name_what_can_be_called():
    """Functions, classes, methods and properties are listed, private names are not."""
    found = signatures(release_module())

    assert found["KVCache.update_and_fetch"] == "(keys, values)"
    assert found["RotatingKVCache"] == "(max_size, keep=0)"
    assert found["KVCache.nbytes"] is None
    assert found["create_causal_mask"].startswith("(N, offset=0,")
    assert not any("._" in name for name in found)
