"""The options of a run, once for both front ends: the command line and the pytest plugin.

Each has an environment variable, `KVLOCKSTEP_` and its name; several values are separated by
commas there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from kvlockstep._contract import Level
from kvlockstep._settings import DEFAULT_TARGET, PROFILES, Device, Settings


@dataclass(frozen=True)
class Option:
    """One option: `--name` on the command line, `KVLOCKSTEP_NAME` in the environment."""

    name: str
    help: str
    kind: type = str
    choices: tuple[str, ...] = ()
    repeatable: bool = False

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return f"KVLOCKSTEP_{self.name.upper()}"

    @property
    def field(self) -> str:
        """The field of `Settings` that it fills."""
        return f"{self.name}s" if self.repeatable else self.name


OPTIONS = (
    Option(
        "target",
        f"what to test: py:MODULE, release:X, path:DIR or map:FILE (default {DEFAULT_TARGET})",
    ),
    Option("release", "the release to compare with, path:DIR, or all", repeatable=True),
    Option("cache", "a cache class, or functions for the mask functions", repeatable=True),
    Option("level", "how much is compared (default: what the target offers)", str, get_args(Level)),
    Option("profile", "how long to search (default ci)", str, tuple(PROFILES)),
    Option("steps", "steps for each release, cache and mode, instead of the profile's", int),
    Option("seed", "seed of the generated traces (default 0)", int),
    Option("ledger", "the ledger of declared divergences (default: ours, for our port)", Path),
    Option("traces", "the folder of the corpus that runs first (default: ours)", Path),
    Option("device", "MLX device (default cpu)", str, get_args(Device)),
    Option("report", "where to write traces of divergences (default kvlockstep-report)", Path),
)


class OptionError(ValueError):
    """An option that does not fit."""


def settings_from(given: Mapping[str, Any]) -> Settings:
    """Return the settings from options by name; what is not given comes from the environment.

    Raises `OptionError`.
    """
    fields: dict[str, Any] = {}
    for option in OPTIONS:
        value: Any = given.get(option.name)
        if value is None or value == ():
            value = _from_environment(option)
        if value is None or value == ():
            continue
        _check(option, value)
        if option.kind is Path:
            value = Path(value)
        fields[option.field] = tuple(value) if option.repeatable else value
    if fields.get("steps", 1) < 1:
        raise OptionError(f"steps: expected 1 or more, got {fields['steps']}")
    return Settings(**fields)


def _check(option: Option, value: Any) -> None:
    if option.choices and value not in option.choices:
        raise OptionError(
            f"{option.name}: expected one of {', '.join(option.choices)}, got {value!r}"
        )
    if option.kind is int and type(value) is not int:
        raise OptionError(f"{option.name}: expected a whole number, got {value!r}")


def _from_environment(option: Option) -> Any:
    text = os.environ.get(option.variable)
    if not text:
        return None
    if option.repeatable:
        return tuple(part.strip() for part in text.split(","))
    if option.choices and text not in option.choices:
        raise OptionError(
            f"{option.variable}: expected one of {', '.join(option.choices)}, got {text!r}"
        )
    try:
        return option.kind(text)
    except ValueError as error:
        raise OptionError(
            f"{option.variable}: expected {option.kind.__name__}, got {text!r}"
        ) from error
