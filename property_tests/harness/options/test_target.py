"""`--target`: what is under test."""

from __future__ import annotations

import subprocess
import sys

import pytest
from property_tests.harness.ports import CANNOT_BE_MADE, OFFSET_TOO_HIGH


def test_header_shows_the_target(run_pytest):
    """The header names the target and the contract that it follows."""
    ran = run_pytest("surface", "--target=release:0.31.3")

    assert "target release:0.31.3, contract 0.31.3," in ran.header
    assert ran.outcomes == {"test_surface.py::test_surface[0.31.3]": "passed"}
    assert ran.status == 0


def test_default_is_our_port(run_pytest):
    """Without the option the target is our port, on all its contracts."""
    ran = run_pytest("smoke")

    assert "target py:mlxkv, contract 0.31.3, 0.32.2," in ran.header
    assert ran.tests == ["test_smoke.py::test_smoke[0.31.3]", "test_smoke.py::test_smoke[0.32.2]"]


def test_broken_port_fails(run_pytest, make_port):
    """A port with a fault fails the gate with the shortest trace, in plain words."""
    target = make_port(OFFSET_TOO_HIGH)

    ran = run_pytest("lockstep", f"--target={target}", "--cache=KVCache", "--steps=60")

    assert ran.status == pytest.ExitCode.TESTS_FAILED
    assert set(ran.outcomes.values()) == {"failed"}
    assert (
        "0.32.2/KVCache/update/offset\n  1. a = KVCache()\n  2. a: update with 1 token, " in ran.out
    )
    assert f"{target} does not conform" in ran.out


def test_missing_module_cannot_run(run_pytest):
    """A module that is not there is named, with exit status 2, and nothing runs."""
    ran = run_pytest("surface smoke", "--target=py:no_such_module")

    assert ran.status == 2
    assert "could not run: target module 'no_such_module' cannot be imported" in ran.out
    assert ran.tests == []


def test_module_that_fails_on_import_cannot_run(run_pytest, make_port):
    """A module that raises when imported is no cache's fault: its error is shown."""
    target = make_port("raise RuntimeError('no accelerator here')")

    ran = run_pytest("surface", f"--target={target}")

    assert ran.status == 2
    assert "cannot be imported: RuntimeError: no accelerator here" in ran.out


def test_module_that_exits_on_import_cannot_run(run_pytest, make_port):
    """Nor is one that would end the process, with whatever status."""
    target = make_port("raise SystemExit(0)")

    ran = run_pytest("surface", f"--target={target}")

    assert ran.status == 2
    assert "cannot be imported: SystemExit: 0" in ran.out


def test_contract_that_is_not_pinned_cannot_run(run_pytest, make_port):
    """A module that follows a release which is not pinned is told so, with exit status 2."""
    ran = run_pytest("smoke", f"--target={make_port(contract='9.9.9')}")

    assert ran.status == 2
    assert "9.9.9" in ran.out
    assert "0.31.3, 0.32.0, 0.32.1, 0.32.2" in ran.out


@pytest.mark.parametrize("spec", ["mlxkv", "rs:mlxkv", "py:", ":mlxkv"])
def test_bad_spec_cannot_run(run_pytest, spec):
    """What is no target string is quoted, beside what is expected."""
    ran = run_pytest("surface", f"--target={spec}")

    assert ran.status == 2
    assert f"target {spec!r}: expected py:MODULE, release:VERSION, path:DIR or map:FILE" in ran.out


def test_unknown_release_as_target_cannot_run(run_pytest):
    """A release that is not pinned is named, beside those that are."""
    ran = run_pytest("surface", "--target=release:9.9.9")

    assert ran.status == 2
    assert "9.9.9" in ran.out
    assert "0.31.3, 0.32.0, 0.32.1, 0.32.2" in ran.out


def test_class_that_cannot_be_made_is_the_adapters_fault(run_pytest, make_port):
    """A class that cannot be constructed ends the run with 2 and blames the adapter."""
    target = make_port(CANNOT_BE_MADE)

    ran = run_pytest("smoke", f"--target={target}")

    assert ran.status == 2
    assert f"smoke: {target} KVCache: KVCache(): expected no error, got TypeError" in ran.out
    assert "The adapter, not the cache, is wrong." in ran.out


def test_module_without_a_cache_class_is_the_adapters_fault(run_pytest):
    """A module that has none of the classes is a wrong target string, not a port."""
    ran = run_pytest("smoke", "--target=py:json")

    assert ran.status == 2
    assert "'py:json' has no cache class: expected one or more of KVCache" in ran.out


def test_class_that_is_lacking_is_reported(run_pytest, make_port):
    """A port may lack classes: they are reported as not tested, and the gate passes."""
    target = make_port(lacks=("ChunkedKVCache", "RotatingKVCache"))
    options = ("--cache=ChunkedKVCache", "--cache=ConcatenateKVCache", "--steps=20")

    ran = run_pytest("surface smoke lockstep", f"--target={target}", *options)

    assert ran.status == 0
    assert set(ran.outcomes.values()) == {"passed"}
    assert {"ChunkedKVCache", "RotatingKVCache"} <= ran.lacking


def test_class_that_another_turns_into_may_be_lacking(run_pytest, make_port):
    """A port of KVCache alone passes: what `to_quantized` would return is lacking."""
    target = make_port(lacks=("QuantizedKVCache",))

    ran = run_pytest("surface lockstep", f"--target={target}", "--cache=KVCache", "--steps=300")

    assert ran.status == 0
    assert "QuantizedKVCache" in ran.lacking


def test_mask_functions_may_be_lacking(make_port):
    """A port without the mask functions ends its run, and they are reported as lacking."""
    target = make_port(lacks=("create_causal_mask", "create_attention_mask"))
    command = [sys.executable, "-m", "kvlockstep", "run", "--cache=functions", "--steps=20"]

    done = subprocess.run(
        [*command, f"--target={target}", "--workers=1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0
    assert "create_causal_mask" in done.stdout.partition("lacking (not tested): ")[2]


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_TARGET does the same."""
    monkeypatch.setenv("KVLOCKSTEP_TARGET", "release:0.31.3")

    assert "target release:0.31.3, contract 0.31.3," in run_pytest("surface").header


def test_tests_of_the_seeds_run_on_the_target(run_pytest):
    """The seeds' scenarios get the target's own module, and are skipped where it has no extras."""
    ours = run_pytest("seed_chunked_safety", "-k", "cannot_grow_the_values")
    theirs = run_pytest("seed_chunked_safety", "-k", "cannot_grow_the_values", "--target=py:json")

    assert list(ours.outcomes.values()) == ["passed"]
    assert list(theirs.outcomes.values()) == ["skipped"]
