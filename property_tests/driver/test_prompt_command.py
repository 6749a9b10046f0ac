"""`mlxkv prompt`: what it prints, where it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from property_tests.driver.folders import make_folder, text_of

from mlxkv import mlx_lm_0_32
from mlxkv._cli import main

COMMAND = [sys.executable, "-c", "from mlxkv._cli import main; main()", "prompt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A tiny model that leaves its caches to mlx-lm."""
    return make_folder(tmp_path_factory.mktemp("models") / "qwen3", "qwen3", head_dim=64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompt.safetensors"


def run(*given: Any, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["prompt", *map(str, given)], input=text)


def test_what_it_says(folder: Path, file: Path) -> None:
    """A line for each chunk with tokens a second on stderr, and the file on stdout."""
    result = run("--model", folder, "--prompt", text_of(30), "-o", file, "--step-size", 10)
    assert result.exit_code == 0
    assert re.fullmatch(
        re.escape(str(file)) + r": 30 tokens, 1\.0 MB of caches, peak memory \d+\.\d{3} GB\n",
        result.stdout,
    )
    lines = result.stderr.splitlines()
    assert lines[0] == "0 of 30 tokens"
    for line, done in zip(lines[1:], (10, 20, 29, 30), strict=True):
        assert re.fullmatch(rf"{done} of 30 tokens, [\d,]+\.\d tokens/s", line)
    assert [one.offset for one in mlx_lm_0_32.load_prompt_cache(file)] == [30] * 4


def test_from_stdin(folder: Path, file: Path) -> None:
    """The prompt `-` is read from stdin."""
    result = run("--model", folder, "--prompt", "-", "-o", file, text="5 6 7")
    assert result.exit_code == 0, result.output
    assert mlx_lm_0_32.load_prompt_cache(file)[0].offset == 3


def test_the_suffix(folder: Path, tmp_path: Path) -> None:
    """It is appended where it is missing, and the name that was written is printed."""
    result = run("--model", folder, "--prompt", "1 2", "-o", tmp_path / "saved")
    assert result.stdout.startswith(f"{tmp_path / 'saved.safetensors'}: 2 tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["saved.safetensors"]


def test_a_window(folder: Path, file: Path) -> None:
    """`--max-kv-size` gives rotating caches of that size."""
    given = ("--model", folder, "--prompt", text_of(30), "-o", file, "--max-kv-size", 16)
    assert run(*given).exit_code == 0
    loaded = mlx_lm_0_32.load_prompt_cache(file)
    assert {(type(one).__name__, one.max_size, one.keep) for one in loaded} == {
        ("RotatingKVCache", 16, 4)
    }


def test_a_window_without_effect(tmp_path: Path, file: Path) -> None:
    """It says so where the model makes its own caches, which mlx-lm leaves out."""
    folder = make_folder(tmp_path / "model", "gemma3_text")
    result = run("--model", folder, "--prompt", "1 2", "-o", file, "--max-kv-size", 16)
    assert result.exit_code == 0
    assert "--max-kv-size has no effect" in result.stderr


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        (("--prompt", ""), 1, "expected a prompt of at least one token"),
        (("--prompt", "1", "--kv-bits", "4", "--max-kv-size", "8", "--quantized-kv-start", "0"), 1,
         "expected a cache with a quantized form"),
        (("--prompt", "1", "--kv-bits", "7", "--quantized-kv-start", "0"), 1, "bits=7"),
        (("--prompt", "1", "--kv-bits", "0"), 2, "--kv-bits"),
        (("--prompt", "1", "--max-kv-size", "0"), 2, "--max-kv-size"),
        (("--prompt", "1", "--step-size", "0"), 2, "--step-size"),
        ((), 2, "--prompt"),
    ],
)  # fmt: skip
def test_what_it_refuses(
    given: tuple[str, ...], status: int, says: str, folder: Path, file: Path
) -> None:
    """It says why on stderr, without a traceback, and an older file stays as it was."""
    file.write_bytes(b"older")
    result = run("--model", folder, "-o", file, *given)
    assert result.exit_code == status, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert [(path.name, path.read_bytes()) for path in file.parent.iterdir()] == [
        (file.name, b"older")
    ]


def test_no_model(tmp_path: Path, file: Path) -> None:
    """A folder that is none, and one without a model, are refused; nothing is downloaded."""
    given = ("--prompt", "1", "-o", file)
    result = run("--model", "some/repository", *given)
    assert (result.exit_code, "does not exist" in result.stderr) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run("--model", empty, *given)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"mlxkv: {empty}: mlx-lm cannot load it: FileNotFoundError")
    (empty / "config.json").write_text("{}")
    result = run("--model", empty, *given)
    assert (result.exit_code, "mlx-lm cannot load it" in result.stderr) == (2, True)


def test_a_template_that_refuses(tmp_path: Path, file: Path) -> None:
    """What the chat template raises is said, without a traceback."""
    folder = make_folder(tmp_path / "model", "qwen3", template=True)
    config = folder / "tokenizer_config.json"
    raising = json.loads(config.read_text()) | {"chat_template": "{{ raise_exception('never') }}"}
    config.write_text(json.dumps(raising))
    result = run("--model", folder, "--prompt", "1", "-o", file)
    assert result.exit_code == 2
    assert "its tokenizer cannot encode the prompt: " in result.stderr
    assert "Traceback" not in result.output


def test_nowhere_to_write(folder: Path, tmp_path: Path) -> None:
    """A folder that is missing, or in the file's place, is said before the model is run."""
    given = ("--model", folder, "--prompt", "1")
    result = run(*given, "-o", tmp_path / "missing" / "file")
    assert (result.exit_code, "no such folder" in result.stderr) == (2, True)
    (tmp_path / "taken.safetensors").mkdir()
    for name in ("taken", "taken.safetensors"):
        result = run(*given, "-o", tmp_path / name)
        assert result.exit_code == 2
        assert "tokens" not in result.output


def test_without_mlx_lm(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "mlx_lm.utils", None)
    result = run("--model", folder, "--prompt", "1", "-o", file)
    assert result.exit_code == 2
    assert "pip install 'kvlockstep[models]'" in result.stderr


@pytest.fixture
def on_a_terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_a_terminal(folder: Path, file: Path, on_a_terminal: tuple[int, int]) -> None:
    """There a bar is drawn, with tokens a second."""
    mine, its = on_a_terminal
    given = ["--model", folder, "--prompt", text_of(30), "-o", file, "--step-size", "10"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    done = subprocess.run(
        [*COMMAND, *map(str, given)],
        stderr=its,
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
    )
    drawn = os.read(mine, 1 << 20).decode()
    assert "━" in drawn
    assert "30/30" in drawn
    assert re.search(r"tokens, [\d,]+\.\d tokens/s", drawn)
    assert done.stdout.decode().startswith(f"{file}: 30 tokens")


@pytest.mark.parametrize("older", [None, b"older"])
def test_an_interrupt(folder: Path, file: Path, older: bytes | None) -> None:
    """Ctrl-C in the middle of a prompt ends it with 130, and nothing new is in the folder."""
    if older:
        file.write_bytes(older)
    given = ["--model", folder, "--prompt", text_of(20_000), "-o", file, "--step-size", "1"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, given)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("20 of"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("mlxkv: interrupted\n")
    assert "Traceback" not in err
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == (
        {file.name: older} if older else {}
    )
