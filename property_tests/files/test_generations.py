"""Every generation's layout is read, named, and loads in both contracts; nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from property_tests.files.conftest import Contract
from property_tests.files.old_files import FILES, KEYS, metas, pair, quantized, write
from property_tests.files.states import State, make, nested, to_bytes, update

import mlxkv
from mlxkv._files import _read
from mlxkv._files._layers import Layer


@pytest.mark.parametrize("name", FILES)
def test_the_generations_that_a_file_fits(tmp_path: Path, name: str) -> None:
    """All of them are named, and the user's metadata is the user's."""
    tensors, metadata, generations, _ = FILES[name]
    file = mlxkv.read_prompt_cache(write(tmp_path / "f.safetensors", tensors, metadata))
    assert file.generations == generations
    assert file.metadata == {"model": "m"}


@pytest.mark.parametrize("name", FILES)
def test_every_generation_loads(contract: Contract, tmp_path: Path, name: str) -> None:
    """A contract's load function takes files of all generations, its fields as they stand there."""
    tensors, metadata, generations, cls = FILES[name]
    path = write(tmp_path / "f.safetensors", tensors, metadata)
    (cache,), user = contract.port.load_prompt_cache(path, return_metadata=True)
    assert type(cache) is getattr(contract.port, cls)
    assert user == {"model": "m"}
    for generation in generations:
        contract.port.load_prompt_cache(path, generation=generation)
    ring = cache[1] if cls == "CacheList" else cache
    if type(ring).__name__ == "RotatingKVCache":
        assert (ring.keep, ring.max_size, ring.offset, ring._idx) == (1, 4, 9, 3)
    if cls in ("KVCache", "QuantizedKVCache", "ChunkedKVCache") and tensors:
        assert cache.offset == 3


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("other", ["0.27", "0.28", "0.31", "0.32", "swift"])
def test_a_generation_that_is_named_is_the_one(
    contract: Contract, tmp_path: Path, name: str, other: str
) -> None:
    """A file of another one is refused, and the refusal names the one it was read as."""
    tensors, metadata, generations, _ = FILES[name]
    path = write(tmp_path / "f.safetensors", tensors, metadata)
    if other not in generations:
        with pytest.raises(mlxkv.PromptCacheError) as refusal:
            contract.port.load_prompt_cache(path, generation=other)
        assert refusal.value.place.generation == other


def test_an_unknown_generation(tmp_path: Path) -> None:
    """A generation that there is not is refused by name."""
    path = write(tmp_path / "f.safetensors", pair(), metas("KVCache", "", plain=True))
    with pytest.raises(mlxkv.GenerationError, match=r"0\.99"):
        mlxkv.read_prompt_cache(path, "0.99")


@pytest.mark.parametrize("kind", ["standard", "ring", "quantized", "list"])
def test_files_of_the_other_contract(contract: Contract, tmp_path: Path, kind: str) -> None:
    """What one release saves decodes on in the other contract as in the release that saved it."""
    states = {
        "standard": State("KVCache", (), "u3 u1"),
        "ring": State("RotatingKVCache", (4, 1), "u9 u1 u1"),
        "quantized": State("QuantizedKVCache", (32, 8), "u3"),
    }
    other = mlxkv.mlx_lm_0_31 if contract.release == "0.32.2" else mlxkv.mlx_lm_0_32
    cache = (
        nested(contract.reference, "pair")
        if kind == "list"
        else make(contract.reference, states[kind])
    )
    path = str(tmp_path / "f.safetensors")
    contract.reference.save_prompt_cache(path, [cache])
    (loaded,) = other.load_prompt_cache(path)
    first, second = (cache[0], loaded[0]) if kind == "list" else (cache, loaded)
    for position in range(6):
        state = states.get(kind, states["standard"])
        fetched = [update(one, 1, state, position) for one in (first, second)]
        assert to_bytes(fetched[0]) == to_bytes(fetched[1])
        assert first.offset == second.offset


