"""What is raised for prompt-cache files: each says which file, layer and field, and what is there.

Every message reads "<file>: layer <n> (<class>), <field>: expected <this>, got <that>". All derive
from `ValueError`; the others from what mlx-lm or MLX raises in that place as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mlxkv._errors import CacheError

LABELS = {
    "0.27": "mlx-lm up to 0.27",
    "0.28": "mlx-lm 0.28 to 0.30",
    "0.31": "mlx-lm 0.31",
    "0.32": "mlx-lm 0.32",
    "swift": "mlx-swift-lm",
}


LONGEST = 400


def clip(text: str) -> str:
    """Some of a text that a file may have made as long as it likes."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@dataclass(frozen=True)
class Place:
    """Where in which file: the layer is "" for the file itself, "2.0" for a child of layer 2."""

    file: str
    generation: str = ""
    layer: str = ""
    cache: str = ""

    def of(self, layer: str, cache: str) -> Self:
        """The place of a layer, or of a child, of the same file."""
        return type(self)(self.file, self.generation, layer, cache)

    def child(self, index: int, cache: str) -> Self:
        """The place of a child of this layer."""
        return self.of(f"{self.layer}.{index}" if self.layer else str(index), cache)

    def __str__(self) -> str:
        layer = f"layer {self.layer}" if self.layer else ""
        cache = f" ({clip(self.cache)})" if self.cache else ""
        return f"{self.file}: {layer}{cache}, " if layer else f"{self.file}: "


class PromptCacheError(CacheError, ValueError):
    """Base of all of these: the file is refused, and nothing was loaded or changed.

    `place` says the file, the generation that it was read as, and the layer; `field` the field.
    """

    def __init__(self, place: Place, field: str, expected: str, got: str) -> None:
        field, expected, got = clip(field), clip(expected), clip(got)
        super().__init__(place.cache or place.file, field, expected, got)
        self.args = (place, field, expected, got)
        self.place, self.field = place, field

    def __str__(self) -> str:
        read_as = LABELS.get(self.place.generation, "")
        suffix = f" (read as {read_as})" if read_as else ""
        return f"{self.place}{self.field}: expected {self.expected}, got {self.got}{suffix}"


class PromptCacheOSError(PromptCacheError, OSError, RuntimeError):
    """The operating system says no, or the path is no regular file. `errno` where it has one."""

    def __init__(self, place: Place, field: str, expected: str, got: str | OSError) -> None:
        text = got if isinstance(got, str) else str(got.strerror or got)
        super().__init__(place, field, expected, text)
        self.filename = place.file
        if isinstance(got, OSError):
            self.errno, self.strerror = got.errno, got.strerror


class HeaderError(PromptCacheError, RuntimeError):
    """Not a safetensors file, or a truncated one, or one whose header contradicts itself."""


class LayoutError(PromptCacheError, KeyError, IndexError, TypeError):
    """Tensors and metadata are not those of a prompt cache: names, counts or indices."""


class FieldError(PromptCacheError, TypeError):
    """One field of a layer has a value, dtype or shape that it cannot have beside the others."""


class UnknownClassError(PromptCacheError, KeyError):
    """A class that mlx-lm of that generation does not have."""


class GenerationError(PromptCacheError):
    """The file is of another generation, or of two that would load differently."""


class NotExpressibleError(PromptCacheError):
    """Something that files of the generation asked for cannot say."""


class NotSavableError(PromptCacheError, RuntimeError, AttributeError, TypeError):
    """A cache, or metadata, that mlx-lm's function cannot save; nothing was written."""
