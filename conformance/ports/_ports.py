"""The ports of others that the gate is run on: what is pinned, and its installation.

A port is a folder: `requirements.txt` pins its wheel, `port.toml` is its map, `judgements.toml`
says what we make of what the gate finds, `traces/` has the shortest trace of each finding. The
wheel goes to `installed/`, apart from our environment: only worker processes import it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

_REQUIREMENT = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>\S+) --hash=sha256:(?P<sha>[0-9a-f]{64})"
)
_OPTIONS = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile", "--no-input")


class PortError(Exception):
    """A port that cannot be installed or judged."""


@dataclass(frozen=True)
class Port:
    """One port: its folder, and the wheel that is pinned."""

    folder: Path
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The name of the package."""
        return self.folder.name

    @property
    def map(self) -> Path:
        """The file that describes it to the harness."""
        return self.folder / "port.toml"

    @property
    def traces(self) -> Path:
        """Where the shortest trace of each finding is."""
        return self.folder / "traces"

    @property
    def page(self) -> Path:
        """The page that is written of it."""
        return self.folder.with_suffix(".md")


def find_ports(folder: Path = HERE) -> list[Port]:
    """Return the ports by name; raises `PortError`."""
    return [read_port(file.parent) for file in sorted(folder.glob("*/requirements.txt"))]


def read_port(folder: Path) -> Port:
    """Return the port in `folder`; raises `PortError` for a pin that is none."""
    file = folder / "requirements.txt"
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise PortError(f"{folder.name}: {error}") from error
    found = _REQUIREMENT.fullmatch(text)
    if found is None or found["name"] != folder.name:
        raise PortError(
            f"{file}: expected one line '{folder.name}==VERSION --hash=sha256:...', got {text!r}"
        )
    return Port(folder, found["version"], found["sha"])


def install(port: Port) -> None:
    """Install the pinned wheel, and nothing that it depends on; raises `PortError`."""
    installed, pin = port.folder / "installed", port.folder / "requirements.txt"
    marker = installed / ".pinned"
    if marker.is_file() and marker.read_text(encoding="utf-8") == pin.read_text(encoding="utf-8"):
        return
    partial = port.folder / "installed.partial"
    for folder in (installed, partial):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", *_OPTIONS]
    done = subprocess.run(
        [*command, "--target", str(partial), "-r", str(pin)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PortError(f"{port.name}: pip failed:\n{done.stdout}{done.stderr}")
    shutil.copyfile(pin, partial / ".pinned")
    partial.rename(installed)
