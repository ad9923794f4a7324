"""How the numbers of an experiment are written."""

from collections.abc import Callable, Mapping

from raylabel.text import percent, percentage, points

FORMS: Mapping[str, Callable[[float], str]] = {
    "percent": percent,
    "points": points,
    "epochs": lambda x: f"{x:,.1f}",
    "nats": lambda x: f"{x:.2f}",
    "count": lambda x: f"{x:,.0f}",
    "fraction": lambda x: f"{x:.2f}",
}
BARE = {**FORMS, "percent": percentage}
"""In an interval, whose unit is that of the number before it."""
