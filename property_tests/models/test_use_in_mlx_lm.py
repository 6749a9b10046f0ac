"""`use_in_mlx_lm` replaces every binding of mlx-lm's caches, and puts every one of them back."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

import mlxkv
from mlxkv import mlx_lm_0_32, use_in_mlx_lm

caches = importlib.import_module("mlx_lm.models.cache")
for _loaded in ("mlx_lm.generate", "mlx_lm.server", "mlx_lm.models.gemma3_text"):
    importlib.import_module(_loaded)


def bindings() -> dict[tuple[str, str], Any]:
    """Every name in every loaded module of mlx-lm, with its object."""
    return {
        (key, name): value
        for key, module in sys.modules.items()
        if key.partition(".")[0] == "mlx_lm"
        for name, value in vars(module).items()
    }


def same(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    return one.keys() == other.keys() and all(one[key] is other[key] for key in one)


ORIGINALS = {
    name: value
    for name, value in vars(caches).items()
    if getattr(value, "__module__", None) == caches.__name__
}


@pytest.fixture(autouse=True)
def _nothing_stays() -> Any:
    """Every test leaves mlx-lm as it was."""
    yield
    assert all(getattr(caches, name) is value for name, value in ORIGINALS.items())


def test_every_class_is_replaced() -> None:
    """While it is on, no module of mlx-lm holds one of mlx-lm's own classes."""
    with use_in_mlx_lm():
        own = [key for key, value in bindings().items() if value in ORIGINALS.values()]
        kept = {name for _, name in own}
    assert kept <= {"save_prompt_cache", "load_prompt_cache", "dynamic_roll"}
    assert not {name for name in kept if isinstance(ORIGINALS[name], type)}


def test_the_names_are_the_ports() -> None:
    """The cache module, the generator, the server and a model see the port's classes."""
    with use_in_mlx_lm():
        assert caches.KVCache is mlx_lm_0_32.KVCache
        assert sys.modules["mlx_lm.generate"].QuantizedKVCache is mlx_lm_0_32.QuantizedKVCache
        assert sys.modules["mlx_lm.server"].LRUPromptCache is mlx_lm_0_32.LRUPromptCache
        gemma = sys.modules["mlx_lm.models.gemma3_text"]
        assert gemma.RotatingKVCache is mlx_lm_0_32.RotatingKVCache


def test_each_object_has_its_own() -> None:
    """No two objects of mlx-lm become the same one, or they could not be told apart again."""
    with use_in_mlx_lm() as use:
        assert len({id(port) for _, port in use._pairs}) == len(use._pairs)


def test_a_call_lasts_until_undo() -> None:
    """A plain call patches at once; `undo` restores every binding, and twice is as once."""
    before = bindings()
    use = use_in_mlx_lm()
    assert not same(before, bindings())
    use.undo()
    assert same(before, bindings())
    use.undo()
    assert same(before, bindings())


def test_with_restores_every_binding() -> None:
    """After the block every attribute of every module of mlx-lm is the object that it was."""
    before = bindings()
    with use_in_mlx_lm():
        pass
    assert same(before, bindings())


def test_an_exception_restores_every_binding() -> None:
    """An exception leaves the block, and mlx-lm as it was."""
    before = bindings()
    with pytest.raises(ZeroDivisionError), use_in_mlx_lm():
        raise ZeroDivisionError
    assert same(before, bindings())


def test_uses_nest() -> None:
    """The end of an inner use changes nothing; the last one that ends restores, in any order."""
    before = bindings()
    outer = use_in_mlx_lm()
    during = bindings()
    with use_in_mlx_lm():
        assert same(during, bindings())
    assert same(during, bindings())
    inner = use_in_mlx_lm()
    outer.undo()
    assert same(during, bindings())
    inner.undo()
    assert same(before, bindings())


def test_later_modules_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is imported meanwhile gets the port's classes, and mlx-lm's afterwards."""
    monkeypatch.delitem(sys.modules, "mlx_lm.models.olmo3", raising=False)
    with use_in_mlx_lm():
        olmo = importlib.import_module("mlx_lm.models.olmo3")
        assert olmo.KVCache is mlx_lm_0_32.KVCache
    assert olmo.KVCache is ORIGINALS["KVCache"]
    assert olmo.RotatingKVCache is ORIGINALS["RotatingKVCache"]


def test_other_releases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that the port does not follow raises, and nothing is patched."""
    monkeypatch.setattr("mlx_lm.__version__", "0.99.0")
    before = bindings()
    with pytest.raises(mlxkv.UnknownReleaseError, match=r"got 0\.99\.0"):
        use_in_mlx_lm()
    assert same(before, bindings())


def test_a_class_that_the_port_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than mixing mlx-lm's classes with the port's, it raises and patches nothing."""
    new = type("NewKVCache", (), {"__module__": caches.__name__})
    monkeypatch.setattr(caches, "NewKVCache", new, raising=False)
    before = bindings()
    with pytest.raises(mlxkv.MissingClassError, match="a class NewKVCache in the port"):
        use_in_mlx_lm()
    assert same(before, bindings())


def test_without_mlx_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mlx-lm is not installed, the error is the one of importing it."""
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    with pytest.raises(ModuleNotFoundError, match="mlx_lm"):
        use_in_mlx_lm()


def test_an_interrupt_after_it_was_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays patched that nobody could undo."""

    class Interrupted(list[Any]):
        def append(self, _: Any) -> None:
            raise KeyboardInterrupt

    before = bindings()
    monkeypatch.setattr("mlxkv._in_mlx_lm._uses", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        use_in_mlx_lm()
    assert same(bindings(), before)


def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while the names are set puts those back that were set before it."""

    class Names(dict[str, Any]):
        def __setitem__(self, name: str, value: Any) -> None:
            if value is not ORIGINALS["KVCache"]:
                raise KeyboardInterrupt
            super().__setitem__(name, value)

    class Stubborn:
        pass

    stubborn = Stubborn()
    stubborn.__dict__ = Names(KVCache=ORIGINALS["KVCache"])
    monkeypatch.setitem(sys.modules, "mlx_lm.stubborn", stubborn)
    before = bindings()
    with pytest.raises(KeyboardInterrupt):
        use_in_mlx_lm()
    assert same(before, bindings())
    monkeypatch.delitem(sys.modules, "mlx_lm.stubborn")
    with use_in_mlx_lm():
        assert caches.KVCache is mlx_lm_0_32.KVCache
