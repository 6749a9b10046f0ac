"""The results of a run as tables: what was aimed at, every pair, and the harness."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import inf
from statistics import harmonic_mean, median, quantiles
from typing import Any, NamedTuple

from limits import COUNTED, DEFAULT
from targets import HARNESS_STEPS, NOTHING_SEEN, TARGETS, Bench, bytes_of

RELEASE = "0.32.2"


class Table(NamedTuple):
    """A title, rows under columns, and what there is to say of them."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    notes: Sequence[str] = ()


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """All tables that have rows; the targets are a CPU's."""
    groups: dict[str, list[Bench]] = defaultdict(list)
    for bench in report["benchmarks"]:
        groups[bench["group"]].append(bench)
    steps, workers, profile = (groups.pop(name, []) for name in ("steps", "workers", "profile"))
    pairs = [bench for group in groups.values() for bench in group]
    made = [_targets(pairs, workers)] if report["machine_info"]["device"] == "cpu" else []
    made += [_pairs(*group) for group in groups.items()]
    made += [_steps(steps), _workers(workers), _profile(profile)]
    yield from (table for table in made if table.rows)


def describe(machine: dict[str, Any]) -> str:
    """What the numbers depend on, and how to read them."""
    return (
        f"{machine['chip']}, {machine['cores']} cores, load average {machine['load']:.1f} over 15 "
        f"minutes, device {machine['device']}, MLX {machine['mlx']}, Python "
        f"{machine['python_version']}, target {machine['target']}. Both sides with one "
        "`mx.set_cache_limit`: 1 GiB, or where it says so MLX's own of "
        f"{machine['default_cache_limit'] >> 20} MiB, which counts for no target. Ratios are of "
        "mlx-lm to the port, more than 1 is better: the median over the turns, and the quartiles. "
        "On a CPU times are those of the core, which others on the machine do not count in; of "
        "saving and of workers they are the clock's. Memory is what there was not before: at the "
        "peak of the work, its input included, and held after it, its result not. On a GPU MLX "
        "lets go of memory when the GPU is done with it: a peak there differs from run to run."
    )


def _targets(pairs: list[Bench], workers: list[Bench]) -> Table:
    rows = []
    floors = {
        bench["fullname"].replace("_floor[", "["): bench["extra_info"]["speedup"]["median"]
        for bench in pairs
        if "_floor[" in bench["fullname"]
    }
    for target in TARGETS:
        found = [
            (target.reached(bench), label(bench), floors.get(bench["fullname"], inf))
            for bench in pairs
            if target.covers(bench)
        ]
        least = f"{target.least:,g} x{' (upper quartile)' if target.spread else ''}"
        rows += _judge(target.work, target.least, least, found)
    rates = [
        (median(bench["extra_info"]["rates"]["two"]), f"drawn by {bench['params']['engine']}", inf)
        for bench in workers
        if bench["params"]["mode"] == "value" and bench["params"]["engine"] != NOTHING_SEEN
    ]
    least = f"{HARNESS_STEPS:,} steps/s"
    rows += _judge("the harness, two workers, value mode", HARNESS_STEPS, least, rates)
    note = (
        "out of reach: even its floor, which is a bench too, misses the target. That is code which "
        "calls MLX and `copy.deepcopy` as the work must, and checks nothing."
    )
    notes = [note] * any("out of reach" in row[-1] for row in rows)
    return Table("Targets", ("work", "at least", "the least", "of", "met"), rows, notes)


def _judge(
    work: str, least: float, told: str, found: list[tuple[float, str, float]]
) -> Iterator[list[str]]:
    """The row of a target, if anything was found that says whether it is met."""
    if found:
        met = sum(one >= least for one, _, _ in found)
        worst, which, _ = min(found)
        reached = f"{worst:,.{0 if worst >= 100 else 2}f}"
        judged = "met" if met == len(found) else "**not met**"
        judged += f", {met} of {len(found)}"
        if beyond := sum(max(one, floor) < least for one, _, floor in found):
            judged += f", {beyond} out of reach"
        yield [work, told, reached, which, judged]


