"""From a prompt to a prompt-cache file: prefill fresh caches, then save them, atomically."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from mlxkv._errors import CacheError
from mlxkv._files._errors import Place
from mlxkv._files._metadata import flatten_metadata
from mlxkv._files._write import check_target, target_of
from mlxkv._in_mlx_lm import CONTRACTS, UnknownReleaseError
from mlxkv._prefill import QUANTIZED_KV_START, STEP_SIZE, Progress, prefill, to_prompt

# What mlx-lm's `generate` looks for in a file, in the order in which `cache_prompt` writes it.
MODEL = "model"
TOKENIZER_CONFIG = "tokenizer_config"

LATEST = "0.32.2"


class OtherReleaseError(CacheError, TypeError):
    """The model's own caches are not those of the release whose file is to be written."""


@dataclass(frozen=True)
class CacheConfig:
    """Which caches a model needs that cannot say so itself.

    One a layer: with `sliding_window` rotating, of that size, which keep the first 4 tokens;
    else standard.
    """

    num_hidden_layers: int
    sliding_window: int | None = None

    @property
    def layers(self) -> range:
        """As many items as there are layers."""
        return range(self.num_hidden_layers)


@dataclass(frozen=True)
class CachedPrompt:
    """What was written where: how many tokens, in caches of how many bytes in memory."""

    path: Path
    tokens_processed: int
    nbytes: int


def cache_prompt_ids(
    model: Any,
    tokens: Any,
    path: str | PathLike[str],
    *,
    model_name: str,
    tokenizer_config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    config: CacheConfig | None = None,
    max_kv_size: int | None = None,
    step_size: int = STEP_SIZE,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = QUANTIZED_KV_START,
    release: str | None = None,
    on_progress: Progress | None = None,
) -> CachedPrompt:
    """Prefill fresh caches with these tokens and save them as the release's prompt-cache file.

    tokens: ids, a sequence of integers or an array (tokens,). The caches are what the model makes
    (`make_cache`, else one for each of its `layers`, rotating where `max_kv_size` is given), or,
    for a model that cannot say it, what `config` says. They are made here, for each call: a file
    never holds what an earlier call left behind. A model of mlx-lm that makes its own caches makes
    mlx-lm's, and the port's within `use_in_mlx_lm`; the file is the same.

    The metadata are `model_name` and `tokenizer_config` under the two keys that mlx-lm's
    `generate` reads, and yours, which do not replace those two. `release`: whose file it is; by
    default that of the mlx-lm loaded, else 0.32.2. The other arguments: see `prefill`.

    The file is the release's, byte for byte as mlx-lm's `cache_prompt` writes it, and is saved
    atomically: whatever is raised, and where the process is interrupted, no part of it is at the
    path but all or none, and an older file there is whole until then. Raises what `prefill` and
    `save_prompt_cache` raise and, before anything is computed, `UnknownReleaseError`,
    `OtherReleaseError`, `NotSavableError` for metadata that is no text or could not be read again,
    and `PromptCacheOSError` where something other than a file stands at the path.
    Source: 0.31.3 and 0.32.2 cache_prompt.py `main`.
    """
    prompt = to_prompt(tokens)
    contract = contract_of(release)
    target = target_of(path)
    own = {MODEL: model_name, TOKENIZER_CONFIG: json.dumps(dict(tokenizer_config or {}))}
    described = {**own, **(metadata or {}), **own}
    check_target(Place(target), target)
    flatten_metadata(Place(target), described, "0")
    caches = make_prompt_caches(model, contract, config, max_kv_size)
    prefill(
        model,
        prompt,
        caches,
        step_size,
        on_progress,
        kv_bits=kv_bits,
        kv_group_size=kv_group_size,
        quantized_kv_start=quantized_kv_start,
    )
    contract.save_prompt_cache(target, caches, described)
    return CachedPrompt(Path(target), prompt.size, sum(one.nbytes for one in caches))


def cache_prompt(
    model: Any, tokenizer: Any, prompt: str, path: str | PathLike[str], **options: Any
) -> CachedPrompt:
    """Encode a prompt and save its caches: `cache_prompt_ids` with `encode_prompt`.

    tokenizer: mlx-lm's wrapper or a Hugging Face tokenizer. The options, and what is raised, are
    those of `cache_prompt_ids`.
    """
    return cache_prompt_ids(model, encode_prompt(tokenizer, prompt), path, **options)


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a prompt, as mlx-lm's `cache_prompt` makes them.

    With a chat template it is the content of a user's message that may go on: without what ends
    the message and without a generation prompt. Else it is encoded as it is.
    """
    has_template = getattr(tokenizer, "has_chat_template", None)
    if has_template is None:
        has_template = getattr(tokenizer, "chat_template", None) is not None
    if not has_template:
        ids: list[int] = tokenizer.encode(prompt)
        return ids
    messages = [{"role": "user", "content": prompt}]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    encoded = tokenizer.apply_chat_template(messages, **options)
    # A tokenizer of Hugging Face gives a mapping from its version 5 on, mlx-lm's wrapper a list.
    return list(encoded["input_ids"] if hasattr(encoded, "keys") else encoded)


def contract_of(release: str | None) -> ModuleType:
    """The package that follows the release; raises `UnknownReleaseError`.

    None is the mlx-lm that is loaded, else the latest release that the port follows.
    """
    if release is None:
        release = str(getattr(sys.modules.get("mlx_lm"), "__version__", LATEST))
    if release not in CONTRACTS:
        raise UnknownReleaseError(
            "mlxkv", "cache_prompt", f"one of {', '.join(CONTRACTS)}", release
        )
    return import_module(CONTRACTS[release])


def make_prompt_caches(
    model: Any, contract: ModuleType, config: CacheConfig | None, max_kv_size: int | None
) -> list[Any]:
    """Fresh caches for a model, in a list; raises `OtherReleaseError`."""
    if config is not None:
        model, max_kv_size = config, config.sliding_window if max_kv_size is None else max_kv_size
    made = list(contract.make_prompt_cache(model, max_kv_size))
    # Since 0.32 everything is in `state`.
    expected = hasattr(contract.KVCache, "meta_state")
    for one in made:
        if hasattr(type(one), "meta_state") is not expected:
            got = f"{type(one).__module__}.{type(one).__name__}"
            raise OtherReleaseError(
                "mlxkv", "cache_prompt", f"caches of the release of {contract.__name__}", got
            )
    return made
