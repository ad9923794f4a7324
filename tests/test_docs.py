"""What a program can check in the documents: links, paths, the tree of folders, the keys of summary.json, sizes."""

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from paths import REPOSITORY

from raylabel import recipes
from raylabel.cli.launch import RUN_BY
from raylabel.report.summary import Summary

README, CONTRIBUTING, CHANGELOG = (REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))
PAGES = [README, CONTRIBUTING, CHANGELOG, *sorted((REPOSITORY / "docs").glob("*.md"))]

CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
PATH = re.compile(r"(?<![\w./-])(?:raylabel|jobs|deploy|docs|tests)/[\w/.-]*\w/?")
TEST = re.compile(r"`(?!tests/)((?:[\w/]+/)?test_\w+\.py)`")  # without tests/, as in the tables of docs/reliability.md


def _links(text: str) -> list[str]:
    return [target for target in LINK.findall(CODE.sub("", text)) if "://" not in target]


def _anchors(text: str) -> set[str]:
    """As GitHub makes them: lower case, with hyphens for spaces, and only letters, digits, hyphens and underscores."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def _missing(link: str, page: Path) -> str:
    """The part of a relative link that does not exist, its file or its anchor; empty if both exist."""
    name, _, anchor = link.partition("#")
    path = page.parent / name if name else page
    if not path.exists():
        return name
    return anchor if anchor and anchor not in _anchors(path.read_text()) else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_are_not_broken(page: Path):
    assert not [link for link in _links(page.read_text()) if _missing(link, page)]


def test_the_link_check_finds_broken_links():
    text = "[a](docs/none.md) [b](README.md#results) [c](README.md#none) [d](#none) [f](https://g)\n```\n[e](none)\n```"
    assert [_missing(link, README) for link in _links(text)] == ["docs/none.md", "", "none", "none"]
    assert _anchors("# A `b`: c, d_e\n## F-g (h)\n```\n# code\n```") == {"a-b-c-d_e", "f-g-h"}


def test_the_readme_is_short_and_links_to_every_page():
    text = README.read_text()
    assert len(text.encode()) <= 10 * 1024
    linked = {(REPOSITORY / link.partition("#")[0]).resolve() for link in _links(text)}
    assert set(PAGES) - {README} <= linked


def test_the_tree_in_the_readme_matches_the_folders():
    (tree,) = re.findall(r"^```\n(raylabel/\n.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    inside, top = set[str](), set[str]()
    for line in tree.splitlines():
        names = re.split(r"\s{2,}", line.strip(), maxsplit=1)[0].split()  # the rest of the line describes them
        (inside if line.startswith("  ") else top).update(names)
    package = REPOSITORY / "raylabel"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert inside == folders | modules
    assert top == {"raylabel/", "jobs/", "deploy/", "docs/", "tests/"}


def test_paths_in_the_documents_exist():
    seen = 0
    for page in set(PAGES) - {CHANGELOG}:  # it names paths that no longer exist
        text = page.read_text()
        for name in [*PATH.findall(text), *(f"tests/{test}" for test in TEST.findall(text))]:
            seen += 1
            assert (REPOSITORY / name).exists(), f"{page.name} names {name}"
    assert seen > 60


def _dataclasses(kind: type) -> set[type]:
    """A dataclass and the dataclasses in its fields, also in lists and dicts."""
    found, wanted = set[type](), [kind]
    while wanted:
        one: Any = wanted.pop()
        if dataclasses.is_dataclass(one) and isinstance(one, type) and one not in found:
            found.add(one)
            wanted.extend(get_type_hints(one).values())
        wanted.extend(get_args(one))
    return found


def test_every_key_of_the_summary_is_documented():
    text = (REPOSITORY / "docs" / "summary.md").read_text()
    parts = _dataclasses(Summary)
    assert {"Summary", "Counts", "Reject", "Metric", "Picks", "Leaks", "Stage"} <= {p.__name__ for p in parts}
    for part in parts:
        for field in dataclasses.fields(part):
            assert f"`{field.name}`" in text, f"{part.__name__}.{field.name}"


def test_the_recipe_in_the_readme_works():
    text = README.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["my_recipe"]().name == "birds"


@pytest.mark.parametrize("recipe", RUN_BY)
def test_the_types_of_all_fields_are_in_the_module_of_recipes(recipe: type):
    assert "`raylabel.recipes` has the types of all fields." in README.read_text()
    seen, left = set[type](), [recipe]
    while left:
        one = left.pop()
        seen.add(one)
        for found in get_type_hints(one).values():
            for kind in (found, *get_args(found)):
                if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in seen:
                    left.append(kind)
    assert len(seen) > 8
    for kind in seen:
        assert getattr(recipes, kind.__name__, None) is kind, f"from raylabel.recipes import {kind.__name__}"


def test_the_glossary_is_short():
    glossary = CONTRIBUTING.read_text().partition("## Glossary")[2]
    words = re.findall(r"^\| (?!word \|)(.+?) \| .+ \|$", glossary, re.MULTILINE)
    assert 20 < len(words) <= 40 and len(set(words)) == len(words)
