"""With mlx-lm 0.31.3 in the place of the release installed: its own tool's files, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models_tests.tiny import configuration
from property_tests.driver.folders import make_folder, text_of

from kvreference._home import find_tree

# Of llama4 a chunk has to be as long as buffers grow by, or that release loses tokens.
STEPS = {"llama4": 256}
STEP = 24
FOLDERS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 64},
    "gemma3_text": {},
    "falcon_h1": {},
    "llama4": {
        "text_config": {**configuration("llama4")["text_config"], "attention_chunk_size": 256}
    },
}
OPTIONS: dict[str, list[list[str]]] = {
    "qwen3": [
        [],
        ["--max-kv-size", "100"],
        ["--kv-bits", "8", "--quantized-kv-start", "100"],
        ["--eos-token", "5"],
    ],
}

# Each folder, prompt and file comes as an argument; both tools write, in chunks.
SCRIPT = """
import importlib, json, sys
from functools import partial
import mlx.core as mx
import mlx_lm
from mlxkv._cli import main
assert mlx_lm.__version__ == "0.31.3"
tool = importlib.import_module("mlx_lm.cache_prompt")
generate_step = tool.generate_step
for folder, text, step, out, options in json.loads(sys.argv[1]):
    tool.generate_step = partial(generate_step, prefill_step_size=step)
    given = ["--model", folder, "--prompt", text, *options]
    sys.argv = ["x", *given, "--prompt-cache-file", out + ".expected.safetensors"]
    tool.main()
    more = ["-o", out + ".got.safetensors", "--step-size", str(step)]
    main(["prompt", *given, *more], standalone_mode=False)
    if "llama4" not in folder:  # Of which 0.31.3 does not save the offset.
        caches = importlib.import_module("mlx_lm.models.cache")
        model, _ = tool.load(folder)
        cache = caches.load_prompt_cache(out + ".got.safetensors")
        print(len(list(generate_step(mx.array([1, 2]), model, max_tokens=5, prompt_cache=cache))))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: Any) -> Path:
    """The folder in which every pair of files is, written by one process."""
    root: Path = tmp_path_factory.mktemp("0.31.3")
    jobs = []
    for architecture, changes in FOLDERS.items():
        folder = make_folder(root / architecture, architecture, template=True, **changes)
        for number, options in enumerate(OPTIONS.get(architecture, [[]])):
            out = str(root / f"{architecture}-{number}")
            step = STEPS.get(architecture, STEP)
            jobs.append([str(folder), text_of(6 * step + 9), step, out, options])
    paths = [str(find_tree("0.31.3")), *sys.path]
    subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(jobs)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )
    return root


@pytest.mark.parametrize(
    "name",
    [
        f"{architecture}-{number}"
        for architecture in FOLDERS
        for number in range(len(OPTIONS.get(architecture, [[]])))
    ],
)
def test_identical_files(name: str, written: Path) -> None:
    """The metadata of that release and its layout, over six chunks, with each option."""
    expected = (written / f"{name}.expected.safetensors").read_bytes()
    assert (written / f"{name}.got.safetensors").read_bytes() == expected
