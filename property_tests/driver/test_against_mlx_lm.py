"""The files are those of mlx-lm's own `cache_prompt`, byte for byte, and `generate` goes on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from click.testing import CliRunner
from models_tests.tiny import WINDOW
from property_tests.driver.folders import make_folder, text_of

from mlxkv import cache_prompt, use_in_mlx_lm
from mlxkv._commands.prompt import prompt

caches = importlib.import_module("mlx_lm.models.cache")
generation = importlib.import_module("mlx_lm.generate")
tool = importlib.import_module("mlx_lm.cache_prompt")
load = importlib.import_module("mlx_lm.utils").load

# Five chunks and what is left.
STEP = 48
LONG = 5 * STEP + 17
WHOLE = {"sliding_window": None, "layer_types": None}

FOLDERS = {
    "llama": {"head_dim": 64, **WHOLE},
    "qwen3": {"head_dim": 64},  # It leaves its caches to mlx-lm.
    "gemma3_text": {},  # RotatingKVCache and KVCache
    "llama4": {},  # ChunkedKVCache and KVCache
    "falcon_h1": {},  # CacheList(ArraysCache, KVCache)
    "mamba": {},  # ArraysCache
    "recurrent_gemma": {},  # ArraysCache and RotatingKVCache
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: Any) -> Callable[[str], Path]:
    """The folder of a tiny model of that architecture, made once; with a chat template."""
    root = tmp_path_factory.mktemp("models")

    def find(architecture: str) -> Path:
        folder: Path = root / architecture
        if not folder.exists():
            make_folder(folder, architecture, template=True, **FOLDERS[architecture])
        return folder

    return find


def mlx_lms_file(folder: Path, text: str, file: Path, *options: str) -> bytes:
    """What mlx-lm's tool writes."""
    given = ["--model", folder, "--prompt", text, "--prompt-cache-file", file, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mlx_lm.cache_prompt", *map(str, given)])
        tool.main()
    return file.read_bytes()


def our_file(folder: Path, text: str, file: Path, *options: str) -> bytes:
    """What `mlxkv prompt` writes."""
    given = ["--model", folder, "--prompt", text, "-o", file, *options]
    result = CliRunner().invoke(prompt, list(map(str, given)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return file.read_bytes()


@pytest.mark.parametrize("length", [1, 2, 30, 300])
@pytest.mark.parametrize("architecture", FOLDERS)
def test_every_kind_of_cache(
    architecture: str, length: int, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Identical files for models with caches of every class, metadata and order included."""
    folder = folder_of(architecture)
    expected = mlx_lms_file(folder, text_of(length), tmp_path / "expected.safetensors")
    assert our_file(folder, text_of(length), tmp_path / "got.safetensors") == expected


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        *((architecture, ()) for architecture in FOLDERS),
        ("qwen3", ("--max-kv-size", "100")),
        ("llama", ("--kv-bits", "4", "--quantized-kv-start", "0")),
        ("llama", ("--kv-bits", "8", "--kv-group-size", "32", "--quantized-kv-start", "100")),
        ("llama", ("--kv-bits", "8", "--quantized-kv-start", "257")),
        ("llama", ("--kv-bits", "8")),
        ("qwen3", ("--kv-bits", "8", "--quantized-kv-start", "100")),
        ("llama", ("--eos-token", "5")),
    ],
)
def test_chunks_and_options(
    architecture: str,
    options: tuple[str, ...],
    folder_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Identical files for a prompt of six chunks, with each option of mlx-lm's tool."""
    # The tool has no option for the chunk.
    in_chunks = partial(generation.generate_step, prefill_step_size=STEP)
    monkeypatch.setattr(tool, "generate_step", in_chunks)
    folder, text = folder_of(architecture), text_of(LONG)
    expected = mlx_lms_file(folder, text, tmp_path / "expected.safetensors", *options)
    got = our_file(folder, text, tmp_path / "got.safetensors", f"--step-size={STEP}", *options)
    assert got == expected


def test_the_default_chunk(tmp_path: Path) -> None:
    """Identical files for a prompt beyond mlx-lm's own chunk of 2048 tokens."""
    one = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    folder, text = make_folder(tmp_path / "model", "llama", **one, **WHOLE), text_of(2100)
    expected = mlx_lms_file(folder, text, tmp_path / "expected.safetensors")
    assert our_file(folder, text, tmp_path / "got.safetensors") == expected


@pytest.mark.parametrize("architecture", FOLDERS)
@pytest.mark.parametrize("ports", [True, False])
def test_with_either_ones_caches(
    architecture: str, ports: bool, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """`cache_prompt` writes the same file where the model makes mlx-lm's caches."""
    folder = folder_of(architecture)
    expected = mlx_lms_file(folder, text_of(30), tmp_path / "expected.safetensors")
    model, tokenizer = load(str(folder))
    file = tmp_path / "got.safetensors"
    options = {"model_name": str(folder), "tokenizer_config": {"trust_remote_code": False}}
    use = use_in_mlx_lm()
    if not ports:
        use.undo()
    try:
        cache_prompt(model, tokenizer, text_of(30), file, **options)
    finally:
        use.undo()
    assert file.read_bytes() == expected


def decode(model: Any, tokens: list[int], prompt_cache: list[Any]) -> list[tuple[int, bytes]]:
    """Tokens and the bytes of their probabilities, as mlx-lm generates them."""
    made = generation.generate_step(
        mx.array(tokens), model, max_tokens=25, prompt_cache=prompt_cache
    )
    return [(int(token), bytes(memoryview(probabilities))) for token, probabilities in made]


@pytest.fixture(params=["llama", "gemma3_text", "llama4", "falcon_h1"])
def continued(
    request: Any, folder_of: Callable[[str], Path], tmp_path: Path
) -> tuple[Any, Any, str, list[Any]]:
    """A model, its tokenizer, a prompt and what is loaded of its file by mlx-lm."""
    folder = folder_of(request.param)
    text, file = text_of(5 * WINDOW), tmp_path / "prompt.safetensors"
    our_file(folder, text, file)
    model, tokenizer = load(str(folder))
    return model, tokenizer, text, caches.load_prompt_cache(str(file))


def test_generation_goes_on(continued: tuple[Any, Any, str, list[Any]]) -> None:
    """After the file: the same tokens, and probabilities to the bit, as in one memory."""
    model, tokenizer, text, loaded = continued
    kept = caches.make_prompt_cache(model)
    messages = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=False, continue_final_message=True
    )
    for _ in generation.generate_step(mx.array(ids), model, max_tokens=0, prompt_cache=kept):
        pass
    suffix = tokenizer.encode(text_of(9))
    expected = decode(model, suffix, kept)
    got = decode(model, suffix, loaded)
    assert len(expected) == 25
    assert got == expected


def test_the_prompt_as_a_whole(continued: tuple[Any, Any, str, list[Any]]) -> None:
    """After the file: the tokens that mlx-lm generates from the whole prompt without a file."""
    model, tokenizer, text, loaded = continued
    suffix = tokenizer.encode(text_of(9))
    messages = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=False, continue_final_message=True
    )
    expected = decode(model, [*ids, *suffix], caches.make_prompt_cache(model))
    got = decode(model, suffix, loaded)
    assert [token for token, _ in got] == [token for token, _ in expected]
    for (_, one), (_, other) in zip(got, expected, strict=True):
        difference = mx.array(memoryview(one).cast("f")) - mx.array(memoryview(other).cast("f"))
        assert mx.max(mx.abs(difference)).item() < 1e-4


def test_mlx_lms_generate(
    folder_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mlx_lm.generate --prompt-cache-file` takes the file, its model and tokenizer from it."""
    folder, texts = folder_of("llama"), []
    for write in (mlx_lms_file, our_file):
        file = tmp_path / f"{write.__name__}.safetensors"
        write(folder, text_of(40), file)
        given = ["--prompt-cache-file", file, "--prompt", text_of(5), "--max-tokens", "12"]
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["mlx_lm.generate", *map(str, given), "--verbose", "False"])
            generation.main()
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert len(texts[1].split()) >= 1
