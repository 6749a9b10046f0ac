"""Converted files load in the real release and decode on; what cannot be said is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from property_tests.files.conftest import Contract
from property_tests.files.old_files import FILES, KEYS, metas, pair, write
from property_tests.files.states import EVERY, State, arrays_cache, decode, make, nested

import kvreference
import mlxkv

RELEASES = {"0.31": "0.31.3", "0.32": "0.32.2"}
TARGETS = tuple(RELEASES)


def load(to: str, path: Path) -> list[Any]:
    """What the real release loads."""
    caches: list[Any] = kvreference.load(RELEASES[to]).cache.load_prompt_cache(str(path))
    return caches


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("state", EVERY, ids=lambda state: state.name)
def test_converted_files_decode_on(
    contract: Contract, tmp_path: Path, to: str, state: State
) -> None:
    """In the release asked for as the cache that never left memory, or the reason is given."""
    source, out = str(tmp_path / "in.safetensors"), tmp_path / "out.safetensors"
    cache = make(contract.reference, state)
    try:
        contract.reference.save_prompt_cache(source, [cache], {"a": "b", "c.d": "e"})
    except (AttributeError, RuntimeError, TypeError):
        return  # Nothing to convert: 0.31 does not save empty caches.
    if cannot(state, cache, to, contract.generation):
        with pytest.raises(mlxkv.PromptCacheError):
            mlxkv.convert_prompt_cache(source, to, out)
        assert not out.exists()
        return
    mlxkv.convert_prompt_cache(source, to, out)
    (loaded,) = load(to, out)
    if state.cls == "BatchRotatingKVCache":
        loaded._lengths = None  # No release sets it, and none could go on.
    if state.cls == "ConcatenateKVCache" and "t" in state.steps:
        (cache,) = contract.reference.load_prompt_cache(source)  # Its trim is not saved.
    assert decode(loaded, state) == decode(cache, state)
    assert mlxkv.read_prompt_cache(out).metadata == {"a": "b", "c.d": "e"}


def cannot(state: State, cache: Any, to: str, source: str) -> bool:
    """Whether that generation has no way to say it, or the file that was read has not."""
    if state.cls == "ChunkedKVCache" and cache.start_position and "0.31" in (to, source):
        return True
    if cache.keys is None:
        return to == "0.31" or state.cls == "ConcatenateKVCache"
    return state.cls == "BatchRotatingKVCache" and to == "0.31" and not cache.rotated


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", FILES)
def test_every_generation_converts(tmp_path: Path, to: str, name: str) -> None:
    """All layouts become files that the release loads, or a reason is given."""
    tensors, metadata, _, cls = FILES[name]
    source = write(tmp_path / "in.safetensors", tensors, metadata)
    out = tmp_path / "out.safetensors"
    only_0_32 = name in ("swift empty", "swift chunked", "swift arrays")
    if name == "swift rotating, wrapped":
        with pytest.raises(mlxkv.NotExpressibleError, match="capacity_origin"):
            mlxkv.convert_prompt_cache(source, to, out)
        mlxkv.convert_prompt_cache(source, to, out, drop=["capacity_origin"])
    elif to == "0.31" and only_0_32:
        with pytest.raises(mlxkv.NotExpressibleError, match=r"layer 0 .*expected for mlx-lm 0\.31"):
            mlxkv.convert_prompt_cache(source, to, out)
        assert not out.exists()
        return
    else:
        mlxkv.convert_prompt_cache(source, to, out)
    (loaded,) = load(to, out)
    assert type(loaded).__name__ == cls
    assert to in mlxkv.read_prompt_cache(out).generations


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("kind", ["pair", "arrays", "deep"])
def test_there_and_back(contract: Contract, tmp_path: Path, to: str, kind: str) -> None:
    """Nested lists: converted, and converted back, the caches hold the same."""
    first, second, third = (str(tmp_path / f"{name}.safetensors") for name in "abc")
    cache = nested(contract.reference, kind)
    contract.reference.save_prompt_cache(first, [cache], {"a": "b"})
    mlxkv.convert_prompt_cache(first, to, second)
    mlxkv.convert_prompt_cache(second, contract.generation, third)
    files = [mlxkv.read_prompt_cache(path) for path in (first, third)]
    if contract.generation == "0.31" or to == "0.32":
        assert Path(first).read_bytes() == Path(third).read_bytes()
    assert files[0].generations == files[1].generations


def save(path: str, *caches: Any) -> str:
    mlxkv.mlx_lm_0_32.save_prompt_cache(path, list(caches))
    return path


def refused(port: Any) -> dict[str, tuple[Any, str, str]]:
    """What 0.32 saves and 0.31 cannot: a cache, the field, the reason."""
    standard = State("KVCache", (), "u3")
    padded = arrays_cache(port)
    padded.left_padding = mx.array([1])
    return {
        "an empty cache": (port.KVCache(), "keys", "the cache is empty"),
        "an empty child": (port.CacheList(port.KVCache()), "keys", "the cache is empty"),
        "an empty slot": (arrays_cache(port, 2, (1,)), "cache[0]", "got None"),
        "left padding": (padded, "left_padding", "it is not saved"),
        "no chunk size": (
            make(port, State("ChunkedKVCache", (None,), "u3")),
            "chunk_size",
            "an integer",
        ),
        "a trimmed chunk": (
            make(port, State("ChunkedKVCache", (2,), "u3 f u1")),
            "start_position",
            "the offset is not saved",
        ),
        "a batch's ring that is not full": (
            make(port, State("BatchRotatingKVCache", (8, [0]), "u3")),
            "rotated",
            "as which mlx-lm 0.31 loads all",
        ),
        "a list without children": (port.CacheList(), "children", "drops the list"),
        "no slots": (arrays_cache(port, 0, ()), "cache", "at least one slot"),
        "a later layer": (
            port.CacheList(make(port, standard), port.KVCache()),
            "keys",
            r"layer 0\.1 \(KVCache\)",
        ),
    }


@pytest.mark.parametrize("name", refused(mlxkv.mlx_lm_0_32))
def test_what_0_31_cannot_say_is_refused(tmp_path: Path, name: str) -> None:
    """Layer, field and reason, and nothing is written over a file that is there."""
    cache, field, reason = refused(mlxkv.mlx_lm_0_32)[name]
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"before")
    with pytest.raises(mlxkv.NotExpressibleError, match=reason) as refusal:
        mlxkv.convert_prompt_cache(save(str(tmp_path / "in.safetensors"), cache), "0.31", out)
    assert refusal.value.field == field
    assert out.read_bytes() == b"before"


def test_a_step_of_its_own_is_refused_or_dropped(tmp_path: Path) -> None:
    """A file of up to 0.27 may have one; no later file has."""
    meta = metas("RotatingKVCache", "0", "8", "2", "3", "3")
    source, out = write(tmp_path / "in.safetensors", pair(KEYS), meta), tmp_path / "out.safetensors"
    with pytest.raises(mlxkv.NotExpressibleError, match=r"step: .*got 2"):
        mlxkv.convert_prompt_cache(source, "0.32", out)
    mlxkv.convert_prompt_cache(source, "0.32", out, drop=["step"])
    assert load("0.32", out)[0].offset == 3


def test_no_other_target(tmp_path: Path) -> None:
    """0.31 and 0.32 are written, no others."""
    source = save(str(tmp_path / "in.safetensors"), make(mlxkv.mlx_lm_0_32, EVERY[1]))
    with pytest.raises(mlxkv.GenerationError, match=r"0\.31, 0\.32, got '0\.27'"):
        mlxkv.convert_prompt_cache(source, "0.27", tmp_path / "out")


def test_a_file_may_become_itself(tmp_path: Path) -> None:
    """OUT may be FILE: all of it is read before it is replaced."""
    path = save(str(tmp_path / "in.safetensors"), make(mlxkv.mlx_lm_0_32, EVERY[4]))
    before = Path(path).read_bytes()
    mlxkv.convert_prompt_cache(path, "0.31", path)
    assert mlxkv.read_prompt_cache(path).generation == "0.31"
    mlxkv.convert_prompt_cache(path, "0.31", path)
    assert Path(path).read_bytes() != before


def test_a_model_without_layers(tmp_path: Path) -> None:
    """No layers are no file of 0.31."""
    source = save(str(tmp_path / "in.safetensors"))
    mlxkv.convert_prompt_cache(source, "0.32", tmp_path / "out")
    with pytest.raises(mlxkv.NotExpressibleError, match="at least one"):
        mlxkv.convert_prompt_cache(source, "0.31", tmp_path / "out")
