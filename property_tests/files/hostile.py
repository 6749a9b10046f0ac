"""Hostile files, made by code: what a reader of prompt caches must refuse, and the few it may not.

Truncations, headers that lie, JSON that bends, hostile metadata and special files are made here,
bent fields, tensors, classes and counts in `hostile_fields`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from property_tests.files import hostile_fields
from property_tests.files.hostile_legal import reason
from property_tests.files.hostile_pack import Case, Parts, Raw, entries, frame, number, pack, unpack

MAX_HEADER = 1 << 24


def corpus() -> list[Case]:
    """All of it, in order, each name once."""
    makers: tuple[Callable[[], Iterator[Case]], ...] = (
        *(truncated, lengths, not_json, bent_entries, shapes, many, hostile_metadata, special),
        *(nests, hostile_fields.bent, hostile_fields.tensors, hostile_fields.pairs),
        *(hostile_fields.classes, hostile_fields.counts),
    )
    valid = {one.but() for one in (hostile_fields.olds() | hostile_fields.news()).values()}
    found = [
        Case(one.kind, one.name, one.content, reason(one))
        for maker in makers
        for one in maker()
        if callable(one.content) or one.content not in valid
    ]
    if len({case.name for case in found}) < len(found):
        raise AssertionError("two cases of one name")
    return found


def write(case: Case, path: Path) -> None:
    """Make the file, or whatever it is, at that path."""
    if callable(case.content):
        case.content(path)
    else:
        path.write_bytes(case.content)


def truncated() -> Iterator[Case]:
    """Cut at, before and after every boundary of the structure, and the same with bytes more."""
    for name, parts in bases().items():
        content = parts.but()
        header, data = unpack(content)
        start = len(content) - len(data)
        cuts = {0, 1, 4, 7, 8, 9, 8 + (start - 8) // 2, start - 1, start, start + 1}
        for entry in header.values():
            if "data_offsets" in entry:
                for offset in entry["data_offsets"]:
                    cuts |= {start + offset - 1, start + offset, start + offset + 1}
        for cut in sorted(cut for cut in cuts if cut < len(content)):
            yield Case("truncated", f"{name}, the first {cut} bytes", content[:cut])
        for more in (1, 8, 4096):
            yield Case("bytes left over", f"{name}, {more} bytes more", content + bytes(more))


def bases() -> dict[str, Parts]:
    """One file of each generation."""
    every = hostile_fields.olds() | hostile_fields.news()
    names = ("rotating 0.27", "quantized 0.28", "list", "swift rotating", "0.32 RotatingKVCache")
    return {name: every[name] for name in names}


def base() -> Parts:
    return hostile_fields.olds()["standard"]


def lengths() -> Iterator[Case]:
    """The header's length is a lie, or the header larger than any."""
    content = base().but()
    real = int.from_bytes(content[:8], "little")
    lies = {
        0,
        1,
        2,
        real - 1,
        real + 1,
        real - 16,
        len(content) - 8,
        len(content),
        len(content) + 1,
    }
    lies |= {MAX_HEADER, MAX_HEADER + 1, 100_000_001, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63}
    for length in sorted({*lies, (1 << 64) - 1, (1 << 64) - 8}):
        changed = length.to_bytes(8, "little") + content[8:]
        yield Case("the header's length", f"length {length}, {real} in truth", changed)
    yield Case("the header's length", "all ones", b"\xff" * 64)
    yield Case("the header's length", "all zeros", bytes(64))

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.write((MAX_HEADER + 1).to_bytes(8, "little"))
            file.truncate(MAX_HEADER + 100)

    yield Case("the header's length", "a header of 16 MiB and a byte", sparse)


