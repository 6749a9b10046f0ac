"""Run pip, and say in one word why it failed."""

import re
import subprocess
import sys
from pathlib import Path

from kvreference import _errors
from kvreference._errors import Kind
from kvreference._pins import Pin

OPTIONS = (
    "--no-deps",
    "--require-hashes",
    "--only-binary=:all:",
    "--no-compile",
    "--no-input",
    "--no-user",  # a configured `user = true` cannot be combined with --target
    "--disable-pip-version-check",
)

_GOT = re.compile(r"Got\s+([0-9a-f]{64})")
_DISK = re.compile(
    r"No space left on device|Disk quota exceeded|Permission denied|Read-only file system"
    r"|Not a directory|Input/output error"
)
_NETWORK = re.compile(
    r"ConnectionError|ReadTimeout|ConnectTimeout|Max retries exceeded|ProxyError|SSLError"
    r"|NewConnectionError|IncompleteRead|NameResolutionError|HTTP ?[Ee]rror"
)


def install_wheel(pin: Pin, target: Path) -> None:
    """Install the wheel of `pin` into the folder `target`, which pip makes.

    What pip prints is kept, and shown only in the error. Raises ReferenceError.
    """
    arguments = ["install", *OPTIONS, "--target", str(target), "-r", str(pin.requirements)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise _errors.ReferenceError(
            f"cannot start {sys.executable!r}: {error.strerror}", kind="pip", release=pin.release
        ) from error
    if done.returncode != 0:
        raise _explain(pin, done.returncode, done.stdout)


def _explain(pin: Pin, status: int, output: str) -> _errors.ReferenceError:
    """Return the error that says why pip failed, as far as its output tells."""
    again = _errors.command("sync", pin.release)
    kind: Kind = "pip"
    problem = f"pip failed with exit status {status}"
    expected = f"a wheel with sha256 {pin.wheel}"
    actual = None
    mend = again
    if re.search(r"No module named '?pip\b", output):
        problem = f"{sys.executable} has no pip"
        mend = f"python -m ensurepip (or, under uv, `uv pip install pip`), then {again}"
    elif "DO NOT MATCH THE HASHES" in output:
        kind, problem = "hash", "the wheel is not the one that was pinned"
        found = _GOT.search(output)
        actual = f"a wheel with sha256 {found[1]}" if found else None
        mend = f"find out who changed the wheel; with an index that serves the pinned one, {again}"
    elif "from versions: none" in output or _NETWORK.search(output):
        kind, problem = "network", "pip could not get it: no network, or no index that has mlx-lm"
        mend = f"with a network (or PIP_FIND_LINKS=<folder with the wheel>), {again}"
    elif "No matching distribution found" in output:
        kind, problem = "not-found", "the index has mlx-lm, and not this release"
        mend = f"with an index that has it (or PIP_FIND_LINKS=<folder with the wheel>), {again}"
    elif found := _DISK.search(output):
        kind, problem = "disk", f"pip could not write: {found[0]}"
        mend = f"make room, or set KVREFERENCE_HOME to a folder that can be written; then {again}"
    return _errors.ReferenceError(
        problem,
        kind=kind,
        release=pin.release,
        expected=expected,
        actual=actual,
        mend=mend,
        output=output,
    )
