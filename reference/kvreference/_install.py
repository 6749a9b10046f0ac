"""Install the pinned releases: into a temporary folder, verified, then renamed."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from kvreference import _errors
from kvreference._home import find_tree, home
from kvreference._pins import PINS, Pin, list_gate, read_pin
from kvreference._pip import install_wheel
from kvreference._verify import find_problems

PARTIAL = ".partial-"


def sync(
    releases: Iterable[str] | None = None, *, force: bool = False, pins: Path = PINS
) -> dict[str, Path]:
    """Make sure that `releases` (by default those of the gate) are installed and what was pinned.

    Returns the folder that holds each release's ``mlx_lm``. Writes under `home()` only; where all
    is well it neither writes nor starts pip. A tree that has changed is replaced; `force` replaces
    good ones too. Processes that sync at the same time wait for each other. Nobody sees half a
    tree; while one is replaced, there is none for an instant. `pins` is for tests: another folder
    of pins. Raises ReferenceError; the releases before the failing one stay installed.
    """
    if releases is None:
        releases = list_gate(pins)
    names = [releases] if isinstance(releases, str) else list(releases)
    todo = [read_pin(name, pins) for name in names]
    done = {pin.release: find_tree(pin.release) for pin in todo}
    try:
        if not force:
            todo = [pin for pin in todo if find_problems(pin, done[pin.release])]
        if todo:
            _install_all(todo, force)
        elif _list_leftovers():
            with contextlib.suppress(OSError), _hold_lock(wait=False):
                _sweep()
    except OSError as error:
        raise _errors.ReferenceError(
            f"cannot install under {home()}: {error}",
            kind="disk",
            expected="a folder that can be read and written, with room for some megabytes",
            actual=str(error),
            mend="make it so, or set KVREFERENCE_HOME to another folder; then "
            + _errors.command("sync", " ".join(done)),
        ) from error
    return done


def _install_all(todo: list[Pin], force: bool) -> None:
    with _hold_lock(wait=True):
        _sweep()
        for pin in todo:
            # Another process may have done it while we waited for the lock.
            if force or find_problems(pin, find_tree(pin.release)):
                _install(pin)


def _install(pin: Pin) -> None:
    work = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{pin.release}-", dir=home()))
    try:
        new = work / "new"
        tree = new / "site-packages"
        install_wheel(pin, tree)
        shutil.rmtree(tree / "bin", ignore_errors=True)
        _check_installed(pin, tree)
        final = home() / pin.release
        if final.exists():
            final.rename(work / "old")
        new.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_installed(pin: Pin, tree: Path) -> None:
    problems = find_problems(pin, tree)
    if problems:
        raise _errors.ReferenceError(
            "pip installed the pinned wheel, but not the pinned files",
            kind="pin",
            release=pin.release,
            expected=f"files as in {pin.requirements.with_suffix('.sha256')} and RECORD",
            actual="; ".join(str(problem) for problem in problems),
            mend="make the pin again as pins/README.md says",
        )


@contextlib.contextmanager
def _hold_lock(*, wait: bool) -> Iterator[None]:
    """Hold the lock of `home()`, which also dies with its process.

    Raises BlockingIOError where another process holds it and `wait` is false.
    """
    home().mkdir(parents=True, exist_ok=True)
    with (home() / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _list_leftovers() -> list[Path]:
    return list(home().glob(f"{PARTIAL}*"))


def _sweep() -> None:
    """Delete the temporary folders of killed syncs; whoever holds the lock owns none yet."""
    for folder in _list_leftovers():
        shutil.rmtree(folder, ignore_errors=True)
