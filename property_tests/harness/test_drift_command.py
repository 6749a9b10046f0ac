"""`kvlockstep drift`: what it lists of two targets, in which words and formats, and its status."""

from __future__ import annotations

import json
import re
from concurrent.futures import Executor, Future

import pytest
from click.testing import CliRunner
from property_tests.harness.ports import (
    CANNOT_BE_MADE,
    DIES,
    OFFSET_TOO_HIGH,
    TRIM_SAYS_TOO_MANY,
    construct,
    lockstep_with,
    release_module,
    trace_of,
    update,
)

import kvreference
from kvlockstep import _drift
from kvlockstep._caches import CACHES
from kvlockstep._cli import main
from kvlockstep._drift import Drift, Part, compare, directions, drift, parts_of, run_part
from kvlockstep._drift_words import key_of, say
from kvlockstep._settings import Settings
from kvlockstep._steps import Trim
from kvlockstep._targets import TargetError
from kvlockstep._trace import loads, read

NEW, OLD = "release:0.32.2", "release:0.31.3"


class InThisProcess(Executor):
    """Runs what it is given at once: starting a process takes longer than these parts."""

    def submit(self, run, *args):
        future = Future()
        future.set_result(run(*args))
        return future


@pytest.fixture
def run_drift(monkeypatch):
    """Return `run_drift(*words)`: the command, short, in this process, or in one worker."""

    def run(*words: object, worker: bool = False):
        if not worker:
            monkeypatch.setattr(_drift, "pool", lambda _: InThisProcess())
        short = ("--workers=1", "--steps=60", "--cache=KVCache")
        return CliRunner().invoke(main, ["drift", *map(str, words), *short])

    return run


def part_of(a: str, b: str, cache: str = "KVCache", **fields) -> Part:
    """Return a short part of a comparison."""
    return Part(a, b, cache, **{"steps": 60, **fields})


class TestCommand:
    """The command line."""

    def test_same_targets(self, run_drift):
        """A release against itself: nothing, and exit status 0."""
        done = run_drift("0.32.2", NEW)

        assert done.exit_code == 0, done.output
        assert re.search(r"0.32.2 against 0.32.2: 0 differences .* \d+ steps", done.output)

    def test_difference_in_words(self, run_drift, make_port):
        """A port's fault is told with the shortest trace and with what each side does."""
        port = make_port(TRIM_SAYS_TOO_MANY)

        done = run_drift("0.32.2", port)

        assert done.exit_code == 1, done.output
        name = port.removeprefix("py:")
        assert "\nKVCache: trim\n" in done.output
        told = done.output.partition("\nKVCache: trim\n")[2]
        assert re.match(
            r"  1\. a = KVCache\(\)\n  2\. a: trim -?\d+\n"
            rf"    0\.32\.2 +returns -?\d+\n    {name} +returns -?\d+\n",
            told,
        )

    def test_sides_are_those_of_the_command(self, run_drift, make_port):
        """A and B keep their names when B is the contract side."""
        port = make_port(OFFSET_TOO_HIGH)
        told = []
        for words in ((NEW, port), (port, NEW)):
            result = json.loads(run_drift(*words, "--format=json").output)
            (one,) = [
                o for o in result["differences"] if "KVCache/update/offset" in o["signatures"]
            ]
            told.append((one["a"], one["b"], one["trace"]))

        assert told[0] == (told[1][1], told[1][0], told[1][2])
        assert told[0][:2] == ("`offset` is 1", "`offset` is 2")

    def test_markdown_page(self, run_drift, make_port, tmp_path):
        """A page has the command that makes it, a section a class and operation, and the sides."""
        page = tmp_path / "docs" / "page.md"
        port = make_port(TRIM_SAYS_TOO_MANY, lacks=("TokenBuffer",))

        done = run_drift("0.32.2", port, "--format=markdown", "-o", page)

        text = page.read_text(encoding="utf-8")
        assert done.output.startswith(f"{page}: 0.32.2 against ")
        assert (
            f"`kvlockstep drift release:0.32.2 {port} --cache=KVCache --steps=60 --seed=0`" in text
        )
        assert "- Only 0.32.2: `TokenBuffer`\n" in text
        assert "## KVCache\n\n### `trim`\n\n- `a = KVCache(); a: trim " in text
        assert re.search(rf"\n  - 0\.32\.2: returns .*\n  - {port[3:]}: returns ", text)

    def test_json_has_traces_that_replay(self, run_drift, make_port, tmp_path):
        """The traces of the JSON format, and those in files, show the difference again."""
        port = make_port(TRIM_SAYS_TOO_MANY)

        done = run_drift(NEW, port, "--format=json", f"--traces={tmp_path / 'traces'}")

        (one,) = json.loads(done.output)["differences"]
        (path,) = (tmp_path / "traces").iterdir()
        assert one["signatures"] == ["KVCache/trim/result"]
        assert read(path) == loads(json.dumps(one["trace"]))
        again = CliRunner().invoke(main, ["replay", str(path), "--target", port])
        assert again.exit_code == 1
        assert "0.32.2/KVCache/trim/result (undeclared)" in again.output

    def test_time_bounds_the_search(self):
        """With a time the search ends when it is over, whatever is left of the steps."""
        part = part_of(OLD, NEW, steps=10**9, seconds=0.4)

        found = run_part(part)

        assert 0 < found.steps < 10**6
        assert found.differences

    @pytest.mark.parametrize("given", ["soon", "0s", "1h2", "-5"])
    def test_time_that_is_none(self, given):
        """What is no time is refused, with examples."""
        done = CliRunner().invoke(main, ["drift", NEW, NEW, f"--time={given}"])

        assert done.exit_code == 2
        assert "expected a time such as 90s, 10m or 1h30m" in done.output

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (
                ("0.1.0", NEW),
                "target '0.1.0': expected py:MODULE, release:VERSION, path:DIR or map:FILE",
            ),
            (("release:9.9.9", NEW), "unknown release '9.9.9'"),
            (("py:no.such.module", NEW), "cannot be imported"),
            ((NEW, NEW, "--cache=NoCache"), "cache 'NoCache': expected one of KVCache"),
        ],
    )
    def test_what_cannot_run(self, run_drift, words, told):
        """A target or a cache that is not there is exit status 2, with what was expected."""
        done = run_drift(*words)

        assert done.exit_code == 2
        assert f"could not run: {told}" in done.output or told in done.output

    def test_release_that_is_not_installed(self, run_drift, monkeypatch, tmp_path):
        """A pinned release that is not there yet says which command fetches it."""
        monkeypatch.setenv("KVREFERENCE_HOME", str(tmp_path))

        done = run_drift("0.30.4", "0.28.4")

        assert done.exit_code == 2
        assert "python -m kvreference sync 0.30.4" in done.output

    def test_target_that_dies(self, run_drift, make_port):
        """A target that kills its process is told, with exit status 2."""
        done = run_drift(NEW, make_port(DIES), worker=True)

        assert done.exit_code == 2
        assert "not compared: KVCache value: the process died: did it crash?" in done.output


