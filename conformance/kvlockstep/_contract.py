"""A contract: what a release of mlx-lm promises, read off the release itself."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import kvreference
from kvlockstep._caches import CACHES, CacheKind, make_cache

Level = Literal["state", "buffer"]

# What a cache shows through its methods and properties, derived from the fields that it stores.
DERIVED = (
    *("size()", "empty()", "is_trimmable()", "nbytes", "batch_size", "tokens", "__len__()"),
    *("stats_by_type()", "meta_state", "state"),
)
_BUFFERS = ("keys", "values")
# What is tested of the cache module beside its classes.
TESTED_FUNCTIONS = (
    *("create_causal_mask", "create_attention_mask"),
    *("make_prompt_cache", "can_trim_prompt_cache", "trim_prompt_cache"),
)
# These are compared by their parameters only; files have tests of their own.
_FILES = ("save_prompt_cache", "load_prompt_cache")
_RESULTS = ("PromptTrieResult",)
_SPECIAL = ("__getitem__", "__setitem__", "__len__")


@dataclass(frozen=True)
class Surface:
    """What can be seen of one cache class: fields by level, and its public members' signatures.

    `scalars` are public attributes, `seen` what methods and properties show, `private` the cursor
    fields that are compared, like the physical `buffers`, at level `buffer` only.
    """

    scalars: tuple[str, ...]
    private: tuple[str, ...]
    buffers: tuple[str, ...]
    seen: tuple[str, ...]
    members: tuple[str, ...]

    def fields(self, level: Level) -> tuple[str, ...]:
        """Return the names of the fields that are compared at `level`, scalars first."""
        if level == "state":
            return self.scalars + self.seen
        return self.scalars + self.private + self.buffers + self.seen


@dataclass(frozen=True)
class Contract:
    """A loaded release and the surface of its cache classes."""

    release: str
    reference: kvreference.Reference
    surfaces: dict[str, Surface]

    @property
    def module(self) -> Any:
        """The release's cache module."""
        return self.reference.cache


@lru_cache(maxsize=8)
def contract_of(release: str) -> Contract:
    """Load `release` and read its surface; raises `kvreference.ReferenceError`."""
    reference = kvreference.load(release)
    surfaces = {
        name: surface_of(reference.cache, kind)
        for name, kind in CACHES.items()
        if hasattr(reference.cache, name)
    }
    return Contract(release, reference, surfaces)


def surface_of(module: Any, kind: CacheKind) -> Surface:
    """Return the surface of a cache class."""
    sample = make_cache(module, kind.sample)
    cls = type(sample)
    names = [name for name in vars(sample) if name not in kind.internal]
    fields = [name for name in names if name not in _BUFFERS]
    members = [name for name in dir(cls) if not name.startswith("_") or name in _SPECIAL]
    return Surface(
        scalars=tuple(name for name in fields if not name.startswith("_")),
        private=tuple(name for name in fields if name.startswith("_")),
        buffers=tuple(name for name in names if name in _BUFFERS),
        seen=tuple(name for name in DERIVED if hasattr(cls, name.removesuffix("()"))),
        members=tuple(members),
    )


def signatures(module: Any) -> dict[str, str | None]:
    """Return what can be called in a cache module, and how: dotted name to parameters.

    Annotations are left out: they cannot be observed by calling. None stands for a property.
    """
    found: dict[str, str | None] = {}
    for name in (*TESTED_FUNCTIONS, *_FILES):
        if hasattr(module, name):
            found[name] = _parameters(getattr(module, name))
    for name in (*CACHES, *_RESULTS):
        cls = getattr(module, name, None)
        if cls is None:
            continue
        found[name] = _parameters(cls)
        for member in dir(cls):
            if member.startswith("_"):
                continue
            value = inspect.getattr_static(cls, member)
            if callable(getattr(cls, member, None)):
                found[f"{name}.{member}"] = _parameters(getattr(cls, member))
            elif isinstance(value, property) or not callable(value):
                found[f"{name}.{member}"] = None
    return found


def _parameters(function: Any) -> str:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(parameters))
