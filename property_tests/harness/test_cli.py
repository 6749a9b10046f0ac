"""The command line: what it does, what it says, and its exit status."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner
from property_tests.harness.ports import (
    CANNOT_BE_MADE,
    DIES,
    OFFSET_TOO_HIGH,
    TRIM_SAYS_TOO_MANY,
    construct,
    trace_of,
    update,
)

from kvlockstep._cli import main
from kvlockstep._ledger import Ledger
from kvlockstep._options import OPTIONS
from kvlockstep._steps import CausalMask, Trim
from kvlockstep._trace import read, schema, write

SIGNATURE = "0.32.2/KVCache/trim/result"

# A port whose spare rows hold other bytes, seen at level buffer only where the contract is 0.31.3.
DIRTY_SPARE = """
class KVCache(release.KVCache):
    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        self.keys[..., self.offset :, :] = 7
        return result
"""


@pytest.fixture
def cli():
    """Return `cli(*words)`: it runs the command line in this process."""

    def run(*words: object, **more: object):
        return CliRunner().invoke(main, [str(word) for word in words], **more)

    return run


@pytest.fixture
def run_gate(cli, tmp_path):
    """Return `run_gate(target, *words)`: a short run of the gate on KVCache, one worker."""
    (tmp_path / "corpus").mkdir()
    short = ("--workers=1", "--steps=60", f"--traces={tmp_path / 'corpus'}")

    def run(target: str, *words: object):
        report = (
            ()
            if any("--report" in str(word) for word in words)
            else (f"--report={tmp_path / 'report'}",)
        )
        return cli("run", f"--target={target}", "--cache=KVCache", *short, *report, *words)

    return run


@pytest.fixture
def trim_file(tmp_path):
    """A trace that constructs and trims."""
    path = tmp_path / "trim.json"
    write(trace_of(construct(), update(1), Trim(n=1)), path)
    return path


def flat(text: str) -> str:
    """Return text as one line."""
    return " ".join(text.split())


# run


def test_run_of_a_port_that_conforms(run_gate, make_port, tmp_path):
    """A port that conforms exits with 0, with header, table and verdict."""
    target = make_port()

    done = run_gate(target)

    assert done.exit_code == 0
    assert f"kvlockstep: target {target}, contract 0.32.2," in flat(done.output)
    assert "state classes reached" in done.output
    assert f"{target} conforms: 4 jobs, " in done.output
    assert not (tmp_path / "report").exists()


def test_run_writes_the_trace_and_prints_its_replay(run_gate, cli, make_port, tmp_path):
    """A fault exits with 1; the command that is printed shows the same signature again."""
    folder = tmp_path / "a report" / "deeper"
    target = make_port(DIRTY_SPARE, release="0.31.3")

    done = run_gate(target, "--level=buffer", f"--report={folder}")

    assert done.exit_code == 1
    assert f"{target} does not conform" in flat(done.output)
    signature = "0.31.3/KVCache/update/keys"
    assert signature in done.output
    path = folder / "0.31.3-KVCache-update-keys.json"
    assert [type(step).__name__ for step in read(path).steps] == ["Construct", "Update"]
    (command,) = (line for line in done.output.splitlines() if line.startswith("  replay: "))
    program, *words = shlex.split(command.removeprefix("  replay: "))
    assert program == "kvlockstep"
    assert str(path) in words

    again = cli(*words)

    assert again.exit_code == 1
    assert f"{signature} (undeclared)" in again.output
    assert "  1. a = KVCache()\n  2. a: update with 1 token, " in again.output


def test_run_of_a_port_that_kills_its_process(run_gate, make_port):
    """A process that dies ends the run with 2, before the search, and says so."""
    done = run_gate(make_port(DIES))

    assert done.exit_code == 2
    assert "smoke 0.32.2: the process died: did it crash?" in done.output
    assert "could not run: " in done.output


def test_run_of_a_bad_adapter(run_gate, make_port):
    """A class that cannot be made ends the run with 2, and nothing is searched."""
    done = run_gate(make_port(CANNOT_BE_MADE))

    assert done.exit_code == 2
    assert "The adapter, not the cache, is wrong." in flat(done.output)
    assert "could not run: 2 jobs, 0 steps" in flat(done.output)


def test_report_that_cannot_be_written(run_gate, make_port, tmp_path):
    """A difference that cannot be told as a file is counted all the same, and the status is 2."""
    (tmp_path / "file").write_text("")

    done = run_gate(make_port(TRIM_SAYS_TOO_MANY), f"--report={tmp_path / 'file'}")

    assert done.exit_code == 2
    assert f"KVCache: [Errno 17] File exists: '{tmp_path / 'file'}'" in flat(done.output)
    assert "1 undeclared" in flat(done.output)


def test_run_of_a_class_that_the_port_has_not(run_gate, make_port):
    """Where nothing that was asked for is there, nothing conforms."""
    target = make_port("del KVCache, ArraysCache")

    done = run_gate(target, "--cache=ArraysCache")

    assert done.exit_code == 2
    told = f"cache KVCache, ArraysCache: expected one that {target} has: ConcatenateKVCache, "
    assert told in flat(done.output)


@pytest.mark.parametrize("exits", ["__init__", "update_and_fetch"])
def test_run_of_a_port_that_exits(run_gate, make_port, exits):
    """A port that ends the process with 0 does not conform thereby."""
    done = run_gate(
        make_port(
            "class KVCache(release.KVCache):\n"
            f"    def {exits}(self, *_):\n"
            "        raise SystemExit(0)\n"
        )
    )

    assert done.exit_code == 2
    assert "got SystemExit: 0. The adapter, not the cache, is wrong." in flat(done.output)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target=py:no_such_module"], "target module 'no_such_module' cannot be imported"),
        (["--target=nothing"], "target 'nothing': expected py:MODULE"),
        (["--release=9.9.9"], "release '9.9.9': expected all, path:DIR or one of"),
        (["--cache=Paged"], "cache 'Paged': expected one of KVCache"),
        (["--ledger=/no/ledger.toml"], "/no/ledger.toml: "),
        (["--traces=/no/folder"], "traces '/no/folder': expected a folder"),
        (["--steps=0"], "steps: expected 1 or more, got 0"),
    ],
)
def test_run_that_cannot_start(cli, words, told):
    """What keeps a run from starting is told on standard error; exit status 2."""
    done = cli("run", *words)

    assert done.exit_code == 2
    assert done.stderr.startswith("could not run: ")
    assert told in done.stderr
    assert "kvlockstep: target" not in done.stdout


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--steps=many", "'many' is not a valid integer"),
        ("--level=bytes", "'bytes' is not one of 'state', 'buffer'"),
        ("--profile=nightly", "'nightly' is not one of 'smoke', 'ci', 'deep'"),
        ("--device=tpu", "'tpu' is not one of 'cpu', 'gpu'"),
        ("--workers=0", "0 is not in the range x>=1"),
        ("--speed=1", "No such option"),
    ],
)
def test_bad_options_are_usage_errors(cli, word, told):
    """An option that does not fit is a usage error that names it; exit status 2."""
    done = cli("run", word)

    assert done.exit_code == 2
    assert told in flat(done.stderr)
    assert word.partition("=")[0] in done.stderr


def test_environment_holds_for_the_command_line_too(cli, monkeypatch):
    """An option's environment variable does the same as the option."""
    monkeypatch.setenv("KVLOCKSTEP_TARGET", "py:no_such_module")

    assert "'no_such_module' cannot be imported" in cli("run").stderr