class TestSides:
    """Which side is the contract's, and what only one side has."""

    def test_equals_take_turns(self, make_port):
        """Two releases are each the contract side for half of the steps; so are two ports."""
        assert directions(OLD, NEW) == (False, True)
        assert directions(make_port(), make_port()) == (False, True)
        parts = [p for p in parts_of(OLD, NEW, Settings(steps=100)) if p.name == "KVCache"]
        assert [(part.mode, part.flipped, part.steps) for part in parts] == [
            (mode, flipped, 50) for mode in ("value", "in-place") for flipped in (False, True)
        ]
        assert len({part.seed for part in parts}) == 4

    def test_release_is_the_contract(self, make_port):
        """A release is the contract side before a port, and a port that leaves its errors be."""
        assert directions(NEW, make_port()) == (False,)
        assert directions(make_port(), NEW) == (True,)
        assert directions(make_port(transactional=True), make_port()) == (True,)

    def test_two_ports(self, make_port):
        """Two ports are compared with each other, at the level that both offer."""
        bad = make_port(OFFSET_TOO_HIGH, level="buffer")

        for part in (part_of(make_port(), bad), part_of(make_port(), bad, flipped=True)):
            found = run_part(part)
            (one,) = found.differences.values()
            assert (one.where, one.a, one.b) == ("offset", "`offset` is 1", "`offset` is 2")

    def test_port_that_cannot_be_made(self, make_port):
        """A port whose classes cannot be made cannot be the contract side, and says so."""
        with pytest.raises(TargetError, match="cannot be driven: TypeError"):
            run_part(part_of(make_port(CANNOT_BE_MADE), make_port()))

    def test_surfaces(self, make_port):
        """What one side lacks, and what takes other parameters, is listed by name."""
        body = "class KVCache(release.KVCache):\n    def trim(self, n, hard=False): ...\n"
        port = make_port(body, lacks=("CacheList",))

        found = compare(NEW, port)

        assert found.only_a == ["CacheList"]
        assert found.only_b == []
        assert found.parameters == [("KVCache.trim", "(n)", "(n, hard=False)")]

    def test_classes_unknown_to_the_harness(self, make_port):
        """A cache class that only one side has is listed though the harness does not know it."""
        port = make_port("class HybridCache(release.KVCache):\n    pass\n")
        assert compare(NEW, port).only_b == ["HybridCache"]

    def test_surfaces_alone_are_a_drift(self, make_port):
        """A class that one side lacks is exit status 1, though nothing diverges."""
        total = Drift(NEW, "py:x", surfaces=compare(NEW, make_port(lacks=("CacheList",))))
        assert total.exit_status == 1


