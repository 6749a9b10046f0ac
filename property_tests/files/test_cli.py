"""`mlxkv inspect`, `verify` and `convert`, as they are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from property_tests.files.old_files import FILES, metas, pair, write
from property_tests.files.states import State, make, nested

import kvreference
import mlxkv
from mlxkv._cli import main


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file of 0.32 with three layers."""
    port = mlxkv.mlx_lm_0_32
    rings = make(port, State("RotatingKVCache", (4, 1), "u9 u1"))
    path = tmp_path / "saved.safetensors"
    caches = [rings, nested(port, "pair"), port.KVCache()]
    port.save_prompt_cache(str(path), caches, {"model": "tiny", "long": "x" * 500})
    return path


def test_inspect_shows_the_layers(saved: Path) -> None:
    """Generation, classes, scalars, shapes and metadata, for people."""
    shown = call("inspect", saved)
    assert shown.exit_code == 0
    for text in ("mlx-lm 0.32", "RotatingKVCache", "_idx=2", "1.0", "(empty)", "model: tiny"):
        assert text in shown.output
    assert "x" * 201 not in shown.output


def test_inspect_json(saved: Path) -> None:
    """Everything, for programs."""
    data = json.loads(call("inspect", "--json", saved).output)
    assert data["generations"] == ["0.32"]
    assert data["bytes"] == saved.stat().st_size
    assert data["problems"] == []
    ring, both, empty = data["layers"]
    assert ring["class"] == "RotatingKVCache"
    assert ring["scalars"] == {"offset": 10, "keep": 1, "max_size": 4, "_idx": 2}
    assert ring["tensors"][0] == {
        **{"field": "keys", "tensor": "0.0", "dtype": "F32", "shape": [1, 2, 4, 2]},
        "bytes": 64,
    }
    assert [child["class"] for child in both["children"]] == ["KVCache", "RotatingKVCache"]
    assert empty["empty"] is True
    assert data["metadata"]["long"] == "x" * 500


def test_inspect_tells_every_problem(tmp_path: Path) -> None:
    """All layers are looked at, whatever is wrong with one; the exit status is 0."""
    path = write(
        tmp_path / "f.safetensors",
        {**pair(), **pair(layer="1"), **pair(layer="2")},
        {
            **{"0.0.0": "1", "0.0.1": "8", "0.0.2": "3", "0.0.3": "7", "2.0": "RotatingKVCache"},
            **{"0.1": "", "2.1": "KVCache", "0.2": "x", "2.2": "KVCache"},
        },
    )
    shown = call("inspect", "--json", path)
    data = json.loads(shown.output)
    assert shown.exit_code == 0
    assert [(one["layer"], one["field"]) for one in data["problems"]] == [
        ("0", "_idx"),
        ("2", "meta_state"),
    ]
    assert data["generations"] == []
    assert data["layers"][1]["tensors"]
    text = call("inspect", path).output
    assert "nearest is mlx-lm 0.31" in text
    assert text.count("problem ") == 2


@pytest.mark.parametrize("name", FILES)
def test_verify_and_inspect_take_every_generation(tmp_path: Path, name: str) -> None:
    """Exit status 0, and the generations by name."""
    tensors, metadata, generations, _ = FILES[name]
    path = write(tmp_path / "f.safetensors", tensors, metadata)
    done = call("verify", path)
    assert done.exit_code == 0
    assert ("mlx-swift-lm" in done.output) == ("swift" in generations)
    assert call("inspect", path).exit_code == 0


def test_verify_says_what_is_wrong(tmp_path: Path) -> None:
    """Exit status 1, the problem on standard error."""
    meta = metas("ChunkedKVCache", "8", "4")
    done = call("verify", write(tmp_path / "f.safetensors", pair(), meta))
    assert done.exit_code == 1
    assert "layer 0 (ChunkedKVCache), start_position: expected 0" in done.stderr


@pytest.mark.parametrize("kind", ["none", "folder", "fifo", "text", "empty", "cut", "loop"])
@pytest.mark.parametrize("command", ["verify", "inspect", "convert"])
def test_what_cannot_be_read(saved: Path, tmp_path: Path, kind: str, command: str) -> None:
    """Exit status 2 and one line, at once."""
    path = tmp_path / "odd.safetensors"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "text":
            path.write_text("This is no safetensors file.")
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(saved.read_bytes()[:-1])
        case "loop":
            path.symlink_to(path)
    more = ("--to", "0.32", "-o", tmp_path / "out") if command == "convert" else ()
    done = call(command, path, *more)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"mlxkv: {path}: ")
    assert done.stderr.count("\n") == 1


def test_convert(saved: Path, tmp_path: Path) -> None:
    """What 0.31 cannot say is refused with 1; the rest is written, and the release loads it."""
    out = tmp_path / "out"
    done = call("convert", saved, "--to", "0.31", "-o", out)
    assert done.exit_code == 1
    assert "layer 2 (KVCache), keys: expected for mlx-lm 0.31 an array" in done.stderr
    port = mlxkv.mlx_lm_0_32
    port.save_prompt_cache(str(saved), port.load_prompt_cache(str(saved))[:2])
    done = call("convert", saved, "--to", "0.31", "-o", out)
    assert done.exit_code == 0
    assert done.output == f"{out}.safetensors: 2 layers, mlx-lm 0.31\n"
    assert len(kvreference.load("0.31.3").cache.load_prompt_cache(f"{out}.safetensors")) == 2


def test_convert_options(tmp_path: Path) -> None:
    """`--from` names the generation to read, `--drop` a field to leave out."""
    tensors, metadata, _, _ = FILES["swift rotating, wrapped"]
    path = write(tmp_path / "f.safetensors", tensors, metadata)
    given = ("convert", path, "--to", "0.32", "-o", tmp_path / "out")
    assert "or to drop it" in call(*given).stderr
    assert call(*given, "--drop", "capacity_origin").exit_code == 0
    assert call(*given, "--drop", "capacity_origin", "--from", "0.27").exit_code == 1


def test_convert_that_cannot_write(saved: Path, tmp_path: Path) -> None:
    """A folder that is not there: exit status 2."""
    done = call("convert", saved, "--to", "0.32", "-o", tmp_path / "none" / "out")
    assert done.exit_code == 2


def test_help_names_the_commands() -> None:
    """And what they return."""
    shown = call("--help").output
    assert all(name in shown for name in ("inspect", "verify", "convert"))
    assert "Exit status: 0 it can, 1 it is refused" in call("verify", "-h").output
