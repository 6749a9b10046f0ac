"""Port maps: a port whose modules, classes, methods or arguments have other names, as a TOML file.

`--target map:port.toml`. The file says where the port is and what it calls things; whatever it does
not name has the release's own name. See conformance/README.md for an example.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

import kvreference
from kvlockstep._caches import CACHES, make_cache
from kvlockstep._compare import Errors
from kvlockstep._contract import TESTED_FUNCTIONS, Level, contract_of
from kvlockstep._snapshots import CAUGHT
from kvlockstep._stand_ins import Outfit, Renamed, Wardrobe, bare, module_of

Name = Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*$(?!\n)")]
Dotted = Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$(?!\n)")]
Names = dict[Name, Name]


class PortMapError(ValueError):
    """A port map that cannot be read, or that names what is not there."""


class _Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the port calls a method or a function, and its arguments by the release's names."""

    name: Name | None = None
    arguments: Names = {}

    def renamed(self, own: str) -> Renamed:
        return Renamed(self.name or own, self.arguments)


class _Function(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    module: Dotted | None = None


class _Class(_Function, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A class: `arguments` are its constructor's, `always` what that is given besides."""

    always: dict[Name, bool | int | float | str] = {}
    methods: dict[Name, Name | _Part] = {}
    attributes: Names = {}


class PortMap(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A port, as its map describes it.

    `folder`, relative to the file, is where its package is installed, if not in the environment.
    `skip_init`: the packages around its modules are not run, for they import what is not there.
    """

    version: Literal[1]
    module: Dotted
    folder: str | None = None
    skip_init: bool = False
    contract: str = kvreference.RELEASES[-1]
    level: Level = "state"
    errors: Errors = "raises"
    transactional: bool = False
    classes: dict[Name, _Class] = {}
    functions: dict[Name, Name | _Function] = {}


def read_map(path: Path) -> PortMap:
    """Read the port map in `path`; raises `PortMapError` with the offending field."""
    try:
        read = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), PortMap)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeError, OSError) as error:
        raise PortMapError(f"{path}: {error}") from error
    if read.contract not in kvreference.RELEASES:
        _refuse(path, "contract", f"one of {', '.join(kvreference.RELEASES)}", read.contract)
    _check_keys(path, "classes", read.classes, CACHES)
    _check_keys(path, "functions", read.functions, TESTED_FUNCTIONS)
    return read


def load_map(path: Path) -> ModuleType:
    """Return a module with the port's classes and functions under the names of its contract.

    Raises `PortMapError` for what the map names and the port, or the contract, does not have.
    """
    read = read_map(path)
    loader = _Loader(path, read)
    if not read.classes and not read.functions:
        return loader.module(read.module)
    reference = contract_of(read.contract).module
    outfits = []
    for name, described in _described(read.classes, CACHES, _Class):
        cls = loader.member("classes", name, described, needed=name in read.classes)
        if isinstance(cls, type) and hasattr(reference, name):
            outfits.append(_outfit(path, name, described, cls, reference))
    wardrobe = Wardrobe(outfits)
    functions: dict[str, Callable[..., Any]] = {}
    for name, either in _described(read.functions, TESTED_FUNCTIONS, _Function):
        own = _Function(name=either) if isinstance(either, str) else either
        call = loader.member("functions", name, own, needed=name in read.functions)
        if call is not None and hasattr(reference, name):
            where = f"functions.{name}.arguments"
            _check_arguments(path, where, own.arguments, getattr(reference, name), call)
            functions[name] = wardrobe.function(call, own.renamed(name))
    module = module_of(wardrobe.classes, functions)
    _check_attributes(path, outfits, module)
    return module


class _Loader:
    """Imports the port's modules, and nothing else of the folder that they are in."""

    def __init__(self, path: Path, read: PortMap) -> None:
        self.path = path
        self.read = read
        self.folder = None
        if read.folder is not None:
            self.folder = (path.parent / read.folder).resolve()
            if not self.folder.is_dir():
                _refuse(path, "folder", "the folder of an installed package", read.folder)

    def module(self, name: str) -> ModuleType:
        """Import a module of the port; raises `PortMapError`."""
        if self.folder is not None and str(self.folder) not in sys.path:
            # Last: nothing in it takes the place of what this environment has.
            sys.path.append(str(self.folder))
        try:
            if self.read.skip_init:
                _stand_for_packages(name)
            module = importlib.import_module(name)
        except CAUGHT as error:
            raise PortMapError(
                f"{self.path}: module {name!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        file = Path(module.__file__ or "")
        if self.folder is not None and self.folder not in file.resolve().parents:
            _refuse(self.path, f"module {name!r}", f"one in the folder {self.folder}", str(file))
        return module

    def member(self, kind: str, name: str, described: _Function, needed: bool) -> Any:
        """Return a class or function of the port, None where it has none and need not."""
        module = self.module(described.module or self.read.module)
        own = described.name or name
        found = getattr(module, own, None)
        if needed and not callable(found):
            has = ", ".join(one for one in vars(module) if not one.startswith("_"))
            _refuse(
                self.path, f"{kind}.{name}", f"something of {module.__name__} ({has})", repr(own)
            )
        return found if callable(found) else None


def _stand_for_packages(name: str) -> None:
    """Put empty packages in the place of those around a module, so that they are not run."""
    path: Any = None
    parents = name.split(".")[:-1]
    for count in range(1, len(parents) + 1):
        package = ".".join(parents[:count])
        if package not in sys.modules:
            spec = PathFinder.find_spec(package, path)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"no package {package!r}")
            sys.modules[package] = module_from_spec(spec)
        path = sys.modules[package].__path__


def _outfit(path: Path, name: str, described: _Class, cls: type, reference: Any) -> Outfit:
    """Return the class's names, checked against the release's class and the port's."""
    ours = getattr(reference, name)
    where = f"classes.{name}"
    _check_arguments(path, f"{where}.arguments", described.arguments, ours, cls)
    _check_arguments(path, f"{where}.always", described.always, None, cls)
    methods = {
        own: (_Part(name=part) if isinstance(part, str) else part).renamed(own)
        for own, part in described.methods.items()
    }
    known = [one for one in dir(ours) if callable(getattr(ours, one))]
    _check_keys(path, f"{where}.methods", methods, known)
    for own, renamed in methods.items():
        if not callable(getattr(cls, renamed.name, None)):
            has = ", ".join(one for one in dir(cls) if not one.startswith("_"))
            at = f"{where}.methods.{own}"
            _refuse(path, at, f"a method of {cls.__name__} ({has})", repr(renamed.name))
        inside = f"{where}.methods.{own}.arguments"
        theirs = getattr(cls, renamed.name)
        _check_arguments(path, inside, renamed.arguments, getattr(ours, own), theirs)
    fields = vars(make_cache(reference, CACHES[name].sample))
    attributes = [*fields, *(one for one in dir(ours) if one not in known)]
    _check_keys(path, f"{where}.attributes", described.attributes, attributes)
    constructor = Renamed(cls.__name__, described.arguments)
    return Outfit(name, cls, constructor, described.always, methods, described.attributes)


def _described(given: Mapping[str, Any], known: Iterable[str], kind: type) -> list[tuple[str, Any]]:
    """Return what the map says of each name that there may be, nothing where it is silent."""
    return [(name, given.get(name, kind())) for name in known]


def _check_keys(path: Path, where: str, given: Iterable[str], known: Iterable[str]) -> None:
    names = [name for name in known if not name.startswith("__") or name in given]
    for name in given:
        if name not in names:
            _refuse(path, where, f"one of {', '.join(names)}", repr(name))


def _check_attributes(path: Path, outfits: Iterable[Outfit], module: ModuleType) -> None:
    """Refuse attributes that a first cache of the port does not have."""
    for outfit in outfits:
        if not outfit.attributes:
            continue
        try:
            has = dir(bare(make_cache(module, CACHES[outfit.name].sample)))
        except CAUGHT:
            # It cannot be made at all: the smoke test says so.
            continue
        for name, port in outfit.attributes.items():
            if port not in has:
                told = ", ".join(one for one in has if not one.startswith("_"))
                where = f"classes.{outfit.name}.attributes.{name}"
                _refuse(path, where, f"an attribute of {outfit.port.__name__} ({told})", repr(port))


def _check_arguments(
    path: Path, where: str, named: Mapping[str, Any], ours: Any, port: Any
) -> None:
    """Refuse argument names that the release's callable, or the port's, does not take."""
    if ours is not None:
        _check_keys(path, where, named, _parameters(ours))
    parameters = _parameters(port)
    if "**" in parameters:
        return
    for name in named.values() if ours is not None else named:
        if name not in parameters:
            _refuse(path, where, f"an argument of the port's ({', '.join(parameters)})", repr(name))


def _parameters(call: Any) -> list[str]:
    """Return the names of what a callable takes, "**" for anything."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return ["**"]
    names = [one.name for one in parameters if one.name != "self"]
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return [*names, "**"] if anything else names


def _refuse(path: Path, where: str, expected: str, got: str) -> None:
    raise PortMapError(f"{path}: {where}: expected {expected}, got {got}")
