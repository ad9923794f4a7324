"""One self-contained HTML page about a sweep: no script, no external resource, every number from its Sweep.

The page contains text from other sources (values of fields, names, errors), which is escaped as on the page of a run.
"""

import dataclasses
import functools
import json
import operator
import shlex
from typing import Any
from urllib.parse import quote

from raylabel.report.axes import linear
from raylabel.report.html import render
from raylabel.sweep.plots import K, P, parallel, plots, swept, values_of
from raylabel.sweep.result import Sweep
from raylabel.text import printable

ROWS = 50
"""Trials in the table; the others are in a part that can be expanded."""
STOPS = 100
"""Up to this many trials, the Tab key reaches each line of the parallel coordinates. The table has all trials."""


def write_sweep_page(sweep: Sweep, folder: str) -> str:
    """The page as HTML text; the same arguments give the same text. `folder` is the folder of the sweep.

    Each number in the text has its path in sweep.json as `data-key` and its exact JSON as `data-value`.
    """
    # Through JSON and back, so that the page shows what sweep.json contains (and neither can contain a NaN).
    data = json.loads(json.dumps(sweep.to_dict(), allow_nan=False))

    def value_at(path: tuple[str | int, ...]) -> Any:
        return functools.reduce(operator.getitem, path, data)

    measured = [(one["low"], one["high"]) for one in data["trials"] if one["accuracy"] is not None]  # failed ones too
    tops = [("test",), *[("soup", "validation"), ("soup", "test")] * bool(data["soup"])]
    measured += [(row["low"], row["high"]) for row in map(value_at, tops)]
    low, high = min(low for low, _ in measured), max(high for _, high in measured)
    accuracies = [trial["accuracy"] for trial in data["trials"] if trial["state"] != "failed"]
    axis = linear(100 * low, 100 * high, "{:g}%".format)
    return render(
        "sweep/page.html.j2",
        data,
        quoted=shlex.quote(folder),
        value_at=value_at,
        metrics=[*tops, *[("soup", "gain")] * bool(data["soup"])],
        report=f"../{quote(printable(sweep.run).rpartition('/')[2])}/report.html",
        fields=list(data["trials"][0]["settings"]),
        swept=swept(sweep),
        axis=axis,
        axis_ends=dataclasses.replace(axis, ticks=[axis.ticks[0], axis.ticks[-1]]),
        ends=(min(accuracies), max(accuracies)),
        plots=plots(sweep),
        parallel=parallel(sweep),
        by_p=_by_p(sweep),
        failed=[index for index, trial in enumerate(sweep.trials) if trial.state == "failed"],
        rows=ROWS,
        stops=STOPS,
    )


def _by_p(sweep: Sweep) -> tuple[list[Any], list[tuple[Any, list[int | None]]]] | None:
    """([P], [(K, [index of the best trial for each P])]); K is None if it was not swept. None if P was not swept."""
    if P not in swept(sweep):
        return None
    ps = values_of(sweep.trials, P)
    ks = values_of(sweep.trials, K) if K in sweep.best.settings else [None]
    best: dict[tuple[Any, Any], int] = {}
    for index, trial in enumerate(sweep.trials):
        if trial.picks is not None:
            best.setdefault((trial.settings.get(K), trial.settings[P]), index)
    return ps, [(k, [best.get((k, p)) for p in ps]) for k in ks]
