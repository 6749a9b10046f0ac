"""A tokenizer for mlx-lm's generation and server."""

from __future__ import annotations

import importlib
import re
from typing import Any

from models_tests.tiny import VOCABULARY

ROLES = {"system": 80, "user": 81, "assistant": 82}
ENDED = 83


class Numbers:
    """As much as mlx-lm asks of a tokenizer: a text is its tokens' numbers, with spaces between.

    The last token of the vocabulary ends a text.
    """

    eos_token_id = VOCABULARY - 1
    bos_token = None
    chat_template = None

    def get_vocab(self) -> dict[str, int]:
        return {str(token): token for token in range(VOCABULARY)}

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", text)]

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool, **_: Any
    ) -> list[int]:
        """Each message between a token that names its role and one that ends it."""
        tokens = []
        for message in messages:
            tokens += [ROLES[message["role"]], *self.encode(message["content"]), ENDED]
        return tokens + [ROLES["assistant"]] * add_generation_prompt

    def decode(self, tokens: list[int], **_: Any) -> str:
        return " ".join(map(str, tokens))


def tokenizer() -> Any:
    """mlx-lm's wrapper of it."""
    return importlib.import_module("mlx_lm.tokenizer_utils").TokenizerWrapper(Numbers())
