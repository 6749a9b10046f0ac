"""Run the benches, and put side by side what belongs together.

`make bench`; options go to pytest: `.venv/bin/python bench/run.py --device gpu -k dispatch`. The
statistics are pytest-benchmark's; a ratio here is of its medians within a turn, and printed as the
median and the quartiles over the turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import harmonic_mean, median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

Bench = dict[str, Any]
Block = tuple[str, Sequence[str], list[list[str]]]  # Title, columns and rows of a table.


def main() -> int:
    """Run pytest, print the tables and write them to `bench/results/latest.md`."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "latest.json"
    command = [sys.executable, "-m", "pytest", "bench", "-q", "--benchmark-quiet"]
    command += [f"--benchmark-json={file}", *sys.argv[1:]]
    if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
        return status
    report = json.loads(file.read_bytes())
    caption = _describe(report["machine_info"])
    blocks = [block for block in _blocks(report["benchmarks"]) if block[2]]
    console = Console(width=None if sys.stdout.isatty() else 120)
    for title, columns, rows in blocks:
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(caption)
    pages = [caption, *(_to_markdown(*block) for block in blocks)]
    (RESULTS / "latest.md").write_text("\n\n".join(pages) + "\n")
    return 0


def _describe(machine: dict[str, Any]) -> str:
    return (
        f"{machine['chip']}, MLX {machine['mlx']}, device {machine['device']}, Python "
        f"{machine['python_version']}, `mx.set_cache_limit` {machine['cache_limit'] >> 20} MiB for "
        f"both sides, target {machine['target']}; load average {os.getloadavg()[1]:.1f} over the "
        f"last 5 minutes on {os.cpu_count()} cores."
    )


def _blocks(benches: list[Bench]) -> Iterator[Block]:
    by_kind: dict[str, list[Bench]] = defaultdict(list)
    for bench in benches:
        by_kind[bench["group"].partition(" ")[0]].append(bench)
    yield _steps(by_kind["steps"])
    yield _workers(by_kind["workers"])
    yield _pairs("Python dispatch of one update, no evaluation", by_kind["dispatch"])
    yield _pairs("Decoding a token, evaluated, 8 heads of 128, float16", by_kind["decode"])
    yield _peaks(by_kind["prefill"])


def _steps(benches: list[Bench]) -> Block:
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    for bench in benches:
        column = bench["group"].removeprefix("steps ")
        rates[column][bench["params"]["cache"]] = bench["extra_info"]["steps_per_second"]
    for rate in rates.values():
        rate["all, as many steps of each"] = harmonic_mean(rate.values())
    caches = dict.fromkeys(cache for rate in rates.values() for cache in rate)
    rows = [[cache, *(f"{rate[cache]:,.0f}" for rate in rates.values())] for cache in caches]
    return "Lockstep, steps in a second of one core, Hypothesis included", ["cache", *rates], rows


def _workers(benches: list[Bench]) -> Block:
    crews = defaultdict(list)
    for bench in benches:
        crews[bench["params"]["mode"], bench["params"]["crew"]].append(bench["extra_info"])
    rows = []
    for crew, turns in crews.items():
        rate = median(turn["steps_per_second"] for turn in turns)
        rows.append([*crew, f"{rate:,.0f}", _spread([turn["times_one"] for turn in turns])])
    return "Worker processes", ("mode", "workers", "steps/s", "times one worker"), rows


def _peaks(benches: list[Bench]) -> Block:
    peaks: dict[str, dict[str, float]] = defaultdict(dict)
    for bench in benches:
        megabytes = bench["extra_info"]["peak_bytes"] / 1e6
        peaks[bench["group"]][bench["params"]["barrier"]] = megabytes
    rows = [
        [*group.split()[1:], *(f"{one[name]:,.2f}" for name in ("barrier", "no barrier"))]
        for group, one in peaks.items()
    ]
    columns = ("mlx-lm", "cache", "chunks", "MB", "MB without the barrier")
    return "Peak memory of a prefill in chunks of 128, 4 layers of 4 heads of 32", columns, rows


def _pairs(title: str, benches: list[Bench]) -> Block:
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"port": [], "reference": []})
    for bench in benches:
        one = bench["stats"]["median"] / bench["extra_info"]["updates"] * 1e6
        groups[bench["group"]][bench["params"]["side"]].append(one)
    rows = []
    for group, sides in groups.items():
        ratios = [ours / theirs for ours, theirs in zip(*sides.values(), strict=True)]
        times = (f"{median(side):,.1f}" for side in sides.values())
        rows.append([*group.split()[1:], *times, _spread(ratios)])
    return title, ("mlx-lm", "cache", "tokens", "port µs", "mlx-lm µs", "port / mlx-lm"), rows


def _spread(ratios: list[float]) -> str:
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _to_markdown(title: str, columns: Sequence[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
