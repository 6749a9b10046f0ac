"""The few of the hostile files that some cache could have been saved as, each with the reason."""

from __future__ import annotations

import re

from property_tests.files.hostile_pack import Case

_RINGS = "rotating 0.27|rotating 0.28|swift rotating(, wrapped)?|batch rotating|swift list"
_NEW_RINGS = "0.32 (Rotating|BatchRotating)KVCache|0.32 CacheList"
_SLOTS = "mamba|arrays|swift mamba|swift mamba, before|swift arrays|0.32 ArraysCache"
_SWAPS = {
    "standard|mamba|arrays": "ArraysCache|ConcatenateKVCache|KVCache|MambaCache",
    "batch|swift (standard|empty|mamba|mamba, before)": "ArraysCache",
    "swift (standard|arrays)": "MambaCache",
    "swift (standard|empty|mamba, before)": "KVCache|KVCacheSimple",
}

LEGAL = {
    f"({_RINGS}|{_NEW_RINGS}), _?offset too large": "A full window has seen any number of tokens.",
    r"(.*), step too large": "Up to 0.27 and in Swift a cache may grow by any step.",
    r"(chunked|swift chunked|0\.32 ChunkedKVCache), chunk_size (too large|2\^62)": (
        "A chunk may be of any size."
    ),
    "swift (mamba|arrays), size too large": "There may be more slots than are in use.",
    "swift rotating, origin missing|swift rotating, wrapped, wrapped missing": (
        "mlx-swift-lm has written five, six and seven fields."
    ),
    f"({_SLOTS}), tensor 0\\.[01](\\.0)? (a scalar|a rank more|flat|none|a row more|no rows"
    "|another batch|longer)": "A slot holds an array of any shape.",
    "arrays, tensor 0.1 missing": "A cache of one slot.",
    "|".join(f"({ones}), as '({others})'" for ones, others in _SWAPS.items()): (
        "The layouts of both classes are the same."
    ),
    ".*, the user's part not there": "There need be no metadata of the user's.",
    "(chunked|swift chunked|swift standard), no tensors": "An empty cache has no tensors in Swift.",
    "arrays, no tensors": "A cache without slots has no tensors.",
    "(0.32 Cache)?[Ll]ist, a class more": "A list without children leaves its class and no more.",
    "metadata( of 0.32)?: (a list of a negative length|no name and a name|a name under a name"
    "|a list and a name)": "The user's metadata, unflattened as mlx-lm does.",
    "a name of a megabyte": "The user's metadata may have long names.",
    "quantized .*, as many bits of another size": "Rows of another width have the same words.",
    "(?!rotating).*, keys and values without rows": "A cache that was trimmed to nothing.",
}
_PATTERNS = [(re.compile(pattern), why) for pattern, why in LEGAL.items()]


def reason(case: Case) -> str:
    """Why it may load; "" where it may not."""
    return next((why for pattern, why in _PATTERNS if pattern.fullmatch(case.name)), "")
