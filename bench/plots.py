"""Time and memory against the length, both sides, a figure for each file of benches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
from limits import COUNTED
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from report import label, tell_bytes, tell_seconds
from targets import Bench, bytes_of

# Tell apart without colour too: what is not ours is dashed.
SIDES = {"reference": ("#c2410c", "o--"), "port": ("#1d4ed8", "s-")}
ACROSS = 4


def draw(benches: list[Bench], folder: Path) -> list[Path]:
    """Write the figures that there are lengths for, as SVG; return their files."""
    files: dict[str, dict[str, list[Bench]]] = defaultdict(lambda: defaultdict(list))
    for bench in benches:
        more = bench["extra_info"]
        if more.get("cache_limit") == COUNTED and "length" in (bench["params"] or {}):
            subject = Path(bench["fullname"].partition("::")[0]).stem.removeprefix("test_")
            files[subject][_without_length(bench)].append(bench)
    drawn = []
    for subject, panels in files.items():
        several = {title: some for title, some in panels.items() if len(some) > 1}
        if several:
            drawn.append(folder / f"{subject}.svg")
            # The same results make the same file.
            with mpl.rc_context({"svg.hashsalt": subject, "svg.fonttype": "none"}):
                _figure(several).savefig(drawn[-1], metadata={"Date": None})
    return drawn


def _without_length(bench: Bench) -> str:
    params = bench["params"]
    return label({**bench, "params": {**params, "length": 0}}).replace(", 0", "", 1)


def _figure(panels: dict[str, list[Bench]]) -> Figure:
    down = -(-len(panels) // ACROSS)
    across = min(ACROSS, len(panels))
    figure = Figure(figsize=(3.1 * across, 4.6 * down), layout="constrained", facecolor="white")
    grid = figure.subplots(2 * down, across, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for number, (title, benches) in enumerate(panels.items()):
        row, column = divmod(number, ACROSS)
        time, memory = grid[2 * row][column], grid[2 * row + 1][column]
        lengths = [bench["params"]["length"] for bench in benches]
        more = [bench["extra_info"] for bench in benches]
        for side, (colour, style) in SIDES.items():
            name = "port" if side == "port" else more[0]["other"]
            seconds = [one["seconds"][side] for one in more]
            peaks = [bytes_of(bench, side, "peak") for bench in benches]
            time.plot(lengths, seconds, style, color=colour, label=name)
            memory.plot(lengths, peaks, style, color=colour, label=name)
        time.set_title(title, fontsize=10)
        _scale(time, lengths, f"time a {more[0]['unit']}", tell_seconds)
        _scale(memory, lengths, "peak memory", lambda count: tell_bytes(int(count)))
        time.legend(fontsize=8)
    return figure


def _scale(axes: Axes, lengths: Iterable[int], what: str, tell: Callable[[float], str]) -> None:
    axes.set_visible(True)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(lengths), [f"{length:,}" for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tell(value)))
    axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.set_ylabel(what, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, alpha=0.3)
