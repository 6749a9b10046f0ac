"""Ports for the tests of the harness: the release's own classes, most with one fault.

`module_with` makes a module in memory, for tests of one part; `write_port` makes a file, for tests
that go through a target string.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import TESTED_FUNCTIONS, contract_of
from kvlockstep._coverage import lines_of_classes
from kvlockstep._divergence import Run
from kvlockstep._engine import Lockstep
from kvlockstep._floor import expected_cells, expected_pairs
from kvlockstep._growth import growing, growth_step
from kvlockstep._jobs import JobReport
from kvlockstep._operations import OPERATIONS, operands
from kvlockstep._recipes import Rows, Size
from kvlockstep._settings import PROFILES
from kvlockstep._side import Side
from kvlockstep._sizes import resolve, sizes_of
from kvlockstep._steps import Construct, Update
from kvlockstep._targets import Target, load_target
from kvlockstep._trace import AnyStep, Trace

RELEASE = "0.32.2"
REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = (*CACHES, *TESTED_FUNCTIONS, "PromptTrieResult", "save_prompt_cache", "load_prompt_cache")

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


def whole_report(lacking: Collection[str] = (), release: str = RELEASE) -> JobReport:
    """Return the report of a run that reached everything there is."""
    contract = contract_of(release)
    lines = set().union(*lines_of_classes(contract).values())
    names = [name for name in (*CACHES, FUNCTIONS) if name not in lacking]
    return JobReport(
        cells={release: Counter(expected_cells(contract, lacking))},
        pairs={release: Counter(expected_pairs(contract, lacking))},
        searched=Counter({(release, name): 2 * PROFILES["ci"].steps for name in names}),
        arcs={release: {(line, line) for line in lines}},
        lacking=set(lacking),
    )


def itself(release: str = RELEASE) -> Lockstep:
    """Return the engine for a release against itself."""
    return Lockstep(contract_of(release), load_target(f"release:{release}", release))


def play(release: str, *steps: AnyStep, step_size: int = 256) -> Side:
    """Run steps on a release alone, as the engine would, and return the side with its caches."""
    side = Side(release_module(release))
    with growth_step(step_size, growing(side.module, side.module)):
        for step in steps:
            first = next(iter(operands(step)), None)
            sizes = sizes_of(side.at(first)) if first is not None else {}
            side.returned = OPERATIONS[type(step)].perform(side, resolve(step, sizes))
    return side


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


def update(tokens: Size, slot: str = "a", start: int = 0, batch: Size = 1, **fields: Any) -> Update:
    """Return an update with `tokens` rows of two heads, numbered from `start`."""
    shape = (batch, 2, tokens, 2)
    keys = Rows(shape=shape, start=start, **fields)
    values = Rows(shape=shape, start=start + 100, **fields)
    return Update(slot=slot, keys=keys, values=values)


def shown(run: Run) -> list[tuple[int, str]]:
    """Return step and field of each divergence."""
    return [(found.index, found.signature.field) for found in run.divergences]


def trace_of(*steps: AnyStep, **fields: Any) -> Trace:
    """Return a trace of `steps`."""
    return Trace(steps=steps, **fields)


def alone() -> dict[str, str]:
    """The environment of a process that is no worker of xdist: pytest-benchmark measures there."""
    return {name: value for name, value in os.environ.items() if "XDIST" not in name}
