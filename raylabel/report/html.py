"""Renders pages from templates: text is escaped, and each number has its path in the data and its exact value."""

import base64
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from raylabel.text import percent, percentage, points, printable, text_of


def render(template: str, data: Any, **more: Any) -> str:
    """The page of a template of the package ('report/page.html.j2'), with `data`, `show` (see Shown), `data_uri` and
    `more`."""
    folder = resources.files("raylabel")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda x: printable(x) if type(x) is str else x,  # Markup is our own, and already escaped
    )
    given = {"data": data, "show": Shown(data), "json": json.dumps, "data_uri": data_uri}
    given |= {"picture_uri": picture_uri}
    return environment.get_template(template).render(given, **more)


def data_uri(kind: str, data: bytes) -> str:
    """A picture or a clip of this media type, inside the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_uri(data: bytes) -> str:
    """A PNG or JPEG, inside the page."""
    return data_uri("image/jpeg" if data.startswith(b"\xff\xd8") else "image/png", data)


def leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner or not value:
        yield path
    for key, child in inner:
        yield from leaves(child, (*path, key))


class Shown:
    """Formats the value at a path of the data, with the path and the exact value as attributes."""

    FORMS = {
        "count": lambda x: f"{x:,}",
        "number": lambda x: f"{x:,.1f}".removesuffix(".0"),
        "percent": percent,
        "bare percent": percentage,
        "points": points,
        "share": lambda x: f"{x:.0%}",
        "setting": text_of,  # also a number of any unit
        "names": lambda x: " ".join(x),
        "plain": lambda x: x if isinstance(x, str) else json.dumps(x),
    }

    def __init__(self, data: Any) -> None:
        self._data = data

    def __call__(self, *path: str | int, form: str = "count", text: str | None = None) -> Markup:
        value = self._data
        for part in path:
            value = value[part]
        if text is None:
            text = "–" if value is None and form not in ("plain", "setting") else self.FORMS[form](value)
        # json.dumps escapes everything but ASCII, so control characters of a name are kept but have no effect.
        key = ".".join(json.dumps(str(part))[1:-1] for part in path)
        return Markup('<span data-key="{}" data-value="{}">{}</span>').format(key, json.dumps(value), printable(text))
