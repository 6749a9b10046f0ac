"""What the port does for a GPU, as far as it can be told without one."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import pytest

from mlxkv import mlx_lm_0_31, mlx_lm_0_32
from mlxkv._batch_layout import Block, Layout, lay
from mlxkv._files._slices import sliced
from mlxkv._words import MANY, join

each_port = pytest.mark.parametrize("port", [mlx_lm_0_31, mlx_lm_0_32])


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device that MLX says is the default; what is evaluated is so where it can be."""
    device = mx.Device(getattr(mx, request.param))
    monkeypatch.setattr(mx, "default_device", lambda: device)
    return cast(str, request.param)


def graph_of(*arrays: mx.array) -> str:
    """The primitives that the arrays wait for."""
    file = io.StringIO()
    mx.export_to_dot(file, *arrays)
    return file.getvalue()


def rows(tokens: int, heads: int = 2) -> mx.array:
    """Float16 rows, evaluated, in one batch row."""
    made = mx.ones((1, heads, tokens, 64), mx.float16)
    mx.eval(made)
    return made


def test_rows_are_moved_as_words_on_a_cpu_only(device: str) -> None:
    """A GPU gains nothing by wider words."""
    long = rows(MANY // 256)

    assert ("View" in graph_of(join([long, long]))) == (device == "cpu")


def test_rows_are_laid_as_words_on_a_cpu_only(device: str) -> None:
    """Nor in putting a batch together: they are written as they are."""
    long = rows(MANY // 128)
    columns = long.shape[2] + 1
    laid = lay([Block(long, 1, 1, [(0, columns - 1)])], Layout(1, 2, columns, 64, mx.float16))

    assert ("View" in graph_of(laid)) == (device == "cpu")


@each_port
@pytest.mark.parametrize("shape", [(1, 2, 0, 64), (0, 2, 3, 64), (1, 0, 3, 64)])
def test_nothing_is_quantized_without_mlx(port: Any, shape: tuple[int, ...]) -> None:
    """Of no elements MLX's own quantization would end the process on CUDA; the parts are alike."""
    nothing = mx.zeros(shape, mx.float16)
    quantized = port.QuantizedKVCache(group_size=32, bits=4)
    plain = port.KVCache()
    plain.update_and_fetch(nothing, nothing)
    plain.keys = plain.values = nothing

    fetched = quantized.update_and_fetch(nothing, nothing)
    copied = plain.to_quantized(group_size=32, bits=4)

    assert "Quantize" not in graph_of(*fetched[0], *fetched[1], *copied.keys, *copied.values)
    expected = mx.quantize(nothing, group_size=32, bits=4)
    for parts in (*fetched, copied.keys, copied.values):
        assert [(part.shape, part.dtype) for part in parts] == [
            (part.shape, part.dtype) for part in expected
        ]


def test_array_without_elements_is_not_looked_into() -> None:
    """On CUDA its buffer may be no address, and a memory view of it would end the process."""
    nothing = SimpleNamespace(size=0, nbytes=0)

    assert sliced({"keys": cast(mx.array, nothing)}) == 0


def test_numbers_are_saved_as_arrays_of_their_own(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, and copied with rank 1: of rank 0 the copy that MLX makes on CUDA is garbage."""
    ranks = []
    real = mx.contiguous

    def contiguous(array: mx.array) -> mx.array:
        ranks.append(array.ndim)
        return real(array)

    cache = mlx_lm_0_32.ArraysCache(2)
    cache[0], cache[1] = rows(4)[0, 0, 0, 3], rows(4)
    file = str(tmp_path / "x.safetensors")
    monkeypatch.setattr(mx, "contiguous", contiguous)
    mlx_lm_0_32.save_prompt_cache(file, [cache])

    assert set(ranks) == ({1} if device == "gpu" else set())
    (loaded,) = mlx_lm_0_32.load_prompt_cache(file)
    assert loaded[0].item() == 1.0
    assert loaded[0].shape == ()
