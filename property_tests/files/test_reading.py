"""A file is read by Python or by MLX, as its size makes the one or the other faster: both alike."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from property_tests.files.conftest import Contract
from property_tests.files.hostile_pack import Raw, pack
from property_tests.files.old_files import metas
from property_tests.files.states import EVERY, State, make, to_bytes

import mlxkv
from mlxkv import mlx_lm_0_32
from mlxkv._files import _body


@pytest.fixture(
    params=["by Python", "by Python for an older MLX", "by Python without preadv", "by MLX"]
)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who reads the arrays of every file."""
    monkeypatch.setattr(_body, "_SMALL", 0 if request.param == "by MLX" else 1 << 40)
    if request.param == "by Python for an older MLX":
        monkeypatch.delattr(mx, "from_dlpack", raising=False)
    if request.param == "by Python without preadv":
        monkeypatch.delattr(os, "preadv", raising=False)
    return str(request.param)


@pytest.mark.parametrize("state", EVERY, ids=lambda state: state.name)
def test_every_class(
    contract: Contract, tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both give the same fields, every byte of them."""
    path = str(tmp_path / "x.safetensors")
    try:
        contract.port.save_prompt_cache(path, [make(contract.port, state)])
        contract.port.load_prompt_cache(path)
    except mlxkv.PromptCacheError:
        return  # 0.31 saves no empty cache, and no chunk that was trimmed in front.
    told = []
    for small in (1 << 40, 0):
        monkeypatch.setattr(_body, "_SMALL", small)
        (loaded,) = contract.port.load_prompt_cache(path)
        told.append((tell(loaded.state), getattr(loaded, "meta_state", None)))
    assert told[0] == told[1]


def tell(value: Any) -> Any:
    """The bytes of arrays; other values as they are."""
    if isinstance(value, list | tuple):
        return [tell(one) for one in value]
    return to_bytes(value) if isinstance(value, mx.array) else value


DTYPES = (
    *(mx.bool_, mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32, mx.uint64),
    *(mx.float16, mx.bfloat16, mx.float32, mx.complex64),
)
SHAPES = {
    "a number": (),
    "a row": (7,),
    "nothing": (2, 0, 3),
    "of many dimensions": (1,) * 33 + (2,),
    "longer than a window": (3, 1 << 18),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("reader")
def test_every_dtype(contract: Contract, tmp_path: Path, dtype: mx.Dtype, shape: str) -> None:
    """And every bit: NaN payloads and bools other than 0 and 1 stay what they are."""
    size = 1
    for length in SHAPES[shape]:
        size *= length
    content = os.urandom(size * dtype.size)
    name = next(name for name, one in _body.DTYPES.items() if one == dtype)
    tensors = {"0.0": Raw(name, SHAPES[shape], content), "0.1": Raw("U8", (3,), b"abc")}
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(tensors, metas("ArraysCache", "", plain=True)))
    (cache,) = contract.port.load_prompt_cache(str(path))
    array, other = cache.cache
    assert (array.dtype, array.shape) == (dtype, SHAPES[shape])
    assert bytes(memoryview(mx.contiguous(array)) if size else b"") == content
    assert other.tolist() == [97, 98, 99]


@pytest.mark.parametrize("layers", [1, 5, 40, 300])
@pytest.mark.usefixtures("reader")
def test_files_around_a_window(contract: Contract, tmp_path: Path, layers: int) -> None:
    """Smaller than what is read at once, and larger; arrays that lie across it."""
    path = str(tmp_path / "x.safetensors")
    caches = []
    for i in range(layers):
        cache = contract.port.KVCache()
        rows = mx.random.normal((1, 1, 40 + i, 32))
        cache.update_and_fetch(rows, -rows)
        caches.append(cache)
    contract.port.save_prompt_cache(path, caches)
    loaded = contract.port.load_prompt_cache(path)
    assert [to_bytes(one.state[:2]) for one in loaded] == [
        to_bytes(one.state[:2]) for one in caches
    ]


@pytest.mark.usefixtures("reader")
def test_nothing_is_read_later(contract: Contract, tmp_path: Path) -> None:
    """Neither of the file as it was overwritten, nor of the one that has its name now."""
    path = tmp_path / "x.safetensors"
    cache = make(contract.port, State("BatchKVCache", ([0, 2],), "u300", mx.bfloat16))
    contract.port.save_prompt_cache(str(path), [cache])
    (loaded,) = contract.port.load_prompt_cache(str(path))
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    path.unlink()
    assert to_bytes(loaded.state[:4]) == to_bytes(cache.state[:4])


@pytest.mark.skipif(mx.default_device().type != mx.cpu, reason="memory is exact on a CPU only")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
@pytest.mark.usefixtures("reader")
def test_a_loaded_buffer_is_written_in_place(tmp_path: Path, dtype: mx.Dtype) -> None:
    """Nobody else holds it: one token more needs no copy of it."""
    path = str(tmp_path / "x.safetensors")
    cache = mlx_lm_0_32.KVCache()
    cache.update_and_fetch(mx.zeros((1, 8, 256, 128), dtype), mx.zeros((1, 8, 256, 128), dtype))
    cache.trim(1)
    mlx_lm_0_32.save_prompt_cache(path, [cache])
    (loaded,) = mlx_lm_0_32.load_prompt_cache(path)
    row = mx.ones((1, 8, 1, 128), dtype)
    mx.eval(row)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    loaded.update_and_fetch(row, row)
    mx.eval(loaded.keys, loaded.values)
    assert loaded.keys.shape[2] == 256
    assert mx.get_peak_memory() - before < loaded.keys.nbytes // 2


@pytest.mark.parametrize("by", [1, 1 << 16])
def test_a_file_that_ends_early(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: int
) -> None:
    """Cut short after its header was read: refused, whoever finds it."""
    path = tmp_path / "x.safetensors"
    contract.port.save_prompt_cache(str(path), [make(contract.port, State("KVCache", (), "u300"))])
    body = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    read, fill = os.pread, _body._fill

    def shorter(fd: int, size: int, at: int) -> bytes:
        data = read(fd, size, at)
        return data[: max(0, len(data) - by)] if at >= body else data

    def failing(fd: int, size: int, at: int) -> bytes:
        """A disk that can be read up to the end of the header."""
        if at >= body:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size, at)

    monkeypatch.setattr(os, "preadv", fill, raising=False)  # Which reads as `os.pread` does.
    monkeypatch.setattr(os, "pread", shorter)
    with pytest.raises(mlxkv.PromptCacheOSError, match=r"tensors that can be read, got \d+ of"):
        contract.port.load_prompt_cache(str(path))
    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(mlxkv.PromptCacheOSError, match="Input/output error"):
        contract.port.load_prompt_cache(str(path))


def test_a_file_for_which_there_is_no_memory(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused like one that cannot be read."""
    path = str(tmp_path / "x.safetensors")
    contract.port.save_prompt_cache(path, [make(contract.port, State("KVCache", (), "u300"))])

    def room(size: int = 0) -> bytearray:
        if size:
            raise MemoryError("no room")
        return bytearray()

    monkeypatch.setattr(_body, "bytearray", room, raising=False)
    with pytest.raises(mlxkv.PromptCacheOSError, match="tensors that can be read, got no room"):
        contract.port.load_prompt_cache(path)
