"""The port's files are the release's, byte for byte, and each loads the other's and decodes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.files.conftest import Contract, contract_of
from property_tests.files.states import (
    EVERY,
    NESTED,
    State,
    arrays_cache,
    decode,
    make,
    nested,
    to_bytes,
)

from mlxkv._files._errors import NotSavableError, PromptCacheError

METADATA = {"model": "m", "nested.key": "x", "": "", "ünïcode": "ß\n\0"}


def save(module: Any, path: str, caches: list[Any], metadata: Any) -> BaseException | None:
    try:
        module.save_prompt_cache(path, caches, metadata)
    except Exception as error:
        return error
    return None


def check(contract: Contract, both: tuple[str, str], state: State) -> None:
    theirs, ours = both
    caches = [make(module, state) for module in (contract.reference, contract.port)]
    refused = save(contract.reference, theirs, [caches[0]], METADATA)
    error = save(contract.port, ours, [caches[1]], METADATA)
    if refused is not None:
        assert isinstance(error, NotSavableError)
        assert isinstance(error, type(refused))
        assert not Path(ours).exists()
        return
    assert error is None
    assert Path(theirs).read_bytes() == Path(ours).read_bytes()
    try:
        loaded = contract.port.load_prompt_cache(theirs)
    except PromptCacheError:
        assert contract.release == "0.31.3"
        assert caches[0].start_position
        return
    assert [type(one).__name__ for one in loaded] == [state.cls]
    goes_on = decode(loaded[0], state)
    if state.cls != "ConcatenateKVCache" or "t" not in state.steps:  # Its trim is not saved.
        assert goes_on == decode(caches[1], state)
    if state.cls == "ConcatenateKVCache" and not state.steps:
        return  # The release saves it and then fails to load it.
    again = contract.reference.load_prompt_cache(ours)[0]
    if state.cls == "BatchRotatingKVCache":
        again._lengths = None  # The release leaves it unset, and could not go on.
        again.rotated = caches[0].rotated  # 0.31.3 takes "False" for True.
    assert goes_on == decode(again, state)


@pytest.mark.parametrize("state", EVERY, ids=lambda state: state.name)
def test_every_class_in_every_state(
    contract: Contract, both: tuple[str, str], state: State
) -> None:
    """Same bytes, or a refusal of the same kind; what is loaded decodes on as the saved cache."""
    check(contract, both, state)


@pytest.mark.parametrize("kind", NESTED)
def test_lists_and_slots(contract: Contract, both: tuple[str, str], kind: str) -> None:
    """Nested lists too, and those without children, which the release drops when it loads them."""
    theirs, ours = both
    cache = nested(contract.port, kind)
    contract.reference.save_prompt_cache(theirs, [nested(contract.reference, kind)], METADATA)
    contract.port.save_prompt_cache(ours, [cache], METADATA)
    assert Path(theirs).read_bytes() == Path(ours).read_bytes()
    (loaded,) = contract.port.load_prompt_cache(theirs)
    assert tell(loaded) == tell(cache)
    if kind not in ("childless", "slotless", "childless inside"):
        (loaded,) = contract.reference.load_prompt_cache(ours)
        assert tell(loaded) == tell(cache)


def tell(cache: Any) -> Any:
    """The class and all that a cache holds."""
    if hasattr(cache, "caches"):
        return [tell(child) for child in cache.caches]
    if hasattr(cache, "cache"):
        return [to_bytes(slot) for slot in cache.cache]
    return type(cache).__name__, to_bytes(cache.state[0]), cache.offset


def test_layers_of_all_classes_in_one_file(contract: Contract, both: tuple[str, str]) -> None:
    """A file of 40 layers of every class, so that the order of tensors is no accident."""
    theirs, ours = both
    some = [state for state in EVERY if "u" in state.steps][:40]
    for module, path in ((contract.reference, theirs), (contract.port, ours)):
        module.save_prompt_cache(path, [make(module, state) for state in some], METADATA)
    assert Path(theirs).read_bytes() == Path(ours).read_bytes()
    assert len(contract.port.load_prompt_cache(theirs)) == 40


def test_no_layers(contract: Contract, both: tuple[str, str]) -> None:
    """A file of no layers is the release's too; only 0.32 can load it."""
    theirs, ours = both
    contract.reference.save_prompt_cache(theirs, [], {})
    contract.port.save_prompt_cache(ours, [], {})
    assert Path(theirs).read_bytes() == Path(ours).read_bytes()
    if contract.release == "0.32.2":
        assert contract.port.load_prompt_cache(ours, return_metadata=True) == ([], {})
    else:
        with pytest.raises(PromptCacheError, match="class names"):
            contract.port.load_prompt_cache(ours)


@pytest.mark.parametrize("slots", [(), (0,), (1,)], ids=str)
def test_empty_slots(contract: Contract, both: tuple[str, str], slots: tuple[int, ...]) -> None:
    """0.32.2 saves None in a slot; 0.31.3 cannot, and nothing is written."""
    theirs, ours = both
    refused = save(
        contract.reference, theirs, [arrays_cache(contract.reference, 2, slots)], METADATA
    )
    error = save(contract.port, ours, [arrays_cache(contract.port, 2, slots)], METADATA)
    if refused is not None:
        assert isinstance(error, NotSavableError)
        assert isinstance(error, type(refused))
        assert error.place.cache == "ArraysCache"
        assert not list(Path(ours).parent.iterdir())
        return
    assert Path(theirs).read_bytes() == Path(ours).read_bytes()
    (loaded,) = contract.port.load_prompt_cache(theirs)
    assert [slot is not None for slot in loaded.cache] == [i in slots for i in range(2)]


def steps() -> st.SearchStrategy[str]:
    step = st.sampled_from(["u1", "u1", "u2", "u3", "u5", "u9", "t1", "t2"])
    return st.lists(step, min_size=1, max_size=9).map(" ".join)


@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
@settings(max_examples=60, deadline=None)
@given(
    cls=st.sampled_from(["KVCache", "RotatingKVCache", "BatchKVCache", "BatchRotatingKVCache"]),
    merged=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    steps=steps(),
    size=st.integers(2, 8),
    keep=st.integers(0, 1),
)
def test_random_histories(
    tmp_path_factory: Any,
    release: str,
    cls: str,
    merged: list[int],
    steps: str,
    size: int,
    keep: int,
) -> None:
    """Whatever was done to a cache, its file is the release's and is not refused."""
    if cls.startswith("Batch") and len(merged) > 1:
        steps = f"m{','.join(map(str, merged))} {steps}"
    args = {"KVCache": (), "RotatingKVCache": (size, keep), "BatchKVCache": ([0, 1],)}
    contract = contract_of(release)
    state = State(cls, args.get(cls, (size, [0, 1])), steps)
    try:
        make(contract.port, state)
    except ValueError:
        return  # A ring that is full cannot be trimmed.
    folder = tmp_path_factory.mktemp("files")
    check(contract, (str(folder / "release.safetensors"), str(folder / "port.safetensors")), state)
