"""ARCHITECTURE.md is true: its layers and the direction of its arrows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HARNESS = ROOT / "conformance" / "kvlockstep"
OURS = {"mlxkv": "impl", "kvreference": "reference", "kvlockstep": "conformance"}
ALLOWED = {"mlxkv": set(), "kvreference": set(), "kvlockstep": {"kvreference"}}
FRONT = {"__init__", "__main__", "pytest_plugin"}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layers() -> dict[str, int]:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| ") and "`_" in line]
    rows = [re.findall(r"`(_\w+)`", line.split("|")[2]) for line in table]
    return {name: number for number, row in enumerate(rows) for name in row}


@pytest.mark.parametrize("package", OURS)
def test_packages_import_only_what_they_may(package: str) -> None:
    """The port and the reference import nothing of ours, the harness only the reference."""
    files = (ROOT / OURS[package] / package).rglob("*.py")
    files = (file for file in files if "site-packages" not in file.parts)
    found = {name.partition(".")[0] for file in files for name in imports(file)}
    assert found & set(OURS) <= ALLOWED[package] | {package}


def test_every_module_has_a_layer() -> None:
    """The table of layers names every module of the harness, and no other."""
    assert set(layers()) == {file.stem for file in HARNESS.glob("*.py")} - FRONT


@pytest.mark.parametrize("module", sorted(layers()))
def test_modules_import_upwards_only(module: str) -> None:
    """A module imports from its own layer and from those above it in the table."""
    known = layers()
    for name in imports(HARNESS / f"{module}.py"):
        other = name.removeprefix("kvlockstep.").partition(".")[0]
        if name.startswith("kvlockstep.") and other in known:
            assert known[other] <= known[module], f"{module} imports {other}"
