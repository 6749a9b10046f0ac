"""Lockstep at the sizes of real models: head_dim 128, up to 32k tokens, growth by 256 rows.

What the gate draws is small. These traces take each fast path of the port as far as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest

from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._recipes import Rows
from kvlockstep._steps import (
    Construct,
    Copy,
    Depends,
    Extend,
    Extract,
    Filter,
    Finalize,
    FrontTrim,
    Merge,
    Prepare,
    Quantize,
    Reload,
    Trim,
    Update,
)
from kvlockstep._targets import load_target
from kvlockstep._trace import AnyStep, Look, Mode, Trace
from mlxkv._backed import BackedCache

Steps = Iterator[AnyStep]

SCENARIOS: dict[str, Callable[[], Steps]] = {}


def scenario(steps: Callable[[], Steps]) -> Callable[[], Steps]:
    """Run these steps in both releases and both modes."""
    SCENARIOS[steps.__name__] = steps
    return steps


def update(slot: str, tokens: int, start: int = 0, batch: int = 1, heads: int = 1) -> Update:
    shape = (batch, heads, tokens, 128)
    keys = Rows(shape=shape, dtype="float16", start=start)
    values = Rows(shape=shape, dtype="float16", start=start + 100)
    return Update(slot=slot, keys=keys, values=values)


@scenario
def standard_32k() -> Steps:
    """A prefill to 32k tokens in chunks, and on: growths, a trim, a copy, a pipelined model."""
    yield Construct(cache="KVCache")
    for chunk in range(8):
        yield update("a", 4096, 4096 * chunk)
    yield update("a", 1, 32768)
    yield Trim(n=300)
    yield update("a", 1, 5)
    yield Copy(to="b")
    yield update("b", 600, 6)
    yield Depends(slot="a")
    yield update("a", 2, 7)


@scenario
def standard_in_512s() -> Steps:
    """A prefill in chunks of 512 that ends in a shorter one, and decoding past a growth."""
    yield Construct(cache="KVCache")
    for chunk in range(8):
        yield update("a", 512, 512 * chunk, heads=2)
    yield update("a", 300, 4096, heads=2)
    for token in range(3):
        yield update("a", 1, token, heads=2)
    yield Trim(n=5)
    yield update("a", 512, 9, heads=2)
    yield Reload(to="b")
    yield update("b", 1, 11, heads=2)


@scenario
def chunked_8192() -> Steps:
    """A chunk of 8192 rows at saturation: a token and a front trim in turn, and a trim between."""
    yield Construct(cache="ChunkedKVCache", args={"chunk_size": 8192})
    for part in range(2):
        yield update("a", 4096, 4096 * part)
    yield update("a", 60, 17)
    for token in range(12):
        yield FrontTrim()
        yield update("a", 1, token)
    yield Trim(n=3)
    for token in range(4):
        yield update("a", 1, 50 + token)
    yield FrontTrim()
    yield update("a", 512, 77)
    yield FrontTrim()
    yield update("a", 1, 90)


@scenario
def chunked_512_for_700_tokens() -> Steps:
    """A short chunk for longer than the room beside it lasts."""
    yield Construct(cache="ChunkedKVCache", args={"chunk_size": 512})
    yield update("a", 512)
    for token in range(700):
        yield FrontTrim()
        yield update("a", 1, token)


@scenario
def rotating_4096() -> Steps:
    """A ring of 4096 with four kept: filled, wrapped, several tokens at once, one again."""
    yield Construct(cache="RotatingKVCache", args={"max_size": 4096, "keep": 4})
    yield update("a", 4096)
    for token in range(6):
        yield update("a", 1, 4096 + token)
    for part in range(3):
        yield update("a", 512, 5000 + 512 * part)
        yield update("a", 1, 7000 + part)
    yield Copy(to="b")
    yield update("b", 16, 1)


@scenario
def quantized_8k() -> Steps:
    """Quantized from a standard cache, then on by itself."""
    yield Construct(cache="KVCache")
    yield update("a", 4096)
    yield Quantize(to="q", group_size=64, bits=4)
    yield update("q", 4000, 4096)
    yield update("q", 1, 8096)
    yield Trim(slot="q", n=10)
    yield update("q", 300, 3)


@scenario
def concatenated_8k() -> Steps:
    """Concatenated to 8k and on."""
    yield Construct(cache="ConcatenateKVCache")
    for part in range(2):
        yield update("a", 4096, 4096 * part)
    for token in range(3):
        yield update("a", 1, token)


@scenario
def batch_padded_4k() -> Steps:
    """Prompts of unlike lengths, padded on the right and rolled, then picked, joined, taken out."""
    yield Construct(cache="BatchKVCache", args={"left_padding": (0, 0, 0)})
    yield Prepare(lengths=(4000, 3000, 17), right_padding=(0, 1000, 3983))
    yield update("a", 4000, batch=3, heads=2)
    yield Finalize()
    yield update("a", 1, 9, batch=3, heads=2)
    yield Filter(indices=(2, 0))
    yield Construct(slot="b", cache="BatchKVCache", args={"left_padding": (0, 5)})
    yield update("b", 2100, 3, batch=2, heads=2)
    yield Extend(peer="b")
    yield update("a", 1, 10, batch=4, heads=2)
    for row in range(2):
        yield Extract(index=row, to=f"e{row}")
    yield Merge(slot="e0", peers=("e1",), to="m")
    yield update("m", 1, 11, batch=2, heads=2)


@scenario
def batch_of_rings_2k() -> Steps:
    """The same with rings of 2048, which wrap, and take several tokens at once afterwards."""
    args: dict[str, Any] = {"max_size": 2048, "left_padding": (0, 0)}
    yield Construct(cache="BatchRotatingKVCache", args=args)
    yield Prepare(lengths=(2040, 1000), right_padding=(0, 1040))
    yield update("a", 2040, batch=2, heads=2)
    yield Finalize()
    for token in range(12):
        yield update("a", 1, token, batch=2, heads=2)
    yield update("a", 64, 20, batch=2, heads=2)
    yield update("a", 1, 99, batch=2, heads=2)
    yield Construct(slot="b", cache="BatchRotatingKVCache", args=args)
    yield update("b", 700, 3, batch=2, heads=2)
    yield Extend(peer="b")
    yield update("a", 1, 10, batch=4, heads=2)
    for row in range(2):
        yield Extract(index=row, to=f"e{row}")
    yield Merge(slot="e0", peers=("e1",), to="m")
    yield update("m", 3, 11, batch=2, heads=2)


@pytest.mark.parametrize("look", get_args(Look))
@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_lockstep(name: str, release: str, mode: Mode, look: Look) -> None:
    """Nothing differs, and every step had something to act on."""
    run_in_lockstep(release, Trace(steps=tuple(SCENARIOS[name]()), mode=mode, look=look))


@pytest.mark.parametrize("name", ["standard_32k", "standard_in_512s", "chunked_8192"])
@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
def test_lockstep_with_the_length_announced(
    name: str, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor with a promise of as many tokens as a cache ever holds in these traces, or fewer."""
    monkeypatch.setattr(BackedCache, "_reserved", 33_000 if name == "standard_32k" else 4500)
    steps = tuple(SCENARIOS[name]())
    run_in_lockstep(release, Trace(steps=steps, mode="in-place", look="last"))


def run_in_lockstep(release: str, trace: Trace) -> None:
    engine = Lockstep(contract_of(release), load_target("py:mlxkv", release))
    run = engine.run(trace)
    assert [str(divergence.signature) for divergence in run.divergences] == []
    assert run.steps == len(trace.steps)
