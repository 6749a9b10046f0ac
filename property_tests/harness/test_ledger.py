"""The ledger: strict both ways, and written so that it reads back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    release_module,
    trace_of,
    update,
)

from kvlockstep._divergence import Divergence, Signature
from kvlockstep._jobs import LEDGER, check_ledger
from kvlockstep._ledger import Entry, Ledger, LedgerError, add_entry, judge_witness, name_for
from kvlockstep._steps import Trim
from kvlockstep._trace import read

ENTRY = {
    "id": "one-too-many",
    "releases": (RELEASE,),
    "cache": "KVCache",
    "operation": "trim",
    "field": "result",
    "reference": "0",
    "port": "1",
    "why": "a test",
    "source": "this test",
    "witness": "traces/one-too-many.json",
}
WITNESS = trace_of(construct(), Trim(n=1))


class KVCache(release_module().KVCache):
    """Says that it trimmed one token too many."""

    def trim(self, n):
        return super().trim(n) + 1


ENGINE = lockstep_with(KVCache)


def entry(**changes: object) -> Entry:
    """Return the entry that declares what the port above shows, with changes."""
    return Entry(**{**ENTRY, **changes})


def text_of(*entries: dict[str, object], head: str = 'version = 1\ntarget = "py:port"\n') -> str:
    """Return the text of a ledger."""
    tables = []
    for fields in entries:
        lines = [
            f"{name} = {list(value) if isinstance(value, tuple) else value!r}"
            for name, value in fields.items()
        ]
        tables.append("\n[[divergence]]\n" + "\n".join(lines) + "\n")
    return head + "".join(tables)


def found(**facts: object) -> Divergence:
    """Return the divergence that `ENTRY` declares, with the facts of its step."""
    return Divergence(Signature(RELEASE, "KVCache", "trim", "result"), 1, "result", 0, 1, facts)


# Reading.


def test_reads_its_entries(tmp_path):
    """A ledger has its target and its entries, in the file's order."""
    path = tmp_path / "ledger.toml"
    path.write_text(text_of(ENTRY, {**ENTRY, "id": "two", "when": "n > 1"}))

    known = Ledger.read(path)

    assert known.entries == (entry(), entry(id="two", when="n > 1"))
    assert known.target == "py:port"


def test_our_own_ledger_reads_and_is_checked():
    """Our own ledger reads, is for our port, and each witness is a trace for its releases."""
    known = Ledger.read(LEDGER)

    check_ledger(known, "py:mlxkv")
    assert known.entries
    assert all(known.witness(entry).releases == entry.releases for entry in known.entries)


