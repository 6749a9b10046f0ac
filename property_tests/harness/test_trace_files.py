"""Trace files: they say the same in every version, and anything else is refused by name."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.harness.ports import RELEASE, construct, trace_of, update

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._generate import generate
from kvlockstep._jobs import CORPUS
from kvlockstep._operations import OPERATIONS
from kvlockstep._recipes import Literals
from kvlockstep._search import trace_bytes
from kvlockstep._steps import Trim, Update
from kvlockstep._trace import (
    FORMAT,
    MAX_STEPS,
    VERSION,
    AnyStep,
    Mode,
    Trace,
    TraceError,
    dumps,
    loads,
    read,
    schema,
    write,
)
from kvreference import RELEASES

caches = st.sampled_from([*CACHES, FUNCTIONS])
modes = st.sampled_from(get_args(Mode))
releases = st.sampled_from(RELEASES)
PROFILE = settings(max_examples=150, deadline=None)


def text_with(*steps: str, **fields: object) -> str:
    """Return the text of a trace file with raw JSON for steps, and other fields."""
    head = {"format": FORMAT, "version": VERSION, **fields}
    inside = json.dumps(head)[1:-1]
    return f'{{{inside}, "steps": [{", ".join(steps)}]}}'


@PROFILE
@given(data=trace_bytes(), cache=caches, mode=modes, release=releases)
def test_generated_traces_come_back(data, cache, mode, release):
    """What is written is what is read, argument for argument."""
    trace = generate(data, contract_of(release), cache, mode)

    assert loads(dumps(trace)) == trace


@PROFILE
@given(data=trace_bytes(), cache=caches, mode=modes, release=releases)
def test_text_is_stable(data, cache, mode, release):
    """A file that is read and written again is the same text, steps in the same order."""
    text = dumps(generate(data, contract_of(release), cache, mode))

    assert dumps(loads(text)) == text
    assert dumps(loads(text.encode())) == text


@PROFILE
@given(data=st.binary(max_size=600), cache=caches, release=releases)
def test_any_bytes_are_a_trace(data, cache, release):
    """The generator makes a valid trace of any bytes, short ones and none included."""
    trace = generate(data, contract_of(release), cache, "value")

    assert loads(dumps(trace)) == trace


def test_equal_traces_have_the_same_text():
    """The text does not depend on where a trace comes from: a worker, a file, the generator."""
    trace = trace_of(construct(slot="a"), update(2), Trim(n=1), step_size=4, mode="value")

    travelled = pickle.loads(pickle.dumps(msgspec.structs.asdict(trace)))
    spelled = json.loads(dumps(trace))
    spelled |= {"mode": "value", "releases": [], "note": "", "source": ""}
    spelled["steps"] = [{**step, "slot": "a"} for step in spelled["steps"]]

    for other in (Trace(**travelled), loads(json.dumps(spelled))):
        assert other == trace
        assert dumps(other) == dumps(trace)


def test_every_file_of_the_corpus_reads_as_it_is_written():
    """Our own trace files are in the writer's form, so that a diff shows what changed."""
    files = sorted(CORPUS.rglob("*.json"))

    assert files
    assert [path.name for path in files if dumps(read(path)) != path.read_text()] == []


def test_one_step_a_line_in_order():
    """A file has one step a line, in the order of the trace, for a review."""
    trace = trace_of(construct(), Trim(n=3), Trim(n=1), note="why", mode="in-place")

    lines = dumps(trace).splitlines()

    start = lines.index('  "steps": [') + 1
    steps = [json.loads(line.rstrip(",")) for line in lines[start:-2]]
    assert [step["op"] for step in steps] == ["construct", "trim", "trim"]
    assert [step.get("n") for step in steps] == [None, 3, 1]
    assert json.loads("\n".join(lines))["note"] == "why"


def test_numbers_keep_their_kind():
    """1, 1.0 and a relative size are three different arguments of a trim."""
    trace = trace_of(Trim(n=1), Trim(n=1.0), Trim(n="offset-1"))

    numbers = [step.n for step in loads(dumps(trace)).steps]

    assert [(type(n), n) for n in numbers] == [(int, 1), (float, 1.0), (str, "offset-1")]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_writer_refuses_what_no_reader_takes(number):
    """JSON has no NaN and no infinity: the writer says so, rather than write an unreadable file."""
    recipe = Literals(shape=(1,), values=(number,))

    for trace in (trace_of(Trim(n=number)), trace_of(Update(keys=recipe))):
        with pytest.raises(ValueError, match="JSON"):
            dumps(trace)


