"""HTML pages, parsed as by a browser, and hostile texts to put into them."""

from collections import Counter
from html.parser import HTMLParser
from typing import Any

SOURCES = ("src", "poster", "href", "srcset", "action", "xlink:href")


HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "\"><img src='x' onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></textarea><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- ]]> &lt;script&gt; &#x3c;",
    "\u202eevil\u2066",
    "\x1b[31mred\x00\n\u2028",
    "lone \udcff surrogate",
    '=HYPERLINK("javascript:alert(1)")',
]


class Parsed(HTMLParser):
    """What an HTML parser that does not know the template finds: elements, attribute names, numbers and texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.numbers: list[tuple[str, str]] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, tuple(sorted(name for name, _ in attrs))] += 1
        found = {name: value or "" for name, value in attrs}
        if "data-key" in found:
            self.numbers.append((found["data-key"], found["data-value"]))
        self.addresses += [found[name] for name in SOURCES if name in found]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Dotted key → value, of each number and text in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None or not value:
        return {key: value}
    return {k: v for name, child in inner for k, v in leaves(child, f"{key}.{name}" if key else str(name)).items()}
