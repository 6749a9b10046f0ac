"""What a run is asked to do: its options, and the profiles behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvlockstep._contract import Level
from kvlockstep._search import Engine

ProfileName = Literal["smoke", "ci", "deep"]
Device = Literal["cpu", "gpu"]

DEFAULT_TARGET = "py:mlxkv"


@dataclass(frozen=True)
class Profile:
    """How long to search: steps for each release, cache and mode, and who draws them."""

    steps: int
    engine: Engine


PROFILES: dict[ProfileName, Profile] = {
    "smoke": Profile(500, "hypothesis"),
    "ci": Profile(30_000, "hypothesis"),
    "deep": Profile(1_000_000, "seeded"),
}


@dataclass(frozen=True)
class Settings:
    """The options of a run. Empty `releases` and `caches` mean all there are."""

    target: str = DEFAULT_TARGET
    releases: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    level: Level | None = None
    profile: ProfileName = "ci"
    steps: int | None = None
    seed: int = 0
    ledger: Path | None = None
    traces: Path | None = None
    device: Device = "cpu"
    report: Path = Path("kvlockstep-report")

    @property
    def steps_each(self) -> int:
        """The steps for each release, cache and mode."""
        return PROFILES[self.profile].steps if self.steps is None else self.steps

    @property
    def engine(self) -> Engine:
        """Who draws the traces."""
        return PROFILES[self.profile].engine
