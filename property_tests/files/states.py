"""Caches of every class in many states, made by the same few operations on any module's classes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import mlx.core as mx

DTYPES = (mx.float32, mx.float16, mx.bfloat16)


class State(NamedTuple):
    """A class, its arguments and what is done to it: u3 updates 3 tokens, t2 trims, f the front.

    l1,2 prepares left padding, r0,1 right padding for the next update, g0,1 filters rows; m9,5 as
    the first one merges caches of 9 and 5 tokens instead.
    """

    cls: str
    args: tuple[Any, ...]
    steps: str
    dtype: Any = mx.float32

    @property
    def name(self) -> str:
        return f"{self.cls}{self.args} {self.steps}".replace(" ", "_")

    @property
    def wide(self) -> bool:
        return self.cls == "QuantizedKVCache"


_STEPS = {
    "KVCache": (
        (),
        "|u1|u3|u256|u300|u3 t1|u3 t3|u255 u1 u1|u3 u1 t2 u2|u512|u5 t9|u0 u2",
    ),
    "ConcatenateKVCache": ((), "|u1|u3|u256|u300|u3 t1|u3 u1|u1 u1 u1|u3 t2 u2|u7|u5 t9|u2 u2 u2"),
    "RotatingKVCache": (
        (4, 1),
        "|u1|u3|u1 u1 u1 u1|u1 u1 u1 u1 u1|u9|u9 u1|u9 u1 u1 u1 u1|u3 t1|u3 t3|u3 u3|u9 u2 u1"
        "|u2 u1 t1",
    ),
    "ChunkedKVCache": (
        (300,),
        "|u1|u3|u256|u280|u3 t1|u3 t3|u3 u1|u255 u1 u1|u7 t9|u2 f u1|u299 f",
    ),
    "QuantizedKVCache": (
        (32, 8),
        "|u1|u3|u256|u300|u3 t1|u3 t3|u3 u1|u255 u1 u1|u3 u1 t2 u2|u5 t9|u2 u2",
    ),
    "BatchKVCache": (
        ([0, 2],),
        "|u1|u3|u256|u300|u3 t1|u3 u1|l1,0 u3|r0,1 u3 u1|u3 g1|u3 g1,0 u1|u255 u1 u1|u3 u1 t2 u2"
        "|m3,5|m5,1 u1|m2,3 r0,2 u3 u1",
    ),
    "BatchRotatingKVCache": (
        (4, [0, 2]),
        "|u1|u3|u1 u1 u1 u1|u3 u1 u1|u9|u9 u1|u9 u1 u1 u1 u1|u3 t1|l1,0 u3|r0,1 u3 u1|u3 u1 u1 g1"
        "|u3 g1,0 u3|m9,2|m2,3|m4,9 u1|m9,7 u1 u3 u1|m9,2 r0,2 u3 u1|m9,3 u3 g0|m1,9 g0 u1",
    ),
}
_MORE = {"RotatingKVCache": (8, 0), "QuantizedKVCache": (64, 4), "BatchKVCache": ([1],)}


def states() -> Iterator[State]:
    """At least a dozen of every class that holds keys and values."""
    for cls, (args, steps) in _STEPS.items():
        for i, one in enumerate(steps.split("|")):
            yield State(cls, args, one, DTYPES[i % 3])
        if cls in _MORE:
            yield State(cls, _MORE[cls], "u3 u1", mx.float16)


EVERY = list(states())


def make(module: Any, state: State) -> Any:
    """The cache, by the module's class of that name."""
    steps = state.steps.split()
    if state.steps.startswith("m"):
        cache = merged(module, state, _numbers(steps.pop(0)))
    else:
        cache = getattr(module, state.cls)(*state.args)
    for position, step in enumerate(steps):
        do(cache, step, state, position)
    return cache


def merged(module: Any, state: State, lengths: list[int]) -> Any:
    """A batch of single caches of that many tokens, which a ring takes one by one."""
    single = getattr(module, state.cls.removeprefix("Batch"))
    ring = state.cls == "BatchRotatingKVCache"
    made = [single(state.args[0]) if ring else single() for _ in lengths]
    for cache, tokens in zip(made, lengths, strict=True):
        for position in range(tokens):
            update(cache, 1, state, position)
    return single.merge(made)


def _numbers(step: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", step)]


def do(cache: Any, step: str, state: State, position: int = 0) -> Any:
    """One step; returns what it returns."""
    kind, numbers = step[0], _numbers(step)
    match kind:
        case "u":
            return update(cache, numbers[0], state, position)
        case "t":
            return cache.trim(numbers[0])
        case "f":
            return cache.maybe_trim_front()
        case "l":
            return cache.prepare(left_padding=numbers)
        case "r":
            return cache.prepare(lengths=[3 - n for n in numbers], right_padding=numbers)
        case "g":
            return cache.filter(numbers)
    raise AssertionError(step)


def update(cache: Any, tokens: int, state: State, position: int) -> Any:
    """Store rows of which every number is its own; right padding is applied at once."""
    batch = cache.left_padding.shape[0] if hasattr(cache, "left_padding") else 1
    head_dim = 64 if state.wide else 2
    numbers = mx.arange(batch * 2 * tokens * head_dim).reshape(batch, 2, tokens, head_dim)
    rows = (numbers % 97 + 100 * position).astype(state.dtype)
    fetched = cache.update_and_fetch(rows, -rows)
    if getattr(cache, "_right_padding", None) is not None or (
        getattr(cache, "_lengths", None) is not None
    ):
        cache.finalize()
    return fetched


def decode(cache: Any, state: State, tokens: int = 7) -> list[bytes]:
    """The bytes that the next updates return, one token each, and the masks before them."""
    seen = []
    for position in range(tokens):
        if state.cls != "ChunkedKVCache":  # The release has no mask of its own there.
            seen.append(to_bytes(cache.make_mask(2, return_array=True, window_size=None)))
        keys, values = update(cache, 1, state, 50 + position)
        seen += [to_bytes(keys), to_bytes(values), to_bytes(mx.array(cache.offset))]
    return seen


def to_bytes(value: Any) -> bytes:
    """The bytes, shape and dtype of an array, or of the three of a quantized cache."""
    if isinstance(value, mx.array):
        return f"{value.dtype} {value.shape} ".encode() + bytes(memoryview(mx.contiguous(value)))
    return b"".join(map(to_bytes, value))


def arrays_cache(module: Any, slots: int = 2, filled: tuple[int, ...] = (0, 1)) -> Any:
    """An ArraysCache with some slots filled."""
    cache = module.ArraysCache(slots)
    for slot in filled:
        cache[slot] = mx.full((1, 2, slot + 1), slot + 1, mx.float16)
    return cache


def nested(module: Any, kind: str) -> Any:
    """Lists, and lists in lists."""
    one = make(module, State("KVCache", (), "u3"))
    ring = make(module, State("RotatingKVCache", (4, 1), "u9 u1", mx.float16))
    arrays = arrays_cache(module)
    match kind:
        case "pair":
            return module.CacheList(one, ring)
        case "arrays":
            return module.CacheList(arrays, one)
        case "deep":
            return module.CacheList(module.CacheList(one, module.CacheList(ring)), arrays)
        case "childless":
            return module.CacheList()
        case "childless inside":
            return module.CacheList(module.CacheList(), one)
        case "slotless":
            return arrays_cache(module, 0, ())
        case "arrays alone":
            return arrays
    raise AssertionError(kind)


NESTED = ("pair", "arrays", "deep", "childless", "childless inside", "slotless", "arrays alone")
