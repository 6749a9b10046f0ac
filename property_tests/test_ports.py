"""The gate on ports of others: pins, judgements and pages, without a network."""

from __future__ import annotations

import re

import pytest
from conformance.ports import _ports
from conformance.ports.__main__ import main, write_page
from conformance.ports._judgements import JudgementError, check_judgements, read_judgements
from conformance.ports._look import trace_of
from conformance.ports._ports import Port, PortError, find_ports, install, read_port

from kvlockstep._port_map import read_map
from kvlockstep._tally import slug
from kvlockstep._trace import read

PORTS = find_ports()
CONTROL = "mlx-audio"

# A cache that says it trimmed one row more than it did, and has nothing else of mlx-lm's.
PORT = """
import kvreference

release = kvreference.load("0.32.2").cache


class KVCache:
    def __init__(self):
        self._cache = release.KVCache()

    def update_and_fetch(self, keys, values):
        return self._cache.update_and_fetch(keys, values)

    def trim(self, n):
        return self._cache.trim(n) + 1
"""

JUDGED = """
version = 1
about = "A port of this test."
[[judgement]]
title = "Trims by one too many"
verdict = "fault"
why = "It adds one."
signatures = ["0.32.2/KVCache/trim/result"]
"""


@pytest.fixture
def port(tmp_path):
    """Return a port that is installed already."""
    folder = tmp_path / "test-port"
    (folder / "installed").mkdir(parents=True)
    pin = f"test-port==1.0 --hash=sha256:{'0' * 64}\n"
    (folder / "requirements.txt").write_text(pin)
    (folder / "installed" / ".pinned").write_text(pin)
    (folder / "installed" / "port_of_a_test.py").write_text(PORT)
    (folder / "port.toml").write_text(
        'version = 1\nmodule = "port_of_a_test"\nfolder = "installed"\n'
    )
    return read_port(folder)


def judgements_of(port, text):
    (port.folder / "judgements.toml").write_text(text)
    return read_judgements(port.folder / "judgements.toml")


def test_the_negative_control_shows_nothing():
    """mlx-audio has the release's own classes, and nothing is judged of it."""
    (port,) = [port for port in PORTS if port.name == CONTROL]

    assert read_judgements(port.folder / "judgements.toml").judgement == ()
    assert "**No divergence.**" in port.page.read_text(encoding="utf-8")
    assert len(PORTS) >= 3


@pytest.mark.parametrize("port", PORTS, ids=lambda port: port.name)
def test_page_is_of_what_is_pinned_and_judged(port):
    """Pin, map, judgements, traces and page of a port tell of the same run."""
    page = port.page.read_text(encoding="utf-8")
    described = read_map(port.map)
    judged = [
        signature
        for one in read_judgements(port.folder / "judgements.toml").judgement
        for signature in one.signatures
    ]
    told = re.findall(r"^(?:\[`([^`]+)`\]\(|`([^`]+/interface)`$)", page, re.MULTILINE)

    assert page.startswith(f"# {port.name} {port.version} against mlx-lm {described.contract}\n")
    assert f"sha256 `{port.sha256}`" in page
    assert described.folder == "installed"
    assert sorted(linked or plain for linked, plain in told) == sorted(judged)
    traces = {f"{slug(name)}.json" for name in judged if not name.endswith("/interface")}
    assert {path.name for path in port.traces.glob("*.json")} == traces
    for path in port.traces.glob("*.json"):
        assert read(path).steps
        assert f"({port.name}/traces/{path.name})" in page


def test_unjudged_divergence_is_told(port, capsys):
    """A divergence that no judgement names is told so that it can be pasted; no page is written."""
    judgements_of(port, 'version = 1\nabout = "x"\n')

    assert write_page(port, steps=60) == 1

    told = capsys.readouterr().err
    assert f"{port.folder / 'judgements.toml'}: not judged:\n" in told
    assert '\n  "0.32.2/KVCache/trim/result",\n' in told
    assert not port.page.exists()
    assert trace_of(port, "0.32.2/KVCache/trim/result").is_file()


def test_page_tells_each_divergence_with_its_judgement(port):
    """The page has what was run, what is not there, the judgement, and the trace in words."""
    judgements_of(port, JUDGED)
    stale = port.traces / "0.32.2-KVCache-trim-old.json"
    stale.parent.mkdir()
    stale.write_text(
        '{"format": "kvlockstep-trace", "version": 1, "steps": [{"op": "construct", "cache": '
        '"KVCache"}]}'
    )

    assert write_page(port, steps=60) == 0

    page = port.page.read_text(encoding="utf-8")
    assert page.startswith("# test-port 1.0 against mlx-lm 0.32.2\n")
    assert "\n| the port's fault | 1 | 1 |\n" in page
    assert re.search(r"\n\| `KVCache` \| \d+ \| 1 \|\n\n", page)
    assert "`RotatingKVCache`" in page.partition("does not have: ")[2].partition("\n")[0]
    assert (
        "### Trims by one too many\n\nIt adds one.\n\n[`0.32.2/KVCache/trim/result`]"
        "(test-port/traces/0.32.2-KVCache-trim-result.json)\n\n```\n  1. a = KVCache()\n"
        "  2. a: trim 1\n" in page
    )
    assert [path.name for path in port.traces.iterdir()] == ["0.32.2-KVCache-trim-result.json"]