def not_json() -> Iterator[Case]:
    """Headers that are something else, or JSON too deep for a parser."""
    header, data = unpack(base().but())
    text = json.dumps(header)
    bad: dict[str, str | bytes] = {
        "nothing": b"",
        "spaces": " " * 8,
        "null": "null",
        "a list": "[]",
        "a number": "1",
        "a string": '"x"',
        "a name without a value": '{"a"}',
        "a comma too many": text[:-1] + ",}",
        "a comment": "/**/" + text,
        "a byte order mark": "\ufeff" + text,
        "something after it": text + "x",
        "two": text + text,
        "a brace missing": text[:-1],
        "UTF-16": text.encode("utf-16"),
        "latin-1": text.replace('"m"', '"ü"').encode("latin-1"),
        "not UTF-8 in a name": text.encode().replace(b'"0.0":', b'"\xff\xfe":', 1),
        "not UTF-8 in metadata": text.encode().replace(b'"m"', b'"\xc3\x28"'),
        "an overlong encoding": text.encode().replace(b'"m"', b'"\xc0\xaf"'),
        "a surrogate in bytes": text.encode().replace(b'"m"', b'"\xed\xa0\x80"'),
        "half a surrogate": text.replace('"m"', '"\\ud800"'),
        "a NUL": text.encode().replace(b'"m"', b'"\x00"'),
        "a bad escape": text.replace('"m"', '"\\x41"'),
        "NaN": text.replace("[1, 1, 3, 2]", "[1, 1, NaN, 2]"),
        "Infinity": text.replace("[1, 1, 3, 2]", "[1, 1, Infinity, 2]"),
        "a number of a million digits": text.replace("[1, 1, 3, 2]", f"[1, 1, {'3' * 10**6}, 2]"),
        "an exponent": text.replace("[1, 1, 3, 2]", "[1, 1, 3e0, 2]"),
        "nested lists": "[" * 100_000 + "]" * 100_000,
        "nested lists, not closed": "[" * 1_000_000,
        "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "nested metadata": text.replace('"m"', "[" * 50_000 + "]" * 50_000),
        "nested in a tensor": text.replace('"F16"', '{"a":' * 50_000 + "1" + "}" * 50_000, 1),
        "nested in an unknown field": text.replace(
            '"dtype"', f'"x": {"[" * 50_000}{"]" * 50_000}, "dtype"', 1
        ),
    }
    for how, changed in bad.items():
        yield Case("the header's JSON", f"header: {how}", frame(changed, data))


def bent_entries() -> Iterator[Case]:
    """One entry of the header: a field of the wrong type, missing, twice or unknown."""
    header, data = unpack(base().but())
    text = json.dumps(header)
    values: dict[str, tuple[Any, ...]] = {
        "dtype": ("F8", "f16", "F16 ", "", None, 1, [], "F64", "F8_E4M3", "F4", "x" * 5000),
        "shape": (
            *(None, "1,1,3,2", {}, 6, [1, 1, 3], [1, 1, 3, 3], [-1, 1, -3, 2], [1.0, 1, 3, 2]),
            *(["1", 1, 3, 2], [1, 1, True, 2], [[1, 1, 3, 2]], [1, 1, 3, 2 << 64], [1] * 1000),
        ),
        "data_offsets": (
            *(None, [], [0], [0, 12, 12], [12, 0], [-12, 0], [0, 11], [1, 13], [0, 12.0]),
            *(["0", "12"], [0, 1 << 40], [0, 1 << 63], [0, (1 << 64) - 1], [1 << 63, 1 << 63]),
            *([12, 24], [0, 24], {}, "0,12", [0, -1]),
        ),
    }
    for field, bad in values.items():
        for one in bad:
            changed = json.loads(text)
            changed["0.0"][field] = one
            name = f"0.0, {field} {str(one)[:40]}"
            yield Case(f"the header's {field}", name, frame(json.dumps(changed), data))
        changed = json.loads(text)
        del changed["0.0"][field]
        yield Case(f"the header's {field}", f"0.0, no {field}", frame(json.dumps(changed), data))
        twice = json.dumps(header["0.0"][field])
        again = text.replace(f'"{field}"', f'"{field}": {twice}, "{field}"', 1)
        yield Case(f"the header's {field}", f"0.0, {field} twice", frame(again, data))
    one = json.dumps(header["0.0"])
    odd = {
        "a tensor that is null": text.replace(one, "null", 1),
        "a tensor that is a list": text.replace(one, "[]", 1),
        "a tensor that is a string": text.replace(one, '"x"', 1),
        "an unknown field": text.replace('"dtype"', '"x": 1, "dtype"', 1),
        "an unknown field of a megabyte": text.replace(
            '"dtype"', f'"{"x" * (1 << 20)}": 1, "dtype"', 1
        ),
        "two tensors of one name": text.replace('"0.1":', '"0.0":', 1),
        "a tensor twice, the same": text[:-1] + f', "0.0": {one}}}',
        "a tensor twice, escaped": text[:-1] + f', "0\\u002e0": {one}}}',
        "metadata twice": text[:-1] + ', "__metadata__": {}}',
        "a metadata name twice": text.replace('"2.0":', '"2.0": "ConcatenateKVCache", "2.0":'),
    }
    for how, changed in odd.items():
        yield Case("the header's names", f"header: {how}", frame(changed, data))
    wrong: dict[str, Any] = {
        "null": None,
        "a list": [],
        "a string": "x",
        "a number": 1,
        "of a number": {"0.0": 1},
        "of null": {"0.0": None},
        "of a list": {"0.0": []},
        "of metadata": {"0.0": {"0": ""}},
        "of a boolean": {"0.0": True},
    }
    for how, metadata in wrong.items():
        entry = {**base().metadata, **metadata} if isinstance(metadata, dict) else metadata
        content = pack(base().tensors, entry)
        yield Case("the header's metadata", f"metadata that is {how}", content)


