"""Targets: one string for what is under test, and what a module declares of itself."""

from __future__ import annotations

import sys

import pytest
from property_tests.harness.ports import RELEASE

import kvreference
from kvlockstep._targets import TargetError, contracts_of, load_target

NEWEST = kvreference.RELEASES[-1]


@pytest.fixture
def declare(tmp_path, monkeypatch):
    """Return `declare(text)`: it writes a module with this `KVLOCKSTEP` and returns its target."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(declaration: str | None, name: str = "declared") -> str:
        monkeypatch.delitem(sys.modules, name, raising=False)
        text = "class KVCache: pass\n"
        if declaration is not None:
            text += f"KVLOCKSTEP = {declaration}\n"
        (tmp_path / f"{name}.py").write_text(text)
        return f"py:{name}"

    yield write
    for name in ("declared", "other"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "spec", ["", "py", "py:", ":x", "mlxkv", "rs:kv", "release:", "path:", "PY:mlxkv"]
)
def test_other_strings_are_refused(spec):
    """What is no target string is quoted, beside the forms there are, with an example."""
    for call in (lambda: contracts_of(spec), lambda: load_target(spec, RELEASE)):
        with pytest.raises(TargetError) as info:
            call()
        assert str(info.value).startswith(f"target {spec!r}: expected py:MODULE, release:VERSION")
        assert "for example py:mlxkv" in str(info.value)


def test_module_that_declares_nothing(declare):
    """A module without a declaration follows the newest release, and promises the least."""
    spec = declare(None)
    target = load_target(spec, RELEASE)

    assert contracts_of(spec) == (NEWEST,)
    assert (target.level, target.errors) == ("state", "raises")
    assert not target.transactional
    assert target.own_errors is None
    assert not target.reserves
    assert not target.seeds
    assert target.spec == spec
    assert target.module is sys.modules["declared"]


def test_module_that_declares_everything(declare):
    """What a module declares is what it is tested by."""
    spec = declare(
        "{'contract': '0.31.3', 'level': 'buffer', 'errors': 'type', 'transactional': True,"
        " 'own_errors': 'PortError', 'reserves': True, 'seeds': True}"
    )
    target = load_target(spec, "0.31.3")

    assert contracts_of(spec) == ("0.31.3",)
    assert (target.contract, target.level, target.errors) == ("0.31.3", "buffer", "type")
    assert target.transactional
    assert target.own_errors == "PortError"
    assert target.reserves
    assert target.seeds


def test_package_that_follows_several(declare):
    """A package names a module for each release, and each module declares for itself."""
    declare("{'contract': '0.31.3', 'level': 'buffer'}", "other")
    spec = declare("{'contracts': {'0.31.3': 'other', '0.32.2': 'other'}}")

    target = load_target(spec, "0.31.3")

    assert contracts_of(spec) == ("0.31.3", "0.32.2")
    assert target.module is sys.modules["other"]
    assert (target.spec, target.level) == (spec, "buffer")


def test_release_that_a_package_does_not_follow(declare):
    """A release without a module is named, beside those that have one."""
    spec = declare("{'contracts': {'0.31.3': 'other'}}")

    with pytest.raises(TargetError) as info:
        load_target(spec, "0.32.2")

    expected = f"target {spec!r}: expected one of its contracts 0.31.3, got release '0.32.2'"
    assert str(info.value) == expected


@pytest.mark.parametrize(
    ("declaration", "key", "came"),
    [
        ("['buffer']", "KVLOCKSTEP", "buffer"),
        ("{'levels': 'buffer'}", "levels", "knows contract, contracts"),
        ("{'level': 'bytes'}", "level", "expected one of state, buffer, got 'bytes'"),
        ("{'errors': 'all'}", "errors", "all"),
        ("{'transactional': 'no'}", "transactional", "expected True or False, got 'no'"),
        ("{'seeds': 1}", "seeds", "expected True or False, got 1"),
        ("{'contract': 32}", "contract", "expected a release, got 32"),
        ("{'contracts': ['other']}", "contracts", "got ['other']"),
        ("{'contracts': {}}", "contracts", "got {}"),
    ],
)
def test_bad_declaration_is_refused(declare, declaration, key, came):
    """A declaration that does not fit is told: the target, the key and what came."""
    spec = declare(declaration)

    for call in (lambda: contracts_of(spec), lambda: load_target(spec, RELEASE)):
        with pytest.raises(TargetError) as info:
            call()
        assert "declared" in str(info.value)
        assert "KVLOCKSTEP" in str(info.value)
        assert key in str(info.value)
        assert came in str(info.value)


def test_missing_module_is_named():
    """A module that is not there is named, with a hint."""
    with pytest.raises(TargetError) as info:
        load_target("py:no_such_module", RELEASE)

    assert str(info.value) == (
        "target module 'no_such_module' cannot be imported: ModuleNotFoundError: "
        "No module named 'no_such_module'. Is it installed in this environment?"
    )


def test_working_folder_is_searched(tmp_path, monkeypatch):
    """A module in the working folder is found, as with `python -m`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "port_in_the_working_folder.py").write_text("")

    assert load_target("py:port_in_the_working_folder", RELEASE).level == "state"


@pytest.mark.parametrize("release", kvreference.RELEASES)
def test_release_is_a_target(release):
    """A pinned release is a target that promises everything but transactions."""
    target = load_target(f"release:{release}", NEWEST)

    assert contracts_of(f"release:{release}") == (release,)
    assert target.module is kvreference.load(release).cache
    assert (target.level, target.errors, target.contract) == ("buffer", "type+message", release)
    assert not target.transactional


def test_unknown_release_is_named():
    """A release that is not pinned is named."""
    with pytest.raises(TargetError, match=r"target 'release:9\.9\.9': .*9\.9\.9"):
        load_target("release:9.9.9", RELEASE)


def test_working_copy_is_a_target():
    """A working copy of mlx-lm is a target for the newest release."""
    folder = kvreference.load(RELEASE).cache_file.parents[2]

    target = load_target(f"path:{folder}", RELEASE)

    assert contracts_of(f"path:{folder}") == (NEWEST,)
    assert target.module.KVCache.__name__ == "KVCache"
    assert target.module is not kvreference.load(RELEASE).cache
    assert (target.level, target.errors) == ("buffer", "type+message")


def test_working_copy_that_is_not_there_is_named(tmp_path):
    """A folder without mlx-lm is named."""
    with pytest.raises(TargetError) as info:
        load_target(f"path:{tmp_path}", RELEASE)

    assert str(tmp_path) in str(info.value)
