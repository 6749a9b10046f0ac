"""Packages run from sources in memory, one module changed: what a mutant is loaded with."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType


@dataclass(frozen=True)
class Source:
    """The source of one module, and the file that its line numbers are of."""

    text: str
    file: str
    is_package: bool = False


@dataclass
class Package:
    """The modules of a package, by name; those below `root`, and `root` itself."""

    root: str
    sources: Mapping[str, Source]
    _codes: dict[str, CodeType] = field(default_factory=dict)

    def code(self, name: str) -> CodeType:
        """Return the compiled module, compiled once."""
        if name not in self._codes:
            self._codes[name] = _compiled(self.sources[name].text, self.sources[name])
        return self._codes[name]

    @contextmanager
    def replaced(self, changed: Mapping[str, str]) -> Iterator[None]:
        """Import the package afresh in the block, the `changed` modules from other text.

        What was imported of it before is back in `sys.modules` afterwards.
        """
        before = self._take_out()
        finder = _Finder(self, changed or {})
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            self._take_out()
            sys.modules.update(before)

    def _take_out(self) -> dict[str, ModuleType]:
        names = [name for name in sys.modules if f"{name}.".startswith(f"{self.root}.")]
        return {name: sys.modules.pop(name) for name in names}


class _Finder(MetaPathFinder):
    """Finds the modules of one package in memory, and loads them."""

    def __init__(self, package: Package, changed: Mapping[str, str]) -> None:
        self._package = package
        self._changed = changed

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        source = self._package.sources.get(fullname)
        if source is None:
            return None
        loader = _Loader(self._package, self._changed)
        spec = ModuleSpec(fullname, loader, origin=source.file, is_package=source.is_package)
        spec.has_location = True
        return spec


class _Loader(InspectLoader):
    def __init__(self, package: Package, changed: Mapping[str, str]) -> None:
        self._package = package
        self._changed = changed

    def get_source(self, fullname: str) -> str:
        own = self._package.sources[fullname].text
        return self._changed.get(fullname, own)

    def get_code(self, fullname: str) -> CodeType:
        if fullname in self._changed:
            return _compiled(self._changed[fullname], self._package.sources[fullname])
        return self._package.code(fullname)


def _compiled(text: str, source: Source) -> CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return compile(text, source.file, "exec", dont_inherit=True)


def read_package(root: str) -> Package:
    """Read all modules of an importable package, or the one module that `root` is.

    Raises `ImportError` where there is none with sources.
    """
    spec = importlib.util.find_spec(root)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ImportError(f"{root}: no module with a source file")
    file = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return Package(root, {root: Source(file.read_text(encoding="utf-8"), str(file))})
    sources = {}
    for path in sorted(file.parent.rglob("*.py")):
        parts = [root, *path.relative_to(file.parent).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        sources[name] = Source(path.read_text(encoding="utf-8"), str(path), is_package)
    return Package(root, sources)
