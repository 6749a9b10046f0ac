"""Folders with a tiny model and its tokenizer, as mlx-lm loads them; made offline."""

from __future__ import annotations

import json
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from models_tests.run import build
from models_tests.tiny import VOCABULARY, configuration
from tokenizers import Tokenizer, models, pre_tokenizers

ENDED, USER = "<end>", "<user>"
INTEGERS = {"query_pre_attn_scalar": 16}
TEMPLATE = (
    "{% for message in messages %}<user> {{ message.content }} <end>{% endfor %}"
    "{% if add_generation_prompt %}<user> {% endif %}"
)


def make_folder(folder: Path, architecture: str, *, template: bool = False, **changes: Any) -> Path:
    """Write a model of that architecture with random weights, and a tokenizer of numbers."""
    folder.mkdir()
    model = build(architecture, **changes)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    # Transformers reads it too, and refuses what its own class of that name does not know.
    known = signature(import_module(f"mlx_lm.models.{architecture}").ModelArgs).parameters
    config = {
        name: INTEGERS.get(name, value)
        for name, value in {**configuration(architecture), **changes}.items()
        if name in known
    }
    config["eos_token_id"] = VOCABULARY - 1
    (folder / "config.json").write_text(json.dumps(config))
    words = [*map(str, range(VOCABULARY - 2)), USER, ENDED]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="0")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": ENDED, "unk_token": "0"}
    if template:
        settings["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def text_of(length: int) -> str:
    """A prompt of so many tokens."""
    return " ".join(str((7 * i * i + 3 * i + 1) % (VOCABULARY - 2)) for i in range(length))