REFUSED = {
    "unknown field": (text_of({**ENTRY, "because": "x"}), "unknown field `because`"),
    "unknown field of the file": (
        text_of(head='version = 1\ntarget = "py:x"\nallow = []\n'),
        "unknown field `allow`",
    ),
    "missing field": (
        text_of({name: value for name, value in ENTRY.items() if name != "why"}),
        "missing required field `why` - at `$.divergence[0]`",
    ),
    "empty field": (text_of({**ENTRY, "why": ""}), "length >= 1 - at `$.divergence[0].why`"),
    "no releases": (text_of({**ENTRY, "releases": ()}), "$.divergence[0].releases"),
    "bad id": (text_of({**ENTRY, "id": "Bad id"}), "$.divergence[0].id"),
    "id with a line end": (
        text_of({**ENTRY, "id": "x"}).replace("'x'", r'"x\n"'),
        "$.divergence[0].id",
    ),
    "same id twice": (text_of(ENTRY, ENTRY), "the same id twice: one-too-many"),
    "no version": ('target = "py:x"', "missing required field `version`"),
    "later version": ('version = 2\ntarget = "py:x"', "expected ledger version 1, got 2"),
    "no TOML": ("version 1", "Expected '=' after a key"),
    "not UTF-8": (b"\xff\xfe", "decode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(tmp_path, case):
    """A ledger that does not fit is refused; the message names file and field."""
    text, told = REFUSED[case]
    path = tmp_path / "ledger.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(LedgerError) as info:
        Ledger.read(path)

    assert str(info.value).startswith(f"{path}: ")
    assert told in str(info.value)


def test_missing_file_is_refused(tmp_path):
    """A ledger that is not there is named."""
    with pytest.raises(LedgerError, match=r"no\.toml: .*No such file"):
        Ledger.read(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("witness", "told"), [(None, "No such file"), ("no trace", "malformed"), ("{}", "`format`")]
)
def test_witness_that_cannot_be_read_is_refused(tmp_path, witness, told):
    """A witness that is not there, or is no trace, is told with its entry."""
    path = tmp_path / "ledger.toml"
    path.write_text(text_of(ENTRY))
    if witness is not None:
        (tmp_path / "traces").mkdir()
        (tmp_path / "traces" / "one-too-many.json").write_text(witness)
    known = Ledger.read(path)

    with pytest.raises(LedgerError) as info:
        known.witness(known.entries[0])

    assert "ledger entry 'one-too-many': witness: " in str(info.value)
    assert told in str(info.value)


@pytest.mark.parametrize(
    ("changes", "target", "told"),
    [
        ({}, "py:other", "expected a ledger for py:other, got one for py:port"),
        ({}, "py:portable", "expected a ledger for py:portable, got one for py:port"),
        ({"cache": "Paged"}, "py:port", "'one-too-many': cache: expected one of KVCache, "),
        ({"releases": ("0.32.9",)}, "py:port", "'one-too-many': releases: expected some of"),
    ],
)
def test_what_nothing_could_match_is_refused(changes, target, told):
    """A ledger for another target, or an entry that no job could match, is refused."""
    known = Ledger(Path("ledger.toml"), (entry(**changes),), "py:port")

    with pytest.raises(LedgerError) as info:
        check_ledger(known, target)

    assert told in str(info.value)


@pytest.mark.parametrize("target", ["py:port", "py:port.mlx_lm_0_32"])
def test_ledger_holds_for_a_target_and_its_modules(target):
    """A ledger is for its target and for each module of that package."""
    check_ledger(Ledger(None, (entry(),), "py:port"), target)
    with pytest.raises(LedgerError):
        check_ledger(Ledger(None, (), "py:port.mlx_lm_0_32.deeper"), target)


# Declaring.


def test_declares_its_signature_only():
    """An entry declares its cache, operation, field and releases, and nothing beside them."""
    known = Ledger(entries=(entry(),))
    signature = found().signature

    assert known.declares(found()) == "one-too-many"
    for changes in (
        {"contract": "0.31.3"},
        {"cache": "RotatingKVCache"},
        {"operation": "update"},
        {"field": "offset"},
    ):
        divergence = Divergence(signature._replace(**changes), 1, "result", 0, 1, {})
        assert known.declares(divergence) is None


def test_no_entry_declares_nothing():
    """Without entries every divergence is undeclared."""
    assert Ledger().declares(found()) is None


@pytest.mark.parametrize(
    ("when", "facts", "declared"),
    [
        ("n < 0", {"n": -1}, True),
        ("n < 0", {"n": 1}, False),
        ("n > offset and window == 0", {"n": 3, "offset": 2, "window": 0}, True),
        ("any(size == 0 for size in keys_shape)", {"keys_shape": (1, 0)}, True),
        ("max(keys_shape) > len(keys_shape)", {"keys_shape": (1, 2)}, False),
        ("", {}, True),
    ],
)
def test_when_narrows_it(when, facts, declared):
    """A divergence with the right signature but with `when` false is undeclared."""
    known = Ledger(entries=(entry(when=when),))

    assert (known.declares(found(**facts)) is not None) == declared


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("n <", "invalid syntax"),
        ("m < 0", "'m' is not defined"),
        ("n < 'x'", "not supported"),
        ("__import__('os')", "__import__"),
        ("open('x')", "'open' is not defined"),
    ],
)
def test_when_that_cannot_be_judged_is_told(when, told):
    """A `when` with a mistake is told with its entry, the mistake, and the facts there are."""
    known = Ledger(entries=(entry(when=when),))

    with pytest.raises(LedgerError) as info:
        known.declares(found(n=1))

    assert "ledger entry 'one-too-many'" in str(info.value)
    assert told in str(info.value)
    assert "n" in str(info.value).rpartition("facts of a step are ")[2].split(", ")


def test_first_entry_that_covers_it_declares_it():
    """Of two entries with one signature, the one whose `when` holds declares the divergence."""
    known = Ledger(entries=(entry(when="n < 0"), entry(id="other", when="n > 0")))

    assert known.declares(found(n=-1)) == "one-too-many"
    assert known.declares(found(n=1)) == "other"
    assert known.declares(found(n=0)) is None


# Witnesses.


def judge(declared: Entry, witness=WITNESS, engine=ENGINE) -> str | None:
    """Return what is wrong with a witness."""
    return judge_witness(declared, RELEASE, engine.run(witness))


def test_witness_that_shows_its_divergence_is_right():
    """A witness that shows exactly the declared divergence has no problem."""
    assert judge(entry()) is None
    assert judge(entry(when="n == 1")) is None


def test_witness_that_shows_nothing_is_stale():
    """An entry whose divergence is gone is stale."""
    problem = judge(entry(), engine=lockstep_with())

    assert problem == (
        f"ledger entry 'one-too-many' is stale for {RELEASE}: expected its witness to show "
        f"{RELEASE}/KVCache/trim/result, got no divergence"
    )


def test_witness_that_shows_something_else_is_stale():
    """An entry whose divergence shows in another field is stale, and the field is told."""
    problem = judge(entry(field="offset"))

    assert problem is not None
    assert problem.endswith(f"{RELEASE}/KVCache/trim/offset, got {RELEASE}/KVCache/trim/result")


