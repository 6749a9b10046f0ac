"""The user's metadata comes back as the release brings it back, and fills no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from property_tests.files.conftest import Contract, contract_of
from property_tests.files.states import EVERY, make

import mlxkv

SAVED: list[Any] = [
    {},
    {"a": "b"},
    {"a.b": "c"},
    {"a": {"b": "c", "d": {"e": "f"}}},
    {0: "c", 5: "d"},
    {"": "x"},
    ["a", "b"],
    "text",
    {"a": "\n\0 ü 🦆"},
    {"model": "m", "1732375731": "x"},
    {"created": {"1732375731": "note", "by": "me"}},
    {"0": "a", " 7": "b", "x.20261123": "c", "x.y": "d"},
    [str(i) for i in range(5000)],
]


def both(contract: Contract, folder: Path, metadata: Any) -> None:
    theirs, ours = str(folder / "a.safetensors"), str(folder / "b.safetensors")
    for module, path in ((contract.reference, theirs), (contract.port, ours)):
        module.save_prompt_cache(path, [make(module, EVERY[1])], metadata)
    assert Path(theirs).read_bytes() == Path(ours).read_bytes()
    expected = contract.reference.load_prompt_cache(ours, return_metadata=True)[1]
    assert contract.port.load_prompt_cache(theirs, return_metadata=True)[1] == expected


@pytest.mark.parametrize("metadata", SAVED, ids=lambda metadata: repr(metadata)[:60])
def test_metadata_goes_round(contract: Contract, tmp_path: Path, metadata: Any) -> None:
    """Nested, numbered, empty: bytes and what is loaded are the release's."""
    both(contract, tmp_path, metadata)


@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
@settings(max_examples=40, deadline=None)
@given(
    metadata=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="0123456789"), max_size=5),
        st.text(st.characters(codec="utf-8")),
        max_size=3,
    )
)
def test_any_text_goes_round(tmp_path_factory: Any, release: str, metadata: Any) -> None:
    """Whatever text the keys and values are."""
    # "a" and "a.", or "a" and "a..": the release's load never comes back.
    assume(len({key.rstrip(".") for key in metadata}) == len(metadata))
    both(contract_of(release), tmp_path_factory.mktemp("files"), metadata)


@pytest.mark.parametrize("key", ["9" * 12, "a." + "9" * 12, ".".join("a" * 100), "9" * 5000])
def test_keys_that_would_fill_the_memory(contract: Contract, tmp_path: Path, key: str) -> None:
    """A list of 10 ** 12 entries, 100 levels: refused, by name."""
    prefix = "1" if contract.generation == "0.31" else "0"
    path = str(tmp_path / "a.safetensors")
    contract.port.save_prompt_cache(path, [make(contract.port, EVERY[1])])
    tensors, metadata = mx.load(path, return_metadata=True)
    mx.save_safetensors(path, tensors, {**metadata, f"{prefix}.{key}": "x"})
    with pytest.raises(mlxkv.LayoutError, match="metadata"):
        contract.port.load_prompt_cache(path)


@pytest.mark.parametrize(
    "keys", [("a", "a."), ("a", "a.."), ("", ".."), ("a.", "a.."), ("b.a", "b.a...")]
)
def test_keys_that_would_never_end(contract: Contract, tmp_path: Path, keys: Any) -> None:
    """Two keys that differ by dots at the end: refused, where the release recurses for ever."""
    prefix = "1" if contract.generation == "0.31" else "0"
    path = str(tmp_path / "a.safetensors")
    contract.port.save_prompt_cache(path, [make(contract.port, EVERY[1])])
    tensors, metadata = mx.load(path, return_metadata=True)
    more = {f"{prefix}.{key}": "x" for key in keys}
    mx.save_safetensors(path, tensors, {**metadata, **more})
    with pytest.raises(mlxkv.LayoutError, match="one of the two"):
        contract.port.load_prompt_cache(path)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"1732375731": "x"}, "numbers up to 4096"),
        ({"model": "m", "created": {"1732375731": "x"}}, "numbers up to 4096"),
        ({"a": "x", "a.": "y"}, "one of the two"),
        ({".".join("a" * 100): "x"}, "64 parts"),
    ],
    ids=["number", "number below", "dots", "parts"],
)
def test_what_could_not_be_loaded_is_not_saved(
    contract: Contract, tmp_path: Path, metadata: Any, told: str
) -> None:
    """Metadata that no load of the port would read are refused first; nothing is written."""
    path = tmp_path / "a.safetensors"
    with pytest.raises(mlxkv.NotSavableError, match=told):
        contract.port.save_prompt_cache(str(path), [make(contract.port, EVERY[1])], metadata)
    assert not path.exists()


def test_a_default_that_is_not_shared(contract: Contract, tmp_path: Path) -> None:
    """Without metadata nothing of an earlier call is in the file."""
    path = str(tmp_path / "a.safetensors")
    contract.port.save_prompt_cache(path, [make(contract.port, EVERY[1])], {"a": "b"})
    contract.port.save_prompt_cache(path, [make(contract.port, EVERY[1])])
    assert contract.port.load_prompt_cache(path, return_metadata=True)[1] == {}
