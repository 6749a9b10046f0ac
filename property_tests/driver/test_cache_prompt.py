"""`cache_prompt_ids` and `cache_prompt`: from tokens or a text to a file."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from property_tests.driver.mock import Layered, Mock, held

from kvreference import load
from mlxkv import (
    CacheConfig,
    CachedPrompt,
    EmptyPromptError,
    NotSavableError,
    OtherReleaseError,
    PromptCacheOSError,
    UnknownReleaseError,
    cache_prompt,
    cache_prompt_ids,
)
from mlxkv._driver import contract_of, make_prompt_caches

TWO_LAYERS = CacheConfig(num_hidden_layers=2)


@pytest.fixture
def release(contract: ModuleType) -> str:
    return "0.31.3" if contract.__name__.endswith("31") else "0.32.2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompt.safetensors"


def contents(file: Path) -> dict[str, bytes]:
    """Every file beside that one, so that one left behind shows."""
    return {path.name: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}


def test_all_of_the_prompt(contract: ModuleType, release: str, file: Path) -> None:
    """The file holds the caches of all layers, with every token."""
    got = cache_prompt_ids(
        Mock(), [1, 2, 3, 4], file, model_name="mock", config=TWO_LAYERS, release=release
    )
    loaded = contract.load_prompt_cache(file)
    # 256 rows of keys and of values, of 32 numbers, in two layers; 0.31 saves those in use.
    assert got == CachedPrompt(file, tokens_processed=4, nbytes=2 * 2 * 256 * 32 * 4)
    assert [one.reference_class_name for one in loaded] == ["KVCache", "KVCache"]
    assert [held(one) for one in loaded] == [[1, 2, 3, 4]] * 2


def test_fresh_caches_for_each_call(contract: ModuleType, release: str, file: Path) -> None:
    """A second, shorter prompt of the same model holds nothing of the first one."""
    model = Layered()
    other = file.with_name("other.safetensors")
    first = cache_prompt_ids(model, [1, 2, 3, 4], file, model_name="mock", release=release)
    second = cache_prompt_ids(model, [5, 6], other, model_name="mock", release=release)
    assert (first.tokens_processed, second.tokens_processed) == (4, 2)
    assert [held(one) for one in contract.load_prompt_cache(file)] == [[1, 2, 3, 4]] * 2
    assert [held(one) for one in contract.load_prompt_cache(other)] == [[5, 6]] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"config": CacheConfig(2, sliding_window=8)},
        {"config": CacheConfig(2), "max_kv_size": 8},
        {"config": CacheConfig(2, sliding_window=64), "max_kv_size": 8},
        {"max_kv_size": 8},
    ],
)
def test_a_sliding_window(
    contract: ModuleType, release: str, file: Path, options: dict[str, Any]
) -> None:
    """It gives rotating caches, which keep the first four tokens, and they load again."""
    cache_prompt_ids(
        Layered(), list(range(1, 6)), file, model_name="m", step_size=2, release=release, **options
    )
    loaded = contract.load_prompt_cache(file)
    assert [one.reference_class_name for one in loaded] == ["RotatingKVCache"] * 2
    assert [(one.offset, one.max_size, one.keep) for one in loaded] == [(5, 8, 4)] * 2


@pytest.mark.parametrize("config", [None, CacheConfig(2), CacheConfig(2, sliding_window=8)])
def test_a_window_of_nothing_is_one(contract: ModuleType, config: CacheConfig | None) -> None:
    """A size of 0 is a size, whoever knows the layers."""
    made = make_prompt_caches(Layered(), contract, config, 0)
    assert [(one.reference_class_name, one.max_size) for one in made] == [
        ("RotatingKVCache", 0)
    ] * 2


def test_the_prompt_goes_in_chunks(file: Path) -> None:
    """`step_size` and `on_progress` are those of `prefill`."""
    model, seen = Mock(), []
    cache_prompt_ids(
        model,
        list(range(7)),
        file,
        model_name="m",
        config=TWO_LAYERS,
        step_size=3,
        on_progress=lambda *done: seen.append(done),
    )
    assert model.lengths == [3, 3, 1]
    assert seen == [(0, 7), (3, 7), (6, 7), (7, 7)]


def test_quantized_on_the_way(contract: ModuleType, release: str, file: Path) -> None:
    """The caches that reach the start token are saved quantized."""
    cache_prompt_ids(
        Layered(),
        list(range(8)),
        file,
        model_name="m",
        step_size=3,
        kv_bits=4,
        kv_group_size=32,
        quantized_kv_start=4,
        release=release,
    )
    loaded = contract.load_prompt_cache(file)
    assert [one.reference_class_name for one in loaded] == ["QuantizedKVCache"] * 2
    assert [(one.offset, one.bits, one.group_size) for one in loaded] == [(8, 4, 32)] * 2


def test_the_reference_keys_win(contract: ModuleType, release: str, file: Path) -> None:
    """Metadata of one's own are kept, but not in place of the two that mlx-lm reads."""
    cache_prompt_ids(
        Layered(),
        [1, 2],
        file,
        model_name="folder/model",
        tokenizer_config={"eos_token": "</s>"},
        metadata={"model": "mine", "about": "a test", "tokenizer_config": "mine"},
        release=release,
    )
    _, metadata = contract.load_prompt_cache(file, return_metadata=True)
    assert metadata == {
        "model": "folder/model",
        "tokenizer_config": json.dumps({"eos_token": "</s>"}),
        "about": "a test",
    }


