"""A save that fails leaves what was there, and nothing else; whoever runs it, root too."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from property_tests.files.conftest import Contract
from property_tests.files.states import EVERY, State, make

import mlxkv
from mlxkv._files import _atomic


def caches(contract: Contract, steps: str = "u3") -> list[Any]:
    return [make(contract.port, State("KVCache", (), steps))]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def deny(code: int) -> Any:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


FAULTS = {
    "create": ("open", errno.EACCES),
    "write": ("write", errno.ENOSPC),
    "flush": ("fsync", errno.EIO),
    "rename": ("replace", errno.EXDEV),
    "mode": ("fchmod", errno.EPERM),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", [True, False], ids=["over a file", "fresh path"])
def test_a_failing_call_changes_nothing(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, before: bool
) -> None:
    """Create, write, flush and rename: the old file or none, and no temporary one."""
    path = tmp_path / "cache.safetensors"
    if before:
        contract.port.save_prompt_cache(str(path), caches(contract))
    elif fault == "mode":
        return  # Only a file that is replaced has one.
    found = path.read_bytes() if before else None
    name, code = FAULTS[fault]
    with monkeypatch.context() as patch:
        patch.setattr(_atomic.os, name, deny(code))
        with pytest.raises(mlxkv.PromptCacheOSError) as refusal:
            contract.port.save_prompt_cache(str(path), caches(contract, "u5"))
    assert refusal.value.errno == code
    assert isinstance(refusal.value, OSError)
    assert refusal.value.filename == str(path)
    assert names(tmp_path) == (["cache.safetensors"] if before else [])
    if before:
        assert path.read_bytes() == found


def test_an_interrupt_leaves_nothing(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it writes."""

    def interrupt(*_args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(_atomic.os, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        contract.port.save_prompt_cache(str(tmp_path / "cache"), caches(contract))
    assert names(tmp_path) == []


def test_a_directory_in_its_place(contract: Contract, tmp_path: Path) -> None:
    """It stays, and is a directory still; nothing is left beside it."""
    path = tmp_path / "dest.safetensors"
    path.mkdir()
    with pytest.raises(mlxkv.PromptCacheOSError, match="a directory"):
        contract.port.save_prompt_cache(str(path), caches(contract))
    assert path.is_dir()
    assert names(tmp_path) == ["dest.safetensors"]


def test_a_directory_that_comes_in_between(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renaming itself fails, after everything was written."""
    path = tmp_path / "dest.safetensors"
    real = os.fsync

    def flush(fd: int) -> None:
        real(fd)
        path.mkdir(exist_ok=True)

    monkeypatch.setattr(_atomic.os, "fsync", flush)
    with pytest.raises(mlxkv.PromptCacheOSError) as refusal:
        contract.port.save_prompt_cache(str(path), caches(contract))
    assert refusal.value.errno == errno.EISDIR
    assert names(tmp_path) == ["dest.safetensors"]


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_flushed(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Told before the renaming where it can be; else it is told too, and the new file is whole."""
    path = tmp_path / "cache.safetensors"
    contract.port.save_prompt_cache(str(path), [])
    old, real = path.read_bytes(), getattr(os, call)

    def fail(what: Any, *flags: Any) -> Any:
        if os.path.isdir(what):  # noqa: PTH112 - or a descriptor
            raise OSError(errno.EMFILE, "no more of them")
        return real(what, *flags)

    monkeypatch.setattr(_atomic.os, call, fail)
    with pytest.raises(mlxkv.PromptCacheOSError, match="no more of them"):
        contract.port.save_prompt_cache(str(path), caches(contract))
    monkeypatch.undo()
    assert names(tmp_path) == ["cache.safetensors"]
    if call == "open":
        assert path.read_bytes() == old
    else:
        assert len(contract.port.load_prompt_cache(str(path))) == len(caches(contract))


@pytest.mark.parametrize("kind", ["fifo", "missing folder", "loop", "file as folder"])
def test_other_places_that_cannot_be_written(contract: Contract, tmp_path: Path, kind: str) -> None:
    """A FIFO, a folder that is not there, a loop of links: refused, and at once."""
    path = tmp_path / "x.safetensors"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "missing folder":
            path = tmp_path / "none" / "x.safetensors"
        case "loop":
            path.symlink_to(path)
        case "file as folder":
            path.write_bytes(b"")
            path = path / "y.safetensors"
    found = names(tmp_path)
    with pytest.raises(mlxkv.PromptCacheOSError):
        contract.port.save_prompt_cache(str(path), caches(contract))
    assert names(tmp_path) == found


LIMITED = """
import resource, sys
sys.path[:0] = {path!r}
import mlx.core as mx, mlxkv
from mlxkv import mlx_lm_0_32 as port
cache = port.KVCache()
cache.update_and_fetch(mx.ones((1, 1, 4096, 64)), mx.ones((1, 1, 4096, 64)))
mx.eval(cache.keys, cache.values)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    port.save_prompt_cache(sys.argv[1], [cache], {{"a": "b"}})
except mlxkv.PromptCacheOSError as error:
    print(type(error).__name__, error.errno)
"""


@pytest.mark.parametrize("before", [True, False], ids=["over a file", "fresh path"])
def test_a_file_size_limit(tmp_path: Path, before: bool) -> None:
    """The disk takes a part of it and then no more, as root too."""
    path = tmp_path / "cache.safetensors"
    if before:
        path.write_bytes(b"before")
    code = LIMITED.format(path=sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["PromptCacheOSError", str(errno.EFBIG)]
    assert names(tmp_path) == (["cache.safetensors"] if before else [])
    assert not before or path.read_bytes() == b"before"


def test_what_cannot_be_saved_is_refused_before(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typed error, and the file system is not touched."""
    monkeypatch.setattr(_atomic.os, "open", deny(errno.EACCES))
    for bad in ([1], 1, [make(contract.port, EVERY[1]), None]):
        with pytest.raises(mlxkv.NotSavableError):
            contract.port.save_prompt_cache(str(tmp_path / "x"), bad)
    for metadata in ({"a": 1}, {"a": "\ud800"}, {"a.b": "1", "a": {"b": "2"}}, 5):
        with pytest.raises(mlxkv.NotSavableError, match="metadata"):
            contract.port.save_prompt_cache(str(tmp_path / "x"), caches(contract), metadata)
    for name in (None, 5, b"x", "a\0b"):
        with pytest.raises(mlxkv.NotSavableError, match="a path"):
            contract.port.save_prompt_cache(name, caches(contract))
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["cache.safetensors", "cache", "cache.bin", "", "ü" * 118])
def test_the_suffix_rule(contract: Contract, tmp_path: Path, name: str) -> None:
    """`.safetensors` is appended unless it is there, to long names too; a Path is a path."""
    path = f"{tmp_path}/{name}"
    contract.port.save_prompt_cache(path, caches(contract))
    expected = name if name.endswith(".safetensors") else f"{name}.safetensors"
    assert names(tmp_path) == [expected]
    contract.port.save_prompt_cache(Path(tmp_path / expected), caches(contract))
    assert names(tmp_path) == [expected]


def test_a_link_is_followed(contract: Contract, tmp_path: Path) -> None:
    """The file that it names is replaced, in its own folder, and the link stays."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "real" / "cache.safetensors")
    contract.port.save_prompt_cache(str(link), caches(contract))
    assert link.is_symlink()
    assert names(tmp_path / "real") == ["cache.safetensors"]


def test_the_mode_of_the_file_stays(contract: Contract, tmp_path: Path) -> None:
    """A file that only its owner may read is replaced by such a one; a new one is as any other."""
    path = tmp_path / "cache.safetensors"
    contract.port.save_prompt_cache(str(path), caches(contract))
    (tmp_path / "other").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    path.chmod(0o600)
    contract.port.save_prompt_cache(str(path), caches(contract))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_dead_writers_file_is_removed(contract: Contract, tmp_path: Path) -> None:
    """By the next save to the same path, and no other file is."""
    stale = ".cache.safetensors.123-0123456789abcdef.tmp.safetensors"
    others = [
        ".other.safetensors.123-0123456789abcdef.tmp.safetensors",
        ".cache.safetensors.123-0123.tmp.safetensors",
        "cache.safetensors.tmp.safetensors",
    ]
    for name in (stale, *others):
        (tmp_path / name).write_bytes(b"torn")
    contract.port.save_prompt_cache(str(tmp_path / "cache"), caches(contract))
    assert names(tmp_path) == sorted([*others, "cache.safetensors"])


def test_a_living_writers_file_is_not(contract: Contract, tmp_path: Path) -> None:
    """A save that runs meanwhile in another process or thread keeps its file, and ends well."""
    path = tmp_path / "cache.safetensors"
    with _atomic.replacing(str(path)) as writer:
        writer.write(b"slow")
        (temporary,) = names(tmp_path)
        assert temporary.endswith(".tmp.safetensors")
        contract.port.save_prompt_cache(str(path), caches(contract))
        assert names(tmp_path) == sorted([temporary, "cache.safetensors"])
    assert path.read_bytes() == b"slow"
    assert names(tmp_path) == ["cache.safetensors"]


RACE = """
import sys
sys.path[:0] = {path!r}
import mlx.core as mx
from mlxkv import mlx_lm_0_32 as port
cache = port.KVCache()
rows = mx.full((1, 1, 512, 64), float(sys.argv[2]))
cache.update_and_fetch(rows, rows)
for _ in range(40):
    port.save_prompt_cache(sys.argv[1], [cache], {{"writer": sys.argv[2]}})
"""


def test_two_processes_that_save_to_one_path(tmp_path: Path) -> None:
    """One of the two files is there, whole, at every moment; and nothing else in the end."""
    path = tmp_path / "cache.safetensors"
    code = RACE.format(path=sys.path)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), number]) for number in "12"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            (cache,), metadata = mlxkv.mlx_lm_0_32.load_prompt_cache(str(path), True)
            assert cache.keys[0, 0, -1, -1].item() == float(metadata["writer"])
            seen.add(metadata["writer"])
    assert [writer.wait() for writer in writers] == [0, 0]
    assert seen
    assert names(tmp_path) == ["cache.safetensors"]


def in_thread(work: Any) -> Any:
    """What the work returns or raises in a thread of its own."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


def test_a_save_from_a_worker_thread(contract: Contract, tmp_path: Path) -> None:
    """Of caches that were evaluated where they were made, and of the thread's own."""
    path = str(tmp_path / "cache.safetensors")
    made = caches(contract, "u3 u1")
    for one in made:
        one.materialize()
    assert in_thread(lambda: contract.port.save_prompt_cache(path, made)) is None
    first = Path(path).read_bytes()
    assert (
        in_thread(lambda: contract.port.save_prompt_cache(path, caches(contract, "u3 u1"))) is None
    )
    assert Path(path).read_bytes() == first
    loaded = in_thread(lambda: contract.port.load_prompt_cache(path))
    assert mx.array_equal(loaded[0].state[0], made[0].state[0]).item()


def test_pending_arrays_of_another_thread(contract: Contract, tmp_path: Path) -> None:
    """MLX evaluates them only where they were made: refused before anything is written."""
    path = tmp_path / "cache.safetensors"
    path.write_bytes(b"before")
    made = caches(contract, "u3")
    error = in_thread(lambda: contract.port.save_prompt_cache(str(path), made))
    assert isinstance(error, mlxkv.NotSavableError)
    assert "materialize()" in str(error)
    assert path.read_bytes() == b"before"


def test_what_is_loaded_does_not_change_with_the_file(contract: Contract, tmp_path: Path) -> None:
    """The arrays are read at once; the release's would show what was written over them."""
    path = str(tmp_path / "cache.safetensors")
    contract.port.save_prompt_cache(path, caches(contract))
    (loaded,) = contract.port.load_prompt_cache(path)
    Path(path).write_bytes(b"\0" * len(Path(path).read_bytes()))
    assert mx.array_equal(loaded.state[0], caches(contract)[0].state[0]).item()