def shapes() -> Iterator[Case]:
    """Shapes that are larger than their data, than the file, than memory, or overflow."""
    parts = base()
    kind = "huge declared shapes"
    for shape in (
        *((1, 1, 1 << 31, 2), (1, 1, 1 << 40, 2), (1 << 40, 1 << 40, 1, 1), (1, 1, 1 << 63, 2)),
        *((1, 1, (1 << 32) + 3, 2), (1 << 32, 1 << 32, 3, 2), (0, 1 << 62, 1 << 62, 4)),
        *((0, 1, 1 << 33, 2), (0, 1, (1 << 31) - 1, 2), (1, 0, 1 << 62, 2), (1 << 16,) * 5),
        *((1, 1, (1 << 64) - 1, 2), (1,) * 100_000, (0,) * 70),
    ):
        told = str(shape)[:60]
        both = {
            name: Raw("F16", shape, b"" if 0 in shape else one.data)
            for name, one in parts.tensors.items()
        }
        yield Case(kind, f"keys and values {told}", parts.but(dict(both)))
    listed = entries(parts.tensors)
    listed["0.0"] |= {"shape": [1, 1, 1 << 40, 2], "data_offsets": [0, 1 << 42]}
    listed["0.1"] |= {"shape": [1, 1, 1 << 40, 2], "data_offsets": [1 << 42, 1 << 43]}
    content = frame(json.dumps({"__metadata__": parts.metadata, **listed}), bytes(24))
    yield Case(kind, "offsets and shapes of four terabytes", content)


def many() -> Iterator[Case]:
    """As many names as a header of 16 MiB holds: none of it takes time or memory for long."""
    kind = "a flood of names"
    parts = base()
    floods: dict[str, dict[str, str]] = {
        "of classes": {f"2.{i}": "KVCache" for i in range(200_000)},
        "of the user's": {f"1.{i}": "" for i in range(200_000)},
        "of deep names": {f"0.{'0.' * 30}{i}": "" for i in range(50_000)},
    }
    for how, metadata in floods.items():
        yield Case(kind, f"a flood {how}", parts.but(meta=metadata))
    names = ",".join(f'"1.{i:x}":""' for i in range(1_000_000))
    text = f'{{"__metadata__":{{{names},"1.f423f":""}}}}'
    yield Case(kind, "a flood of names, the last of them twice", frame(text))
    yield Case(kind, "a flood of tensors", _flood_of_tensors())
    new = hostile_fields.news()["0.32 KVCache"]
    scalars = {f"2.{i}.{j}": ("0.2", "scalar")[j] for i in range(100_000) for j in (0, 1)}
    yield Case(kind, "a flood of scalars", new.but(meta=scalars))
    yield Case(kind, "a name of a megabyte", parts.but(meta={"1." + "a" * (1 << 20): ""}))
    yield Case(kind, "a tensor's name of a megabyte", parts.but({"0" * (1 << 20): number(1)}))
    swift = {"0.0": None} | {f"0.0.{i}": "x" for i in range(100_000)}
    yield Case(kind, "a flood of fields", parts.but(meta=swift))


