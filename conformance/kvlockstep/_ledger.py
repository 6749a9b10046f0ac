"""The ledger: the divergences that are meant, each with a witness. Strict both ways.

A divergence that no entry names is undeclared. An entry whose witness no longer shows exactly that
divergence is stale. Either fails the gate. Declared divergences are counted, not hidden.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomlkit
from msgspec import Meta, Struct

from kvlockstep._divergence import Divergence, Run, Signature
from kvlockstep._trace import Trace, TraceError, given, read, write

# What `when` may call besides the facts of a step.
_BUILTINS = {"all": all, "any": any, "len": len, "max": max, "min": min, "zip": zip}

Text = Annotated[str, Meta(min_length=1)]


class LedgerError(ValueError):
    """A ledger that cannot be read, or an entry that cannot be judged."""


class Entry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """One declared divergence.

    `when` narrows it: an expression over the step's facts (see `_facts.py`), without which a port
    that raised on good input would hide behind an entry meant for bad input. `times` is how often
    the witness shows it: once for each boundary of what is refused.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$(?!\n)")]
    releases: Annotated[tuple[str, ...], Meta(min_length=1)]
    cache: Text
    operation: Text
    field: Text
    reference: Text
    port: Text
    why: Text
    source: Text
    witness: Text
    when: str = ""
    times: Annotated[int, Meta(ge=1)] = 1

    @cached_property
    def condition(self) -> Any:
        """The compiled `when`; raises `LedgerError`."""
        try:
            return compile(self.when or "True", f"ledger entry {self.id!r}", "eval")
        except SyntaxError as error:
            raise LedgerError(f"ledger entry {self.id!r}: when: {error}") from error

    def names(self, signature: Signature) -> bool:
        """Tell whether a divergence of that signature is one of this entry's, `when` aside.

        A field "raises X, not *" stands for whatever error the reference raised.
        """
        contract, cache, operation, field = signature
        if (cache, operation) != (self.cache, self.operation) or contract not in self.releases:
            return False
        head, any_error, _ = self.field.partition(", not *")
        return field == self.field or (bool(any_error) and field.startswith(f"{head}, not "))

    def covers(self, divergence: Divergence) -> bool:
        """Tell whether this entry declares `divergence`; raises `LedgerError`."""
        if not self.names(divergence.signature):
            return False
        facts = divergence.facts
        try:
            return bool(eval(self.condition, {**facts, "__builtins__": _BUILTINS}))
        except Exception as error:
            raise LedgerError(
                f"ledger entry {self.id!r}: when = {self.when!r} cannot be judged: {error!r}; "
                f"the facts of a step are {', '.join(facts)}"
            ) from error


class _File(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int
    target: str
    divergence: tuple[Entry, ...] = ()


class Ledger:
    """A ledger file: its entries, and the traces that witness them."""

    def __init__(
        self, path: Path | None = None, entries: tuple[Entry, ...] = (), target: str = ""
    ) -> None:
        self.path = path
        self.entries = entries
        self.target = target
        self._known: dict[tuple[str, str, str], list[Entry]] = {}
        for entry in entries:
            self._known.setdefault(_place(entry), []).append(entry)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read the ledger in `path`; raises `LedgerError` with the offending field."""
        try:
            file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
        except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeError, OSError) as error:
            raise LedgerError(f"{path}: {error}") from error
        if file.version != 1:
            raise LedgerError(f"{path}: expected ledger version 1, got {file.version}")
        names = [entry.id for entry in file.divergence]
        if twice := {name for name in names if names.count(name) > 1}:
            raise LedgerError(f"{path}: the same id twice: {', '.join(sorted(twice))}")
        return cls(path, file.divergence, file.target)

    def declares(self, divergence: Divergence) -> str | None:
        """Return the id of the entry that declares `divergence`, or None."""
        known = self._known.get(_place(divergence.signature), ())
        return next((entry.id for entry in known if entry.covers(divergence)), None)

    def is_meant(self, divergence: Divergence) -> bool:
        """Tell whether an entry declares `divergence`."""
        return self.declares(divergence) is not None

    def witness(self, entry: Entry) -> Trace:
        """Return the trace that witnesses `entry`; raises `LedgerError`."""
        assert self.path is not None
        try:
            return read(self.path.parent / entry.witness)
        except (OSError, TraceError) as error:
            raise LedgerError(f"ledger entry {entry.id!r}: witness: {error}") from error


def _place(one: Entry | Signature) -> tuple[str, str, str]:
    """What entries are looked up by: an error of the reference does not count."""
    return one.cache, one.operation, one.field.partition(", not ")[0]


def judge_witness(entry: Entry, release: str, run: Run) -> str | None:
    """Return what is wrong with a witness that ran against `release`, or None."""
    meant = Signature(release, entry.cache, entry.operation, entry.field)
    shown = run.signatures()
    stale = f"ledger entry {entry.id!r} is stale for {release}: expected its witness to show"
    named = {signature for signature in shown if entry.names(signature)}
    if not named:
        came = ", ".join(sorted(map(str, shown))) or "no divergence"
        return f"{stale} {meant}, got {came}"
    if others := shown - named:
        return f"{stale} {meant} only, got also {', '.join(sorted(map(str, others)))}"
    if not all(entry.covers(divergence) for divergence in run.divergences):
        return f"{stale} {meant} when {entry.when}, got it when that does not hold"
    if len(run.divergences) != entry.times:
        return f"{stale} {meant} so often: {entry.times}, got {len(run.divergences)}"
    return None


def add_entry(path: Path, entry: Entry, witness: Trace, target: str) -> None:
    """Append `entry` to the ledger in `path`, making one for `target` if need be.

    Writes its witness too. Raises `LedgerError`, having written nothing, for an entry that the
    ledger could not be read back with.
    """
    try:
        msgspec.convert(msgspec.to_builtins(entry), Entry)
    except msgspec.ValidationError as error:
        raise LedgerError(f"the new entry: {error}") from error
    if path.exists():
        if entry.id in {known.id for known in Ledger.read(path).entries}:
            raise LedgerError(f"{path}: there is an entry {entry.id!r} already")
        document = tomlkit.parse(path.read_text(encoding="utf-8"))
    else:
        document = tomlkit.document()
        document.add("version", tomlkit.item(1))
        document.add("target", tomlkit.item(target))
    write(witness, path.parent / entry.witness)
    table = tomlkit.table()
    for name, value in given(entry).items():
        if value != "":
            table.add(name, list(value) if isinstance(value, tuple) else value)
    text = "\n[[divergence]]\n" + tomlkit.dumps(table)
    path.write_text(tomlkit.dumps(document).rstrip("\n") + "\n" + text, encoding="utf-8")


def name_for(signature: Signature, taken: Iterable[str]) -> str:
    """Return an id for an entry that declares `signature`, unlike those `taken`."""
    words = f"{signature.cache} {signature.operation} {signature.field}".lower()
    slug = "-".join("".join(c if c.isalnum() else " " for c in words).split())
    known = set(taken)
    name, number = slug, 2
    while name in known:
        name, number = f"{slug}-{number}", number + 1
    return name