def _pairs(subject: str, benches: list[Bench]) -> Table:
    rows = []
    for bench in benches:
        more = bench["extra_info"]
        rows.append(
            [
                label(bench) + _limit(more["cache_limit"]),
                *(tell_seconds(more["seconds"][side]) for side in ("reference", "port")),
                _spread(more["speedup"]),
                *(
                    tell_bytes(bytes_of(bench, side, of))
                    for of in ("peak", "held")
                    for side in ("reference", "port")
                ),
                more["other"],
            ]
        )
    sides = "mlx-lm", "port"
    memory = (f"{of} {side}" for of in ("peak", "held") for side in sides)
    columns = "work", *sides, "times faster", *memory, "against"
    works = {f"{_name(bench)}: {bench['extra_info']['work']}": None for bench in benches}
    return Table(subject.rstrip("."), columns, rows, list(works))


def _limit(limit: str) -> str:
    """What to add to a name where the allocator does not keep 1 GiB."""
    if limit == COUNTED:
        return ""
    return ", MLX's own cache limit" if limit == DEFAULT else f", cache limit {limit} MiB"


def _name(bench: Bench) -> str:
    return str(bench["name"]).removeprefix("test_").partition("[")[0].replace("_", " ")


def label(bench: Bench) -> str:
    """A short name: what is done, and with what."""
    params = bench["params"] or {}
    given = [f"{params['length']:,}"] if "length" in params else []
    given += [params["name"]] if "name" in params else []
    given += [params["release"]] if params.get("release", RELEASE) != RELEASE else []
    return ", ".join([_name(bench), *given])


def _steps(benches: list[Bench]) -> Table:
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    for bench in benches:
        params = bench["params"]
        rates[params["mode"]][params["cache"]] = bench["extra_info"]["steps_per_second"]
    for rate in rates.values():
        rate["all, as many steps of each"] = harmonic_mean(rate.values())
    caches = dict.fromkeys(cache for rate in rates.values() for cache in rate)
    rows = [[cache, *(f"{rate[cache]:,.0f}" for rate in rates.values())] for cache in caches]
    title = "The harness: steps in a second of one core, Hypothesis included"
    return Table(title, ["cache", *(f"{mode} mode" for mode in rates)], rows)


def _workers(benches: list[Bench]) -> Table:
    rows = []
    for bench in benches:
        params, rates = bench["params"], bench["extra_info"]["rates"]
        one, two = rates["one"], rates["two"]
        low, middle, high = quantiles(
            [both / alone for both, alone in zip(two, one, strict=True)], n=4, method="inclusive"
        )
        ratio = _spread({"low": low, "median": middle, "high": high})
        told = (f"{median(one):,.0f}", f"{median(two):,.0f}", ratio)
        rows.append([params["mode"], params["engine"], *told])
    columns = "mode", "drawn by", "one worker", "two pinned workers", "times one worker"
    return Table("The harness: steps a second by the clock, all caches", columns, rows)


def _profile(benches: list[Bench]) -> Table:
    shares = {}
    for bench in benches:
        seen = bench["extra_info"]["shares"]
        total = sum(seen.values())
        column = f"{bench['params']['mode']}, {bench['params']['engine']}"
        shares[column] = {part: count / total for part, count in seen.items()}
    parts = dict.fromkeys(part for share in shares.values() for part in share)
    rows = [[part, *(f"{share.get(part, 0):.0%}" for share in shares.values())] for part in parts]
    return Table("The harness: where the time of a step goes", ["part", *shares], rows)


def tell_seconds(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def tell_bytes(count: int) -> str:
    """Three digits and a unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def _spread(ratio: dict[str, float]) -> str:
    one = ",.0f" if ratio["median"] >= 100 else ".2f"
    return f"{ratio['median']:{one}} ({ratio['low']:{one}} to {ratio['high']:{one}})"