class TestMerging:
    """Differences that say the same are told once."""

    def test_error_by_its_text(self):
        """An error that several operations meet is one difference, with the shortest trace."""
        found = run_part(part_of(OLD, NEW, steps=1_200))

        place = "KVCache", "construct", "state"
        (one,) = [found for found in found.differences.values() if place in found.signatures]
        operations = {operation for _, operation, _ in one.signatures}
        assert len(one.trace.steps) == 1
        assert {"construct", "reload", "transfer"} <= operations
        text = "'NoneType' object has no attribute 'shape'"
        assert one.a == f"reading `state` raises AttributeError: {text}"
        assert one.b == "`state` is (None, None, 0)"

    def test_numbers_of_an_error_do_not_count(self):
        """Errors that differ in numbers, quoted names and arrays are the same."""

        class KVCache(release_module().KVCache):
            def trim(self, n):
                raise ValueError(f"trim {n}: not a 'name{n}' for array([{n}], dtype=int32)")

        engine = lockstep_with(KVCache)
        keys = {
            key_of(d)
            for n in (1, 22)
            for d in engine.run(trace_of(construct(), update(2), Trim(n=n))).divergences
        }
        assert len(keys) == 1

    def test_other_operation_is_another_difference(self):
        """What is stored wrongly by another operation is another difference."""

        class KVCache(release_module().KVCache):
            def update_and_fetch(self, keys, values):
                result = super().update_and_fetch(keys, values)
                self.offset += 1
                return result

            def trim(self, n):
                self.offset -= 1
                return super().trim(n)

        engine = lockstep_with(KVCache)
        first = engine.run(trace_of(construct(), update(2))).divergences[0]
        second = engine.run(trace_of(construct(), Trim(n=0))).divergences[0]
        assert key_of(first) != key_of(second)

    def test_shortest_trace_wins(self):
        """Of two parts' traces of one difference the shorter is kept, with all signatures."""
        both = [run_part(part_of(OLD, NEW, mode=mode)) for mode in ("value", "in-place")]
        total = Drift(OLD, NEW)
        for one in both:
            total.add(one)
        for key, kept in total.differences.items():
            own = [part.differences[key] for part in both if key in part.differences]
            assert kept.size == min(one.size for one in own)
            assert kept.signatures == set().union(*(one.signatures for one in own))


class TestWords:
    """One plain sentence a side."""

    def test_same_words_get_bits(self):
        """Buffers that differ in bytes only are told apart by the first element that differs."""

        class KVCache(release_module().KVCache):
            def update_and_fetch(self, keys, values):
                return super().update_and_fetch(keys + 0.5, values)

        run = lockstep_with(KVCache, level="buffer").run(trace_of(construct(), update(1)))
        expected, actual = say(run.divergences[0], run)
        assert expected == "`keys` is float32 [1, 2, 256, 2] with rows 0 ·x255"
        assert actual == "`keys` is float32 [1, 2, 256, 2] with rows ? ·x255"

    def test_order_is_by_cache_and_operation(self):
        """Differences come in the order of the classes and of their operations."""
        total = Drift(OLD, NEW)
        for cache in ("RotatingKVCache", "KVCache"):
            total.add(run_part(part_of(OLD, NEW, cache, steps=300)))
        caches = [[*CACHES].index(one.cache) for one in total.ordered()]
        assert len({*caches}) > 1
        assert caches == sorted(caches)
        own = [one.operation for one in total.ordered() if one.cache == "KVCache"]
        assert own.index("construct") < own.index("update") < own.index("set_state")


OLDER = "0.30.4"


@pytest.fixture
def older():
    """Return a release that is not among those of the gate, installed; it may need a network."""
    try:
        kvreference.sync([OLDER])
    except kvreference.ReferenceError as error:
        if error.kind != "network":
            raise
        pytest.skip("no network, and the older release is not installed")
    return OLDER


def test_older_release(older):
    """A release of another interface generation is loaded: what it lacks is listed."""
    found = compare(f"release:{older}", NEW)
    assert "MambaCache" in found.only_a
    assert {"LRUPromptCache", "KVCache.nbytes", "KVCache.keys_and_values"} <= {*found.only_b}
    for flipped in (False, True):
        part = run_part(part_of(f"release:{older}", NEW, "BatchKVCache", flipped=flipped))
        assert part.steps >= 60
        assert part.problems == []
    assert run_part(part_of(f"release:{older}", NEW, "LRUPromptCache")).steps == 0


def test_drift_yields_as_it_goes(monkeypatch):
    """The result grows part by part, and says how far it is."""
    monkeypatch.setattr(_drift, "pool", lambda _: InThisProcess())
    settings = Settings(steps=30, caches=("TokenBuffer",))
    seen = [(done, parts) for _, done, parts in drift(NEW, NEW, settings, workers=1)]
    assert seen == [(number, 4) for number in range(5)]
