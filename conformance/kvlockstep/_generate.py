"""Traces from bytes: legal and illegal arguments, boundaries, dtype changes, several caches.

Arguments are drawn for each kind of operation on its own. A trace uses a random subset of the
operations (a swarm), for a fault that an operation undoes is only seen in traces without it.
Here is how a trace on each class begins; the steps are written by `_write_*.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvlockstep import _write_many, _write_one, _write_prompts
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import Contract
from kvlockstep._operations import OPERATIONS
from kvlockstep._source import HEAD_BYTES, Source
from kvlockstep._steps import Argument, Construct, Made
from kvlockstep._style import Style
from kvlockstep._trace import AnyStep, Look, Mode, Trace
from kvlockstep._write_functions import generate_functions
from kvlockstep._writing import Writing, swarm, write_steps

_STEP_SIZES = (4, 2, 1, 3, 4, 8, 2, 5, 4, 1, 6, 4, 2, 3, 1, 256)
_WEIGHTS = {"trim": 3, "front_trim": 3, "mask": 2, "hold": 2, "set_state": 2}
_WRITERS = _write_one.WRITERS | _write_many.WRITERS | _write_prompts.WRITERS
_WINDOWS = (4, 3, 5, 2, 8, 1, 6, 7, 0, 16, 4, 3)
# Rings that grow by more than one step, and numbers that are not the same object where equal.
_LARGE_WINDOWS = (300, 4, 257, 3, 600, 16)
# Caches whose length a port may let callers announce, alone or as what a batch is merged from.
_RESERVED = ("KVCache", "ChunkedKVCache", "BatchKVCache")
_LEFT_PADDINGS = ((0, 1), (1, 0), (0,), (2, 0, 1), (0, 0), (1, 2), (3,), (0, 0, 0))


def generate(data: bytes, contract: Contract, cache: str, mode: Mode) -> Trace:
    """Return the trace that `data` stands for, on `cache` (or the mask functions)."""
    if cache == FUNCTIONS:
        return generate_functions(data, mode)
    source = Source(data[:HEAD_BYTES] if data else b"")
    step_size = source.pick(_STEP_SIZES)
    style = Style.draw(source, cache, large=step_size == 256)
    writing = Writing(contract, source, style, ["a"], ["a"], {"a": cache})
    begin = _BEGINNINGS.get(cache, _begin_one)
    operations = begin(writing, cache, mode)
    steps: list[AnyStep] = list(writing.constructs.values())
    steps += write_steps(data, writing, operations, _WRITERS)
    # To look may end a promise.
    look: Look = "last" if source.one_in(2 if "reserve" in operations else 4) else "always"
    return Trace(steps=tuple(steps), step_size=step_size, mode=mode, look=look)


def _offered(contract: Contract, cache: str, mode: Mode) -> list[str]:
    """Return the operations that the class has in this contract; handles are for in-place mode."""
    members = contract.surfaces[cache].members
    needs = {operation.name: operation.member for operation in OPERATIONS.values()}
    return [
        name
        for name in ("construct", *CACHES[cache].operations)
        if ((need := needs[name]) is None or need in members)
        and (name != "hold" or mode == "in-place")
    ]


def _begin_one(writing: Writing, cache: str, mode: Mode) -> tuple[str, ...]:
    source = writing.source
    writing.constructs["a"] = _construct(writing, "a", cache)
    offered = [name for name in _offered(writing.contract, cache, mode) if name != "merge"]
    # A trace that decodes goes round the window several times, with little in between. So does one
    # with promises, for most of what there is to do ends them.
    promises = _reserve(source, cache)
    share = 1 if writing.style.decoding or promises else 4
    weights = _WEIGHTS | {"update": source.pick((4, 8, 12))}
    return ("update",) * 4 + promises + swarm(source, offered, weights, share)


def _reserve(source: Source, cache: str) -> tuple[str, ...]:
    """Promise lengths in some traces."""
    return ("reserve",) * 2 if cache in _RESERVED and source.one_in(8) else ()


def _begin_batch(writing: Writing, cache: str, mode: Mode) -> tuple[str, ...]:
    """Two batches, and three caches of one sequence to be merged."""
    source = writing.source
    writing.style.batch = "batch"
    single = cache.removeprefix("Batch")
    for slot in ("a", "b"):
        writing.constructs[slot] = _construct(writing, slot, cache)
        writing.classes[slot] = cache
    args = dict(writing.constructs["a"].args)
    args.pop("left_padding")
    writing.singles = ("s", "t", "u")
    for slot in writing.singles:
        writing.constructs[slot] = Construct(slot=slot, cache=single, args=_keep(source, args))
        writing.classes[slot] = single
    writing.slots, writing.fed = ["a", "b"], ["a", "b"]
    offered = [*_offered(writing.contract, cache, mode), "merge", "single", "meet"]
    weights = _WEIGHTS | {
        "update": source.pick((3, 6, 9)), "single": 4, "merge": 2, "extend": 3, "prepare": 2,
        "filter": 2, "extract": 2, "meet": 2,
    }  # fmt: skip
    return ("update",) * 3 + _reserve(source, cache) + swarm(source, offered, weights)


def _keep(source: Source, args: dict[str, Argument]) -> dict[str, Argument]:
    """Give a ring that is to be merged rows to keep, or another size, now and then."""
    if "max_size" not in args:
        return args
    if source.one_in(16):
        return {"max_size": 3}
    return args | {"keep": 1} if source.one_in(4) else args


def _begin_arrays(writing: Writing, cache: str, mode: Mode) -> tuple[str, ...]:
    source = writing.source
    size = source.pick((2, 2, 2, 1, 3, 2, 2, 0))
    writing.singles = ("s", "t")
    for slot in ("a", "b", *writing.singles):
        args: dict[str, Argument] = {"size": source.pick((1, 0)) if source.one_in(16) else size}
        if source.one_in(4):
            args["left_padding"] = source.pick(_LEFT_PADDINGS)
        writing.constructs[slot] = Construct(slot=slot, cache=cache, args=args)
        writing.classes[slot] = cache
    writing.slots = ["a", "b"]
    renamed = {"mask": "bare_mask", "prepare": "prepare_lengths"}
    offered = [renamed.get(name, name) for name in _offered(writing.contract, cache, mode)]
    offered.append("meet")
    weights = _WEIGHTS | {
        "set_item": source.pick((4, 8)),
        "extend": 3,
        "merge": 3,
        "filter": 2,
        "meet": 2,
    }
    return ("set_item",) * 4 + swarm(source, offered, weights)


def _begin_list(writing: Writing, cache: str, mode: Mode) -> tuple[str, ...]:
    source = writing.source
    writing.style.batch = "batch"
    family = source.pick(_FAMILIES)
    writing.singles = ("s", "t")
    for slot in ("a", "b", *writing.singles):
        own = source.pick(_FAMILIES) if source.one_in(6) else family
        children = tuple(_child(writing, child) for child in own)
        writing.constructs[slot] = Construct(slot=slot, cache=cache, children=children)
        for address, name in _leaves(slot, children):
            writing.classes[address] = name
    # Those that a merge makes.
    for address, name in _leaves("m", tuple(_child(writing, child) for child in family)):
        writing.classes[address] = name
    writing.fed = [slot for slot, name in writing.classes.items() if CACHES[name].fed] or ["a.0"]
    writing.classes |= dict.fromkeys(("a", "b", *writing.singles), cache)
    writing.slots = ["a", "b"]
    offered = [*_offered(writing.contract, cache, mode), "set_item", "child", "prompt", "fetch"]
    weights = _WEIGHTS | {"extend": 3, "merge": 3, "set_item": 4, "child": 2}
    return ("update",) * 6 + swarm(source, offered, weights, share=5)


# Children of lists: those that mlx-lm's models have, batches of them, and odd ones.
_FAMILIES: tuple[tuple[str | tuple[str, ...], ...], ...] = (
    ("ArraysCache", "KVCache"),
    ("KVCache", "KVCache"),
    ("ArraysCache", "RotatingKVCache"),
    ("BatchKVCache", "BatchKVCache"),
    ("ArraysCache", "BatchRotatingKVCache"),
    ("BatchKVCache", ("BatchKVCache", "ArraysCache")),
    (("KVCache", "RotatingKVCache"), "KVCache"),
    ("RotatingKVCache", "KVCache"),
    ("ChunkedKVCache", "KVCache"),
    (),
    ("KVCache",),
    ("BatchRotatingKVCache", "BatchKVCache"),
)


def _child(writing: Writing, child: str | tuple[str, ...]) -> Made:
    source = writing.source
    if isinstance(child, tuple):
        inner = tuple(_child(writing, one) for one in child)
        return Made(cache="CacheList", children=inner)
    match child:
        case "ArraysCache":
            return Made(cache=child, args={"size": 2})
        case "BatchKVCache":
            return Made(cache=child, args={"left_padding": source.pick(_LEFT_PADDINGS[:4])})
        case "BatchRotatingKVCache":
            padding = source.pick(_LEFT_PADDINGS[:4])
            return Made(cache=child, args={"max_size": 4, "left_padding": padding})
        case "RotatingKVCache":
            return Made(cache=child, args={"max_size": 4})
        case "ChunkedKVCache":
            return Made(cache=child, args={"chunk_size": 4})
        case _:
            return Made(cache=child)


def _leaves(address: str, children: tuple[Made, ...]) -> Iterator[tuple[str, str]]:
    """Yield the address and the class of every cache in a list that is no list itself."""
    for number, child in enumerate(children):
        own = f"{address}.{number}"
        if child.cache == "CacheList":
            yield from _leaves(own, child.children)
        else:
            yield own, child.cache


def _begin_tokens(writing: Writing, cache: str, mode: Mode) -> tuple[str, ...]:
    source = writing.source
    args: dict[str, Argument] = {}
    if source.one_in(2):
        args["tokens"] = tuple(range(source.pick((3, 0, 1, 4, 8))))
    writing.constructs["a"] = Construct(cache=cache, args=args)
    offered = _offered(writing.contract, cache, mode)
    return ("append_tokens",) * 4 + swarm(source, offered, {})


def _begin_trie(writing: Writing, cache: str, mode: Mode) -> tuple[str, ...]:
    writing.constructs["a"] = Construct(cache=cache)
    offered = _offered(writing.contract, cache, mode)
    weights = {"trie_search": 4, "trie_add": 3}
    return ("trie_add", "trie_search", *swarm(writing.source, offered, weights, share=6))


def _begin_lru(writing: Writing, cache: str, mode: Mode) -> tuple[str, ...]:
    source = writing.source
    args: dict[str, Argument] = {"max_size": source.pick((3, 2, 4, 1, 10, 0))}
    if source.one_in(4):
        args["max_bytes"] = source.pick((256, 1024, 64, 0, 4096, -1))
    writing.constructs["a"] = Construct(cache=cache, args=args)
    singles = {"s": "KVCache", "t": "KVCache", "c": "ConcatenateKVCache"}
    for slot, single in singles.items():
        writing.constructs[slot] = Construct(slot=slot, cache=single)
    writing.constructs["r"] = Construct(slot="r", cache="RotatingKVCache", args={"max_size": 4})
    offered = [*_offered(writing.contract, cache, mode), "lru_cache"]
    weights = {"lru_insert": 6, "lru_fetch": 5, "lru_cache": 4}
    always = ("lru_cache", "lru_insert", "lru_insert", "lru_fetch")
    return always + swarm(source, offered, weights, share=6)


_BEGINNINGS: dict[str, Callable[[Writing, str, Mode], tuple[str, ...]]] = {
    "BatchKVCache": _begin_batch,
    "BatchRotatingKVCache": _begin_batch,
    "ArraysCache": _begin_arrays,
    "CacheList": _begin_list,
    "TokenBuffer": _begin_tokens,
    "PromptTrie": _begin_trie,
    "LRUPromptCache": _begin_lru,
}


def _construct(writing: Writing, slot: str, cache: str) -> Construct:
    return Construct(slot=slot, cache=cache, args=_arguments(writing.source, cache, writing.style))


def _arguments(source: Source, cache: str, style: Style) -> dict[str, Argument]:
    match cache:
        case "RotatingKVCache":
            size = source.pick(_LARGE_WINDOWS if style.large else _WINDOWS)
            keep = source.pick((0, 0, 0, 1, 1, 2, 3, size - 1, size, size + 1))
            return {"max_size": size} if keep == 0 else {"max_size": size, "keep": keep}
        case "ChunkedKVCache":
            return {"chunk_size": source.pick((4, 3, 2, 1, 5, 8, 6, 4, 3, 0, 16, None, -1))}
        case "QuantizedKVCache":
            group_size = source.pick((32, 32, 64, 128))
            if style.k_head_dim % group_size or style.v_head_dim % group_size:
                group_size = 32
            if source.one_in(16):
                group_size = source.pick((64, 128, 16))
            bits = source.pick((8, 8, 4, 4, 2, 8, 8, 4, 4, 2, 1, 8, 3, 5, 6, 7))
            return {"group_size": group_size, "bits": bits}
        case "BatchKVCache":
            return {"left_padding": source.pick(_LEFT_PADDINGS)}
        case "BatchRotatingKVCache":
            size = 4 if source.below(16) else source.pick((3, 8, 2, 300 if style.large else 0))
            return {"max_size": size, "left_padding": source.pick(_LEFT_PADDINGS)}
        case _:
            return {}
