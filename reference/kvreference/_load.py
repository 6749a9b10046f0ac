"""Load the cache module of a release, or of a working copy of mlx-lm."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from kvreference import _errors
from kvreference._execute import Sources, execute
from kvreference._home import find_tree
from kvreference._pins import BASE, CACHE, PINS, Pin, read_pin
from kvreference._verify import MISSING, Mismatch, compare_bytes

_LOADED: dict[tuple[str, Sources], "Reference"] = {}
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Reference:
    """One loaded mlx-lm: the modules ``models/cache.py`` and ``models/base.py``."""

    name: str
    cache: ModuleType
    base: ModuleType
    cache_file: Path


def load(name: str, *, pins: Path = PINS) -> Reference:
    """Load a pinned release (``"0.32.2"``) or a working copy (``"path:DIR"``).

    The modules get private names (``_kvreference_0_32_2.models.cache``), so that several releases
    live side by side; neither mlx-lm's ``__init__`` nor anything else of it is run. A release's
    files are held against their pin at every call, and what runs is the bytes that were checked,
    never bytecode from disk. DIR contains ``mlx_lm``, or is it; nothing is checked there. The
    same files give the same object; a working copy edited since then gives a new one.

    Writes nothing but `sys.modules`. Raises ReferenceError: unknown release, not installed,
    changed since it was installed, no mlx-lm in DIR, or the module fails to import (chained).
    """
    if name.startswith("path:"):
        sources = _read_working_copy(name)
    else:
        sources = _read_release(read_pin(name, pins))
    with _LOCK:
        key = (name, sources)
        if key not in _LOADED:
            base, cache = execute(name, sources)
            _LOADED[key] = Reference(name, cache, base, sources.cache_file)
        return _LOADED[key]


def _read_release(pin: Pin) -> Sources:
    tree = find_tree(pin.release)
    if not tree.is_dir():
        raise _errors.ReferenceError(
            "the release is not installed",
            kind="not-synced",
            release=pin.release,
            expected=f"the folder {tree}",
            actual="no such folder",
            mend=_errors.command("sync", pin.release),
        )
    return Sources(
        package=f"_kvreference_{pin.release.replace('.', '_')}",
        folder=None,
        base_file=tree / BASE,
        cache_file=tree / CACHE,
        base=_read_pinned(pin, tree / BASE, pin.base),
        cache=_read_pinned(pin, tree / CACHE, pin.cache),
    )


def _read_pinned(pin: Pin, file: Path, digest: str) -> bytes:
    """Return the bytes of `file`, or raise ReferenceError where they are not the pinned ones."""
    content = b""
    mismatch: Mismatch | None
    try:
        content = file.read_bytes()
        mismatch = compare_bytes(file, content, digest)
    except FileNotFoundError:
        mismatch = Mismatch(file, f"sha256 {digest}", MISSING)
    except OSError as error:
        mismatch = Mismatch(file, f"sha256 {digest}", str(error))
    if mismatch is None:
        return content
    raise _errors.ReferenceError(
        f"an installed file is not the pinned one: {file}",
        kind="changed",
        release=pin.release,
        expected=mismatch.expected,
        actual=mismatch.actual,
        mend=_errors.command("sync --force", pin.release),
    )


def _read_working_copy(name: str) -> Sources:
    given = name.removeprefix("path:")
    if not given:
        raise _refuse_path(name, "no DIR")
    try:
        root = Path(given).expanduser().resolve()
        missing: list[Path] = []
        for package in (root / "mlx_lm", root):
            files = [package / "models" / "base.py", package / "models" / "cache.py"]
            absent = [file for file in files if not file.is_file()]
            if not absent:
                return _read_sources(name, package, *files)
            missing += absent
    except (OSError, RuntimeError, ValueError) as error:
        raise _refuse_path(name, str(error)) from error
    raise _refuse_path(name, "no such file: " + ", ".join(str(file) for file in missing))


def _refuse_path(name: str, actual: str) -> _errors.ReferenceError:
    return _errors.ReferenceError(
        f"no mlx-lm in {name!r}",
        kind="path",
        expected="path:DIR, where DIR contains mlx_lm/models/base.py and cache.py, or is mlx_lm",
        actual=actual,
    )


def _read_sources(name: str, package: Path, base_file: Path, cache_file: Path) -> Sources:
    base, cache = base_file.read_bytes(), cache_file.read_bytes()
    identity = hashlib.sha256(b"\0".join([name.encode(), bytes(package), base, cache]))
    return Sources(
        package=f"_kvreference_path_{identity.hexdigest()[:16]}",
        folder=package,
        base_file=base_file,
        cache_file=cache_file,
        base=base,
        cache=cache,
    )