def test_help_names_every_option_and_its_variable(cli):
    """`run --help` lists each option with its environment variable."""
    text = flat(cli("run", "--help").output)

    assert [option.name for option in OPTIONS if f"--{option.name} " not in text] == []
    assert [option.name for option in OPTIONS if option.variable not in text.replace(" ", "")] == []


def test_help_says_what_the_exit_status_means(cli):
    """`--help` lists the commands and the three exit statuses."""
    done = cli("--help")

    assert done.exit_code == 0
    assert "Exit status: 0 conforms, 1 does not, 2 could not run." in flat(done.output)
    assert {"run", "smoke", "replay", "schema", "ledger"} <= set(done.output.split())


def test_module_is_the_command_line():
    """`python -m kvlockstep` is the same command."""
    command = [sys.executable, "-m", "kvlockstep", "--version"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0
    assert "version" in done.stdout


# smoke


def test_smoke_of_a_target_that_can_be_driven(cli):
    """A target that can be driven exits with 0 and names the releases."""
    done = cli("smoke", "--target=py:mlxkv")

    assert done.exit_code == 0
    assert done.output == "py:mlxkv can be driven: 0.31.3, 0.32.2\n"


def test_smoke_says_nothing_of_what_is_right(cli, make_port):
    """A wrong number is no matter for the smoke test."""
    assert cli("smoke", f"--target={make_port(OFFSET_TOO_HIGH)}").exit_code == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (CANNOT_BE_MADE, "KVCache(): expected no error, got TypeError"),
        ("class KVCache(release.KVCache):\n    def update_and_fetch(self, k, v): return 1\n",
         "expected a pair (keys, values), got int"),
        ("class KVCache(release.KVCache):\n    def update_and_fetch(self, k, v): return [1], [2]\n",
         "expected mlx.core.array, got int, int"),
        ("class KVCache(release.KVCache):\n    def update_and_fetch(self, k, v): 1 / 0\n",
         "expected no error, got ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_smoke_of_a_bad_adapter(cli, make_port, body, told):
    """A target that cannot be driven exits with 2, with the call, and the adapter is blamed."""
    done = cli("smoke", f"--target={make_port(body)}")

    assert done.exit_code == 2
    assert told in done.stderr
    assert "KVCache: " in done.stderr
    assert "The adapter, not the cache, is wrong." in done.stderr
    assert done.stdout == ""


# replay


def test_replay_without_a_divergence(cli, trim_file):
    """A trace that shows nothing is told in plain words; exit status 0."""
    done = cli("replay", trim_file, "--target=release:0.32.2")

    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "  1. a = KVCache()",
        "  2. a: update with 1 token, float32 [1, 2, 1, 2]",
        "  3. a: trim 1",
        "     growth step 256, value mode",
        "0.32.2: 3 steps, no divergence",
    ]


def test_replay_of_a_fault(cli, make_port, trim_file):
    """A trace that shows a fault says what was expected and what came; exit status 1."""
    done = cli("replay", trim_file, f"--target={make_port(TRIM_SAYS_TOO_MANY)}")

    assert done.exit_code == 1
    assert done.output.splitlines()[4:] == [
        f"{SIGNATURE} (undeclared)",
        "  step 3, result",
        "    expected  1",
        "    actual    2",
    ]


def test_replay_tells_rows_by_their_tokens(cli, make_port, tmp_path):
    """A difference in a buffer is told by the tokens in its rows and the first other element."""
    body = """
class KVCache(release.KVCache):
    def update_and_fetch(self, keys, values):
        return super().update_and_fetch(keys[:, :, ::-1], values)
"""
    path = tmp_path / "two.json"
    write(trace_of(construct(), update(3), step_size=4), path)

    done = cli("replay", path, f"--target={make_port(body)}", "--level=buffer")

    assert done.exit_code == 1
    assert "rows: 0 1 2 ·\n" in done.output
    assert "rows: 2 1 0 ·\n" in done.output
    assert "element [0, 0, 0, 0]: expected bits 0x3f800000, got 0x40400000" in done.output


def test_replay_runs_the_releases_of_the_trace(cli, tmp_path):
    """A trace for one release is run against that one only."""
    path = tmp_path / "old.json"
    write(trace_of(construct(), releases=("0.31.3",)), path)

    done = cli("replay", path, "--target=py:mlxkv")

    assert done.exit_code == 0
    assert "0.31.3: 1 steps" in done.output
    assert "0.32.2" not in done.output


def test_replay_for_no_release_cannot_run(cli, tmp_path):
    """A trace for none of the target's releases is not passed over in silence."""
    path = tmp_path / "old.json"
    write(trace_of(construct(), releases=("0.31.3",)), path)

    done = cli("replay", path, "--target=release:0.32.2")
    forced = cli("replay", path, "--target=release:0.32.2", "--release=0.32.2")

    assert done.exit_code == 2
    assert f"could not run: {path}: it is for 0.31.3" in done.stderr
    assert forced.exit_code == 0
    assert "0.32.2: 1 steps, no divergence" in forced.output


def test_replay_names_what_is_lacking(cli, make_port, tmp_path):
    """What the target lacks is named, and is no divergence."""
    path = tmp_path / "masks.json"
    write(trace_of(CausalMask(n=1), construct()), path)
    target = make_port(lacks=("create_causal_mask", "KVCache"))

    done = cli("replay", path, f"--target={target}")

    assert done.exit_code == 0
    assert "0.32.2: the target lacks KVCache\n" in done.output
    assert "0.32.2: the target lacks functions.create_causal_mask\n" in done.output
    assert "0.32.2: 0 steps, no divergence" in done.output


LITERAL = '{"fill": "literal", "shape": [2], "values": [1]}'
BAD_FILES = {
    "no trace": ("not json", "malformed"),
    "later version": (
        '{"format": "kvlockstep-trace", "version": 7, "steps": []}',
        "knows version 1 of the trace format, got version 7",
    ),
    "unknown class": (
        '{"format": "kvlockstep-trace", "version": 1,'
        ' "steps": [{"op": "construct", "cache": "Paged"}]}',
        "cache 'Paged': expected one of KVCache",
    ),
    "literal without values": (
        '{"format": "kvlockstep-trace", "version": 1, "steps":'
        f' [{{"op": "construct", "cache": "KVCache"}}, {{"op": "update", "keys": {LITERAL}}}]}}',
        "expected 2 values, got 1",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_replay_of_a_bad_file(cli, tmp_path, case):
    """A file that cannot be run is told with what is wrong, and stays; exit status 2."""
    text, told = BAD_FILES[case]
    path = tmp_path / "bad.json"
    path.write_text(text)

    done = cli("replay", path, "--target=release:0.32.2")

    assert done.exit_code == 2
    assert done.stderr.startswith("could not run: ")
    assert told in done.stderr
    assert path.read_text() == text


def test_replay_of_a_file_that_is_not_there(cli, tmp_path):
    """A file that is not there is a usage error; exit status 2."""
    done = cli("replay", tmp_path / "no.json")

    assert done.exit_code == 2
    assert "no.json' does not exist" in flat(done.stderr)


# schema


def test_schema_is_printed_as_json(cli):
    """`schema` prints the JSON Schema of trace files."""
    done = cli("schema")

    assert done.exit_code == 0
    assert json.loads(done.output) == json.loads(json.dumps(schema()))


# ledger


def add(cli, trace, target, ledger, *words, **more):
    """Declare what a trace shows."""
    return cli("ledger", "add", trace, f"--target={target}", f"--ledger={ledger}", *words, **more)


WHY = ("--why=a test", "--source=this test")


def test_ledger_add_then_check_then_replay(cli, make_port, trim_file, tmp_path):
    """What is added is what a check finds, and what a replay calls declared."""
    target, ledger = make_port(TRIM_SAYS_TOO_MANY), tmp_path / "ledger.toml"

    added = add(cli, trim_file, target, ledger, *WHY, "--when=n == 1")
    checked = cli("ledger", "check", f"--target={target}", f"--ledger={ledger}")
    replayed = cli("replay", trim_file, f"--target={target}", f"--ledger={ledger}")

    assert added.exit_code == 0
    assert added.output.splitlines() == [
        f"{ledger}: added kvcache-trim-result for 0.32.2",
        "  the reference: a: trim 1: result is 0",
        "  the port: a: trim 1: result is 1",
    ]
    known = Ledger.read(ledger)
    (entry,) = known.entries
    assert (entry.why, entry.source, entry.when) == ("a test", "this test", "n == 1")
    assert known.target == target
    assert [type(step).__name__ for step in known.witness(entry).steps] == ["Construct", "Trim"]
    assert (checked.exit_code, checked.output) == (0, "ledger.toml: 1 entries, 0 problems\n")
    assert replayed.exit_code == 0
    assert f"{SIGNATURE} (declared by kvcache-trim-result)" in replayed.output


def test_ledger_add_asks_for_what_is_not_given(cli, make_port, trim_file, tmp_path):
    """Why it is meant, and what says so, are asked for."""
    target, ledger = make_port(TRIM_SAYS_TOO_MANY), tmp_path / "ledger.toml"

    done = add(cli, trim_file, target, ledger, input="because\nissue 7\n")

    assert done.exit_code == 0
    assert "Why is it meant: " in done.output
    (entry,) = Ledger.read(ledger).entries
    assert (entry.why, entry.source) == ("because", "issue 7")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--why=", "--source=s"), "why"),
        ((*WHY, "--id=Bad id"), "id"),
        ((*WHY, "--id=../outside"), "id"),
        ((*WHY, "--when=n <"), "invalid syntax"),
        ((*WHY, "--when=rows > 5"), "alone, when rows > 5"),
        ((*WHY, "--when=depth > 5"), "'depth' is not defined"),
    ],
)
def test_ledger_add_refuses(cli, make_port, trim_file, tmp_path, words, told):
    """What would make a ledger that cannot be read or judged is refused, and nothing is written."""
    ledger = tmp_path / "new" / "ledger.toml"
    ledger.parent.mkdir()

    done = add(cli, trim_file, make_port(TRIM_SAYS_TOO_MANY), ledger, *words)

    assert done.exit_code == 2
    assert done.stderr.startswith("could not run: ")
    assert told in done.stderr
    assert list(ledger.parent.rglob("*")) == []


def test_ledger_add_refuses_the_ledger_of_another_port(cli, make_port, trim_file, tmp_path):
    """What one port means is not written into another one's ledger, ours by default."""
    target, ledger = make_port(TRIM_SAYS_TOO_MANY), tmp_path / "ledger.toml"
    ledger.write_text('version = 1\ntarget = "py:another_port"\n')

    done = add(cli, trim_file, target, ledger, *WHY)

    assert done.exit_code == 2
    assert f"expected a ledger for {target}, got one for py:another_port" in done.stderr
    assert ledger.read_text() == 'version = 1\ntarget = "py:another_port"\n'
    assert list(tmp_path.rglob("traces")) == []


def test_ledger_add_refuses_a_second_entry_of_the_name(cli, make_port, tmp_path):
    """An id that is taken is refused; without one, another is found."""
    body = TRIM_SAYS_TOO_MANY.replace("+ 1", "+ (1 if n > 0 else 2)")
    target, ledger = make_port(body), tmp_path / "ledger.toml"
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    write(trace_of(construct(), Trim(n=1)), one)
    write(trace_of(construct(), Trim(n=0)), other)
    assert add(cli, one, target, ledger, *WHY, "--when=n > 0").exit_code == 0
    before = ledger.read_text()

    refused = add(cli, other, target, ledger, *WHY, "--when=n == 0", "--id=kvcache-trim-result")
    named = add(cli, other, target, ledger, *WHY, "--when=n == 0")

    assert refused.exit_code == 2
    assert "'kvcache-trim-result' already" in refused.stderr
    assert named.exit_code == 0
    assert ledger.read_text().startswith(before.rstrip("\n"))
    ids = [entry.id for entry in Ledger.read(ledger).entries]
    assert ids == ["kvcache-trim-result", "kvcache-trim-result-2"]


@pytest.mark.parametrize(
    ("body", "came"),
    [
        ("", "got none"),
        (TRIM_SAYS_TOO_MANY + "    def size(self):\n        return super().size() + 1\n",
         "got KVCache/construct/size(), KVCache/trim/result"),
    ],
)  # fmt: skip
def test_ledger_add_wants_one_divergence(cli, make_port, trim_file, tmp_path, body, came):
    """A trace that shows none, or more than one, cannot be declared; exit status 2."""
    done = add(cli, trim_file, make_port(body), tmp_path / "ledger.toml", *WHY)

    assert done.exit_code == 2
    assert f"expected the trace to show one undeclared divergence, {came}" in done.stderr
    assert not (tmp_path / "ledger.toml").exists()


def test_ledger_check_finds_a_stale_entry(cli, make_port, trim_file, tmp_path):
    """An entry whose witness shows nothing any more is told; exit status 1."""
    target, ledger = make_port(TRIM_SAYS_TOO_MANY), tmp_path / "ledger.toml"
    assert add(cli, trim_file, target, ledger, *WHY).exit_code == 0
    mended = make_port()
    ledger.write_text(ledger.read_text().replace(target, mended))

    done = cli("ledger", "check", f"--target={mended}", f"--ledger={ledger}")

    assert done.exit_code == 1
    assert "'kvcache-trim-result' is stale for 0.32.2" in done.output
    assert done.output.endswith("ledger.toml: 1 entries, 1 problems\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "No such file"), ("version = 3\ntarget = 'x'", "version 1, got 3"), (b"\xff", "utf-8")],
)
def test_ledger_check_that_cannot_run(cli, tmp_path, text, told):
    """A ledger that cannot be read is told on standard error; exit status 2."""
    ledger = tmp_path / "ledger.toml"
    if text is not None:
        ledger.write_bytes(text if isinstance(text, bytes) else text.encode())

    done = cli("ledger", "check", f"--ledger={ledger}")

    assert done.exit_code == 2
    assert done.stderr.startswith(f"could not run: {ledger}: ")
    assert told in done.stderr
