"""Ports for the tests of the harness: the release's own classes, most with one fault.

`module_with` makes a module in memory, for tests of one part; `write_port` makes a file, for tests
that go through a target string.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from kvlockstep._caches import CACHES
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._targets import Target
from kvlockstep._trace import AnyStep, Construct, Rows, Trace, Update

RELEASE = "0.32.2"
REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = (*CACHES, "create_causal_mask", "create_attention_mask")

_HEAD = """
import kvreference

release = kvreference.load({release!r}).cache
for name in {names!r}:
    globals()[name] = getattr(release, name)
KVLOCKSTEP = {declaration!r}
"""

# A trim that says it trimmed one token more than it did.
TRIM_SAYS_TOO_MANY = """
class KVCache(release.KVCache):
    def trim(self, n):
        return super().trim(n) + 1
"""

# An offset that is one too high after every update.
OFFSET_TOO_HIGH = """
class KVCache(release.KVCache):
    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        self.offset += 1
        return result
"""

# A process that is gone after the first update.
DIES = """
import os

class KVCache(release.KVCache):
    def update_and_fetch(self, keys, values):
        os._exit(7)
"""

# A class that wants an argument which the release's does not.
CANNOT_BE_MADE = """
class KVCache(release.KVCache):
    def __init__(self, heads):
        super().__init__()
"""


def release_module(release: str = RELEASE) -> Any:
    """Return the release's own cache module."""
    return contract_of(release).module


def module_with(*classes: type, lacks: tuple[str, ...] = (), release: str = RELEASE) -> ModuleType:
    """Return a module of the release's classes with `classes` in the place of their namesakes."""
    module = ModuleType("port")
    for name in NAMES:
        if name not in lacks:
            setattr(module, name, getattr(release_module(release), name))
    for cls in classes:
        setattr(module, cls.__name__, cls)
    return module


def lockstep_with(
    *classes: type, lacks: tuple[str, ...] = (), release: str = RELEASE, **promises: Any
) -> Lockstep:
    """Return the engine for a port in memory; `promises` are the fields of its `Target`."""
    module = module_with(*classes, lacks=lacks, release=release)
    promises = {"errors": "type+message", **promises}
    return Lockstep(contract_of(release), Target("py:port", module, release, **promises))


def write_port(
    folder: Path,
    name: str,
    body: str = "",
    *,
    lacks: tuple[str, ...] = (),
    release: str = RELEASE,
    **declaration: Any,
) -> str:
    """Write a port as the module `name` into `folder` and return its target string."""
    names = tuple(known for known in NAMES if known not in lacks)
    declaration = {"contract": release, "errors": "type+message", **declaration}
    head = _HEAD.format(release=release, names=names, declaration=declaration)
    (folder / f"{name}.py").write_text(head + body, encoding="utf-8")
    return f"py:{name}"


def construct(cache: str = "KVCache", slot: str = "a", **args: Any) -> Construct:
    """Return a construction of `cache`."""
    return Construct(slot=slot, cache=cache, args=args)


def update(tokens: int | str, slot: str = "a", start: int = 0, **fields: Any) -> Update:
    """Return an update with `tokens` rows of two heads, numbered from `start`."""
    shape = (1, 2, tokens, 2)
    keys = Rows(shape=shape, start=start, **fields)
    values = Rows(shape=shape, start=start + 100, **fields)
    return Update(slot=slot, keys=keys, values=values)


def trace_of(*steps: AnyStep, **fields: Any) -> Trace:
    """Return a trace of `steps`."""
    return Trace(steps=steps, **fields)
