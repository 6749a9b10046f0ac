"""Run source files as modules of a private package."""

import importlib.util
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from kvreference import _errors


@dataclass(frozen=True)
class Sources:
    """What is to be run, and under which package name.

    `folder` is where other modules of the package may be imported from; None for nowhere, so that
    nothing unchecked can slip in.
    """

    package: str
    folder: Path | None
    base_file: Path
    cache_file: Path
    base: bytes
    cache: bytes


def execute(name: str, sources: Sources) -> tuple[ModuleType, ModuleType]:
    """Run base.py, then cache.py, and return the two modules.

    Both stay in `sys.modules`, with their two parent packages. Raises ReferenceError, chained from
    whatever the file raised; `sys.modules` is then as it was.
    """
    models = f"{sources.package}.models"
    _forget(sources.package)
    _add_package(sources.package, sources.folder)
    _add_package(models, sources.folder / "models" if sources.folder else None)
    file = sources.base_file
    try:
        base = _run(f"{models}.base", file, sources.base)
        file = sources.cache_file
        cache = _run(f"{models}.cache", file, sources.cache)
    except Exception as error:
        _forget(sources.package)
        no_mlx = isinstance(error, ImportError) and "mlx" in str(error)
        raise _errors.ReferenceError(
            f"{name}: {file} does not import",
            kind="import",
            actual=f"{type(error).__name__}: {error}",
            mend="python -m pip install mlx (on Linux 'mlx[cpu]')" if no_mlx else None,
        ) from error
    return base, cache


def _run(name: str, file: Path, content: bytes) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise ImportError(f"no module can be made of {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Not spec.loader.exec_module: it would read the file again, or stale bytecode in its place.
    exec(compile(content, str(file), "exec", dont_inherit=True), module.__dict__)
    _bind_to_parent(name, module)
    return module


def _add_package(name: str, folder: Path | None) -> None:
    spec = ModuleSpec(name, loader=None, is_package=True)
    spec.submodule_search_locations = [str(folder)] if folder else []
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _bind_to_parent(name, module)


def _bind_to_parent(name: str, module: ModuleType) -> None:
    """Do what ``import a.b`` does besides: set ``b`` in ``a``."""
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _forget(package: str) -> None:
    for name in list(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]
