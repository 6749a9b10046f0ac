"""Loading hostile files in processes of their own: what crashes or hangs there is an outcome.

As a program it is the worker: `contained.py <subject> <list of paths> <first>` prints a line for
each file before it is opened and one for each function that was called with it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 10.0
# Beyond what the worker has once MLX is loaded; all of MLX's threads and arenas count.
ADDRESS_SPACE = 4 << 30


class Outcome(NamedTuple):
    """What came of one function and one file: "accepts", "error", "crashes" or "hangs"."""

    case: int
    function: str
    how: str
    error: str = ""
    refusal: bool = False
    message: str = ""
    seconds: float = 0.0
    peak: int = 0


def run(subject: str, paths: Sequence[Path], folder: Path) -> list[Outcome]:
    """The outcomes of every file, from as many processes as it takes.

    `peak` is by how many bytes the resident set of its process had ever grown.
    """
    listed = folder / f"{subject}.json"
    listed.write_text(json.dumps([str(path) for path in paths]))
    outcomes: list[Outcome] = []
    first = 0
    while first < len(paths):
        for outcome in _some(subject, listed, first):
            first = outcome.case + (outcome.function == "")
            if outcome.function:
                outcomes.append(outcome)
            if outcome.how in ("crashes", "hangs"):
                first = outcome.case + 1
    return outcomes


def _some(subject: str, listed: Path, first: int) -> Iterator[Outcome]:
    """Those of one process, until it has seen all files, crashes, or hangs and is killed."""
    command = [sys.executable, __file__, subject, str(listed), str(first)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    index, function, started = first - 1, "", False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            for line in _lines(process):
                if line is None:
                    yield Outcome(index, function, "hangs")
                    return
                if "starts" in line:
                    index, function, started = line["index"], line["starts"], True
                else:
                    yield Outcome(**line)
            if process.wait() or not started:
                if not started:
                    raise RuntimeError(f"{command} ended with {process.returncode}")
                yield Outcome(index, function, "crashes", str(process.returncode))
        finally:
            process.kill()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[Any]:
    """The lines as they come, None where none comes for too long; the first may take longer."""
    if process.stdout is None:
        return
    fd, rest, patience = process.stdout.fileno(), b"", 60.0
    while True:
        if not select.select([fd], [], [], patience)[0]:
            yield None
            return
        patience = SECONDS
        found = os.read(fd, 1 << 16)
        if not found:
            return
        *lines, rest = (rest + found).split(b"\n")
        for line in lines:
            yield json.loads(line)


def main(subject: str, listed: str, first: str) -> None:
    """The worker."""
    functions = port() if subject == "port" else release(subject)
    paths = json.loads(Path(listed).read_text())
    base = peak()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE,) * 2)
    out = os.dup(1)
    for index in range(int(first), len(paths)):
        for name, function in functions.items():
            os.write(out, json.dumps({"index": index, "starts": name}).encode() + b"\n")
            start = time.perf_counter()
            told = outcome(function, paths[index])
            told |= {"seconds": time.perf_counter() - start, "peak": peak() - base}
            os.write(out, json.dumps({"case": index, "function": name, **told}).encode() + b"\n")
    os.write(out, json.dumps({"case": len(paths), "function": "", "how": ""}).encode() + b"\n")


def peak() -> int:
    """The largest resident set so far; that of getrusage begins with the parent's on Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def outcome(function: Callable[[str], Any], path: str) -> dict[str, Any]:
    """What the function does with the file."""
    import mlxkv  # noqa: PLC0415

    try:
        problems = function(path)
    except Exception as error:
        refusal = isinstance(error, mlxkv.PromptCacheError)
        name = type(error).__name__
        return {"how": "error", "error": name, "refusal": refusal, "message": str(error)}
    if problems:
        first = problems[0]
        name = type(first).__name__
        return {"how": "error", "error": name, "refusal": True, "message": str(first)}
    return {"how": "accepts"}


def port() -> dict[str, Callable[[str], Any]]:
    """The four that open files; only `inspect` returns problems."""
    import mlxkv  # noqa: PLC0415
    from mlxkv import mlx_lm_0_31, mlx_lm_0_32  # noqa: PLC0415

    def quiet(function: Callable[..., Any]) -> Callable[[str], Any]:
        return lambda path: (function(path), None)[1]

    return {
        "read": quiet(mlxkv.read_prompt_cache),
        "inspect": lambda path: told(mlxkv.inspect_prompt_cache(path)),
        "load 0.31": quiet(lambda path: mlx_lm_0_31.load_prompt_cache(path, return_metadata=True)),
        "load 0.32": quiet(lambda path: mlx_lm_0_32.load_prompt_cache(path, return_metadata=True)),
    }


def told(inspection: Any) -> Any:
    """Its problems, once all of it was told as JSON."""
    json.dumps(inspection.as_data())
    return inspection.problems


def release(version: str) -> dict[str, Callable[[str], Any]]:
    """The release's load function, and then its arrays, which it reads when they are used."""
    import mlx.core as mx  # noqa: PLC0415
    from mlx.utils import tree_flatten  # noqa: PLC0415

    import kvreference  # noqa: PLC0415

    module = kvreference.load(version).cache

    def load(path: str) -> None:
        caches, _ = module.load_prompt_cache(path, return_metadata=True)
        states: Any = tree_flatten([cache.state for cache in caches])
        mx.eval([leaf for _, leaf in states if isinstance(leaf, mx.array)])

    return {"load": load}


if __name__ == "__main__":
    main(*sys.argv[1:])
