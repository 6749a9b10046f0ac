"""The list of equivalent mutants is strict, and `kvlockstep mutate` reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvlockstep._cli import main
from kvlockstep._equivalents import (
    EquivalentsError,
    judge_equivalents,
    read_equivalents,
)

ENTRY = """
version = 1

[[equivalent]]
targets = ["release:0.32.2"]
mutants = ["{}"]
reason = "for the test"
"""


def run(*options: str) -> tuple[int, str]:
    command = ["mutate", "--target", "release:0.32.2", "--workers", "1", "--no-shrink", *options]
    result = CliRunner().invoke(main, command)
    return result.exit_code, result.output


def test_our_list_can_be_read() -> None:
    """Ours has a reason for every mutant of every target."""
    listed = read_equivalents()

    assert {target for entry in listed.equivalent for target in entry.targets} == {
        "release:0.31.3",
        "release:0.32.2",
        "py:mlxkv",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version = 2", "expected version 1, got 2"),
        ("version = 1\nmore = 1", "unknown field `more`"),
        (ENTRY.format("a") + ENTRY.format("a").replace("version = 1", ""), "listed twice: a"),
        (ENTRY.format(""), "length >= 1"),
        ("version =", "Invalid value"),
    ],
)
def test_a_list_that_is_wrong_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """The message names the file and what is wrong with it."""
    file = tmp_path / "list.toml"
    file.write_text(text)

    with pytest.raises(EquivalentsError, match=told) as info:
        read_equivalents(file)
    assert str(file) in str(info.value)


def test_entries_are_held_against_the_run() -> None:
    """An entry that names no mutant fails, and one that is killed; one that survives is right."""
    problems = judge_equivalents(["gone", "dead", "alive"], {"dead", "alive"}, {"dead"})

    assert problems == [
        "listed as equivalent, but there is no such mutant: gone",
        "listed as equivalent, but killed: dead",
    ]


def test_a_killed_mutant_is_reported_as_json(tmp_path: Path) -> None:
    """All killed: status 0; each verdict has its mutant, the divergence, and how long it took."""
    file = tmp_path / "report.json"

    status, output = run(
        *("--cache", "KVCache", "--only", "KVCache.trim:ReplaceBinaryOperator_Sub"),
        *("--format", "json", "--output", str(file)),
    )

    assert (status, output) == (0, "")
    [report] = json.loads(file.read_text())
    assert (report["mutants"], report["killed"], report["survived"]) == (1, 1, 0)
    [verdict] = report["verdicts"]
    assert verdict["outcome"] == "divergence"
    assert verdict["signature"].startswith("0.32.2/KVCache/trim/")
    assert verdict["traces"] >= 1
    assert verdict["seconds"] > 0


def test_a_killed_mutant_must_not_be_listed(tmp_path: Path) -> None:
    """A list that calls it equivalent is wrong: status 1."""
    only = "KVCache.trim:ReplaceBinaryOperator_Sub"
    options = ("--cache", "KVCache", "--only", only)
    file = tmp_path / "report.json"
    run(*options, "--format", "json", "--output", str(file))
    [verdict] = json.loads(file.read_text())[0]["verdicts"]
    listed = tmp_path / "list.toml"
    listed.write_text(ENTRY.format(verdict["content"]))

    status, output = run(*options, "--equivalents", str(listed))

    assert status == 1
    assert f"listed as equivalent, but killed: {verdict['content']}" in output


def test_what_cannot_be_mutated_ends_with_status_2() -> None:
    """No such target, no such mutant: could not run."""
    assert run("--target", "py:no_such_module")[0] == 2
    assert run("--only", "no such function")[0] == 2
