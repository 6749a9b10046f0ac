"""Hostile files are refused, typed, soon and in little memory, by everything that opens files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from property_tests.files import contained, release_matrix
from property_tests.files.conftest import Contract
from property_tests.files.hostile import base, corpus, write
from property_tests.files.hostile_legal import LEGAL
from property_tests.files.hostile_pack import Case, Raw, entries, frame
from property_tests.files.states import State, make

import mlxkv

CASES = corpus()
# Of the resident set, beyond what MLX and Python have; a header of 16 MiB takes most of it.
MEMORY = 400 << 20
MESSAGE = 2000
# Those that take long are floods of names; the slowest takes a second on a slow machine.
SHARE = 4


@pytest.mark.parametrize("share", range(SHARE))
def test_no_hostile_file_is_accepted(tmp_path: Path, share: int) -> None:
    """Nothing crashes or hangs; all but the legal ones are refused by name, and no two disagree."""
    cases = CASES[share::SHARE]
    outcomes = contained.run("port", placed(cases, tmp_path), tmp_path)
    assert len(outcomes) == 4 * len(cases)
    wrong = []
    for outcome in outcomes:
        case = cases[outcome.case]
        fits = outcome.how == "accepts" if case.legal else outcome.refusal
        if not fits or len(outcome.message) > MESSAGE or outcome.peak > MEMORY:
            wrong.append((case.kind, case.name, *outcome[1:]))
    assert wrong == []
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    peak = max(outcome.peak for outcome in outcomes) >> 20
    print(f"{len(cases)} files, {peak} MiB, {slowest.seconds:.1f} s: {cases[slowest.case].name}")


def placed(cases: list[Case], folder: Path) -> list[Path]:
    """The paths of the files, made."""
    paths = [folder / f"{i}.safetensors" for i in range(len(cases))]
    for case, path in zip(cases, paths, strict=True):
        write(case, path)
    return paths


def test_the_corpus() -> None:
    """It is large, every kind of corruption is in it, and every reason for a legal file is used."""
    assert len(CASES) >= 3000
    assert len({case.kind for case in CASES}) >= 40
    for pattern in LEGAL:
        assert any(re.fullmatch(pattern, case.name) for case in CASES if case.legal), pattern


def test_the_page_is_of_this_corpus() -> None:
    """The table of what the releases do counts the files that are made today."""
    counted = Counter(release_matrix.kind_of(case) for case in CASES if not case.legal)
    lines = release_matrix.PAGE.read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    assert {row[0]: int(row[1]) for row in rows[2:-1]} == dict(counted)


@pytest.mark.parametrize("entry", [{"a": "x" * (1 << 24)}, {f"k{i}": "" for i in range(1 << 16)}])
def test_what_would_not_be_read_again_is_not_saved(
    contract: Contract, tmp_path: Path, entry: dict[str, str]
) -> None:
    """A header that the reader refuses for its size is refused before it is written."""
    cache = make(contract.port, State("KVCache", (), "u3"))
    with pytest.raises(mlxkv.NotSavableError, match="at most"):
        contract.port.save_prompt_cache(str(tmp_path / "x"), [cache], entry)
    assert list(tmp_path.iterdir()) == []


LARGE = """
import resource, sys
sys.path[:0] = {path!r}
import mlx.core as mx, mlxkv
from mlxkv import mlx_lm_0_31, mlx_lm_0_32
mx.eval(mx.zeros(1))
resource.setrlimit(resource.{limit}, (2 << 30, 2 << 30))
for function in (
    mlxkv.read_prompt_cache,
    lambda path: mlxkv.inspect_prompt_cache(path).problems,
    mlx_lm_0_31.load_prompt_cache,
    mlx_lm_0_32.load_prompt_cache,
):
    try:
        function(sys.argv[1])
        print("done")
    except mlxkv.PromptCacheOSError as error:
        print("refused")
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_file_larger_than_memory(tmp_path: Path, limit: str) -> None:
    """8 GiB of zeros: told without its tensors, and refused where memory or addresses run out."""
    path = tmp_path / "x.safetensors"
    large(path, 1 << 27)
    done = subprocess.run(
        [sys.executable, "-c", LARGE.format(path=sys.path, limit=limit), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *told, peak = done.stdout.split()
    assert told == ["done" if limit == "RLIMIT_DATA" else "refused"] * 2 + ["refused"] * 2
    assert int(peak) << 10 < MEMORY


def large(path: Path, rows: int) -> None:
    """A file of which the disk holds the header alone."""
    parts = base()
    tensors = {f"0.{i}": Raw("F16", (1, 1, rows, 16), b"") for i in (0, 1)}
    size = rows * 32
    header = {"__metadata__": parts.metadata, **entries(tensors)}
    for i in (0, 1):
        header[f"0.{i}"]["data_offsets"] = [i * size, (i + 1) * size]
    content = frame(json.dumps(header))
    path.write_bytes(content)
    os.truncate(path, len(content) + 2 * size)
