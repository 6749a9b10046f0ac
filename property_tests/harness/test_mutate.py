"""Mutants are made, run and told apart; what they do to the process is contained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvlockstep._kill import Case, judge
from kvlockstep._mutants import Mutant, mutants_of, units_of
from kvlockstep._mutation import Plan, make_mutants
from kvlockstep._origin import origin_of
from kvlockstep._scout import keys_from
from kvlockstep._settings import Settings

RELEASE = "0.32.2"
TRACES = 15
SOURCE = '''
class Cache:
    """1 + 1"""

    step = 256

    @property
    def room(self: "int | None") -> "1 + 1":
        return self.step - 1

    class Inner:
        def more(self):
            for one in (1, 2):
                if one < 2:
                    continue
                return one + one


def outside(n=0):
    return not n
'''


def mutant(function: str, before: str, after: str, target: str = f"release:{RELEASE}") -> Mutant:
    """A mutant by hand: other text in one function."""
    units = origin_of(target, (RELEASE,)).units
    unit = next(one for one in units if one.function == function and before in one.text)
    text = unit.text.replace(before, after, 1)
    return Mutant(unit, unit.first, "ByHand", 0, before, after, text, f"{function}:by-hand")


def case(
    one: Mutant, cache: str, target: str = f"release:{RELEASE}", hang: float = 2.0, *, shrink: bool
) -> Case:
    keys = tuple(keys_from(RELEASE, cache, 0, TRACES))
    settings = Settings(target=target, releases=(RELEASE,))
    then = ((RELEASE, cache),)
    return Case(settings, (RELEASE,), one, keys, then, TRACES, 0.3, hang, shrink)


def test_mutants_are_of_functions_and_class_bodies() -> None:
    """One place each, ids by file, line, operator and number; annotations and texts are left."""
    units = [*units_of("m", "m.py", SOURCE)]
    mutants = mutants_of(units)

    assert [(unit.function, unit.owner) for unit in units] == [
        ("Cache", "Cache"),
        ("Cache.room", "Cache"),
        ("Cache.Inner.more", "Cache"),
        ("outside", ""),
    ]
    changes = {(one.id, one.before, one.after) for one in mutants}
    assert ("m.py:5:NumberReplacer:0", "step = 256", "step = 257") in changes
    assert ("m.py:7:RemoveDecorator:0", "@property", "") in changes
    assert (
        "m.py:9:ReplaceBinaryOperator_Sub_Add:0",
        "return self.step - 1",
        "return self.step + 1",
    ) in changes
    assert (
        "m.py:15:ReplaceContinueWithBreak:0",
        "continue",
        "break",
    ) in changes
    assert {one.line for one in mutants}.isdisjoint({3, 8})
    assert len({one.content for one in mutants}) == len(mutants)


def test_a_mutant_is_one_change_of_its_module() -> None:
    """Applied to the source, a mutant differs from it in its own unit only, and is valid."""
    for one in mutants_of([*units_of("m", "m.py", SOURCE)]):
        changed = one.apply(SOURCE)
        assert changed != SOURCE
        compile(changed, "m.py", "exec")
        assert changed.replace(one.text, one.unit.text, 1) == SOURCE


def test_every_operator_makes_more() -> None:
    """A binary operator becomes its inverse; asked for every one, all the others too."""
    units = [*units_of("m", "m.py", SOURCE)]
    few, many = ({one.operator for one in mutants_of(units, every)} for every in (False, True))

    assert few < many
    assert "ReplaceBinaryOperator_Add_Mul" in many - few


@pytest.mark.parametrize(
    ("function", "before", "after", "cache"),
    [
        ("KVCache.trim", "min(self.offset, n)", "min(self.offset, n) + 1", "KVCache"),
        ("RotatingKVCache._trim", "self.keep", "0", "RotatingKVCache"),
        ("TokenBuffer.update_and_fetch", "len(tokens)", "len(tokens) - 1", "TokenBuffer"),
    ],
)
def test_a_fault_is_killed(function: str, before: str, after: str, cache: str) -> None:
    """A mutant that shows is killed by a divergence, with a shrunk trace that shows it."""
    verdict = judge(case(mutant(function, before, after), cache, shrink=True))

    assert verdict.outcome == "divergence"
    assert verdict.signature.startswith(f"{RELEASE}/{cache}/")
    assert verdict.trace is not None
    assert verdict.length == len(verdict.trace.steps) <= 4


def test_the_intact_text_survives() -> None:
    """A mutant that changes nothing is not told apart, however long it is searched."""
    verdict = judge(
        case(mutant("KVCache.trim", "self.offset -=", "self.offset  -="), "KVCache", shrink=False)
    )

    assert verdict.outcome == "survived"
    assert verdict.traces > TRACES


def test_declared_divergences_do_not_kill() -> None:
    """The port diverges where its ledger says so, and that does not count."""
    one = mutant("count_steps", "return", "return  ", "py:mlxkv")
    verdict = judge(case(one, "ChunkedKVCache", "py:mlxkv", shrink=False))

    assert verdict.outcome == "survived"


def test_a_mutant_of_the_port_is_killed() -> None:
    """A fault in a module that the port's classes share is found through any of them."""
    one = mutant("count_steps", "* step", "* step + 1", "py:mlxkv")
    verdict = judge(case(one, "KVCache", "py:mlxkv", shrink=False))

    assert verdict.outcome == "divergence"


WORDS = '''
def look(one, n):
    """1 + 1"""
    most, seen, told = 2 + n, n + 1, n + 2
    got = f"{n - 1} of {most + 1}"
    if n > 4:
        longer = got + "!"
        raise ValueError(f"{n * 2}", longer, what=n // 3)
    if seen:
        raise one.refuse(told - 4)
    raise one[n - 5]
'''


def test_the_words_of_an_error_are_known() -> None:
    """What only the call in a `raise` reads is a word; conditions and what is raised are none."""
    mutants = mutants_of([*units_of("m", "m.py", WORDS)])

    assert {one.before for one in mutants if one.is_word and "Binary" in one.operator} == {
        'got = f"{n - 1} of {most + 1}"',
        'longer = got + "!"',
        'raise ValueError(f"{n * 2}", longer, what=n // 3)',
        "raise one.refuse(told - 4)",
    }
    assert {one.before for one in mutants if not one.is_word and "Binary" in one.operator} == {
        "most, seen, told = 2 + n, n + 1, n + 2",
        "raise one[n - 5]",
    }
    assert any(one.operator == "ReplaceComparisonOperator_Gt_Lt" for one in mutants)


def test_words_are_left_out_where_no_message_is_promised() -> None:
    """The messages of a target that promises them are mutated; a port's own are not."""
    plan = Plan(Settings(target="py:mlxkv", releases=(RELEASE,), caches=("Rows", "TokenBuffer")))
    port = origin_of("py:mlxkv", (RELEASE,))
    promising = replace(port.targets[RELEASE], errors="type+message")
    made, left_out = make_mutants(plan, port, {})
    every, none = make_mutants(plan, replace(port, targets={RELEASE: promising}), {})

    assert all(one.is_word for one in left_out)
    assert len(left_out) > 5
    assert not none
    assert {one.id for one in every} == {one.id for one in (*made, *left_out)}
