"""Where mutants come from: the sources of a release, or of a port, and which of them matter."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from kvlockstep._caches import CACHES
from kvlockstep._contract import TESTED_FUNCTIONS, contract_of
from kvlockstep._in_memory import Package, Source, read_package
from kvlockstep._mutants import Mutant, Unit, units_of
from kvlockstep._targets import Target, TargetError, load_target

_FILES = ("save_prompt_cache", "load_prompt_cache")
_PRIVATE = "_kvlockstep_mutant"

Load = Callable[[str], Target]


@dataclass(frozen=True)
class Origin:
    """What is mutated: the package that the target is in, and the units in it that matter.

    `targets` are the intact ones, by the release that each is compared with; `mains` the modules
    that they are.
    """

    targets: dict[str, Target]
    mains: dict[str, str]
    package: Package
    units: tuple[Unit, ...]

    @contextmanager
    def mutated(self, mutant: Mutant | None) -> Iterator[Load]:
        """Yield what loads the target for a release, with a mutant in it or intact, in the block.

        Loading lets through what a mutant raises while it is imported.
        """
        changed: Mapping[str, str] = {}
        if mutant is not None:
            name = mutant.unit.module
            changed = {name: mutant.apply(self.package.sources[name].text)}

        def load(release: str) -> Target:
            module = importlib.import_module(self.mains[release])
            return replace(self.targets[release], module=module)

        with self.package.replaced(changed):
            yield load

    def file_of(self, unit: Unit) -> str:
        """Return the whole path of the file that a unit is in."""
        return self.package.sources[unit.module].file


@lru_cache(maxsize=4)
def origin_of(spec: str, releases: Sequence[str]) -> Origin:
    """Return what there is to mutate of a target beside some releases; raises `TargetError`."""
    targets = {release: load_target(spec, release) for release in releases}
    if spec.startswith("py:"):
        return _port(spec, targets)
    return _release(spec, targets)


def _release(spec: str, targets: dict[str, Target]) -> Origin:
    name = spec.removeprefix("release:")
    reference = contract_of(name).reference
    base, cache = _text(reference.base), _text(reference.cache)
    names = [f"{_PRIVATE}.models.base", f"{_PRIVATE}.models.cache"]
    folders = [_PRIVATE, f"{_PRIVATE}.models"]
    sources = dict.fromkeys(folders, Source("", "<package>", is_package=True))
    sources |= dict(zip(names, (base, cache), strict=True))
    own = units_of(names[1], "cache.py", cache.text, lambda name: name not in _FILES)
    # What the cache module takes from its neighbour.
    taken = {
        name
        for name in TESTED_FUNCTIONS
        if getattr(reference.cache, name, None) is getattr(reference.base, name, object())
    }
    others = units_of(names[0], "base.py", base.text, taken.__contains__)
    mains = dict.fromkeys(targets, names[1])
    return Origin(targets, mains, Package(_PRIVATE, sources), (*own, *others))


def _text(module: ModuleType) -> Source:
    file = Path(str(module.__file__))
    return Source(file.read_text(encoding="utf-8"), str(file))


def _port(spec: str, targets: dict[str, Target]) -> Origin:
    mains = {release: target.module.__name__ for release, target in targets.items()}
    root = next(iter(mains.values())).partition(".")[0]
    try:
        package = read_package(root)
    except ImportError as error:
        raise TargetError(f"target {spec!r}: {error}") from error
    folder = Path(package.sources[root].file).parent
    modules = set().union(*(_modules_of_caches(one.module, package) for one in targets.values()))
    units: list[Unit] = []
    for name in sorted(modules):
        source = package.sources[name]
        file = Path(source.file).relative_to(folder).as_posix()
        units += units_of(name, file, source.text)
    return Origin(targets, mains, package, tuple(units))


def _modules_of_caches(module: Any, package: Package) -> set[str]:
    """Return the modules of the package that the cache classes and tested functions are made of.

    Those that define them, and what these import, and so on.
    """
    found: set[str] = set()
    tested = [getattr(module, name, None) for name in (*CACHES, *TESTED_FUNCTIONS)]
    waiting = {
        part.__module__
        for one in tested
        if isinstance(one, (type, FunctionType))
        for part in (one.__mro__ if isinstance(one, type) else (one,))
    }
    while waiting:
        name = waiting.pop()
        if name in package.sources and name not in found:
            found.add(name)
            waiting |= set(_imports(name, package))
    packages = {name for name in found if package.sources[name].is_package}
    return found - packages


def _imports(name: str, package: Package) -> Iterator[str]:
    """Yield the modules that a module imports, or imports from."""
    source = package.sources[name]
    above = name.split(".") if source.is_package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(source.text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = above[: len(above) + 1 - node.level] if node.level else []
            base = ".".join([*near, node.module or ""]).strip(".")
            inner = [f"{base}.{alias.name}" for alias in node.names]
            modules = [one for one in inner if one in package.sources]
            yield from modules
            if len(modules) < len(inner):
                yield base
