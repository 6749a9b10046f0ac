"""`--device`: the MLX device."""

from __future__ import annotations

import mlx.core as mx
import pytest

HAS_GPU = mx.is_available(mx.gpu)


@pytest.fixture(autouse=True)
def _same_device_afterwards():
    """Put MLX back on the device that it was on."""
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def test_header_shows_the_device(run_pytest):
    """The header names the device, the CPU by default."""
    assert run_pytest("surface").header.endswith("device cpu")


def test_caches_run_on_it(run_pytest, make_port):
    """MLX's default device is the one that was asked for when the target's code runs."""
    body = """
class KVCache(release.KVCache):
    def update_and_fetch(self, keys, values):
        import mlx.core as mx
        assert mx.default_device() == mx.Device(mx.cpu)
        return super().update_and_fetch(keys, values)
"""
    ran = run_pytest("smoke", f"--target={make_port(body)}", "--device=cpu")

    assert ran.status == 0
    assert mx.default_device() == mx.Device(mx.cpu)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_gpu_that_is_not_there_cannot_run(run_pytest):
    """Without a GPU, `gpu` says what is expected and what came; exit status 2."""
    ran = run_pytest("surface", "--device=gpu")

    assert ran.status == 2
    assert "device gpu: expected Metal or CUDA, got an MLX without either" in ran.out


@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")
def test_gpu_runs(run_pytest):
    """With a GPU, the caches run on it."""
    ran = run_pytest("smoke", "--device=gpu")

    assert ran.status == 0
    assert mx.default_device() == mx.Device(mx.gpu)


def test_unknown_one_is_refused(run_pytest):
    """Another device is a usage error that lists those there are."""
    ran = run_pytest("surface", "--device=tpu")

    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "--device: invalid choice: 'tpu' (choose from " in ran.out


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_DEVICE does the same, and is checked likewise."""
    monkeypatch.setenv("KVLOCKSTEP_DEVICE", "gpu")
    assert run_pytest("surface").header.endswith("device gpu")

    monkeypatch.setenv("KVLOCKSTEP_DEVICE", "tpu")
    ran = run_pytest("surface")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "KVLOCKSTEP_DEVICE: expected one of cpu, gpu, got 'tpu'" in ran.out
