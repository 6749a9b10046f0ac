"""Is an installed release what was pinned?"""

import base64
import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kvreference._pins import Pin

MISSING = "no such file"


@dataclass(frozen=True)
class Mismatch:
    """One file that is not what it should be."""

    file: Path
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.file}: expected {self.expected}, got {self.actual}"


def find_problems(pin: Pin, tree: Path) -> list[Mismatch]:
    """Return every difference between `tree` and the release that `pin` describes.

    The two files that we load are held against the pin; every other file against the wheel's
    RECORD, as pip installed it. Bytecode is passed over: `load` never runs it. Raises OSError
    where a file cannot be read.
    """
    if not tree.is_dir():
        return [Mismatch(tree, "an installed release", "no such folder")]
    found = {file: find_change(tree / file, digest) for file, digest in pin.digests.items()}
    record = f"mlx_lm-{pin.release}.dist-info/RECORD"
    found |= _check_record(tree, record, skip=set(pin.digests))
    return [mismatch for mismatch in found.values() if mismatch is not None]


def find_change(file: Path, digest: str) -> Mismatch | None:
    """Return how `file` differs from the SHA-256 `digest`, or None where it does not."""
    if not file.is_file():
        return Mismatch(file, f"sha256 {digest}", MISSING)
    return compare_bytes(file, file.read_bytes(), digest)


def compare_bytes(file: Path, content: bytes, digest: str) -> Mismatch | None:
    """Return how `content`, read from `file`, differs from `digest`, or None."""
    actual = hashlib.sha256(content).hexdigest()
    if actual == digest:
        return None
    return Mismatch(file, f"sha256 {digest}", f"sha256 {actual}")


def _check_record(tree: Path, record: str, skip: set[str]) -> dict[str, Mismatch | None]:
    try:
        rows = _read_record(tree / record)
    except (OSError, ValueError, csv.Error) as error:
        return {record: Mismatch(tree / record, "the RECORD of a wheel", str(error))}
    found = {
        file: _compare_to_record(tree / file, digest)
        for file, digest in rows.items()
        if file not in skip and file != record
    }
    extra = _list_files(tree) - set(rows)
    found |= {file: Mismatch(tree / file, "a file that RECORD lists", "one more") for file in extra}
    return dict(sorted(found.items()))


def _read_record(file: Path) -> dict[str, str]:
    """Return the hash column of each row that a wheel brings.

    pip adds rows of its own: launch scripts, which lie outside (``sync`` deletes them, since they
    cannot run from where they are), and bytecode.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        rows = {name: digest for name, digest, _size in csv.reader(lines)}
    return {
        name: digest
        for name, digest in rows.items()
        if name.partition("/")[0] not in ("..", "bin")
        and "__pycache__" not in PurePosixPath(name).parts
    }


def _compare_to_record(file: Path, digest: str) -> Mismatch | None:
    if not file.is_file():
        return Mismatch(file, digest, MISSING)
    algorithm = digest.partition("=")[0]
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        return Mismatch(file, "a hash in RECORD", repr(digest))
    raw = hashlib.new(algorithm, file.read_bytes()).digest()
    actual = f"{algorithm}={base64.urlsafe_b64encode(raw).decode().rstrip('=')}"
    return None if actual == digest else Mismatch(file, digest, actual)


def _list_files(tree: Path) -> set[str]:
    files = (file.relative_to(tree) for file in tree.rglob("*") if file.is_file())
    return {file.as_posix() for file in files if "__pycache__" not in file.parts}
