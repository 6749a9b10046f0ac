"""The page of a port: what was run, and every divergence with our judgement and its trace."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from conformance.ports._judgements import MEANINGS, VERDICTS, Judgement, Judgements
from conformance.ports._look import Look, trace_of
from conformance.ports._ports import Port

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._port_map import PortMap, read_map
from kvlockstep._settings import Settings


def render(port: Port, look: Look, judgements: Judgements) -> str:
    """Return the page as Markdown."""
    return "\n".join([*_head(port, look, judgements), *_body(port, look, judgements)]) + "\n"


def _head(port: Port, look: Look, judgements: Judgements) -> Iterator[str]:
    described = read_map(port.map)
    yield f"# {port.name} {port.version} against mlx-lm {look.release}"
    yield ""
    yield "Written by `make ports`; the judgements come from"
    yield f"[judgements.toml]({port.name}/judgements.toml), the rest from the run."
    yield ""
    yield judgements.about.strip()
    yield ""
    yield f"- wheel: `{port.name}=={port.version}`, sha256 `{port.sha256}`"
    yield f"- modules: {_modules(described)}, by [port.toml]({port.name}/port.toml)"
    yield f"- level {described.level}, errors {described.errors}"
    yield (
        f"- {look.steps_each:,} generated steps for each class in each evaluation mode, seed "
        f"{Settings().seed}; before them our corpus and the traces below"
    )
    yield f"- MLX {version('mlx')} on CPU"
    yield ""
    if look.findings:
        yield "| verdict | causes | signatures |"
        yield "|---|---:|---:|"
        for verdict in VERDICTS:
            judged = judgements.of(verdict)
            signatures = sum(len(one.signatures) for one in judged)
            yield f"| {MEANINGS[verdict].lower()} | {len(judged)} | {signatures} |"
    else:
        yield "**No divergence.**"
    yield ""
    yield "| class | steps | signatures |"
    yield "|---|---:|---:|"
    for cache in look.steps:
        own = [name for name in look.findings if name.split("/")[1] == cache]
        yield f"| `{cache}` | {look.steps[cache]:,} | {len(own)} |"
    yield ""
    absent = [cache for cache in CACHES if cache not in look.steps]
    yield f"Classes that it does not have: {_code(absent)}."
    known = {name.removeprefix(f"{FUNCTIONS}.").removesuffix("()") for name in look.lacking}
    parts = sorted(name for name in known if name not in absent)
    if parts:
        yield ""
        yield f"What else of mlx-lm it does not have, and was not tested: {_code(parts)}."


def _body(port: Port, look: Look, judgements: Judgements) -> Iterator[str]:
    for verdict in VERDICTS:
        judged = judgements.of(verdict)
        if judged:
            yield ""
            yield f"## {MEANINGS[verdict]}"
        for judgement in judged:
            yield from _tell(port, look, judgement)


def _tell(port: Port, look: Look, judgement: Judgement) -> Iterator[str]:
    yield ""
    yield f"### {judgement.title}"
    yield ""
    yield judgement.why.strip()
    for signature in judgement.signatures:
        finding = look.findings[signature]
        yield ""
        if finding.trace is None:
            yield f"`{signature}`"
        else:
            path = trace_of(port, signature).relative_to(port.folder.parent).as_posix()
            yield f"[`{signature}`]({path})"
        yield ""
        yield "```"
        yield finding.text
        yield "```"


def _modules(described: PortMap) -> str:
    names = {described.module}
    parts = [*described.classes.values(), *described.functions.values()]
    names |= {one.module for one in parts if not isinstance(one, str) and one.module}
    return _code(sorted(names))


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
