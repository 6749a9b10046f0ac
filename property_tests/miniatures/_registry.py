"""What a miniature is, and the list of them all."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, ModuleType

import kvreference
from kvlockstep._divergence import Signature
from kvlockstep._trace import AnyStep, Mode, Trace

FUNCTIONS = "functions"


@dataclass(frozen=True, eq=False)
class Miniature:
    """A port of `release` that is right but for `fault`, in the class `cache`.

    `by_hand` is the shortest trace that shows the fault, found by hand. It shows in the operation
    `shows` on the class `seen_in` (if not on `cache` itself), in the signature's field `field`
    (empty: in any). The gate catches it in the evaluation mode `mode`, if not in both, in traces
    of the class `searched` (if not of `cache`).
    """

    fault: type
    release: str
    cache: str
    by_hand: Trace
    shows: str = "update"
    mode: Mode = "value"
    field: str = ""
    seen_in: str = ""
    searched: str = ""

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

    @property
    def signature(self) -> Signature:
        """The divergence that the gate is to find."""
        seen_in = self.seen_in or self.cache
        return Signature(self.release, seen_in, self.shows, self.field)

    def is_shown_by(self, signature: Signature) -> bool:
        """Tell whether a divergence is the one that the gate is to find."""
        return not self.field or signature == self.signature

    def build(self) -> ModuleType:
        """Return an importable module: the release run anew, the broken class in its place.

        So the release's own code in it meets the broken class, as the code of a port would.
        """
        release = kvreference.load(self.release).cache
        module = ModuleType(self.target.removeprefix("py:"), self.fault.__doc__)
        module.__package__ = release.__package__
        exec(_code_of(self.release), vars(module))
        if self.cache == FUNCTIONS:
            for name, function in vars(self.fault).items():
                if hasattr(release, name) and name[:2] != "__":
                    setattr(module, name, partial(function.__func__, getattr(module, name)))
        else:
            bases = (self.fault, getattr(module, self.cache))
            broken = type(self.cache, bases, {"__module__": module.__name__})
            setattr(module, self.cache, broken)
        module.KVLOCKSTEP = {
            "contract": self.release,
            "level": "buffer",
            "errors": "type+message",
        }
        sys.modules[module.__name__] = module
        return module


@lru_cache
def _code_of(release: str) -> CodeType:
    file = kvreference.load(release).cache_file
    return compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)


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
