"""Files of 0.32 are read in one pass, and headers as MLX spells them: all as if strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests.files.conftest import contract_of
from property_tests.files.hostile import corpus
from property_tests.files.hostile_pack import frame, unpack
from property_tests.files.states import EVERY, NESTED, State, make, nested, to_bytes

import mlxkv
from mlxkv import mlx_lm_0_32
from mlxkv._files import _body, _build, _header, _regular

LARGEST = 1 << 20
SHARE = 4
LAYERS = 12
# The second load finds what the first one has remembered of the names.
AGAIN = 2


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Loading with nothing but the strict reader, and what came of it."""

    def load(path: Path) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(_build, "parse", lambda _text: None)
            return outcome(path)

    return load


def outcome(path: Path) -> Any:
    """The caches of a file and its metadata, or the refusal, each as plain data."""
    try:
        caches, metadata = mlx_lm_0_32.load_prompt_cache(str(path), return_metadata=True)
    except mlxkv.PromptCacheError as error:
        # Of several things that are wrong with spans, safetensors names any.
        return type(error), re.sub("invalid (offset|shape).*", "", str(error))
    return [tell(cache) for cache in caches], metadata


def tell(value: Any) -> Any:
    """A cache by all of its fields, with its class; arrays by their bytes."""
    if isinstance(value, mx.array):
        return to_bytes(value)
    if isinstance(value, list | tuple):
        return type(value), [tell(one) for one in value]
    if hasattr(value, "state"):
        return type(value), {name: tell(one) for name, one in vars(value).items()}
    return type(value), value


def respelled(content: bytes) -> bytes | None:
    """The same file with its header as MLX spells it, None where it has none to spell."""
    try:
        header, data = unpack(content)
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return frame(text.encode(), data)
    except (ValueError, TypeError, RecursionError):
        return None


def files() -> Iterator[tuple[str, bytes]]:
    """The hostile files that are small ones and have a header."""
    for case in corpus():
        content = case.content if isinstance(case.content, bytes) else b""
        spelled = respelled(content) if 0 < len(content) < LARGEST else None
        if spelled is not None:
            yield case.name, spelled


@pytest.mark.parametrize("share", range(SHARE))
def test_hostile_files(tmp_path: Path, share: int, strict: Callable[[Path], Any]) -> None:
    """Each gives what the strict reader gives: the same caches, or the same words."""
    path = tmp_path / "x.safetensors"
    parsed = 0
    for name, content in list(files())[share::SHARE]:
        path.write_bytes(content)
        length = int.from_bytes(content[:8], "little")
        parsed += _regular.parse(content[8 : 8 + length]) is not None
        told = [outcome(path) for _ in range(AGAIN)]
        assert told == [strict(path)] * AGAIN, name
    assert parsed > 500


def layers_of(state: State) -> list[Any]:
    return [make(mlx_lm_0_32, state) for _ in range(LAYERS)]


KINDS = {state.name: (lambda state=state: layers_of(state)) for state in EVERY} | {
    kind: (lambda kind=kind: [nested(mlx_lm_0_32, kind) for _ in range(LAYERS)]) for kind in NESTED
}


