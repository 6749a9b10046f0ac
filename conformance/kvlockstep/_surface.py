"""The surface check: does the target have what the release has, under the same names?"""

from __future__ import annotations

from kvlockstep._contract import Contract, signatures
from kvlockstep._targets import Target


def compare_surfaces(
    contract: Contract, target: Target, release: str
) -> tuple[set[str], list[str]]:
    """Return what the target lacks, and what it calls differently.

    A target may have more, and its functions may take more, as long as they can be called as the
    release's can: the release's parameters, in their places, with their names and defaults.
    """
    ours, theirs = signatures(contract.module), signatures(target.module)
    lacking = {name for name in ours if name not in theirs and not _owner_lacks(name, theirs)}
    problems = [
        f"surface {release}: {name}: expected parameters {expected}, got {theirs[name]}"
        for name, expected in ours.items()
        if name in theirs and not _callable_as(expected, theirs[name])
    ]
    return lacking, problems


def _owner_lacks(name: str, theirs: dict[str, str | None]) -> bool:
    owner, dot, _ = name.partition(".")
    return bool(dot) and owner not in theirs


def _callable_as(expected: str | None, actual: str | None) -> bool:
    if expected is None or actual is None:
        return expected == actual
    mine, other = _parameters(expected), _parameters(actual)
    if "*args" in mine or "*args" in other:
        return True
    extra = other[len(mine) :]
    return other[: len(mine)] == mine and all("=" in name or "*" in name for name in extra)


def _parameters(signature: str) -> list[str]:
    inside = signature.strip()[1:-1]
    return [part.strip() for part in inside.split(",") if part.strip()]
