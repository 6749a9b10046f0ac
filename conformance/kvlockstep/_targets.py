"""Targets: what is under test, as one string.

`py:MODULE`     an importable module with the cache classes
`release:X`     a pinned release of mlx-lm
`path:DIR`      a working copy of mlx-lm
`map:FILE`      a port with names of its own, described by a TOML file (`_port_map.py`)

A module may declare what it promises in a plain dict `KVLOCKSTEP`:

    contract        the release that it follows
    contracts       release to module name, for a package that follows several
    level           "state" or "buffer": how much of it may be looked at (default: state)
    errors          "type+message", "type" or "raises" (default: raises)
    own_errors      the name of a class that each error raised inside a cache is of (default: none)
    transactional   a failed operation leaves the cache as it was (default: False)
    reserves        its caches have `reserve(tokens)`, a promise of a length that shows in nothing
                    (default: False)
    seeds           it has the seeds' additions to mlx-lm's interface (default: False)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import kvreference
from kvlockstep._compare import Errors
from kvlockstep._contract import Level
from kvlockstep._port_map import PortMap, PortMapError, load_map, read_map
from kvlockstep._snapshots import CAUGHT

DECLARATION = "KVLOCKSTEP"

_FLAG = "True or False", lambda value: isinstance(value, bool)
_LEVELS, _ERRORS = get_args(Level), get_args(Errors)
# For each key of a declaration: what is expected, and whether a value is that.
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "contract": ("a release", lambda value: isinstance(value, str)),
    "contracts": (
        "a dict of releases to module names",
        lambda value: (
            isinstance(value, dict)
            and bool(value)
            and all(isinstance(name, str) for name in (*value, *value.values()))
        ),
    ),
    "level": (f"one of {', '.join(_LEVELS)}", lambda value: value in _LEVELS),
    "errors": (f"one of {', '.join(_ERRORS)}", lambda value: value in _ERRORS),
    "own_errors": ("the name of a class", lambda value: isinstance(value, str)),
    "transactional": _FLAG,
    "reserves": _FLAG,
    "seeds": _FLAG,
}


class TargetError(Exception):
    """The target cannot be tested at all. The adapter is wrong, not the cache."""


@dataclass(frozen=True)
class Target:
    """A loaded target: its module, and what it promises."""

    spec: str
    module: Any
    contract: str | None
    level: Level = "state"
    errors: Errors = "raises"
    transactional: bool = False
    reserves: bool = False
    seeds: bool = False
    own_errors: str | None = None


def contracts_of(spec: str) -> tuple[str, ...]:
    """Return the releases that a target says it follows; raises `TargetError`.

    The newest pinned one, where it says nothing.
    """
    kind, _, name = _split(spec)
    if kind == "release":
        return (name,)
    if kind == "path":
        return (kvreference.RELEASES[-1],)
    if kind == "map":
        return (_read_map(spec, name).contract,)
    declared = _declaration(_import(name), spec)
    if "contracts" in declared:
        return tuple(declared["contracts"])
    return (declared.get("contract", kvreference.RELEASES[-1]),)


def load_target(spec: str, release: str) -> Target:
    """Load the target `spec` to be tested against `release`; raises `TargetError`."""
    kind, _, name = _split(spec)
    if kind in ("release", "path"):
        try:
            reference = kvreference.load(name if kind == "release" else f"path:{name}")
        except kvreference.ReferenceError as error:
            raise TargetError(f"target {spec!r}: {error}") from error
        own = name if kind == "release" else None
        return Target(spec, reference.cache, own, "buffer", "type+message")
    if kind == "map":
        return _load_mapped(spec, name)
    module = _import(name)
    declared = _declaration(module, spec)
    if "contracts" in declared:
        modules = declared["contracts"]
        if release not in modules:
            raise TargetError(
                f"target {spec!r}: expected one of its contracts {', '.join(modules)}, "
                f"got release {release!r}"
            )
        module = _import(modules[release])
        declared = _declaration(module, modules[release])
    return Target(
        spec,
        module,
        declared.get("contract"),
        declared.get("level", "state"),
        declared.get("errors", "raises"),
        declared.get("transactional", False),
        declared.get("reserves", False),
        declared.get("seeds", False),
        declared.get("own_errors"),
    )


def _read_map(spec: str, name: str) -> PortMap:
    try:
        return read_map(Path(name))
    except PortMapError as error:
        raise TargetError(f"target {spec!r}: {error}") from error


def _load_mapped(spec: str, name: str) -> Target:
    described = _read_map(spec, name)
    try:
        module = load_map(Path(name))
    except PortMapError as error:
        raise TargetError(f"target {spec!r}: {error}") from error
    promises = described.level, described.errors, described.transactional
    return Target(spec, module, described.contract, *promises)


def _split(spec: str) -> tuple[str, str, str]:
    kind, colon, name = spec.partition(":")
    if kind not in ("py", "release", "path", "map") or not name:
        raise TargetError(
            f"target {spec!r}: expected py:MODULE, release:VERSION, path:DIR or map:FILE, for "
            f"example py:mlxkv or release:{kvreference.RELEASES[-1]}"
        )
    return kind, colon, name


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except CAUGHT as error:
        raise TargetError(
            f"target module {name!r} cannot be imported: {type(error).__name__}: {error}. "
            "Is it installed in this environment?"
        ) from error


def _declaration(module: Any, name: str) -> dict[str, Any]:
    declared = getattr(module, DECLARATION, {})
    if not isinstance(declared, dict):
        raise TargetError(f"target {name!r}: expected {DECLARATION} to be a dict, got {declared!r}")
    if unknown := set(declared) - set(_EXPECTED):
        raise TargetError(
            f"target {name!r}: {DECLARATION} knows {', '.join(_EXPECTED)}, "
            f"got {', '.join(map(str, unknown))}"
        )
    for key, value in declared.items():
        expected, fits = _EXPECTED[key]
        if not fits(value):
            raise TargetError(
                f"target {name!r}: {DECLARATION}[{key!r}]: expected {expected}, got {value!r}"
            )
    return declared
