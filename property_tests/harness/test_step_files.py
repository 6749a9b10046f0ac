"""Steps in trace files: each kind with its own fields, addresses, sizes and limits."""

from __future__ import annotations

import json
import re
from typing import get_args

import msgspec
import pytest
from property_tests.harness.ports import construct, trace_of
from property_tests.harness.samples import TOLD

from kvlockstep._operations import OPERATIONS
from kvlockstep._recipes import Rows
from kvlockstep._steps import Filter, Prepare, SetItem, SetState, Trim
from kvlockstep._trace import AnyStep, TraceError, dumps, is_valid, loads, schema


def fields_of(step) -> dict:
    """Return a step as its JSON in a trace file."""
    (told,) = json.loads(dumps(trace_of(step)))["steps"]
    return told


def text_of(*steps: dict) -> str:
    """Return a trace file with these steps."""
    return json.dumps({"format": "kvlockstep-trace", "version": 1, "steps": list(steps)})


def refusal(fields: dict) -> str:
    """Return why a reader refuses a step."""
    with pytest.raises(TraceError) as info:
        loads(text_of(fields), "file")
    return str(info.value)


@pytest.mark.parametrize("step", TOLD.values(), ids=TOLD)
def test_unknown_field_of_a_step_is_refused(step):
    """Each kind of step takes its own fields and no other."""
    assert "unknown field `colour` - at `$.steps[0]`" in refusal(fields_of(step) | {"colour": 1})


@pytest.mark.parametrize("step", TOLD.values(), ids=TOLD)
def test_missing_field_of_a_step_is_refused(step):
    """Each field without a default must be there."""
    fields = fields_of(step)
    required = [field.name for field in msgspec.structs.fields(step) if field.required]
    for name in required:
        rest = {key: value for key, value in fields.items() if key != name}
        assert f"missing required field `{name}` - at `$.steps[0]`" in refusal(rest)


@pytest.mark.parametrize("step", TOLD.values(), ids=TOLD)
def test_sample_fits_the_schema(step):
    """What is written has the fields that the schema names, in a type that it has for them."""
    fields = fields_of(step)
    defined = {
        part["properties"]["op"]["enum"][0]: part
        for part in schema()["$defs"].values()
        if "op" in part["properties"]
    }[fields["op"]]

    assert set(fields) <= set(defined["properties"])
    assert set(defined["required"]) <= set(fields)
    for name, value in fields.items():
        told = json.dumps(defined["properties"][name])
        for pattern in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', told):
            if isinstance(value, str) and '"anyOf"' not in told:
                assert re.search(json.loads(f'"{pattern}"').replace(r"(?!\n)", ""), value)


def test_schema_knows_relative_batches_and_addresses():
    """The schema says what a relative size is, `batch` included, and what an address is."""
    text = json.dumps(schema())

    assert "batch)([+-][0-9]{1,4})?$" in text
    assert json.dumps(r"^[a-z][a-z0-9_]{0,15}(\.[0-9]{1,2}){0,4}$(?!\n)")[1:-1] in text
    assert len(get_args(AnyStep)) == len(OPERATIONS)


REFUSED = {
    "address with a sign": ({"op": "trim", "slot": "a.-1", "n": 1}, "regex", "slot"),
    "peer that is no address": ({"op": "extend", "peer": "a."}, "regex", "peer"),
    "source that is no address": ({"op": "transfer", "source": "0"}, "regex", "source"),
    "peers that are no addresses": ({"op": "merge", "peers": ["b", "b c"]}, "regex", "peers[1]"),
    "too many peers": ({"op": "merge", "peers": ["b"] * 17}, "length <= 16", "peers"),
    "too many indices": ({"op": "filter", "indices": [0] * 17}, "length <= 16", "indices"),
    "index of another kind": ({"op": "filter", "indices": [1.5]}, "got `float`", "indices[0]"),
    "relative index": ({"op": "filter", "indices": ["rooms"]}, "regex", "indices[0]"),
    "too many paddings": ({"op": "prepare", "lengths": [0] * 17}, "length <= 16", "lengths"),
    "relative padding": ({"op": "prepare", "lengths": ["batch"]}, "got `str`", "lengths[0]"),
    "too large an index": ({"op": "extract", "index": 2**31}, "<= 2147483647", "index"),
    "advance by a fraction": ({"op": "advance", "n": 1.5}, "got `float`", "n"),
    "item that is no recipe": ({"op": "set_item", "index": 0, "value": {}}, "`fill`", "value"),
    "too many tokens": ({"op": "trie_get", "tokens": [1] * 1025}, "length <= 1024", "tokens"),
    "token that lists text": ({"op": "trie_get", "tokens": [["x"]]}, "got `str`", "tokens[0][0]"),
    "tokens that are no numbers": ({"op": "append_tokens", "tokens": ["x"]}, "got `str`", "tokens"),
    "model that lists text": (
        {"op": "trie_get", "model": ["x"], "tokens": []},
        "got `str`", "model[0]",
    ),
    "value that is text": ({"op": "trie_add", "tokens": [], "value": "x"}, "got `str`", "value"),
    "too many layers": ({"op": "make_prompt_cache", "layers": 9}, "<= 8", "layers"),
    "numbered prefix": ({"op": "make_prompt_cache", "layers": 1, "to": "p0"}, "regex", "to"),
    "negative layers": ({"op": "make_prompt_cache", "layers": -1}, ">= 0", "layers"),
    "type that is no text": (
        {"op": "lru_insert", "tokens": [], "caches": [], "cache_type": 1},
        "got `int`", "cache_type",
    ),
    "child without a class": (
        {"op": "construct", "cache": "CacheList", "children": [{"args": {}}]},
        "missing required field `cache`", "children[0]",
    ),
    "child with a slot": (
        {"op": "construct", "cache": "CacheList", "children": [{"cache": "KVCache", "slot": "b"}]},
        "unknown field `slot`", "children[0]",
    ),
    "state nested too deeply": (
        {"op": "set_state", "state": [[[[[1]]]]]}, "got `array`", "state[0][0][0][0]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_reader_refuses(case):
    """What does not fit a step is refused; the message names the field."""
    fields, told, where = REFUSED[case]

    message = refusal(fields)

    assert message.startswith("file: ")
    assert told in message
    assert f"$.steps[0].{where}" in message


@pytest.mark.parametrize(
    "step",
    [
        Filter(indices=("batch-1", -1, "batch")),
        SetItem(index=-1, value=Rows(shape=("batch", 2))),
        Prepare(lengths=(), right_padding=(-1,)),
        SetState(state=((Rows(shape=("batch",)), None, ("x", True)), "KVCache")),
        Trim(slot="a.0.1.2.3", n="batch"),
        construct("CacheList"),
    ],
)
def test_reader_takes(step):
    """Relative batches, none of anything, and states of states are read as they were written."""
    trace = trace_of(step)

    assert repr(loads(dumps(trace))) == repr(trace)
    assert is_valid(trace)


@pytest.mark.parametrize(
    "step",
    [Filter(indices=(0,) * 17), Trim(slot="a.x", n=1), SetItem(index=2**31, value=None)],
)
def test_what_no_reader_takes_is_no_trace(step):
    """A trace made in memory is told from one that a reader would refuse."""
    assert not is_valid(trace_of(step))
