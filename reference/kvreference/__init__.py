"""Pinned releases of mlx-lm: installed with hashes, loaded side by side, never copied.

    kvreference.sync()
    kvreference.load("0.32.2").cache.KVCache
    kvreference.load("path:../mlx-lm").cache.KVCache

`sync` is ``python -m kvreference sync`` too; every failure is a `ReferenceError`.
"""

from kvreference._errors import ReferenceError  # noqa: A004
from kvreference._home import home
from kvreference._install import sync
from kvreference._load import Reference, load
from kvreference._pins import list_gate, list_releases

PINNED: tuple[str, ...] = list_releases()
"""The pinned releases, the oldest first."""

RELEASES: tuple[str, ...] = list_gate()
"""Those of them that ports are held to, and that `sync` installs where none is named."""

__all__ = ["PINNED", "RELEASES", "Reference", "ReferenceError", "home", "load", "sync"]