def test_empty_caches_of_0_32_load_in_0_31(tmp_path: Path) -> None:
    """In memory 0.31 has empty caches and empty slots, though its files do not."""
    port = mlxkv.mlx_lm_0_32
    path = str(tmp_path / "f")
    arrays = port.ArraysCache(2, left_padding=[1])
    port.save_prompt_cache(path, [port.KVCache(), port.RotatingKVCache(4, 1), arrays])
    loaded = mlxkv.mlx_lm_0_31.load_prompt_cache(path + ".safetensors")
    assert [one.empty() for one in loaded] == [True] * 3
    assert (loaded[1].max_size, loaded[1].keep) == (4, 1)
    assert loaded[2].left_padding.tolist() == [1]
    update(loaded[1], 1, State("RotatingKVCache", (4, 1), ""), 0)


def test_a_step_of_its_own_is_kept_in_memory(contract: Contract, tmp_path: Path) -> None:
    """Up to 0.27 a rotating cache could have a step; the loaded one grows by it."""
    meta = metas("RotatingKVCache", "0", "8", "2", "3", "3")
    path = write(tmp_path / "f.safetensors", pair(), meta)
    (cache,) = contract.port.load_prompt_cache(path)
    assert cache.step == 2
    assert type(cache).step == 256


def test_two_generations_that_differ_are_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a file to load differently as two generations, it is refused unless one is named."""

    class Other:
        def __init__(self, _content: Any) -> None:
            pass

        def layer(self, _place: Any, _node: Any, _meta: Any) -> Layer:
            return Layer("KVCache", {"keys": None, "values": None, "offset": 0})

    monkeypatch.setattr(_read, "Swift", Other)
    path = write(tmp_path / "f.safetensors", pair(), metas("KVCache", "", plain=True))
    with pytest.raises(mlxkv.GenerationError, match=r"mlx-swift-lm and mlx-lm up to 0\.27"):
        mlxkv.read_prompt_cache(path)
    assert mlxkv.read_prompt_cache(path, "0.31").layers[0].fields["offset"] == 3
    assert len(mlxkv.inspect_prompt_cache(path).problems) == 3


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str, str]] = {
    "a chunk that was trimmed in front": (
        pair(),
        metas("ChunkedKVCache", "8", "4"),
        "start_position",
        "do not save the offset",
    ),
    "a list of before 0.31": (
        {**pair(), "0.2": KEYS, "0.3": KEYS},
        metas("CacheList", "", plain=True),
        "meta_state",
        "which no file has before 0.31",
    ),
    "quantized in Swift without biases": (
        {f"0.{i}": KEYS for i in range(4)},
        metas("QuantizedKVCache", "256", "3", "32", "8"),
        "tensors",
        "biases",
    ),
    "an offset that is not the rows": (
        quantized(),
        metas("QuantizedKVCache", "4", "32", "8"),
        "offset",
        "got 4",
    ),
    "a ring whose cursor is nowhere": (
        pair(),
        metas("RotatingKVCache", "1", "8", "3", "7"),
        "_idx",
        "0 to 3",
    ),
    "a class of another generation": (
        pair(),
        metas("MambaCache", "", plain=True) | {"0.1": "", "2.1": "BatchKVCache"},
        "tensors",
        "4 entries",
    ),
    "a class that is none": (
        pair(),
        metas("os.system", "", plain=True),
        "class",
        "one of",
    ),
    "a layer without a class": (
        {**pair(), **pair(layer="1")},
        metas("KVCache", "", plain=True),
        "tensors",
        "an entry 1",
    ),
    "a class without tensors": (
        pair(),
        metas("KVCache", "", plain=True) | {"0.1": "", "2.1": "KVCache"},
        "tensors",
        "got none",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_field(contract: Contract, tmp_path: Path, name: str) -> None:
    """The file, the layer, the field, what was expected and what stands there."""
    tensors, metadata, field, text = REFUSED[name]
    path = write(tmp_path / "f.safetensors", tensors, metadata)
    with pytest.raises(mlxkv.PromptCacheError, match=text) as refusal:
        contract.port.load_prompt_cache(path)
    assert refusal.value.field == field
    assert refusal.value.place.file == path
    assert str(refusal.value).startswith(f"{path}: ")


def test_a_batch_whose_padding_contradicts_its_columns(tmp_path: Path) -> None:
    """Small arrays are looked at, number for number."""
    tensors = {**pair(), "0.2": mx.array([2]), "0.3": mx.array([0])}
    path = write(tmp_path / "f.safetensors", tensors, metas("BatchKVCache", "", plain=True))
    with pytest.raises(mlxkv.FieldError, match=r"left_padding\[0\]: expected 1"):
        mlxkv.read_prompt_cache(path)
