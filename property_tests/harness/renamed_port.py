"""A port that calls everything by other names than mlx-lm, for the tests of port maps.

Its caches hold the release's own, so that all they do is right but for the names.
"""

from __future__ import annotations

from pathlib import Path

PORT = '''
import kvreference

release = kvreference.load("0.32.2").cache


class _Grown(release.KVCache):
    pass


class Store:
    """KVCache."""

    block = 256
    made = _Grown

    def __init__(self, owner="nobody"):
        assert owner == "test"
        self.inner = self.made()

    def push(self, keys, values):
        _Grown.step = self.block
        return self.inner.update_and_fetch(keys, values)

    def drop_last(self, count):
        return self.inner.trim(count)

    def trim(self):
        raise AssertionError("something else of the same name")

    def can_drop(self):
        return self.inner.is_trimmable()

    def rows(self):
        return self.inner.keys_and_values()

    def __len__(self):
        return self.inner.offset

    @property
    def seen(self):
        return self.inner.offset

    @property
    def saved(self):
        return self.inner.state

    @saved.setter
    def saved(self, value):
        self.inner.state = value

    @classmethod
    def restored(cls, state):
        new = cls("test")
        new.saved = state
        return new

    @staticmethod
    def batched(stores):
        assert all(type(one) is Store for one in stores)
        new = Batch(())
        new.inner = release.KVCache.merge([one.inner for one in stores])
        return new


class Window:
    """RotatingKVCache."""

    def __init__(self, size, sinks=0):
        self.inner = release.RotatingKVCache(size, sinks)
        self.window = size

    def push(self, keys, values):
        return self.inner.update_and_fetch(keys, values)

    @property
    def seen(self):
        return self.inner.offset


class Batch:
    """BatchKVCache."""

    def __init__(self, pads):
        self.inner = release.BatchKVCache(pads)

    def push(self, keys, values):
        return self.inner.update_and_fetch(keys, values)

    def join(self, others):
        assert type(others) is Batch
        return self.inner.extend(others.inner)

    def row(self, idx):
        new = Store("test")
        new.inner = self.inner.extract(idx)
        return new

    @property
    def seen(self):
        return self.inner.offset


def mask_of(N, start=0, window=None, right=None, left=None):
    return release.create_causal_mask(N, start, window, right, left)


def caches_for(model, limit=None):
    made = [Store("test") for _ in model.layers]
    return made if limit is None else [Window(limit, 4) for _ in model.layers]
'''

MAP = """
version = 1
module = "renamed_port"
folder = "."
contract = "0.32.2"
errors = "type+message"

[classes.KVCache]
name = "Store"
always = { owner = "test" }
attributes = { offset = "seen", state = "saved", step = "block" }

[classes.KVCache.methods]
update_and_fetch = "push"
keys_and_values = "rows"
is_trimmable = "can_drop"
from_state = "restored"
merge = { name = "batched", arguments = { caches = "stores" } }
trim = { name = "drop_last", arguments = { n = "count" } }

[classes.RotatingKVCache]
name = "Window"
arguments = { max_size = "size", keep = "sinks" }
methods = { update_and_fetch = "push" }
attributes = { offset = "seen", max_size = "window" }

[classes.BatchKVCache]
name = "Batch"
arguments = { left_padding = "pads" }
attributes = { offset = "seen" }

[classes.BatchKVCache.methods]
update_and_fetch = "push"
extract = "row"
extend = { name = "join", arguments = { other = "others" } }

[functions]
make_prompt_cache = { name = "caches_for", arguments = { max_kv_size = "limit" } }

[functions.create_causal_mask]
name = "mask_of"

[functions.create_causal_mask.arguments]
offset = "start"
window_size = "window"
right_padding = "right"
left_padding = "left"
"""


def write_renamed(folder: Path, name: str, *changes: tuple[str, str], port: str = PORT) -> Path:
    """Write the port as the module `name` and its map, with `changes` to the map; returns that."""
    text = MAP.replace("renamed_port", name)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    (folder / f"{name}.py").write_text(port, encoding="utf-8")
    file = folder / "port.toml"
    file.write_text(text, encoding="utf-8")
    return file
