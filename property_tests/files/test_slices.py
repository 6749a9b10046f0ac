"""Slices of larger buffers are written from where they lie; the bytes are MLX's all the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from property_tests.files.conftest import Contract
from property_tests.files.states import EVERY, NESTED, State, make, nested, to_bytes
from property_tests.files.test_lockstep import METADATA

import mlxkv
from mlxkv._files import _atomic, _slices, _write


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What became of each save: all of them are written as slices where that can be."""
    told: list[bool] = []
    real = _slices.write_slices

    def write_slices(*arguments: Any) -> bool:
        told.append(real(*arguments))
        return told[-1]

    monkeypatch.setattr(_write, "_COPIED", -1)
    monkeypatch.setattr(_write, "write_slices", write_slices)
    return told


def save_both(contract: Contract, both: tuple[str, str], caches: list[Any]) -> None:
    """Save the caches of the release and of the port, and hold the bytes against each other."""
    contract.reference.save_prompt_cache(both[0], [caches[0]], METADATA)
    contract.port.save_prompt_cache(both[1], [caches[1]], METADATA)
    assert Path(both[0]).read_bytes() == Path(both[1]).read_bytes()


@pytest.mark.parametrize("state", [one for one in EVERY if "u" in one.steps], ids=lambda x: x.name)
def test_every_class(
    contract: Contract, both: tuple[str, str], state: State, written: list[bool]
) -> None:
    """The release's bytes, of every class, dtype and number of rows."""
    modules = contract.reference, contract.port
    save_both(contract, both, [make(module, state) for module in modules])
    assert written == [True]


@pytest.mark.parametrize("kind", NESTED)
def test_lists_and_slots(
    contract: Contract, both: tuple[str, str], kind: str, written: list[bool]
) -> None:
    """And of lists, with slots of every kind in them."""
    save_both(contract, both, [nested(one, kind) for one in (contract.reference, contract.port)])
    assert written == [True]


LAYOUTS: dict[str, Callable[[mx.array], mx.array]] = {
    "rows of a buffer": lambda base: base[:, :, :300],
    "the middle of it": lambda base: base[1:, 1:3, 7:300],
    "columns": lambda base: base[..., 2:5],
    "transposed": lambda base: base.transpose(0, 2, 1, 3),
    "transposed, long runs": lambda base: base.transpose(1, 0, 2, 3),
    "backwards": lambda base: base[:, :, ::-1],
    "one row for all": lambda base: mx.broadcast_to(base[:1, :1, :1], (2, 4, 300, 8)),
    "a number": lambda base: base[0, 0, 5, 3],
    "nothing": lambda base: base[:, :, :0],
    "all of it": lambda base: base,
}
DTYPES = (
    *(mx.bool_, mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32, mx.uint64),
    *(mx.float16, mx.bfloat16, mx.float32, mx.complex64),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(
    contract: Contract, both: tuple[str, str], layout: str, dtype: mx.Dtype, written: list[bool]
) -> None:
    """Every dtype, in every order that an array can have in memory."""
    array = LAYOUTS[layout](mx.arange(3 * 4 * 320 * 8).reshape(3, 4, 320, 8).astype(dtype))
    caches = [module.ArraysCache(1) for module in (contract.reference, contract.port)]
    for cache in caches:
        cache[0] = array
    save_both(contract, both, caches)
    assert written == [True]


def test_no_layers(contract: Contract, both: tuple[str, str], written: list[bool]) -> None:
    """A file without tensors, and without metadata in 0.31."""
    contract.reference.save_prompt_cache(both[0], [], {})
    contract.port.save_prompt_cache(both[1], [], {})
    assert Path(both[0]).read_bytes() == Path(both[1]).read_bytes()
    assert written == [True]


def test_text_that_python_spells_otherwise(
    contract: Contract, both: tuple[str, str], written: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Did MLX write JSON in another way, the file would be left to it."""
    real = _slices._dump
    monkeypatch.setattr(_slices, "_dump", lambda header: real(header) + b" ")
    state = State("KVCache", (), "u3")
    save_both(contract, both, [make(one, state) for one in (contract.reference, contract.port)])
    assert written == [False]


def large(contract: Contract, rows: int = 1000) -> Any:
    """A cache of 8 heads with rows to spare, which 0.31 saves as slices."""
    cache = contract.port.KVCache()
    shape = 1, 8, rows, 128
    cache.update_and_fetch(mx.random.normal(shape), mx.random.normal(shape))
    cache.materialize()
    return cache


def test_what_is_large_is_written_so(contract: Contract, tmp_path: Path) -> None:
    """Unasked: and then nothing is copied, which MLX would do with all of it first."""
    cache = large(contract)
    keys, values = (one[:, :, :1000] for one in (cache.keys, cache.values))
    caches = contract.port.ArraysCache(2)
    caches[0], caches[1] = keys, values
    mx.eval(keys, values)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    contract.port.save_prompt_cache(str(tmp_path / "x"), [caches])
    assert mx.get_peak_memory() - before < keys.nbytes // 8
    (loaded,) = contract.port.load_prompt_cache(str(tmp_path / "x.safetensors"))
    assert to_bytes(loaded.cache) == to_bytes([keys, values])


def halves(fd: int, runs: Any) -> int:
    """A system that writes the first half of what it is given."""
    content = b"".join(runs)
    return os.write(fd, content[: len(content) // 2])


def test_a_system_that_writes_less(
    contract: Contract, both: tuple[str, str], monkeypatch: pytest.MonkeyPatch, written: list[bool]
) -> None:
    """The rest is written after it."""
    monkeypatch.setattr(_atomic.os, "writev", halves)
    state = State("KVCache", (), "u300")
    save_both(contract, both, [make(one, state) for one in (contract.reference, contract.port)])
    assert written == [True]


@pytest.mark.parametrize("most", ["_RUNS", "_BATCH"])
def test_a_few_at_a_time(
    contract: Contract,
    both: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    written: list[bool],
    most: str,
) -> None:
    """No more runs, and no more bytes, than a system takes."""
    seen: list[tuple[int, int]] = []
    real = os.writev

    def writev(fd: int, runs: Any) -> int:
        seen.append((len(runs), sum(run.nbytes for run in runs)))
        return real(fd, runs)

    monkeypatch.setattr(_atomic, most, {"_RUNS": 3, "_BATCH": 5000}[most])
    monkeypatch.setattr(_atomic.os, "writev", writev)
    state = State("BatchKVCache", ([0, 2],), "u300")
    save_both(contract, both, [make(one, state) for one in (contract.reference, contract.port)])
    assert written == [True]
    assert seen
    assert all(runs <= 3 if most == "_RUNS" else size <= 5000 for runs, size in seen)


def test_a_disk_that_is_full(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it, and the file that was there is."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_atomic.os, "writev", full)
    monkeypatch.setattr(_write, "_COPIED", -1)
    with pytest.raises(mlxkv.PromptCacheOSError) as refusal:
        contract.port.save_prompt_cache(str(path), [large(contract)])
    assert refusal.value.errno == errno.ENOSPC
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"
