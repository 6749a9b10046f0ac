"""Files of every generation, as tensors and metadata, without the releases that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

KEYS = mx.arange(6).reshape(1, 1, 3, 2).astype(mx.float16)
RING = mx.arange(8).reshape(1, 1, 4, 2).astype(mx.float16)
PACKED = mx.quantize(mx.arange(192).reshape(1, 1, 3, 64).astype(mx.float16), 32, 8)

Contents = tuple[dict[str, Any], dict[str, str]]


def write(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    mx.save_safetensors(str(path), tensors, metadata)
    return str(path)


def pair(array: mx.array = KEYS, layer: str = "0") -> dict[str, Any]:
    return {f"{layer}.0": array, f"{layer}.1": array + 1}


def quantized(flat: bool = False) -> dict[str, Any]:
    names = [f"0.{i}" if flat else f"0.{i // 3}.{i % 3}" for i in range(6)]
    return dict(zip(names, (*PACKED, *PACKED), strict=True))


def metas(cls: str, *fields: str, plain: bool = False) -> dict[str, str]:
    """The metadata of a file of one layer; `plain` where meta_state is a string."""
    info = {"0.0": fields[0]} if plain else {f"0.0.{i}": text for i, text in enumerate(fields)}
    return {**info, "1.model": "m", "2.0": cls}


# name: (tensors, metadata, the generations that it fits, the class that it loads as)
FILES: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str, ...], str]] = {
    "standard": (
        pair(),
        metas("KVCache", "", plain=True),
        ("0.27", "0.28", "0.31"),
        "KVCache",
    ),
    "rotating 0.27": (
        pair(RING),
        metas("RotatingKVCache", "1", "4", "256", "9", "3"),
        ("swift", "0.27"),
        "RotatingKVCache",
    ),
    "rotating 0.28": (
        pair(RING),
        metas("RotatingKVCache", "1", "4", "9", "3"),
        ("0.28", "0.31"),
        "RotatingKVCache",
    ),
    "quantized 0.27": (
        quantized(),
        metas("QuantizedKVCache", "256", "3", "32", "8"),
        ("0.27",),
        "QuantizedKVCache",
    ),
    "quantized 0.28": (
        quantized(),
        metas("QuantizedKVCache", "3", "32", "8"),
        ("0.28", "0.31"),
        "QuantizedKVCache",
    ),
    "chunked": (
        pair(),
        metas("ChunkedKVCache", "8", "0"),
        ("swift", "0.27", "0.28", "0.31"),
        "ChunkedKVCache",
    ),
    "mamba": (
        pair(),
        metas("MambaCache", "", plain=True),
        ("0.27", "0.28"),
        "ArraysCache",
    ),
    "arrays": (
        pair(),
        metas("ArraysCache", "", plain=True),
        ("0.27", "0.28", "0.31"),
        "ArraysCache",
    ),
    "batch": (
        {**pair(), "0.2": mx.array([3]), "0.3": mx.array([0])},
        metas("BatchKVCache", "", plain=True),
        ("0.28", "0.31"),
        "BatchKVCache",
    ),
    "list": (
        {**pair(layer="0.0"), **pair(RING, layer="0.1")},
        {
            **{"0.0.0.0": "KVCache", "0.0.0.1": "RotatingKVCache"},
            **{"0.0.1.0": "", "0.0.1.1.0": "1", "0.0.1.1.1": "4"},
            **{"0.0.1.1.2": "9", "0.0.1.1.3": "3", "1.model": "m", "2.0": "CacheList"},
        },
        ("0.31",),
        "CacheList",
    ),
    "swift standard": (pair(), metas("KVCache", ""), ("swift",), "KVCache"),
    "swift empty": ({}, metas("KVCache", ""), ("swift",), "KVCache"),
    "swift rotating": (
        pair(RING),
        metas("RotatingKVCache", "1", "4", "256", "9", "3", "modelNative"),
        ("swift",),
        "RotatingKVCache",
    ),
    "swift rotating, wrapped": (
        pair(RING),
        metas("RotatingKVCache", "1", "4", "256", "9", "3", "requested", "true"),
        ("swift",),
        "RotatingKVCache",
    ),
    "swift quantized": (
        quantized(flat=True),
        metas("QuantizedKVCache", "256", "3", "32", "8"),
        ("swift",),
        "QuantizedKVCache",
    ),
    "swift chunked": (
        pair(),
        metas("ChunkedKVCache", "None", "0"),
        ("swift",),
        "ChunkedKVCache",
    ),
    "swift mamba": (pair(), metas("MambaCache", "2", "0,1"), ("swift",), "ArraysCache"),
    "swift mamba, before": (pair(), metas("MambaCache", ""), ("swift",), "ArraysCache"),
    "swift arrays": (
        {"0.0": KEYS},
        metas("ArraysCache", "3", "1"),
        ("swift",),
        "ArraysCache",
    ),
    "swift list": (
        {**pair(), "0.2": RING, "0.3": RING},
        metas(
            *("CacheList", "2", "KVCache", "2", "1", "", "RotatingKVCache", "2", "6"),
            *("1", "4", "256", "9", "3", "modelNative"),
        ),
        ("swift",),
        "CacheList",
    ),
}