@pytest.mark.parametrize("kind", [*KINDS, "each once", "none"])
def test_files_that_were_saved(
    tmp_path: Path, kind: str, strict: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that 0.32 saves, but a file without tensors, is read in one pass: no header is judged."""
    path = tmp_path / "x.safetensors"
    kinds = {"each once": [*NESTED, *list(KINDS)[::31]], "none": []}.get(kind, [kind])
    caches = [cache for one in kinds for cache in KINDS[one]()][: 16 * LAYERS]
    metadata = {"model": "a:b-c", "é": "1: 2", "list": {"0": "x"}}
    mlx_lm_0_32.save_prompt_cache(str(path), caches, metadata)
    judged = strict(path)
    assert isinstance(judged[0], list)
    assert len(judged[0]) == len(caches)
    with monkeypatch.context() as patch:
        if len(unpack(path.read_bytes())[0]) > 1:
            patch.setattr(_build, "check_header", None)
        assert [outcome(path) for _ in range(AGAIN)] == [judged] * AGAIN
        patch.setattr(_body, "_SMALL", 0)  # MLX reads the arrays.
        assert outcome(path) == judged


def test_many_kinds_of_layers(tmp_path: Path, strict: Callable[[Path], Any]) -> None:
    """More than pay are left to the strict reader; layers that differ in one number are others."""
    path = tmp_path / "x.safetensors"
    caches = [make(mlx_lm_0_32, State("KVCache", (), f"u{1 + i % 70}")) for i in range(80)]
    mlx_lm_0_32.save_prompt_cache(str(path), caches)
    assert outcome(path) == strict(path)
    loaded = mlx_lm_0_32.load_prompt_cache(str(path))
    assert [cache.offset for cache in loaded] == [1 + i % 70 for i in range(80)]


# With several dtypes, an empty tensor, and text in the metadata.
HEADERS = (
    b'{"0.0":{"data_offsets":[0,12],"dtype":"I32","shape":[3]},"__metadata__":{"0.a":"b:c"}}',
    b'{"0.0":{"data_offsets":[4,12],"dtype":"F16","shape":[2,2]},"0.1":{"data_offsets":[0,4],'
    b'"dtype":"I32","shape":[]},"1.0":{"data_offsets":[12,12],"dtype":"F32","shape":[0]},'
    b'"__metadata__":{"1.0":"ArraysCache","2.0":""}}',
)
BODY = 12
BITS = (
    *(b'"', b"{", b"}", b"[", b"]", b":", b",", b"0", b"1", b"-", b"-0", b"1.0", b"1e1", b" "),
    *(b"\\", b"\\u003a", b"\n", b"\t", b"\x00", b"\x7f", b"\xc3\xa9", b"\xff", b"\xed\xa0\x80"),
    *(b"null", b"true", b'"0.0":', b'"dtype":"F16",', b'"shape":[],', b'"x":1,', b'"x":{},'),
    *(b',"__metadata__":', b'"__metadata__":{},', b',"__metadata__":{"a":"b"}', b'"a":"b",'),
    *(b"4294967296", b"18446744073709551616", b"F64", b"BF16", b"BOOL", b'{"0.0":', b"NaN"),
)


@st.composite
def mutated(draw: st.DrawFn, headers: tuple[bytes, ...]) -> bytes:
    """A header with a few bytes replaced by others that mean something to JSON."""
    text = draw(st.sampled_from(headers))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        end = at + draw(st.sampled_from((0, 0, 1, 2, 5)))
        text = text[:at] + draw(st.sampled_from(BITS)) + text[end:]
    return text


@given(text=mutated(HEADERS))
@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_headers(tmp_path: Path, text: bytes) -> None:
    """What is taken in one pass safetensors takes, and Python's JSON reads it as the same."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(frame(text, bytes(BODY)))
    parsed = _regular.parse(text)
    if parsed is None or not parsed.fills(BODY) or _regular.parse_texts(parsed.metadata) is None:
        return
    with _header.opened(path) as source:
        quick = _header.check_header(source, text, parsed)
        assert quick == _header.check_header(source, text, None)


# Of 0.32, with all that its metadata can have.
LEGAL = (
    b'{"0.0.0":{"data_offsets":[0,8],"dtype":"I32","shape":[2]},"0.1":{"data_offsets":[8,12],'
    b'"dtype":"I32","shape":[1]},"0.2":{"data_offsets":[8,8],"dtype":"F32","shape":[0]},'
    b'"__metadata__":{"0.a":"b:c","0.d":"1.0","1.0":"ArraysCache","2.0":"","2.1.0":"0.2",'
    b'"2.1.1":"none"}}'
)


@given(text=mutated((LEGAL,)))
@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_files_with_other_headers(
    tmp_path: Path, text: bytes, strict: Callable[[Path], Any]
) -> None:
    """Whatever is changed in the header, the file gives what the strict reader gives."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(frame(text, bytes(BODY)))
    assert outcome(path) == strict(path)


def test_a_legal_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the test above changes is read in one pass."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(frame(LEGAL, bytes(BODY)))
    monkeypatch.setattr(_build, "check_header", None)
    caches, metadata = outcome(path)
    assert metadata == {"a": "b:c", "d": "1.0"}
    assert len(caches) == 1


@pytest.mark.parametrize("text", HEADERS)
def test_headers_that_are_taken(text: bytes) -> None:
    """Those that the test above changes, where they fill the file, and no more and no less."""
    parsed = _regular.parse(text)
    assert parsed is not None
    for more in (-1, 0, 1):
        assert parsed.fills(BODY + more) is (more == 0)


def test_both_contracts_know_these_files(tmp_path: Path) -> None:
    """A file of 0.32 loads in one pass into the classes of 0.31 as well."""
    path = tmp_path / "x.safetensors"
    mlx_lm_0_32.save_prompt_cache(str(path), [make(mlx_lm_0_32, State("KVCache", (), "u3"))])
    port = contract_of("0.31.3").port
    (loaded,) = port.load_prompt_cache(str(path))
    assert type(loaded) is port.KVCache
    assert loaded.offset == 3


def test_files_with_the_same_header(tmp_path: Path, strict: Callable[[Path], Any]) -> None:
    """Only what the names say is known of the second one: not its numbers, nor its length."""
    path = tmp_path / "x.safetensors"
    caches = [make(mlx_lm_0_32, State("KVCache", (), "u3")) for _ in range(LAYERS)]
    mlx_lm_0_32.save_prompt_cache(str(path), caches, {"list": {"0": "x"}})
    content = path.read_bytes()
    first = mlx_lm_0_32.load_prompt_cache(str(path), return_metadata=True)
    first[1]["list"].append("y")
    header, data = unpack(content)
    body = len(content) - len(data)
    start, end = header["5.2"]["data_offsets"]
    outcomes = []
    for number in (2, 256, 257, -1):
        other = bytearray(content)
        other[body + start : body + end] = number.to_bytes(4, "little", signed=True)
        path.write_bytes(other)
        outcomes.append(outcome(path))
        assert outcomes[-1] == strict(path)
    for cut in (content[:-1], content + b"\0"):
        path.write_bytes(cut)
        outcomes.append(outcome(path))
        assert outcomes[-1] == strict(path)
    path.write_bytes(content)
    assert outcome(path) == strict(path)
    assert outcome(path)[1] == {"list": ["x"]}
    refused = [isinstance(one[0], type) for one in outcomes]
    assert refused == [False, False, True, True, True, True]


@pytest.mark.parametrize("name", ["caches", "names", "the user's"])
def test_files_that_differ_in_metadata(
    tmp_path: Path, name: str, strict: Callable[[Path], Any]
) -> None:
    """The tensors are the same; what the metadata say of them is looked at again."""
    path = tmp_path / "x.safetensors"
    mlx_lm_0_32.save_prompt_cache(
        str(path), [make(mlx_lm_0_32, State("KVCache", (), "u3")) for _ in range(2)], {"a": "b"}
    )
    content = path.read_bytes()
    before = outcome(path)
    swaps = {
        "caches": (b'"1.1":"KVCache"', b'"1.1":"XVCache"'),
        "names": (b'"2.2.0":"1.2"', b'"2.2.0":"1.1"'),
        "the user's": (b'"0.a":"b"', b'"0.a":"c"'),
    }
    old, new = swaps[name]
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    assert outcome(path) == strict(path)
    assert outcome(path) != before
    path.write_bytes(content)
    assert outcome(path) == before


@pytest.mark.parametrize("name", ["offset", "left_padding"])
def test_one_layer_with_other_counts(
    tmp_path: Path, name: str, strict: Callable[[Path], Any]
) -> None:
    """Each layer is judged by its own counts: those of the first one are right."""
    path = tmp_path / "x.safetensors"
    caches = [make(mlx_lm_0_32, State("BatchKVCache", ([1],), "u3")) for _ in range(LAYERS)]
    mlx_lm_0_32.save_prompt_cache(str(path), caches)
    content = bytearray(path.read_bytes())
    header, data = unpack(bytes(content))
    start, _ = header[{"offset": "5.2", "left_padding": "5.3"}[name]]["data_offsets"]
    content[len(content) - len(data) + start] += 1
    path.write_bytes(content)
    told = outcome(path)
    assert told == strict(path)
    assert issubclass(told[0], mlxkv.PromptCacheError)


def reshaped(header: dict[str, Any]) -> None:
    shape = header["5.1"]["shape"]
    shape[2], shape[3] = shape[3], shape[2]


def renamed(header: dict[str, Any]) -> None:
    header["5.3"] = header.pop("5.2")
    texts = header["__metadata__"]
    texts |= {name: "5.3" for name, text in texts.items() if text == "5.2"}


def retyped(header: dict[str, Any]) -> None:
    texts = header["__metadata__"]
    (listed,) = (name for name, text in texts.items() if text == "5.2")
    texts[listed[:-1] + "1"] = "none"


def unlisted(header: dict[str, Any]) -> None:
    header["__metadata__"] |= {f"2.{LAYERS + 1}.0": "99.0", f"2.{LAYERS + 1}.1": "scalar"}


def reclassed(header: dict[str, Any]) -> None:
    header["__metadata__"]["1.5"] = "ConcatenateKVCache"


@pytest.mark.parametrize("change", [reshaped, renamed, retyped, unlisted, reclassed])
def test_one_layer_that_differs(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], strict: Callable[[Path], Any]
) -> None:
    """Its bytes are those of all others: refused, whatever was said of them."""
    path = tmp_path / "x.safetensors"
    mlx_lm_0_32.save_prompt_cache(
        str(path), [make(mlx_lm_0_32, State("KVCache", (), "u3")) for _ in range(LAYERS)]
    )
    header, data = unpack(path.read_bytes())
    change(header)
    path.write_bytes(
        frame(json.dumps(header, separators=(",", ":"), sort_keys=True).encode(), data)
    )
    told = [outcome(path) for _ in range(AGAIN)]
    assert told == [strict(path)] * AGAIN
    assert issubclass(told[0][0], mlxkv.PromptCacheError)
