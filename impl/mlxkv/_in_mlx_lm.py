"""Putting the port's caches in mlx-lm's place, and taking them out again."""

from __future__ import annotations

import importlib
import sys
from threading import RLock
from types import ModuleType, TracebackType
from typing import Any, Self

from mlxkv._errors import CacheError

# 0.32.0, 0.32.1 and 0.32.2 have the same cache.py.
CONTRACTS = {
    "0.31.3": "mlxkv.mlx_lm_0_31",
    "0.32.0": "mlxkv.mlx_lm_0_32",
    "0.32.1": "mlxkv.mlx_lm_0_32",
    "0.32.2": "mlxkv.mlx_lm_0_32",
}
_CACHES = "mlx_lm.models.cache"
_LOCK = RLock()
_uses: list[InMlxLm] = []


class UnknownReleaseError(CacheError, ImportError):
    """The mlx-lm that is installed is none of the releases that the port follows."""


class MissingClassError(CacheError, ImportError):
    """mlx-lm's cache module has a class that the port has not, so the two would mix."""


class InMlxLm:
    """That the port's caches are in mlx-lm's place, until `undo` or the end of the `with`."""

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self._pairs = pairs

    def undo(self) -> None:
        """Put mlx-lm's own objects back, unless another use is still on; twice is as once."""
        with _LOCK:
            if self not in _uses:
                return
            if len(_uses) == 1:
                _put_back(self._pairs)
            _uses.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


def use_in_mlx_lm() -> InMlxLm:
    """Make mlx-lm work with the port's caches: those of the contract of the release installed.

    As a call it lasts until `undo()` of what it returns, or for the whole process; as `with
    mlxkv.use_in_mlx_lm():` until the end of the block, however that ends. Uses may be nested: the
    last one that is undone puts mlx-lm's own objects back, everywhere.

    What it patches: every class and function that `mlx_lm.models.cache` defines and the port has
    too, under its name in `mlx_lm.models.cache` and under whatever name a loaded module of mlx-lm
    holds it (`mlx_lm.generate`, `mlx_lm.server`, the models). A module of mlx-lm that is imported
    meanwhile takes the port's from the cache module, and is put back as well. Modules of other
    packages are not touched: what they imported by name before stays mlx-lm's.

    That includes `save_prompt_cache` and `load_prompt_cache`: files have the same bytes, are
    replaced as a whole, and those of other generations load too. A function of the cache module
    that the port has not would stay mlx-lm's own, and find the port's classes there by name.

    Caches keep the class they were made with. Do not go on with mlx-lm's meanwhile, nor with the
    port's afterwards: a batch of both raises, and a model that asks `isinstance` does not know
    the other ones (`mlx_lm.models.mamba` then stores nothing, in silence).

    Raises `ModuleNotFoundError` without mlx-lm, `UnknownReleaseError` where it is a release that
    the port does not follow, and `MissingClassError` where that release has a class that the port
    has not. Whatever it raises, nothing is patched.
    """
    with _LOCK:
        use = InMlxLm(_uses[0]._pairs if _uses else _pairs())
        try:
            if not _uses:
                _rebind(use._pairs)
            _uses.append(use)
        except BaseException:
            if not _uses:  # Interrupted after it was patched.
                _put_back(use._pairs)
            raise
        return use


def _pairs() -> list[tuple[Any, Any]]:
    """Each object of mlx-lm's cache module with the port's of that name; raises as documented."""
    release = importlib.import_module("mlx_lm").__version__
    if release not in CONTRACTS:
        raise UnknownReleaseError(
            "mlxkv", "use_in_mlx_lm", f"mlx-lm {', '.join(CONTRACTS)}", str(release)
        )
    return _match(importlib.import_module(_CACHES), importlib.import_module(CONTRACTS[release]))


def _match(caches: ModuleType, port: ModuleType) -> list[tuple[Any, Any]]:
    pairs = []
    for name, original in vars(caches).items():
        if getattr(original, "__module__", None) != caches.__name__:
            continue
        if hasattr(port, name):
            pairs.append((original, getattr(port, name)))
        elif isinstance(original, type):
            raise MissingClassError("mlxkv", "use_in_mlx_lm", f"a class {name} in the port", "none")
    return pairs


def _put_back(pairs: list[tuple[Any, Any]]) -> None:
    _rebind([(port, original) for original, port in pairs])


def _rebind(pairs: list[tuple[Any, Any]]) -> None:
    """Replace the first of each pair by the second in every loaded module of mlx-lm.

    All or nothing: what is to change is found first, and then only dictionary entries are set.
    The cache module comes first, for a module that another thread is importing.
    """
    others = {id(old): other for old, other in pairs}
    changes: list[tuple[dict[str, Any], str, Any]] = []
    for key in [_CACHES, *sys.modules]:
        if key == "mlx_lm" or key.startswith("mlx_lm."):
            names = getattr(sys.modules[key], "__dict__", {})
            changes += [
                (names, name, value) for name, value in list(names.items()) if id(value) in others
            ]
    try:
        for names, name, value in changes:
            names[name] = others[id(value)]
    except BaseException:
        for names, name, value in changes:
            names[name] = value
        raise
