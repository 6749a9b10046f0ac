"""Run the benches; write what they measured, as JSON, as tables and as plots.

`make bench`; options go to pytest: `.venv/bin/python bench/run.py --device gpu -k decode`. The
files are `latest.json`, `latest.md` and the plots in `bench/results/`, of a GPU in
`bench/results/gpu/`; `--results DIR` names another folder. `--report FILE` runs nothing and makes
the tables and plots of a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import rich.table
from plots import draw
from report import Table, describe, tables
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run pytest, print the tables and write all results."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--device", default=os.environ.get("KVLOCKSTEP_DEVICE", "cpu"))
    asked, options = parser.parse_known_args()
    results = asked.results or results_of(asked.device)
    results.mkdir(parents=True, exist_ok=True)
    file = asked.report or results.resolve() / "latest.json"
    if asked.report is None and (status := _measure(file, ["--device", asked.device, *options])):
        return status
    report = json.loads(file.read_bytes())
    caption, made = describe(report["machine_info"]), list(tables(report))
    _print(made, caption)
    plots = draw(report["benchmarks"], results)
    pages = [caption, *(f"![{plot.stem}]({plot.name})" for plot in plots), *map(_to_markdown, made)]
    (results / "latest.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    return 0


def results_of(device: str) -> Path:
    """The folder for what is measured on a device: no GPU's takes the place of the CPU's."""
    folder = ROOT / "bench" / "results"
    return folder if device == "cpu" else folder / device


def _measure(file: Path, options: list[str]) -> int:
    command = [sys.executable, "-m", "pytest", "bench", "-q", "--benchmark-quiet"]
    return subprocess.run(
        [*command, f"--benchmark-json={file}", *options], cwd=ROOT, check=False
    ).returncode


def _print(made: list[Table], caption: str) -> None:
    console = Console(width=None if sys.stdout.isatty() else 180, markup=False, highlight=False)
    for one in made:
        table = rich.table.Table(*one.columns, title=one.title, title_justify="left")
        for row in one.rows:
            table.add_row(*row)
        console.print(table)
    console.print(caption)


def _to_markdown(table: Table) -> str:
    lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)], *table.rows]
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"**{table.title}**", drawn, *(f"- {note}" for note in table.notes)])


if __name__ == "__main__":
    sys.exit(main())
