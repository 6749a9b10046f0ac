"""What a file says of its layers, in one form for all generations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from mlxkv._files._body import Body
from mlxkv._files._errors import FieldError, LayoutError, Place
from mlxkv._files._regular import Tensor

INDEX = re.compile(r"0|[1-9][0-9]{0,18}")
# Lists in lists in lists; each takes up to three parts of a name.
MAX_DEPTH = 64
MAX_NUMBERS = 1 << 16
MAX_LAYERS = 1 << 12
# Positions are int32 in MLX.
MAX_TOKENS = (1 << 31) - 1
_DIGITS = [str(i) for i in range(16)]

Parts: TypeAlias = tuple[Tensor, ...]
Value: TypeAlias = Tensor | Parts | int | bool | None


@dataclass(frozen=True)
class Layer:
    """One cache: its class, the values of its attributes, and a list's children.

    `fields` are named as the attributes of mlx-lm's class. `spelled` is the class's name in the
    file; `extras` is what only that generation has and no class of mlx-lm 0.31 or 0.32 holds.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    children: tuple[Layer, ...] = ()
    spelled: str = ""
    extras: dict[str, str] = field(default_factory=dict)

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors of this layer alone, each with its field."""
        found: list[tuple[str, Tensor]] = []
        for name, value in self.fields.items():
            if isinstance(value, Tensor):
                found.append((name, value))
            elif isinstance(value, tuple):
                entries = enumerate(value)
                found += [(f"{name}[{i}]", one) for i, one in entries if one is not None]
        return found

    @property
    def empty(self) -> bool:
        """Whether it has no tensor, so that mlx-lm's loader may not see it at all."""
        return not self.tensors() and all(child.empty for child in self.children)


class Const(NamedTuple):
    """A scalar, a string or None that a file of 0.32 keeps as a tensor."""

    value: Any

    def __str__(self) -> str:
        return repr(self.value)


class Content:
    """The bytes of a file, of which single numbers may be looked at."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def read(self, tensor: Tensor) -> bytes:
        """The bytes of a small tensor. Raises `PromptCacheOSError`."""
        return self._body.read(tensor.start, tensor.nbytes)

    def number(self, tensor: Tensor) -> int | bool:
        """The number of an I32, I64 or BOOL of rank 0. Raises `PromptCacheOSError`."""
        return number_of(self.read(tensor), tensor.dtype)

    def numbers(self, place: Place, name: str, tensor: Tensor) -> list[int]:
        """The integers of a small tensor. Raises `FieldError`, `PromptCacheOSError`."""
        check_numbers(place, name, tensor)
        return numbers_of(self.read(tensor), tensor.dtype)


def check_numbers(place: Place, name: str, tensor: Tensor) -> None:
    """Raise unless the tensor is a small one of rank 1, with integers."""
    whole = tensor.dtype in ("I32", "I64") and len(tensor.shape) == 1
    if not whole or tensor.shape[0] > MAX_NUMBERS:
        raise FieldError(place, name, f"I32 [n], n up to {MAX_NUMBERS}", str(tensor))


def numbers_of(data: bytes, dtype: str) -> list[int]:
    """The integers that these bytes are."""
    return list(memoryview(data).cast("i" if dtype == "I32" else "q"))


def number_of(data: bytes, dtype: str) -> int | bool:
    """The integer that these bytes are, or the flag."""
    number = int.from_bytes(data, "little", signed=True)
    return bool(number) if dtype == "BOOL" else number


def grow(place: Place, kind: str, entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Nested dictionaries of names such as "0.1.0". Raises `LayoutError`."""
    tree: dict[str, Any] = {}
    nodes: dict[str, dict[str, Any]] = {}  # By the path to it and a dot.
    for name, leaf in entries:
        last = name.rpartition(".")[2]
        path = name[: len(name) - len(last)]
        node = nodes.get(path)
        if node is None or not INDEX.fullmatch(last):
            node = nodes[path] = _branch(place, kind, name, tree)
        if last in node:
            raise LayoutError(place, f"{kind} {name}", "one meaning", f"{kind}s under a {kind}")
        node[last] = leaf
    return tree


def _branch(place: Place, kind: str, name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """The node that the leaf of this name belongs to. Raises `LayoutError`."""
    parts = name.split(".")
    if len(parts) > MAX_DEPTH or not all(map(INDEX.fullmatch, parts)):
        raise LayoutError(place, f"{kind} {name[:80]}", "indices joined by dots", "another name")
    node = tree
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise LayoutError(place, f"{kind} {name}", "one meaning", f"{kind}s under a {kind}")
    return node


def dense(place: Place, what: str, node: Any, count: int | None = None) -> list[Any]:
    """The entries 0, 1, 2 ... of a node, that many. Raises `LayoutError`."""
    if not isinstance(node, dict):
        expected = "entries" if count is None else f"{count} entries"
        raise LayoutError(place, what, expected, "none" if node is None else tell(node))
    count = len(node) if count is None else count
    if len(node) == count:
        keys = _DIGITS[:count] if count <= len(_DIGITS) else map(str, range(count))
        try:
            return [node[key] for key in keys]
        except KeyError:
            pass  # The error below says what is there instead.
    got = ", ".join(sorted(node, key=lambda key: (len(key), key))[:8]) or "none"
    raise LayoutError(place, what, f"entries 0 to {count - 1}" if count else "none", got)


def within(place: Place, what: str, node: Any, count: int) -> dict[str, Any]:
    """A node that has entries 0 to `count` - 1 at most, {} where there is none."""
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise LayoutError(place, what, f"entries 0 to {count - 1}", tell(node))
    for key in node:
        if int(key) >= count:
            raise LayoutError(place, what, f"entries 0 to {count - 1}", f"an entry {key}")
    return node


def tensor(place: Place, name: str, node: Any) -> Tensor:
    """A tensor itself. Raises `LayoutError`."""
    if not isinstance(node, Tensor):
        raise LayoutError(place, name, "a tensor", tell(node))
    return node


def count(place: Place, name: str, text: Any, low: int = 0) -> int:
    """A decimal number, as Python and Swift write it, of at least `low`. Raises `FieldError`."""
    if not isinstance(text, str) or not INDEX.fullmatch(text):
        raise FieldError(place, name, f"an integer of at least {low}", tell(text))
    number = int(text)
    if number < low:
        raise FieldError(place, name, f"an integer of at least {low}", text)
    return number


def tell(node: Any) -> str:
    """A node, for a message."""
    if node is None:
        return "none"
    if isinstance(node, dict):
        return f"{len(node)} entries"
    if isinstance(node, str) and len(node) > 80:
        return repr(node[:80]) + "..."
    return repr(node) if isinstance(node, str) else str(node)
