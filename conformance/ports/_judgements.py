"""What we make of each divergence that the gate finds in a port of others. Strict both ways."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

Verdict = Literal["fault", "deliberate", "fix"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# A verdict in words, as a heading.
MEANINGS: dict[Verdict, str] = {
    "fault": "The port's fault",
    "deliberate": "A deliberate change",
    "fix": "A fix of a bug of mlx-lm",
}

Text = Annotated[str, Meta(min_length=1)]


class JudgementError(ValueError):
    """Judgements that cannot be read, or that do not fit what the gate found."""


class Judgement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One cause, the signatures of the divergences that it makes, and what we make of it."""

    title: Text
    verdict: Verdict
    why: Text
    signatures: Annotated[tuple[Text, ...], Meta(min_length=1)]


class Judgements(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All judgements of a port. `about` says what it is, and what of it is not tested and why."""

    version: Literal[1]
    about: Text
    judgement: tuple[Judgement, ...] = ()

    def of(self, verdict: Verdict) -> list[Judgement]:
        """Return the judgements with this verdict, in their order."""
        return [one for one in self.judgement if one.verdict == verdict]


def read_judgements(path: Path) -> Judgements:
    """Read the judgements in `path`; raises `JudgementError` with the offending field."""
    try:
        read = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Judgements)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeError, OSError) as error:
        raise JudgementError(f"{path}: {error}") from error
    named = [signature for one in read.judgement for signature in one.signatures]
    if twice := sorted({signature for signature in named if named.count(signature) > 1}):
        raise JudgementError(f"{path}: judged twice: {', '.join(twice)}")
    return read


def check_judgements(judgements: Judgements, found: Collection[str], path: Path) -> None:
    """Raise `JudgementError` for a divergence that is not judged, or a judgement of none."""
    judged = {signature for one in judgements.judgement for signature in one.signatures}
    problems = []
    if open_ := [signature for signature in found if signature not in judged]:
        problems.append(f"{path}: not judged:\n" + "\n".join(f'  "{one}",' for one in open_))
    if stale := sorted(judged.difference(found)):
        problems.append(
            f"{path}: judged, and not found:\n" + "\n".join(f"  {one}" for one in stale)
        )
    if problems:
        raise JudgementError("\n".join(problems))
