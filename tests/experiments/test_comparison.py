"""The page of an experiment shows exactly the numbers of its summary, and opens in a browser; the terminal's table."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import open_in_chromium
from pages import HOSTILE, Parsed, leaves
from PIL import Image
from rich.console import Console

from raylabel.evaluate.results import GAIN, Metric
from raylabel.experiments.comparison import (
    Column,
    Comparison,
    Curves,
    Finding,
    Row,
    Table,
    Value,
    write_comparison,
)
from raylabel.experiments.looks import Look, Looks
from raylabel.experiments.page import write_comparison_page
from raylabel.experiments.terminal import print_comparison
from raylabel.report.html import data_uri
from raylabel.store.artifact import Root
from raylabel.store.names import PAGE, SUMMARY

TABLE = Table(
    title="Fine-tuned on the true labels of B, after A",
    columns=[
        Column(title="top-1", form="percent", plotted=True),
        Column(title="points over none", form="points"),
        Column(title="epochs to 95%", form="epochs"),
        Column(title="training loss", form="nats"),
        Column(title="classes", form="count"),
    ],
    rows=[
        Row(name="no pre-training", cells=[Value(value=0.5, low=0.45, high=0.55), None, None, Value(value=2.3), None]),
        Row(
            name="random labels",
            cells=[
                Value(value=0.53, low=0.48, high=0.58),
                Value(value=0.03, low=-0.01, high=0.07),
                Value(value=1234.5),
                Value(value=0.1),
                Value(value=21841),
            ],
        ),
    ],
    note="A dash: not reached.",
)
WHOLE = Comparison(
    experiment="random-labels",
    name="halves",
    headline="Pre-training on random labels: no measurable gain",
    detail="resnet8x1, seed 0",
    findings=[Finding(claim="It helps", source="yes", here="A: +3.0 points (-1.0 to +7.0)", verdict="not measurable")],
    tables=[TABLE],
    curves=[Curves(title="Fine-tuning on B", curves={"none": [(0.5, 0.1), (1.0, 0.5)], "random": [(1.0, 0.4)]})],
    warnings=("the test set lacks 'a'",),
    settings={"name": "halves", "finetune": {"images": 100}},
    artifacts={"shards-test-0123456789ab": "shards-test-0123456789ab"},
)
KINDS = {
    "whole": WHOLE,
    "without findings and curves": replace(WHOLE, findings=[], curves=[], warnings=()),
    "nothing plotted": replace(
        WHOLE, tables=[replace(TABLE, columns=[replace(c, plotted=False) for c in TABLE.columns])]
    ),
    "two tables": replace(WHOLE, tables=[TABLE, replace(TABLE, rows=TABLE.rows[:1]).without_empty_columns()]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_the_json_is_on_the_page_exactly(kind: str):
    data = KINDS[kind].to_dict()
    found = Parsed(write_comparison_page(data)).numbers

    def value_at(key: str):
        value: Any = data
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value

    for key, value in found:
        assert json.loads(value) == value_at(key), key
    shown = {key for key, _ in found}
    missing = {key for key in leaves(data) if not any(key == one or key.startswith(f"{one}.") for one in shown)}
    rest = {key for key in missing if not key.endswith((".form", ".plotted", ".axis"))}
    empty = {key for key in rest if value_at(key) in ([], None, ())}  # no section; a number without an interval
    assert rest == empty


def test_pictures_are_in_the_page_as_they_are_and_their_texts_stay_texts():
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(out, "PNG")
    pictures = [out.getvalue() + bytes([i]) for i in range(3)]  # what follows the end of a PNG is no part of it

    def page(text: str) -> Parsed:
        shown = Look(picture=pictures[0], maps=pictures[1:], labels=[text, "b"])
        looks = Looks(title=text, networks=[text, "true labels"], looks=[shown], side=8)
        return Parsed(write_comparison_page(WHOLE.to_dict(), [looks]))

    found = page(HOSTILE[0])
    assert found.elements == page("harmless").elements
    assert found.addresses == [data_uri("image/png", one) for one in pictures]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_from_other_sources_stays_text(hostile: str):
    def page(text: str) -> Parsed:
        given = replace(
            WHOLE,
            name=text,
            detail=text,
            warnings=(text,),
            findings=[replace(WHOLE.findings[0], here=text)],
            tables=[replace(TABLE, title=text, rows=[replace(TABLE.rows[0], name=text)])],
            curves=[Curves(title=text, curves={"one": [(1.0, 0.5)]})],
        )
        return Parsed(write_comparison_page(given.to_dict()))

    found = page(hostile)
    assert found.elements == page("harmless").elements and found.addresses == []


def test_the_page_opens_in_a_browser(tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text(write_comparison_page(WHOLE.to_dict()))
    console, pixels = open_in_chromium(page, tmp_path, height=1500)
    assert console == []
    assert pixels.std() > 5


def printed(comparison: Comparison, width: int) -> str:
    console = Console(width=width, force_terminal=False, color_system=None, record=True, file=open("/dev/null", "w"))
    with console.file:
        print_comparison(comparison, "runs/random-labels-halves-0a", console)
        return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_the_terminal_and_folds_no_number(width: int):
    text = printed(WHOLE, width)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= min(width, 100)
    (first,) = (line for line in lines if "53.0%" in line)
    assert first.split()[-5:] == ["53.0%", "+3.0", "1,234.5", "0.10", "21,841"]
    (second,) = (line for line in lines if "48.0 to 58.0" in line)
    assert second.split()[-6:] == ["48.0", "to", "58.0", "-1.0", "to", "+7.0"]
    (none,) = (line for line in lines if "50.0%" in line)
    assert none.split()[-5:] == ["50.0%", "-", "-", "2.30", "-"]
    assert "It helps: not measurable" in text and "warning: the test set lacks 'a'" in text
    assert lines[-2:] == [f"runs/random-labels-halves-0a/{name}" for name in (PAGE, SUMMARY)]


def gain(value: float, half: float) -> Metric:
    more = {"model": "a", "seed": 0, "dataset": "d", "split": "test", "metric": GAIN, "n": 100}
    return Metric(**more, value=value, low=value - half, high=value + half)


@pytest.mark.parametrize(
    "gains, verdict",
    [
        ([gain(0.05, 0.01)], "agrees"),
        ([gain(-0.05, 0.01)], "disagrees"),
        ([gain(0.05, 0.06)], "not measurable"),
        ([gain(0.05, 0.01), gain(0.0, 0.1)], "agrees"),
        ([gain(-0.05, 0.01), gain(0.0, 0.1)], "disagrees"),
        ([gain(-0.05, 0.01), gain(0.05, 0.01)], "mixed"),
    ],
)
def test_a_verdict_is_that_of_the_intervals(gains: list[Metric], verdict: str):
    found = Finding.of_gains("It helps", "yes", {f"set {i}": one for i, one in enumerate(gains)})
    assert found.verdict == verdict
    assert found.here.startswith(f"set 0: {100 * gains[0].value:+.1f} points (")
    assert found.here.count("points") == len(gains)


def test_summary_and_page_have_the_same_numbers(tmp_path: Path):
    root = Root.open(str(tmp_path / "root"))
    page, written = write_comparison(root, WHOLE, [])
    assert page.name == "random-labels-halves" and written.artifacts == {}
    data = json.loads(page.read(SUMMARY))
    assert data == written.to_dict()
    assert page.read(PAGE).decode() == write_comparison_page(data)
    assert write_comparison(root, WHOLE, [page])[0].digest != page.digest
