"""Which pinned releases ports are held to, and that set-up fetches only those."""

from __future__ import annotations

import pytest

import kvreference
from kvreference import __main__ as commands
from kvreference import _pins


@pytest.fixture
def pins(tmp_path):
    """Return a folder of pins with three releases."""
    for release in ("1.0.0", "1.2.0", "1.10.0"):
        (tmp_path / f"{release}.txt").write_text(f"mlx-lm=={release} --hash=sha256:{64 * '0'}\n")
        digests = [f"{64 * '0'}  {file}" for file in (_pins.BASE, _pins.CACHE)]
        (tmp_path / f"{release}.sha256").write_text("\n".join(digests))
    return tmp_path


@pytest.fixture
def synced(monkeypatch):
    """Return the list of what `sync` is asked to install, in this test installing nothing."""
    asked = []
    monkeypatch.setattr(commands, "sync", lambda names, **_: asked.extend(names) or {})
    return asked


def test_gate_is_what_we_claim():
    """The gate compares with the two releases that the README names; the others are pinned too."""
    assert kvreference.RELEASES == ("0.31.3", "0.32.2")
    assert {*kvreference.RELEASES} < {*kvreference.PINNED}
    assert kvreference.PINNED[0] == "0.28.0"
    assert {"0.30.7", "0.31.2", "0.32.0", "0.32.1"} < {*kvreference.PINNED}


@pytest.mark.parametrize("release", kvreference.PINNED)
def test_every_pin_is_well_formed(release):
    """Each pin names its own release and both files."""
    assert _pins.read_pin(release).release == release


def test_releases_of_one_file_have_one_digest():
    """The releases of which FACTS says that they have the same cache module are pinned to it."""
    assert len({_pins.read_pin(name).cache for name in ("0.32.0", "0.32.1", "0.32.2")}) == 1


def test_without_a_choice_all_are_the_gate(pins):
    """A folder of pins that chooses none has them all."""
    assert _pins.list_gate(pins) == ("1.0.0", "1.2.0", "1.10.0")


def test_chosen_ones_come_in_order(pins):
    """Those that are chosen come oldest first, comments left out."""
    (pins / "gate.txt").write_text("# why\n1.10.0\n\n1.0.0\n")
    assert _pins.list_gate(pins) == ("1.0.0", "1.10.0")
    assert _pins.list_releases(pins) == ("1.0.0", "1.2.0", "1.10.0")


@pytest.mark.parametrize(("text", "actual"), [("1.0.0\n9.9.9\n", "9.9.9"), ("# none\n", "none")])
def test_bad_choice_is_refused(pins, text, actual):
    """A choice of what is not pinned, or of nothing, is refused by name."""
    (pins / "gate.txt").write_text(text)
    with pytest.raises(kvreference.ReferenceError, match=r"gate\.txt") as caught:
        _pins.list_gate(pins)
    assert caught.value.actual == actual
    assert caught.value.kind == "pin"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["1.2.0"]),
        (["--all"], ["1.0.0", "1.2.0", "1.10.0"]),
        (["1.10.0"], ["1.10.0"]),
    ],
)
def test_sync_installs_what_is_asked_for(pins, synced, words, expected):
    """Without a name only the gate's; by name, or all of them, what is asked for."""
    (pins / "gate.txt").write_text("1.2.0\n")
    assert commands.main(["sync", *words], pins=pins) == 0
    assert synced == expected


def test_verify_leaves_out_what_nobody_installed(pins, monkeypatch, tmp_path, capsys):
    """`verify` looks at the gate's releases and at what is installed besides, at no other."""
    (pins / "gate.txt").write_text("1.2.0\n")
    home = tmp_path / "home"
    monkeypatch.setenv("KVREFERENCE_HOME", str(home))
    (home / "1.10.0" / "site-packages").mkdir(parents=True)
    assert commands.main(["verify"], pins=pins) == 1
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1] != " "]
    assert told == ["1.2.0", "1.10.0"]
