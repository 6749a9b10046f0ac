"""Which releases are pinned, and to what.

A release is two files under ``pins/``: see ``pins/README.md``. ``gate.txt`` names those that ports
are held to; the others are there to be compared with when asked for.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from kvreference import _errors

PINS = Path(__file__).resolve().parent / "pins"
GATE = "gate.txt"

BASE = "mlx_lm/models/base.py"
CACHE = "mlx_lm/models/cache.py"

_VERSION = re.compile(r"\d+(\.\d+)+")
_REQUIREMENT = re.compile(r"mlx-lm==(?P<version>\S+) --hash=sha256:(?P<wheel>[0-9a-f]{64})")
_DIGEST = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<file>.+)")


@dataclass(frozen=True)
class Pin:
    """What one release has to be: its requirements file, its wheel, and the files we load."""

    release: str
    requirements: Path
    wheel: str
    base: str
    cache: str

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file that is loaded, by its path in the wheel."""
        return {BASE: self.base, CACHE: self.cache}


def list_releases(pins: Path = PINS) -> tuple[str, ...]:
    """Return the pinned releases, the oldest first."""
    names = [file.stem for file in pins.glob("*.txt") if _VERSION.fullmatch(file.stem)]
    return tuple(sorted(names, key=lambda name: [int(part) for part in name.split(".")]))


def list_gate(pins: Path = PINS) -> tuple[str, ...]:
    """Return the pinned releases that ports are held to, the oldest first.

    All of them where no ``gate.txt`` chooses. Raises ReferenceError where it names one that is not
    pinned, or none.
    """
    known = list_releases(pins)
    file = pins / GATE
    if not file.exists():
        return known
    named = _read_content(file, GATE)
    unknown = [name for name in named if name not in known]
    if unknown or not named:
        expected = f"some of {', '.join(known)}, one a line"
        raise _refuse(file, GATE, expected, ", ".join(unknown) or "none")
    return tuple(name for name in known if name in named)


def read_pin(release: str, pins: Path = PINS) -> Pin:
    """Return the pin of `release`.

    Raises ReferenceError: `release` is not pinned, or one of its two files says something else
    than a pin does.
    """
    if release not in list_releases(pins):
        raise _errors.ReferenceError(
            f"unknown release {release!r}",
            kind="unknown",
            expected=f"one of {', '.join(list_releases(pins))}, or path:DIR where one is loaded",
            actual=repr(release),
        )
    requirements = pins / f"{release}.txt"
    (line,) = _read_lines(requirements, release, 1)
    found = _REQUIREMENT.fullmatch(line)
    if found is None or found["version"] != release:
        expected = f"mlx-lm=={release} --hash=sha256:<64 hexadecimal digits>"
        raise _refuse(requirements, release, expected, line)
    digests = _read_digests(pins / f"{release}.sha256", release)
    return Pin(release, requirements, found["wheel"], digests[BASE], digests[CACHE])


def _read_digests(file: Path, release: str) -> dict[str, str]:
    lines = _read_lines(file, release, 2)
    found = [_DIGEST.fullmatch(line) for line in lines]
    digests = {match["file"]: match["digest"] for match in found if match}
    if set(digests) != {BASE, CACHE}:
        expected = f"<sha256>  {BASE}, and <sha256>  {CACHE}"
        raise _refuse(file, release, expected, "; ".join(lines))
    return digests


def _read_lines(file: Path, release: str, count: int) -> list[str]:
    lines = _read_content(file, release)
    if len(lines) != count:
        raise _refuse(file, release, f"{count} line(s)", f"{len(lines)}")
    return lines


def _read_content(file: Path, release: str) -> list[str]:
    """Return the lines of `file` that are neither empty nor a comment."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise _refuse(file, release, "a readable text file", str(error)) from error
    return [line for line in lines if line and not line.startswith("#")]


def _refuse(file: Path, release: str, expected: str, actual: str) -> _errors.ReferenceError:
    return _errors.ReferenceError(
        f"bad pin file {file}",
        kind="pin",
        release=release,
        expected=expected,
        actual=actual,
        mend="restore the file, or make it again as pins/README.md says",
    )
