"""Prints the figures of a bench, one JSON line each, to stdout. Run a bench as `python tests/bench/bench_NAME.py`.

Arms of a comparison are interleaved in one run, A B C A B C ..., so that a slower machine affects all of them. A ratio
is computed within each round, and the median is reported.
"""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence

STUDENT_T = {3: 4.303, 5: 2.776}
"""Seeds → 97.5% quantile of Student's t with one degree of freedom less, for means over the seeds."""


def interleave(arms: Mapping[str, Callable[[], float]], repeats: int = 5) -> dict[str, list[float]]:
    """Arm → its result in each round. Prints one line per round to stderr, to show the progress."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(repeats):
        for name, arm in arms.items():
            found[name].append(arm())
        shown = ", ".join(f"{name} {values[-1]:,.4g}" for name, values in found.items())
        print(f"round {number + 1} of {repeats}: {shown}", file=sys.stderr, flush=True)
    return found


def print_ratio(bench: str, figure: str, against: str, mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Prints and returns the median over the rounds of mine / theirs; both are rates (more is better)."""
    ratios = [m / t for m, t in zip(mine, theirs, strict=True)]
    _print(bench, figure, against, "ratio", ratios, "x")
    return statistics.median(ratios)


def print_value(bench: str, figure: str, values: Sequence[float], unit: str, against: str = "") -> float:
    """Prints and returns the median of a figure that is not a ratio."""
    _print(bench, figure, against, "value", values, unit)
    return statistics.median(values)


def print_paired(bench: str, figure: str, mine: Sequence[float], other: Sequence[float], unit: str = "points") -> float:
    """Prints and returns the mean of the differences per seed; the range is its 95% interval (Student's t)."""
    differences = [m - o for m, o in zip(mine, other, strict=True)]
    n, mean = len(differences), statistics.mean(differences)
    half = STUDENT_T[n] * statistics.stdev(differences) / n**0.5
    figure = f"{figure}: mean of the differences, and as range its 95% interval"
    _print(bench, figure, "", "value", [mean - half, mean, mean + half], unit)
    return mean


def _print(bench: str, figure: str, against: str, kind: str, values: Sequence[float], unit: str) -> None:
    line = {
        "bench": bench,
        "figure": figure,
        "against": against,
        kind: _round(statistics.median(values)),
        "unit": unit,
        "range": [_round(min(values)), _round(max(values))],
        "repeats": len(values),
        "cores": len(os.sched_getaffinity(0)),
        "hardware": hardware(),
    }
    print(json.dumps(line), flush=True)


def hardware() -> str:
    """The name of the CPU."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _round(value: float) -> float:
    return float(f"{value:.4g}")
