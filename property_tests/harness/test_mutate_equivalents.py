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
from kvlockstep._kill import Verdict
from kvlockstep._mutants import mutants_of
from kvlockstep._mutation import Outcomes, Plan
from kvlockstep._mutation_report import Format, tell
from kvlockstep._origin import origin_of
from kvlockstep._settings import Settings

ENTRY = """
version = 1

[[equivalent]]
targets = ["release:0.32.2"]
mutants = ["{}"]
reason = "for the test"
"""


ONLY = "TokenBuffer.update_and_fetch:ReplaceBinaryOperator_FloorDiv"


def run(*options: str) -> tuple[int, str]:
    target = () if "--target" in options else ("--target", "release:0.32.2")
    command = ["mutate", *target, "--workers", "1", "--no-shrink", *options]
    result = CliRunner().invoke(main, command)
    return result.exit_code, result.output


def test_our_list_names_what_there_is() -> None:
    """Mutants that ours names, every fourth of them, can be made; and every function is there."""
    listed = read_equivalents()

    for target in ("release:0.31.3", "release:0.32.2", "py:mlxkv"):
        releases = (target.partition(":")[2],) if target.startswith("release") else ("0.32.2",)
        units = origin_of(target, releases).units
        reasons = listed.reasons(target)
        named = {name.partition(":")[0] for name in [*reasons][::4]}
        about = [unit for unit in units if unit.function in named]
        made = {mutant.content for mutant in mutants_of(about)}
        assert {*[*reasons][::4]} <= made
        assert listed.functions(target).keys() <= {unit.function for unit in units}
    assert len(listed.reasons("release:0.32.2")) > 20
    assert len(listed.functions("py:mlxkv")) > 2


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


def test_a_killed_mutant_must_not_be_listed(tmp_path: Path) -> None:
    """A list that calls it equivalent is wrong: status 1, and the report tells by what."""
    [mutant] = [
        one
        for one in mutants_of(origin_of("release:0.32.2", ("0.32.2",)).units)
        if ONLY in one.content
    ]
    listed, file = tmp_path / "list.toml", tmp_path / "report.json"
    listed.write_text(ENTRY.format(mutant.content))

    status, _ = run(
        *("--cache", "TokenBuffer", "--only", ONLY, "--equivalents", str(listed)),
        *("--format", "json", "--output", str(file)),
    )

    assert status == 1
    [report] = json.loads(file.read_text())
    assert report["problems"] == [f"listed as equivalent, but killed: {mutant.content}"]
    assert (report["mutants"], report["killed"], report["survived"]) == (1, 1, 0)
    [verdict] = report["verdicts"]
    assert (verdict["id"], verdict["outcome"]) == (mutant.id, "divergence")
    assert verdict["signature"].startswith("0.32.2/TokenBuffer/")
    assert verdict["traces"] >= 1
    assert verdict["seconds"] > 0


@pytest.mark.parametrize("how", ["text", "json", "markdown"])
def test_survivors_fail_unless_they_are_listed(how: Format) -> None:
    """One that survived is told in every format; with a reason it is told as equivalent."""
    units = origin_of("release:0.32.2", ("0.32.2",)).units
    one, other = mutants_of(
        [unit for unit in units if unit.function == "KVCache.update_and_fetch"]
    )[:2]
    plan = Plan(Settings(target="release:0.32.2"))
    verdicts = [(one, Verdict("divergence", 0.5, length=2)), (other, Verdict("survived"))]
    run = Outcomes(plan, ("0.32.2",), 2, verdicts=verdicts)

    assert run.exit_status == 1
    assert other.id in tell([run], how)
    assert "50 %" in tell([run], "text")
    run.reasons[other.content] = "because"
    assert run.exit_status == 0
    assert "100 %" in tell([run], "text")
    assert "because" in tell([run], "markdown")


def test_what_cannot_be_mutated_ends_with_status_2() -> None:
    """No such target, no such mutant: could not run."""
    assert run("--target", "py:no_such_module")[0] == 2
    assert run("--cache", "TokenBuffer", "--only", "no such function")[0] == 2
