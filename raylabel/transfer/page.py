"""One self-contained HTML page about a transfer: no script, no external resource, every number from its summary."""

import json
from collections.abc import Mapping
from typing import Any

from raylabel.report.axes import linear
from raylabel.report.html import leaves, render

SHARES = {"top-5": "top5", "subset": "subset_top1", "ReaL": "real_top1"}
"""Columns that only some pages have → fields of their rows."""


def write_transfer_page(summary: Mapping[str, Any]) -> str:
    """The page as HTML text; the same numbers give the same text.

    Each number has its path in summary.json as `data-key` and its exact JSON as `data-value`.
    """
    data = json.loads(json.dumps(summary, allow_nan=False))
    rows = data["rows"]
    tops = [row["top1"] for row in rows]
    gains = [row["gain"] for row in rows if row["gain"]]
    return render(
        "transfer/page.html.j2",
        data,
        groups=_groups(rows),
        axis=linear(100 * min(one["low"] for one in tops), 100 * max(one["high"] for one in tops), "{:g}%".format),
        gain_axis=linear(
            min([0.0, *(100 * one["low"] for one in gains)]),
            max([0.0, *(100 * one["high"] for one in gains)]),
            lambda x: f"{x:+g}" if x else "0",
        ),
        shares=[(name, field) for name, field in SHARES.items() if any(row[field] for row in rows)],
        settings=list(leaves(data["settings"], ("settings",))),
    )


def _groups(rows: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """(protocol, indices of its rows), in the order of the rows."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(row["protocol"], []).append(index)
    return list(found.items())