REFUSED = {
    "no JSON": ("not json", "malformed", "(byte 4)"),
    "nothing": ("", "truncated"),
    "cut off": (dumps(trace_of(construct()))[:-8], "truncated"),
    "another value": ("[1, 2]", "Expected `object`, got `array`"),
    "no format": ('{"version": 1, "steps": []}', "missing required field `format`"),
    "no version": (f'{{"format": "{FORMAT}", "steps": []}}', "missing required field `version`"),
    "another format": (text_with(format="bowtie"), f"expected format '{FORMAT}', got 'bowtie'"),
    "later version": (text_with(version=2), "knows version 1", "got version 2"),
    "version 0": (text_with(version=0), "knows version 1", "got version 0"),
    "version as text": (text_with(version="1"), "Expected `int`, got `str`", "$.version"),
    "version as bool": (text_with(version=True), "Expected `int`, got `bool`", "$.version"),
    "no steps": ('{"format": "kvlockstep-trace", "version": 1}', "required field `steps`"),
    "unknown field": (text_with(colour="red"), "unknown field `colour`"),
    "unknown field of a step": (
        text_with('{"op": "trim", "n": 1, "m": 2}'),
        "unknown field `m`",
        "$.steps[0]",
    ),
    "unknown field of a recipe": (
        text_with('{"op": "update", "keys": {"fill": "rows", "shape": [1], "seed": 1}}'),
        "unknown field `seed`",
        "$.steps[0].keys",
    ),
    "missing field": (
        text_with('{"op": "fetch"}', '{"op": "trim"}'),
        "missing required field `n`",
        "$.steps[1]",
    ),
    "no op": (text_with('{"n": 1}'), "missing required field `op`", "$.steps[0]"),
    "unknown op": (text_with('{"op": "grow"}'), "Invalid value 'grow'", "$.steps[0].op"),
    "unknown fill": (
        text_with('{"op": "update", "keys": {"fill": "ones", "shape": [1]}}'),
        "Invalid value 'ones'",
        "$.steps[0].keys.fill",
    ),
    "wrong type": (text_with('{"op": "mask", "n": "3"}'), "Expected `int`", "$.steps[0].n"),
    "bool for a number": (text_with('{"op": "mask", "n": true}'), "got `bool`", "$.steps[0].n"),
    "bad relative size": (
        text_with('{"op": "update", "keys": {"fill": "rows", "shape": [1, 1, "rooms", 1]}}'),
        "matching regex",
        "$.steps[0].keys.shape[2]",
    ),
    "relative size with two terms": (
        text_with('{"op": "trim", "n": "offset+1+1"}'),
        "matching regex",
        "$.steps[0].n",
    ),
    "relative size with a line end": (
        text_with(r'{"op": "trim", "n": "room\n"}'),
        "matching regex",
        "$.steps[0].n",
    ),
    "bad slot": (text_with('{"op": "fetch", "slot": "A"}'), "matching regex", "$.steps[0].slot"),
    "slot with a line end": (
        text_with(r'{"op": "fetch", "slot": "a\n"}'),
        "matching regex",
        "$.steps[0].slot",
    ),
    "bad target slot": (text_with('{"op": "copy", "to": "a-b"}'), "regex", "$.steps[0].to"),
    "too large a dimension": (
        text_with('{"op": "update", "keys": {"fill": "rows", "shape": [4097]}}'),
        "<= 4096",
        "$.steps[0].keys.shape[0]",
    ),
    "negative dimension": (
        text_with('{"op": "update", "keys": {"fill": "rows", "shape": [-1]}}'),
        ">= 0",
        "$.steps[0].keys.shape[0]",
    ),
    "too large a number": (text_with('{"op": "trim", "n": 2147483648}'), "$.steps[0].n"),
    "number past a float": (text_with('{"op": "trim", "n": 1e999}'), "out of range"),
    "unknown dtype": (
        text_with('{"op": "update", "keys": {"fill": "rows", "shape": [1], "dtype": "int64"}}'),
        "Invalid enum value 'int64'",
        "$.steps[0].keys.dtype",
    ),
    "unknown mode": (text_with(mode="fast"), "Invalid enum value 'fast'", "$.mode"),
    "growth step of -1": (text_with(step_size=-1), ">= 0", "$.step_size"),
    "a literal too long": (
        text_with(
            json.dumps(
                {"op": "update", "keys": {"fill": "literal", "shape": [1], "values": [1] * 257}}
            )
        ),
        "length <= 256",
        "$.steps[0].keys.values",
    ),
    "too many steps": (
        text_with(*('{"op": "fetch"}',) * (MAX_STEPS + 1)),
        f"length <= {MAX_STEPS}",
        "$.steps",
    ),
    "nested too deeply": (text_with("[" * 100_000), "nested too deeply"),
    "half a surrogate": ('{"format": "\ud800"}', "surrogates not allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_reader_refuses(case):
    """What is no trace of this version is refused; the message names file and field."""
    text, *told = REFUSED[case]
    with pytest.raises(TraceError) as info:
        loads(text, "some/file.json")

    assert str(info.value).startswith("some/file.json: ")
    assert [part for part in told if part not in str(info.value)] == []


@pytest.mark.parametrize(
    "data", [b"\xff\xfe{}", b'{"format": "\xff"}', "{}".encode("utf-16"), b"\x00" * 10]
)
def test_reader_refuses_what_is_not_utf_8(data):
    """Bytes that are no UTF-8 are refused like any other text that is no trace."""
    with pytest.raises(TraceError, match=r"^trace: .*(decode|malformed)"):
        loads(data)


@PROFILE
@given(data=st.binary(max_size=300) | st.text(max_size=300))
def test_reader_lets_no_other_error_out(data):
    """Whatever comes, the reader refuses it with a `TraceError`."""
    with pytest.raises(TraceError):
        loads(data)


@PROFILE
@given(data=trace_bytes(), cache=caches, place=st.integers(0), byte=st.integers(0, 255))
def test_reader_takes_a_damaged_file_whole_or_not_at_all(data, cache, place, byte):
    """A file with one byte changed is refused, or is a trace that can be written and read."""
    text = bytearray(dumps(generate(data, contract_of(RELEASE), cache, "value")).encode())
    text[place % len(text)] = byte

    try:
        trace = loads(bytes(text))
    except TraceError:
        return
    assert loads(dumps(trace)) == trace


@pytest.mark.parametrize("text", [dumps(trace_of(construct())), "no trace", text_with(version=9)])
def test_reading_leaves_the_file_alone(tmp_path, text):
    """A reader neither deletes nor changes a file, be it readable or not, nor adds one."""
    path = tmp_path / "trace.json"
    path.write_text(text)
    before = path.stat()

    with suppress(TraceError):
        read(path)

    after = path.stat()
    assert path.read_text() == text
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


def test_write_makes_the_folder(tmp_path):
    """A trace is written into a folder that is not there yet, and read back."""
    trace = trace_of(construct(), update("room+1"), source="a test")
    path = tmp_path / "a" / "b" / "trace.json"

    write(trace, path)

    assert read(path) == trace


def definitions() -> dict[str, dict]:
    """Return the schema's definitions of steps, by their `op`."""
    defined = schema()["$defs"]
    ops = {name: parts["properties"].get("op") for name, parts in defined.items()}
    return {op["enum"][0]: defined[name] for name, op in ops.items() if op}


def test_schema_has_every_operation():
    """Each operation that the harness runs is in the schema, and no other."""
    assert set(definitions()) == {operation.name for operation in OPERATIONS.values()}


def test_schema_names_every_argument_and_no_other():
    """A step of the schema has the fields of its class, and takes no further one."""
    for kind in get_args(AnyStep):
        op = OPERATIONS[kind].name
        defined = definitions()[op]
        fields = msgspec.structs.fields(kind)
        assert set(defined["properties"]) == {"op", *(field.encode_name for field in fields)}
        assert set(defined["required"]) == {"op", *(f.encode_name for f in fields if f.required)}
        assert defined["additionalProperties"] is False


def test_schema_pins_format_and_version():
    """The schema takes this format and version only, and says which dialect it is."""
    top = schema()
    trace = top["$defs"]["TraceFile"]

    assert top["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert top["$ref"] == "#/$defs/TraceFile"
    assert trace["properties"]["format"]["enum"] == [FORMAT]
    assert trace["properties"]["version"]["enum"] == [VERSION]
    assert {"format", "version", "steps"} == set(trace["required"])
    assert trace["additionalProperties"] is False


def test_part_keeps_everything_but_the_steps():
    """A part of a trace has its growth step, mode, releases, note and source."""
    trace = Trace(
        steps=(construct(), Trim(n=1)),
        step_size=2,
        mode="in-place",
        releases=(RELEASE,),
        note="n",
        source="s",
    )

    part = trace.part(trace.steps[:1])

    assert part.steps == trace.steps[:1]
    assert part.part(trace.steps) == trace
