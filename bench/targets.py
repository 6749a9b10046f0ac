"""What the port is to reach, as ratios to mlx-lm on CPU, and which benches say whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from limits import COUNTED

Bench = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """The least ratio of mlx-lm to the port, in time or memory, of all benches of these names.

    `spread` says that the upper quartile is enough: that nothing was lost that could be told. It
    counts as run with the limit that counts.
    """

    work: str
    benches: tuple[str, ...]
    least: float
    of: Literal["time", "peak", "held"] = "time"
    spread: bool = False

    def covers(self, bench: Bench) -> bool:
        """Whether the bench is one of these, run as it counts."""
        name = bench["fullname"].rpartition("/")[2]
        same = any(fnmatchcase(name, pattern) for pattern in self.benches)
        return same and bench["extra_info"].get("cache_limit") == COUNTED

    def reached(self, bench: Bench) -> float:
        """The ratio that the bench measured."""
        more = bench["extra_info"]
        if self.of == "time":
            ratio: float = more["speedup"]["high" if self.spread else "median"]
            return ratio
        return bytes_of(bench, "reference", self.of) / max(bytes_of(bench, "port", self.of), 1)


def bytes_of(bench: Bench, side: str, of: str) -> int:
    """The bytes of one side, at its peak or held afterwards."""
    return int(bench["extra_info"]["memory"][side][of])


# What cannot be told from 1.
NO_LESS = 0.98


def _of(file: str, *tests: str) -> tuple[str, ...]:
    """Patterns for the benches of a file; an id begins with the bracket, which fnmatch escapes."""
    return tuple(f"test_{file}.py::test_{test.replace('[', '[[]')}" for test in tests)


# Steps a second of the harness, two workers on two cores, in value mode.
HARNESS_STEPS = 20_000
# What stands in an engine's place where steps that are known are run, and nothing is looked at.
Floor = Literal["operations alone"]
NOTHING_SEEN: Floor = "operations alone"

TARGETS = (
    Target(
        "prompt lookup, longer match, 128k-token entry",
        _of("lookup", "longer_match[131072-*"),
        500,
    ),
    Target(
        "prompt lookup, 100 entries of 10k tokens sharing half",
        _of("lookup", "shared_half[10000-*"),
        1_000,
    ),
    Target("trie add / pop, 32k tokens", _of("lookup", "add[32768-*", "pop[32768-*"), 5),
    Target("trie memory, bytes a token", _of("lookup", "memory[*"), 20, "held"),
    Target(
        "LRU re-insert and extend, 32k x 100",
        _of("lookup", "reinsert[32768-*", "extend_entry[32768-*"),
        5,
    ),
    Target(
        "chunked cache decoding at saturation, chunk 8192",
        _of("decode", "saturated_chunk[8192-*"),
        50,
    ),
    Target(
        "prefill to 16k in chunks of 512, with the length announced",
        _of("prefill", "announced[16384-*"),
        6,
    ),
    Target("the same without announcing", _of("prefill", "not_announced[16384-*"), 1.3),
    Target("its peak memory", _of("prefill", "not_announced[*"), 1, "peak"),
    Target("padded finalize (right padding, 34 MB)", _of("batches", "finalize[4096-*"), 2.5),
    Target("rotating cache, several tokens after the wrap", _of("prefill", "after_wrap[*"), 2),
    Target("extend, extract, merge", _of("batches", "extend[*", "extract[*", "merge[*"), 1.3),
    Target("deep copy of a 32-layer cache", _of("copies", "deepcopy[*"), 5),
    Target("decode step, Python dispatch, every class", _of("decode", "dispatch[*"), 1.3),
    Target(
        "decode step with evaluation, 32 layers", _of("decode", "decode[*"), NO_LESS, spread=True
    ),
    Target("the same, quantized", _of("decode", "decode[*QuantizedKVCache]"), 1.3),
    Target("load of many small layers", _of("files", "load_small[*"), 3),
    Target(
        "save and load against a plain write and read, 256 MiB",
        _of("files", "save_and_write[256-*", "load_and_read[256-*"),
        0.95,
    ),
)
