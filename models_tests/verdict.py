"""Whether an architecture does what the lists say: the same bytes, or the error that is listed."""

from __future__ import annotations

from dataclasses import dataclass

from models_tests.architectures import CannotRun
from models_tests.run import compare


@dataclass(frozen=True)
class Verdict:
    """What came out, a few words on it, and what is wrong with it."""

    result: str
    about: str
    problems: list[str]


def judge(architecture: str, listed: CannotRun | None) -> Verdict:
    """Run the architecture; `listed` says why it cannot, or None that it can.

    It is wrong for one that is listed to run, or to fail otherwise, and for any other to fail.
    """
    try:
        comparison = compare(architecture)
    except (Exception, SystemExit) as error:
        spelled = f"{type(error).__name__}: {error}"
        if listed is None:
            return Verdict("fails", spelled, [f"not listed, and raises {spelled}"])
        if type(error).__name__ != listed.error or listed.says not in str(error):
            expected = f"{listed.error}: {listed.says}"
            return Verdict("fails", spelled, [f"listed with {expected}, and raises {spelled}"])
        return Verdict("cannot run", listed.reason, [])
    about = f"{comparison.classes}; {comparison.batches}"
    if listed is not None:
        return Verdict("runs", about, ["listed as one that cannot run, and runs"])
    if comparison.differences:
        return Verdict("differs", about, comparison.differences)
    return Verdict("same bytes", about, [])