def test_the_order_of_the_metadata(
    contract: ModuleType, release: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlx-lm's two keys come first, in the order in which mlx-lm writes them."""
    given: list[Any] = []
    monkeypatch.setattr(
        contract, "save_prompt_cache", lambda *arguments: given.append(arguments[2])
    )
    cache_prompt_ids(
        Layered(), [1], file, model_name="m", metadata={"a": "1", "model": "x"}, release=release
    )
    assert list(given[0]) == ["model", "tokenizer_config", "a"]
    assert given[0]["model"] == "m"


@pytest.mark.parametrize("tokens", [[], mx.array([], mx.int32)])
def test_an_empty_prompt(tokens: Any, release: str, file: Path) -> None:
    """It is refused, and no file is there; an older one stays as it was."""
    for before in (None, b"older"):
        if before:
            file.write_bytes(before)
        with pytest.raises(EmptyPromptError):
            cache_prompt_ids(
                Mock(), tokens, file, model_name="m", config=TWO_LAYERS, release=release
            )
        assert contents(file) == ({file.name: before} if before else {})


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, MemoryError])
def test_whatever_is_raised(error: type[BaseException], release: str, file: Path) -> None:
    """What the model or the callback raises leaves the older file, and nothing beside it."""
    arguments: dict[str, Any] = {"model_name": "m", "release": release, "step_size": 2}
    cache_prompt_ids(Layered(), [1, 2, 3, 4], file, **arguments)
    before = contents(file)

    class Failing(Layered):
        def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
            if len(self.lengths) == 2:
                raise error
            return super().__call__(tokens, cache)

    def report(done: int, total: int) -> None:
        if done == total:
            raise error

    with pytest.raises(error):
        cache_prompt_ids(Failing(), [5, 6, 7, 8, 9], file, **arguments)
    with pytest.raises(error):
        cache_prompt_ids(Layered(), [5, 6, 7], file, on_progress=report, **arguments)
    assert contents(file) == before


def test_a_failing_save(release: str, tmp_path: Path) -> None:
    """A destination that is a folder is refused; it stays, and no temporary file beside it."""
    taken, model = tmp_path / "taken.safetensors", Layered()
    taken.mkdir()
    with pytest.raises(PromptCacheOSError, match="a regular file"):
        cache_prompt_ids(model, [1, 2, 3], taken, model_name="m", release=release)
    assert model.lengths == []  # There is no need to run the model first.
    assert list(tmp_path.iterdir()) == [taken]
    assert list(taken.iterdir()) == []
    missing = tmp_path / "missing" / "prompt.safetensors"
    with pytest.raises(PromptCacheOSError, match="No such file"):
        cache_prompt_ids(Layered(), [1, 2, 3], missing, model_name="m", release=release)
    assert list(tmp_path.iterdir()) == [taken]


def test_the_suffix(contract: ModuleType, release: str, tmp_path: Path) -> None:
    """It is appended where it is missing, as mlx appends it."""
    for name, written in (("a", "a.safetensors"), ("b.bin", "b.bin.safetensors")):
        got = cache_prompt_ids(Layered(), [1, 2], tmp_path / name, model_name="m", release=release)
        assert got.path == tmp_path / written
        assert contract.load_prompt_cache(tmp_path / written)[0].offset == 2


