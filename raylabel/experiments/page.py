"""One self-contained HTML page about an experiment: no script, no external resource, every number from its summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from raylabel.experiments.forms import BARE, FORMS
from raylabel.experiments.looks import Looks
from raylabel.report.axes import Axis, linear
from raylabel.report.charts import SERIES, Chart, share_chart
from raylabel.report.html import leaves, render
from raylabel.text import compact


def write_comparison_page(data: Mapping[str, Any], looks: Sequence[Looks] = ()) -> str:
    """The page as HTML text of a Comparison as plain JSON; the same arguments give the same text.

    Each number has its path in summary.json as `data-key` and its exact JSON as `data-value`.
    """
    return render(
        "experiments/page.html.j2",
        data,
        axes=[_axis_of(table) for table in data["tables"]],
        charts=_charts_of(data["curves"]),
        looks=looks,
        forms=FORMS,
        bare=BARE,
        settings=list(leaves(data["settings"], ("settings",))),
    )


def _axis_of(table: Mapping[str, Any]) -> tuple[int, Axis] | None:
    """(the column that is drawn with its interval, its axis); None if there is none."""
    column = next((i for i, one in enumerate(table["columns"]) if one["plotted"]), None)
    cells = [] if column is None else [row["cells"][column] for row in table["rows"]]
    ends = [100 * one[end] for one in cells if one for end in ("low", "high") if one[end] is not None]
    if column is None or not ends:
        return None
    return column, linear(min(ends), max(ends), "{:g}%".format)


def _charts_of(given: Sequence[Mapping[str, Any]]) -> list[Chart]:
    names = list(dict.fromkeys(name for one in given for name in one["curves"]))
    charts = list[Chart]()
    for one in given:
        curves = {name: [(x, share) for x, share in points] for name, points in one["curves"].items()}
        axis = linear(0, max((points[-1][0] for points in curves.values() if points), default=1.0), compact)
        # More names than colours would be dashed, in charts that need it not.
        charts.append(share_chart(one["title"], curves, one["axis"], axis, names if len(names) <= SERIES else ()))
    return charts
