"""What mlx-lm's own load functions do with the hostile files: writes conformance/hostile-files.md.

`python -m property_tests.files.release_matrix`, some five minutes. Files that hang a release are
given ten seconds, and every process an address space of 4 GiB beyond what MLX takes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from property_tests.files import contained
from property_tests.files.hostile import corpus, write
from property_tests.files.hostile_pack import Case

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "conformance" / "hostile-files.md"
RELEASES = ("0.31.3", "0.32.2")
_SHAPES = [
    "a scalar",
    "a rank more",
    "flat",
    "none",
    "a row more",
    "no rows",
    "another batch",
    "longer",
]
_NUMBERS = ["of floats", "one more", "negative", "huge", "unsigned"]
_SPELLINGS = ["boolean", "padded", "spaced", "signed", "Arabic"]

HEAD = """# Hostile prompt-cache files

{files} files that no release could have saved, made by `property_tests/files/hostile.py`, and what
`load_prompt_cache` does with each: of the port (either contract; `read_prompt_cache` and
`inspect_prompt_cache` agree with it), of mlx-lm 0.31.3 and of 0.32.2. The port refuses all of them
with a `PromptCacheError` that names file, layer and field. A release that "accepts" returns caches,
as many as it finds, and says nothing; that their arrays can be read was tried as well. An error of
a release is any exception: each of the two refuses most files of other generations in any case. An
odd spelling, such as " 3" for 3, is read as the number by 0.31.3. {legal} more files of the corpus
are legal after all, with the reasons in `property_tests/files/hostile_legal.py`.

Written by `python -m property_tests.files.release_matrix` ({seconds:.0f} seconds without an answer
count as a hang).

| What is wrong | Files | Port refuses | {releases} |
| :-- | --: | --: | :-- | :-- |
"""


def kind_of(case: Case) -> str:
    """The row of the table that the case is counted in."""
    what, _, how = case.kind.partition(": ")
    if what == "a tensor" and how in _SHAPES:
        return "a tensor: of another shape"
    if what == "a tensor" and how in _NUMBERS:
        return "a batch's numbers: others"
    if what == "a field" and how in _SPELLINGS:
        return "a field: spelled otherwise"
    return case.kind


def main() -> None:
    """Run the releases and write the page."""
    cases = corpus()
    hostile = [case for case in cases if not case.legal]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{i}.safetensors" for i in range(len(hostile))]
        for case, path in zip(hostile, paths, strict=True):
            write(case, path)
        found = {one: contained.run(one, paths, folder) for one in ("port", *RELEASES)}
    refused = {
        i for i in range(len(hostile)) if all(one.refusal for one in found["port"] if one.case == i)
    }
    head = HEAD.format(
        files=len(hostile),
        legal=len(cases) - len(hostile),
        seconds=contained.SECONDS,
        releases=" | ".join(f"mlx-lm {one}" for one in RELEASES),
    )
    rows = [row(kind, hostile, refused, found) for kind in dict.fromkeys(map(kind_of, hostile))]
    rows.append(row("", hostile, refused, found))
    PAGE.write_text(head + "\n".join(rows) + "\n" + errors(hostile, found))


def row(
    kind: str, cases: list[Case], refused: set[int], found: dict[str, list[contained.Outcome]]
) -> str:
    """A row of the table; the last, of no kind, is of all."""
    mine = {i for i, case in enumerate(cases) if kind in ("", kind_of(case))}
    cells = [kind or "all", str(len(mine)), str(len(mine & refused))]
    for release in RELEASES:
        hows = Counter(one.how for one in found[release] if one.case in mine)
        told = [(hows["error"], "error"), (hows["accepts"], "**accepts**")]
        told += [(hows[how], f"**{how}**") for how in ("crashes", "hangs")]
        cells.append(", ".join(f"{count} {how}" for count, how in told if count))
    return f"| {' | '.join(cells)} |"


def errors(cases: list[Case], found: dict[str, list[contained.Outcome]]) -> str:
    """The types of what the releases raise, and which files hang or crash them."""
    text = ""
    for release in RELEASES:
        types = Counter(one.error for one in found[release] if one.how == "error")
        listed = ", ".join(f"`{name}` {count}" for name, count in types.most_common())
        text += f"\nErrors of {release} by type: {listed}.\n"
        for how in ("crashes", "hangs"):
            names = [cases[one.case].name for one in found[release] if one.how == how]
            if names:
                text += f"It {how} with: {'; '.join(names)}.\n"
    return text


if __name__ == "__main__":
    main()