def test_caches_of_another_release(file: Path) -> None:
    """A model that makes the other release's caches is refused before it is run."""
    for made, wanted in (("0.31.3", "0.32.2"), ("0.32.2", "0.31.3")):
        model = Mock()
        caches = load(made).cache
        model.make_cache = lambda caches=caches: [caches.KVCache()]  # type: ignore[attr-defined]
        with pytest.raises(OtherReleaseError, match="KVCache") as refused:
            cache_prompt_ids(model, [1, 2], file, model_name="m", release=wanted)
        assert isinstance(refused.value, TypeError)
        assert model.lengths == []
    assert contents(file) == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"metadata": {"a": 1}}, NotSavableError),
        ({"metadata": {"a": "\ud800"}}, NotSavableError),
        ({"tokenizer_config": {"a": object()}}, TypeError),
    ],
)
def test_metadata_that_cannot_be_saved(
    options: dict[str, Any], error: type[Exception], release: str, file: Path
) -> None:
    """They are refused before the model is run."""
    model = Layered()
    with pytest.raises(error):
        cache_prompt_ids(model, [1, 2], file, model_name="m", release=release, **options)
    assert model.lengths == []
    assert contents(file) == {}


def test_a_worker_thread(contract: ModuleType, release: str, file: Path) -> None:
    """The driver works in a thread that is not the one the model was made in."""
    model, embedding = Layered(), mx.random.normal((8, 4))

    def lazy(tokens: mx.array, cache: list[Any]) -> mx.array:
        return Layered.__call__(model, tokens, cache) + mx.sum(embedding[tokens])

    lazy.layers = model.layers  # type: ignore[attr-defined]
    mx.eval(embedding)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(
            cache_prompt_ids, lazy, [1, 2, 3], file, model_name="m", step_size=1, release=release
        )
        assert job.result().tokens_processed == 3
    assert held(contract.load_prompt_cache(file)[0]) == [1, 2, 3]


@pytest.mark.parametrize("name", ["0.30", "", "0.32"])
def test_an_unknown_release(file: Path, name: str) -> None:
    """A release that the port does not follow is refused before the model is run."""
    model = Layered()
    with pytest.raises(UnknownReleaseError, match=r"0\.31\.3"):
        cache_prompt_ids(model, [1, 2], file, model_name="m", release=name)
    assert model.lengths == []


@pytest.mark.parametrize(
    ("loaded", "suffix"), [(None, "32"), ("0.31.3", "31"), ("0.32.0", "32"), ("0.32.2", "32")]
)
def test_the_release_that_is_loaded(
    loaded: str | None, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is that of the mlx-lm that is loaded, else of the latest release."""
    module = None if loaded is None else SimpleNamespace(__version__=loaded)
    monkeypatch.setitem(sys.modules, "mlx_lm", module)
    assert contract_of(None).__name__ == f"mlxkv.mlx_lm_0_{suffix}"


class Plain:
    """A tokenizer without a chat template."""

    has_chat_template = False

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


class Chat(Plain):
    """One with a chat template, which takes mlx-lm's own options and no others."""

    has_chat_template = True

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> Any:
        assert not add_generation_prompt
        assert continue_final_message
        assert [message["role"] for message in messages] == ["user"]
        return [90, *self.encode(messages[0]["content"])]


class HuggingFace(Plain):
    """One that is not wrapped by mlx-lm: a template is an attribute, and ids are in a mapping."""

    chat_template = "{{ messages }}"

    def __init__(self) -> None:
        self.wrapped = Chat()

    def __getattribute__(self, name: str) -> Any:
        if name == "has_chat_template":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return {"input_ids": self.wrapped.apply_chat_template(messages, **options)}


@pytest.mark.parametrize(
    ("tokenizer", "ids"), [(Plain(), [1, 2]), (Chat(), [90, 1, 2]), (HuggingFace(), [90, 1, 2])]
)
def test_a_text(
    contract: ModuleType, release: str, file: Path, tokenizer: Any, ids: list[int]
) -> None:
    """It is encoded, as the message of a user that may go on where there is a chat template."""
    got = cache_prompt(Layered(), tokenizer, "1 2", file, model_name="m", release=release)
    assert got.tokens_processed == len(ids)
    assert held(contract.load_prompt_cache(file)[0]) == ids


def test_a_text_without_tokens(release: str, file: Path) -> None:
    """It is refused as an empty prompt is."""
    with pytest.raises(EmptyPromptError):
        cache_prompt(Layered(), Plain(), "", file, model_name="m", release=release)
    assert contents(file) == {}