def test_witness_that_shows_more_is_stale():
    """A further divergence in a witness is told: nothing may hide behind an entry."""

    class Louder(KVCache):
        @property
        def nbytes(self):
            return super().nbytes + 1

    Louder.__name__ = "KVCache"
    problem = judge(entry(), engine=lockstep_with(Louder))

    assert problem is not None
    assert f"only, got also {RELEASE}/KVCache/construct/nbytes" in problem


def test_witness_outside_of_when_is_stale():
    """A witness that shows the divergence where `when` does not hold is stale."""
    problem = judge(entry(when="n > 5"))

    assert problem is not None
    assert "when n > 5, got it when that does not hold" in problem


def test_every_divergence_of_a_witness_must_be_covered():
    """A witness that shows the signature twice, once outside of `when`, is stale."""
    twice = trace_of(construct(), Trim(n=1), Trim(n=9))

    assert judge(entry(times=2), twice) is None
    assert judge(entry(when="n < 5", times=2), twice) is not None


@pytest.mark.parametrize("times", [1, 3])
def test_witness_that_shows_it_more_or_less_often_is_stale(times):
    """A boundary that is not refused any more is told, though the others are."""
    twice = trace_of(construct(), Trim(n=1), Trim(n=9))

    problem = judge(entry(times=times), twice)

    assert problem is not None
    assert problem.endswith(f"so often: {times}, got 2")


# Writing.


def test_added_entry_reads_back(tmp_path):
    """What is added to a new ledger is what is read from it, with its witness."""
    path = tmp_path / "new" / "ledger.toml"
    path.parent.mkdir()
    added = entry(when="n < 0 and 'x' != \"y\"", why='says "no" \\ and é')

    add_entry(path, added, WITNESS, "py:port")

    known = Ledger.read(path)
    assert known.entries == (added,)
    assert known.target == "py:port"
    assert known.witness(added) == WITNESS


def test_adding_keeps_what_is_there(tmp_path):
    """Comments, order and spelling of a ledger stay as they are; the entry comes last."""
    path = tmp_path / "ledger.toml"
    before = "# Why we differ.\n" + text_of(ENTRY).replace("[[div", "# The oldest one.\n[[div")
    path.write_text(before)

    add_entry(path, entry(id="two"), WITNESS, "py:port")
    add_entry(path, entry(id="three", when="n < 0"), WITNESS, "py:port")

    text = path.read_text()
    assert text.startswith(before.rstrip("\n"))
    assert text.count("\n\n[[divergence]]\n") == 2
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert [known.id for known in Ledger.read(path).entries] == ["one-too-many", "two", "three"]


def test_adding_is_stable(tmp_path):
    """A ledger that was written entry by entry has one empty line between entries."""
    path = tmp_path / "ledger.toml"
    for number in range(3):
        add_entry(path, entry(id=f"n{number}"), WITNESS, "py:port")

    text = path.read_text()

    assert "\n\n\n" not in text
    assert text.count("\n\n[[divergence]]\n") == 3
    assert len(Ledger.read(path).entries) == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id": "Bad id"}, "id"),
        ({"id": "../../outside"}, "id"),
        ({"why": ""}, "why"),
        ({"source": ""}, "source"),
        ({"releases": ()}, "releases"),
        ({"id": "known"}, "'known' already"),
    ],
)
def test_entry_that_would_not_read_back_is_refused(tmp_path, changes, told):
    """An entry that no reader would take is refused, and nothing is written."""
    path = tmp_path / "ledger.toml"
    add_entry(path, entry(id="known"), WITNESS, "py:port")
    before = path.read_bytes()
    files = sorted(tmp_path.rglob("*"))

    with pytest.raises(LedgerError, match=told):
        add_entry(path, entry(**{"witness": "traces/other.json", **changes}), WITNESS, "py:port")

    assert path.read_bytes() == before
    assert sorted(tmp_path.rglob("*")) == files


def test_witness_is_written_as_a_trace_file(tmp_path):
    """The witness stands beside the ledger, as a trace that a person can read and replay."""
    add_entry(tmp_path / "ledger.toml", entry(), trace_of(construct(), update(1)), "py:port")

    assert read(tmp_path / "traces" / "one-too-many.json").steps == (construct(), update(1))


def test_names_come_from_the_signature():
    """A name is made of cache, operation and field, and is unlike those that are taken."""
    signature = Signature(RELEASE, "KVCache", "set_state", "raises KeyError, not Value_Error")

    first = name_for(signature, [])
    second = name_for(signature, [first])
    third = name_for(signature, [first, second])

    assert first == "kvcache-set-state-raises-keyerror-not-value-error"
    assert (second, third) == (f"{first}-2", f"{first}-3")
    assert msgspec.convert({**ENTRY, "id": first}, Entry).id == first