def test_judgement_of_nothing_is_stale(port):
    """A judgement of a divergence that does not show is told, and so is one that is missing."""
    judgements = judgements_of(port, JUDGED)
    file = port.folder / "judgements.toml"

    check_judgements(judgements, ["0.32.2/KVCache/trim/result"], file)
    with pytest.raises(JudgementError) as info:
        check_judgements(judgements, ["0.32.2/KVCache/update/offset"], file)

    assert str(info.value) == (
        f'{file}: not judged:\n  "0.32.2/KVCache/update/offset",\n'
        f"{file}: judged, and not found:\n  0.32.2/KVCache/trim/result"
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('verdict = "fault"', 'verdict = "bug"', "Invalid enum value 'bug'"),
        ('why = "It adds one."', 'why = ""', "Expected `str` of length >= 1"),
        ('why = "It adds one."', "", "missing required field `why`"),
        ("signatures = [", 'x = "y"\nsignatures = [', "contains unknown field `x`"),
        ('["0.32.2/KVCache/trim/result"]', "[]", "Expected `array` of length >= 1"),
        ('trim/result"]', 'trim/result", "0.32.2/KVCache/trim/result"]', "judged twice: 0.32.2/K"),
        ("version = 1", "version = 2", "Invalid enum value 2"),
    ],
)
def test_wrong_judgements_are_refused(port, old, new, told):
    """Judgements are read strictly: the file and the field are named."""
    with pytest.raises(JudgementError) as info:
        judgements_of(port, JUDGED.replace(old, new))

    assert str(info.value).startswith(f"{port.folder / 'judgements.toml'}: ")
    assert told in str(info.value)


@pytest.mark.parametrize(
    "pin", ["", "test-port==1.0", "other==1.0 --hash=sha256:" + "0" * 64, "test-port>=1.0"]
)
def test_pin_without_a_hash_is_refused(port, pin):
    """A pin is one line with the folder's name, a version and a hash."""
    (port.folder / "requirements.txt").write_text(pin)

    with pytest.raises(PortError, match="expected one line 'test-port==VERSION --hash=sha256:"):
        read_port(port.folder)


def test_installation_keeps_to_the_pin(port, monkeypatch):
    """What is installed as pinned is left alone; another pin is installed again, in one piece."""
    commands = []

    def run(command, **_):
        commands.append(command)
        target = port.folder / command[command.index("--target") + 1]
        target.mkdir()
        (target / "new.py").write_text("")

        class Done:
            returncode = 0

        return Done

    monkeypatch.setattr(_ports.subprocess, "run", run)
    install(port)
    assert commands == []

    (port.folder / "requirements.txt").write_text(f"test-port==1.1 --hash=sha256:{'1' * 64}\n")
    install(read_port(port.folder))
    install(read_port(port.folder))

    assert len(commands) == 1
    assert {"--no-deps", "--require-hashes"} <= set(commands[0])
    names = {path.name for path in (port.folder / "installed").iterdir()}
    assert names == {".pinned", "new.py"}
    assert not (port.folder / "installed.partial").exists()


def test_failed_installation_shows_what_pip_said(port, monkeypatch):
    """Where pip fails, what it printed is shown, and nothing is left."""

    class Done:
        returncode, stdout, stderr = 1, "", "ERROR: DO NOT MATCH THE HASHES"

    monkeypatch.setattr(_ports.subprocess, "run", lambda *_, **__: Done)
    (port.folder / "requirements.txt").write_text(f"test-port==1.1 --hash=sha256:{'1' * 64}\n")

    with pytest.raises(PortError, match="test-port: pip failed:\nERROR: DO NOT MATCH THE HASHES"):
        install(read_port(port.folder))
    assert not (port.folder / "installed").exists()


def test_port_that_cannot_be_loaded_is_no_divergence(port):
    """A port that does not import breaks the run instead of being judged."""
    (port.folder / "installed" / "port_of_a_test.py").write_text("import nothing_of_the_kind")

    with pytest.raises(PortError, match="nothing_of_the_kind"):
        write_page(port, steps=20)


def test_unknown_name_is_refused(capsys):
    """The command names the ports that there are."""
    with pytest.raises(SystemExit) as info:
        main(["no-such-port"])

    assert info.value.code == 2
    assert "could not run: port 'no-such-port': expected one of mlx-audio, " in (
        capsys.readouterr().err
    )
    assert isinstance(PORTS[0], Port)