def _flood_of_tensors() -> bytes:
    one = '{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
    return frame("{" + ",".join(f'"0.{i}":{one}' for i in range(100_000)) + "}")


def hostile_metadata() -> Iterator[Case]:
    """The user's metadata as mlx-lm would unflatten it: lists of any length, nests, no end."""
    kind = "the user's metadata"
    for how, names in {
        "a list of a billion": ["1.999999999"],
        "a list of 10^30": ["1." + "9" * 30],
        "a list of a negative length": ["1.-5"],
        "an index of 10000 digits": ["1." + "1" * 10_000],
        "a nest": ["1." + "a." * 5000 + "a"],
        "a nest of lists": ["1." + "0." * 5000 + "0"],
        "a name and the same with a dot": ["1.a", "1.a."],
        "no name and a name": ["1", "1.model"],
        "nothing but dots": ["1....", "1....."],
        "a name under a name": ["1.a", "1.a.b"],
        "a list and a name": ["1.0", "1.a"],
    }.items():
        meta: dict[str, Any] = {"1.model": None} | dict.fromkeys(names, "x")
        for generation, parts in (("", base()), ("0.32", hostile_fields.news()["0.32 KVCache"])):
            moved = meta if not generation else _moved(meta)
            name = f"metadata{' of ' + generation if generation else ''}: {how}"
            yield Case(kind, name, parts.but(meta=moved))


def nests() -> Iterator[Case]:
    """Lists in lists, deeper than any parser recurses."""
    kind = "lists in lists"
    key = base().tensors["0.0"]
    for depth in (30, 70, 1000, 20_000):
        names = {f"0.0.{'1.0.' * i}0.0": "CacheList" for i in range(min(depth, 40))}
        names |= {f"0.0.{'1.0.' * depth}0.0": "KVCache", "2.0": "CacheList"}
        path = f"0.{'0.' * depth}0"
        yield Case(kind, f"0.31, {depth} deep", pack({path: key}, names))
        fields = [text for i in range(depth) for text in ("CacheList", "2", f"{3 * (depth - i)}")]
        flat = ["1", *fields, "KVCache"]
        meta = {f"0.0.{i}": text for i, text in enumerate(flat)} | {"2.0": "CacheList"}
        yield Case(kind, f"Swift, {depth} deep", pack({"0.0": key, "0.1": key}, meta))
        odd = ["1"] + ["CacheList", "2", f"{4 * depth}", "1"] * min(depth, 2000)
        meta = {f"0.0.{i}": text for i, text in enumerate(odd)} | {"2.0": "CacheList"}
        yield Case(kind, f"Swift, {depth} deep, counts", pack({"0.0": key, "0.1": key}, meta))
        scalars = {"1.0": "CacheList", "2.0": ""}
        tensors = {f"0.{'0.0.' * depth}0.0": key}
        yield Case(kind, f"0.32, {depth} deep", pack(tensors, scalars))


def _moved(meta: dict[str, Any]) -> dict[str, Any]:
    """The user's part is the first in 0.32."""
    return {"0" + name[1:]: text for name, text in meta.items()}


def special() -> Iterator[Case]:
    """Paths at which there is no regular file."""

    def link(to: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(to)

    def listen(path: Path) -> None:
        here = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)  # The path of a socket is short.
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.fchdir(here)
        os.close(here)

    def shut(path: Path) -> None:
        path.write_bytes(base().but())
        path.rename(path.with_suffix(".d"))
        path.symlink_to(path.with_suffix(".d") / "x")

    makers: dict[str, Callable[[Path], None]] = {
        "a FIFO": os.mkfifo,
        "a directory": Path.mkdir,
        "/dev/zero": link("/dev/zero"),
        "/dev/null": link("/dev/null"),
        "/dev/full": link("/dev/full"),
        "/dev/random": link("/dev/random"),
        "a terminal": link("/dev/ptmx"),
        "a loop of links": lambda path: path.symlink_to(path),
        "a link to nothing": link("/nowhere/at/all"),
        "nothing": lambda _path: None,
        "a socket": listen,
        "a file as a folder": shut,
        "a file of the kernel": link("/proc/self/status"),
        "memory": link("/proc/self/mem"),
        "an empty file": Path.touch,
    }
    for how, make in makers.items():
        yield Case("no regular file", how, make)
