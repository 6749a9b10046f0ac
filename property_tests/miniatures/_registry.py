"""What a miniature is, and the list of them all."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import kvreference
from kvlockstep._trace import AnyStep, Mode, Trace

FUNCTIONS = "functions"


@dataclass(frozen=True, eq=False)
class Miniature:
    """A port of `release` that is right but for `fault`, in the class `cache`.

    `by_hand` is the shortest trace that shows the fault, found by hand, and `shows` the operation
    in which it shows. The gate catches it in the evaluation mode `mode`, if not in both.
    """

    fault: type
    release: str
    cache: str
    by_hand: Trace
    shows: str = "update"
    mode: Mode = "value"

    @property
    def name(self) -> str:
        """The fault in words, with hyphens."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", self.fault.__name__).lower()

    @property
    def steps(self) -> int:
        """The length of the shortest trace, its construction included."""
        return len(self.by_hand.steps)

    @property
    def target(self) -> str:
        """The target string of the module that `build` makes."""
        return f"py:_miniature_{self.name.replace('-', '_')}"

    def build(self) -> ModuleType:
        """Return an importable module: the release's names, and the broken class among them."""
        release = kvreference.load(self.release).cache
        module = ModuleType(self.target.removeprefix("py:"), self.fault.__doc__)
        names = {name: value for name, value in vars(release).items() if name[:2] != "__"}
        vars(module).update(names)
        if self.cache == FUNCTIONS:
            for name, function in vars(self.fault).items():
                if name in names:
                    setattr(module, name, partial(function.__func__, getattr(release, name)))
        else:
            bases = (self.fault, getattr(release, self.cache))
            broken = type(self.cache, bases, {"__module__": module.__name__})
            setattr(module, self.cache, broken)
        module.KVLOCKSTEP = {
            "contract": self.release,
            "level": "buffer",
            "errors": "type+message",
        }
        sys.modules[module.__name__] = module
        return module


MINIATURES: list[Miniature] = []


def broken(
    release: str, cache: str, by_hand: tuple[AnyStep, ...], **options: str
) -> Callable[[type], type]:
    """Enter the decorated class into the list: the fault in `cache` of `release`."""

    def enter(fault: type) -> type:
        MINIATURES.append(Miniature(fault, release, cache, Trace(steps=by_hand), **options))
        return fault

    return enter


def rows_of(array: object) -> int:
    """Return how many rows a buffer has on its sequence axis; none where there is no such axis."""
    return 0 if array is None or array.ndim < 3 else array.shape[2]
