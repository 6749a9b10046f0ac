"""Each field of each generation bent in turn; classes swapped; counts that do not match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from property_tests.files.hostile_pack import Case, Parts, Raw, number, of_0_32, raw, zeros
from property_tests.files.old_files import FILES, KEYS, PACKED, RING

# Up to 0.31 and in Swift: the fields of a meta_state by the name of the file in `old_files`.
FIELDS = {
    "rotating 0.27": "keep max_size step offset _idx",
    "rotating 0.28": "keep max_size offset _idx",
    "quantized 0.27": "step offset group_size bits",
    "quantized 0.28": "offset group_size bits",
    "chunked": "chunk_size start_position",
    "batch rotating": "max_size _offset _idx rotated",
    "swift rotating": "keep max_size step offset _idx origin",
    "swift rotating, wrapped": "keep max_size step offset _idx origin wrapped",
    "swift quantized": "step offset group_size bits",
    "swift chunked": "chunk_size start_position",
    "swift mamba": "size slots",
    "swift arrays": "size slots",
    "swift list": "children class tensors fields meta class2 tensors2 fields2 keep max_size step"
    " offset _idx origin",
}
BENT: dict[str, Any] = {
    "wrong type": "KVCache",
    "boolean": "true",
    "negative": "-1",
    "too large": "99",
    "fractional": "1.5",
    "huge": "9" * 40,
    "2^62": str(1 << 62),
    "empty": "",
    "padded": "03",
    "spaced": " 3",
    "signed": "+3",
    "Arabic": "٣",
    "a list": {"0": "3"},
    "missing": None,
}
ROWS = mx.arange(12).reshape(2, 1, 3, 2).astype(mx.float16)
RINGS = mx.arange(16).reshape(2, 1, 4, 2).astype(mx.float16)
_PACKED = [(f"0.{i // 3}.{i % 3}", PACKED[i % 3]) for i in range(6)]


def olds() -> dict[str, Parts]:
    """The files of the generations up to 0.31 and Swift."""
    found = {}
    files = dict(FILES)
    rotating = {f"0.0.{i}": text for i, text in enumerate(("4", "9", "3", "True"))}
    files["batch rotating"] = (
        {"0.0": RINGS, "0.1": RINGS, "0.2": mx.array([9, 7]), "0.3": mx.array([-5, -3])},
        {**rotating, "1.model": "m", "2.0": "BatchRotatingKVCache"},
        ("0.28", "0.31"),
        "BatchRotatingKVCache",
    )
    for name, (tensors, metadata, generations, _) in files.items():
        fields = {field: f"0.0.{i}" for i, field in enumerate(FIELDS.get(name, "").split())}
        raws = {key: raw(one) for key, one in tensors.items()}
        found[name] = Parts(generations[-1], metadata["2.0"], raws, metadata, fields)
    return found


def news() -> dict[str, Parts]:
    """The files of 0.32, one of each class."""
    pair = (("0.0", KEYS), ("0.1", KEYS))
    ring = (("0.0", RING), ("0.1", RING))
    batch = (("0.0", ROWS), ("0.1", ROWS))
    rings = (("0.0", RINGS), ("0.1", RINGS))
    counts = (("0.2", mx.array([3, 1])), ("0.3", mx.array([0, 2])))
    wrapped = (("0.2", mx.array([9, 7])), ("0.3", mx.array([-5, -3])))
    return {
        f"0.32 {cls}": of_0_32(cls, state)
        for cls, state in {
            "KVCache": (*pair, ("0.2 offset", 3)),
            "ConcatenateKVCache": pair,
            "RotatingKVCache": (
                *ring,
                *(("0.2 offset", 9), ("0.3 keep", 1), ("0.4 max_size", 4), ("0.5 _idx", 3)),
            ),
            "ChunkedKVCache": (
                *pair,
                *(("0.2 offset", 3), ("0.3 chunk_size", 8), ("0.4 start_position", 0)),
            ),
            "QuantizedKVCache": (
                *_PACKED,
                *(("0.2 offset", 3), ("0.3 group_size", 32), ("0.4 bits", 8)),
            ),
            "ArraysCache": (("0.0.0", KEYS), ("0.0.1", None), ("0.1", None), ("0.2", None)),
            "BatchKVCache": (*batch, *counts, ("0.4 _idx", 3)),
            "BatchRotatingKVCache": (
                *(*rings, *wrapped, ("0.4 max_size", 4), ("0.5 _offset", 9)),
                *(("0.6 _idx", 3), ("0.7 rotated", True)),
            ),
            "CacheList": (
                *(("0.0.0.0", KEYS), ("0.0.0.1", KEYS), ("0.0.0.2 offset", 3)),
                *(("0.0.1", "KVCache"), ("0.1.0.0", RING), ("0.1.0.1", RING)),
                *(("0.1.0.2 offset", 9), ("0.1.0.3 keep", 1), ("0.1.0.4 max_size", 4)),
                *(("0.1.0.5 _idx", 3), ("0.1.1", "RotatingKVCache")),
            ),
        }.items()
    }


def bent() -> Iterator[Case]:
    """Every scalar of every class of every generation, bent in each way."""
    for name, parts in olds().items():
        for field, key in parts.fields.items():
            for how, text in BENT.items():
                meta = {key: text}
                if isinstance(text, dict):
                    meta = {key: None, **{f"{key}.{i}": one for i, one in text.items()}}
                yield Case(f"a field: {how}", f"{name}, {field} {how}", parts.but(meta=meta))
            yield Case(
                "a field: doubled",
                f"{name}, {field} doubled",
                parts.but(meta={f"0.0.{len(parts.fields)}": parts.metadata[key]}),
            )
    for name, parts in news().items():
        for field, path in parts.fields.items():
            yield from _bent_scalar(name, parts, field, path)


def _bent_scalar(name: str, parts: Parts, field: str, path: str) -> Iterator[Case]:
    """A scalar of 0.32, which is a tensor and two entries of metadata."""
    values: dict[str, Raw | None] = {
        "wrong type": number(1, "I32") if field == "rotated" else number(True, "BOOL"),
        "negative": number(-1),
        "too large": number(99),
        "fractional": number(3.0, "F32"),
        "huge": number(1 << 63, "U64"),
        "2^62": number(1 << 62, "I64"),
        "a list": number(3, "I32", 1),
        "empty": zeros("I32", 0),
        "missing": None,
    }
    for how, value in values.items():
        yield Case(f"a field: {how}", f"{name}, {field} {how}", parts.but({path: value}))
    (listed,) = [key for key, text in parts.metadata.items() if text == path]
    kind = f"{listed[:-2]}.1"
    for how in ("none", "string", "list", ""):
        content = parts.but(meta={kind: how})
        yield Case("a field: wrong type", f"{name}, {field} listed as {how!r}", content)
    for how, meta in {
        "not listed": {listed: None, kind: None},
        "of no kind": {kind: None},
        "of no name": {listed: None},
        "another's name": {listed: "9.9.9"},
        "a name that is no path": {listed: "x"},
    }.items():
        yield Case("a field: missing", f"{name}, {field} {how}", parts.but(meta=meta))
    last = max(int(key.split(".")[1]) for key in parts.metadata if key.startswith("2.")) + 1
    again = {f"2.{last}.0": path, f"2.{last}.1": "scalar"}
    yield Case("a field: doubled", f"{name}, {field} listed twice", parts.but(meta=again))
    beside = f"{path}.0"
    yield Case("a field: doubled", f"{name}, {field} and under it", parts.but({beside: number(3)}))


def tensors() -> Iterator[Case]:
    """Every tensor of every class: missing, doubled, of another rank, dtype or count."""
    for name, parts in (olds() | news()).items():
        for path, one in parts.tensors.items():
            if path in parts.fields.values() or not one.shape or one.shape == (0,):
                continue
            for how, other in _bent_tensors(one).items():
                content = parts.but({path: other})
                yield Case(f"a tensor: {how}", f"{name}, tensor {path} {how}", content)
            for how, to in {
                "renamed": f"{path}x",
                "moved": f"{path[:-1]}9",
                "in another layer": f"7{path[1:]}",
                "a level down": f"{path}.0",
                "with a zero": f"0{path}",
            }.items():
                kind = "a tensor: misplaced"
                yield Case(kind, f"{name}, tensor {path} {how}", parts.but({path: None, to: one}))
            more = parts.but({f"{path[:-1]}9": one})
            yield Case("a tensor: doubled", f"{name}, tensor {path} twice", more)


def _bent_tensors(one: Raw) -> dict[str, Raw | None]:
    """Another tensor in its place."""
    *front, last = one.shape
    dtype = one.dtype if one.dtype in ("F16", "I32", "U32") else "F16"
    found: dict[str, Raw | None] = {
        "missing": None,
        "a scalar": Raw(one.dtype, (), one.data[: len(one.data) // max(1, _count(one))]),
        "a rank more": Raw(one.dtype, (1, *one.shape), one.data),
        "flat": Raw(one.dtype, (_count(one),), one.data),
        "none": zeros("F32", 0),
    }
    if len(one.shape) == 4:
        batch, heads, rows, width = one.shape
        found |= {
            "a row more": zeros(dtype, batch, heads, rows + 1, width),
            "no rows": zeros(dtype, batch, heads, 0, width),
            "another batch": zeros(dtype, batch + 1, heads, rows, width),
            "longer": zeros(dtype, 1, 1, 1 << 10, 1),
        }
    else:
        found |= {
            "of floats": zeros("F32", *one.shape),
            "one more": zeros(dtype, *front, last + 1),
            "negative": number(-7, "I32", *one.shape),
            "huge": number(1 << 62, "I64", *one.shape),
            "unsigned": number((1 << 64) - 1, "U64", *one.shape),
        }
    return found


def _count(one: Raw) -> int:
    count = 1
    for size in one.shape:
        count *= size
    return count


def pairs() -> Iterator[Case]:
    """Keys and values bent alike, so that they still fit each other."""
    every = olds() | news()
    for name in ("standard", "chunked", "0.32 ConcatenateKVCache", "rotating 0.28"):
        parts = every[name]
        for how, shape in {
            "without rows": (1, 1, 0, 2),
            "without sequences": (0, 1, 3, 2),
            "without heads": (1, 0, 3, 2),
            "without width": (1, 1, 3, 0),
            "of rank 3": (1, 3, 2),
            "of rank 5": (1, 1, 1, 3, 2),
        }.items():
            kind = "keys and values of another shape"
            one = zeros("F16", *shape)
            content = parts.but({"0.0": one, "0.1": one})
            yield Case(kind, f"{name}, keys and values {how}", content)
    for name in ("quantized 0.28", "quantized 0.27"):
        parts = every[name]
        meta = {parts.fields["group_size"]: "64", parts.fields["bits"]: "4"}
        kind = "a field: too large"
        yield Case(kind, f"{name}, as many bits of another size", parts.but(meta=meta))


CLASSES = (
    *("ArraysCache", "BatchKVCache", "BatchRotatingKVCache", "CacheList", "ChunkedKVCache"),
    *("ConcatenateKVCache", "KVCache", "KVCacheSimple", "MambaCache", "QuantizedKVCache"),
    "RotatingKVCache",
)
NO_CLASSES = (
    *("", "kvcache", " KVCache", "os", "mx", "create_attention_mask", "Any"),
    *("__builtins__", "_BaseCache", "KVCache.0", "\uff2bVCache", "K" * 5000),
)


def classes() -> Iterator[Case]:
    """Every class under every other name, and names that are no classes."""
    for name, parts in (olds() | news()).items():
        key = "1.0" if parts.generation == "0.32" else "2.0"
        for other in CLASSES:
            if other != parts.cls:
                content = parts.but(meta={key: other})
                yield Case("a class swapped", f"{name}, as {other!r}", content)
        if name in ("standard", "list", "swift standard", "0.32 KVCache"):
            for other in NO_CLASSES:
                content = parts.but(meta={key: other})
                yield Case("a class that is none", f"{name}, as {other[:20]!r}", content)


def counts() -> Iterator[Case]:
    """Layers without classes, classes without layers, parts of the metadata that are not there."""
    kind = "counts that do not match"
    for name, parts in (olds() | news()).items():
        part, meta = ("1", None) if parts.generation == "0.32" else ("2", "0")
        more = {f"7{path[1:]}": one for path, one in parts.tensors.items()}
        after = {f"1{path[1:]}": one for path, one in parts.tensors.items()}
        cls = parts.metadata[f"{part}.0"]
        cases: dict[str, bytes] = {
            "a class more": parts.but(meta={f"{part}.1": cls}),
            "a class in between": parts.but(meta={f"{part}.7": cls}),
            "a layer more": parts.but(after),
            "a layer far away": parts.but(more),
            "no class": parts.but(meta={f"{part}.0": None}),
            "no tensors": Parts("", "", {}, parts.metadata).but(),
            "no metadata": Parts("", "", parts.tensors, {}).but(),
            "a fourth part": parts.but(meta={"3.0": "x"}),
            "a part without a number": parts.but(meta={"x": "y"}),
            "a class with parts": parts.but(meta={f"{part}.0": None, f"{part}.0.0": cls}),
            "the user's part not there": parts.but(
                meta={key: None for key in parts.metadata if key.endswith(".model")}
            ),
        }
        if meta:
            cases |= {
                "a meta_state more": parts.but(meta={f"{meta}.1": ""}),
                "no meta_state": parts.but(
                    meta={key: None for key in parts.metadata if key.startswith("0.")}
                ),
            }
        else:
            cases["no sentinel"] = parts.but(meta={"2.0": None})
            cases["another sentinel"] = parts.but(meta={"2.0": "x"})
        for how, content in cases.items():
            yield Case(kind, f"{name}, {how}", content)
