"""The page of a sweep shows exactly the numbers of the sweep, in the right positions, and opens in a browser."""

import dataclasses
import functools
import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import open_in_chromium
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pages import HOSTILE, Parsed, leaves
from sweeps import GRID, drawn, grid, make

from raylabel.sweep.page import ROWS, STOPS, write_sweep_page
from raylabel.sweep.plots import LETTER, _field_axis, describe, plots
from raylabel.sweep.result import Sweep, Trial

FOLDER = "/some/runs/sweep-digits-0123456789ab"


def single_soup(sweep: Sweep) -> Sweep:
    """The sweep with a soup of the best student only."""
    assert sweep.soup
    soup = dataclasses.replace(sweep.soup, trials=sweep.soup.trials[:1], left_out=(3, 7))
    return dataclasses.replace(sweep, soup=soup)


KINDS = {
    "grid": make(grid(GRID), soup=True),
    "single soup": single_soup(make(grid(GRID), soup=True)),
    "asha": make(drawn(30), "fsysxs"),
    "drawn": make(drawn(120), "f"),
    "words": make(grid({"student.arch": [f"arch{i}" for i in range(20)], "label.precision": ["auto", None]})),
    "pair": make(grid({"select.k": [20, 40]})),
    "single": make([{"select.p": 1}]),
}


def html(sweep: Sweep) -> str:
    return write_sweep_page(sweep, FOLDER)


def value_at(data: Any, key: str) -> Any:
    """The value at a dotted key; the names of fields in it may contain dots."""
    if key == "" or data is None:
        return data
    if isinstance(data, list):
        head, _, tail = key.partition(".")
        return value_at(data[int(head)], tail)
    name = max((name for name in data if key == name or key.startswith(f"{name}.")), key=len)
    return value_at(data[name], key[len(name) + 1 :])


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_the_json_is_on_the_page_exactly(kind: str) -> None:
    sweep = KINDS[kind]
    data = json.loads(json.dumps(sweep.to_dict()))
    found = Parsed(html(sweep)).numbers
    for key, value in found:
        assert json.loads(value) == value_at(data, key), key
    shown = {key for key, _ in found}
    missing = {key for key in leaves(data) if not any(key == one or key.startswith(f"{one}.") for one in shown)}
    allowed = {f"arguments.{i}" for i in range(3)} | {f"programs.{i}" for i in range(2)}  # they are in the command
    # The verdict contains these numbers.
    allowed |= {f"soup.gain.{name}" for name in ("value", "low", "high")} if sweep.soup else {"soup"}
    for i, trial in enumerate(sweep.trials):
        allowed |= {f"trials.{i}.error"} if trial.state != "failed" else set()
        allowed |= {f"trials.{i}.{name}" for name in ("accuracy", "low", "high")} if trial.accuracy is None else set()
        allowed |= {f"trials.{i}.built"} if not trial.built else set()
    assert missing == allowed


def test_text_of_a_value_is_that_value() -> None:
    sweep = KINDS["grid"]
    shown = dict(re.findall(r'data-key="([^"]+)" data-value="[^"]*">([^<]*)<', html(sweep)))
    assert (shown["test.value"], shown["test.low"], shown["soup.test.value"]) == ("91.2%", "90.0", "91.4%")
    assert (shown["test.model"], shown["soup.gain.metric"], shown["soup.test.n"]) == ("student", "gain_top1", "10,000")
    assert shown["soup.verdict"] == "no measurable difference (+0.2 points, 95% interval -1.1 to +1.5)"
    assert shown["share"] == f"{sweep.images / sweep.alone:.0%}" and shown["alone"] == f"{sweep.alone:,}"
    assert shown["rivals"] == str(sum(trial.high >= sweep.best.low for trial in sweep.trials[1:]))  # pyright: ignore
    for i, trial in enumerate(sweep.trials):
        assert trial.accuracy and trial.low and trial.high
        assert shown[f"trials.{i}.accuracy"] == f"{100 * trial.accuracy:.1f}%"
        assert shown[f"trials.{i}.low"] == f"{100 * trial.low:.1f}"
        assert shown[f"trials.{i}.settings.finetune.schedule.lr"] == str(trial.settings["finetune.schedule.lr"])
        assert shown[f"trials.{i}.images"] == f"{trial.images:,}" and shown[f"trials.{i}.picks"] == f"{trial.picks:,}"
        assert shown[f"trials.{i}.built"].split() if trial.built else True


def test_verdict_of_a_soup_follows_its_interval() -> None:
    soup = KINDS["grid"].soup
    assert soup

    def verdict(value: float, low: float, high: float, trials: tuple[int, ...] = (0, 7)) -> str:
        gain = dataclasses.replace(soup.gain, value=value, low=low, high=high)
        return dataclasses.replace(soup, gain=gain, trials=trials).verdict

    assert verdict(0.02, 0.01, 0.03) == "+2.0 points (95% interval +1.0 to +3.0)"
    assert verdict(-0.02, -0.03, -0.01) == "-2.0 points (95% interval -3.0 to -1.0)"
    assert verdict(0.0, -0.01, 0.01).startswith("no measurable difference")
    assert verdict(0.0, -0.01, 0.01, (4,)) == "no other student was added: the soup is the student of the chosen trial"


# The plots: positions are read back from the SVG, with the labels of the ticks as the scale.


def figures(page: str) -> dict[str, ElementTree.Element]:
    """Field → the SVG of its plot."""
    found = re.findall(r"against <bdi>([^<]+)</bdi></figcaption>.*?(<svg viewBox=\"0 0 440.*?</svg>)", page, re.S)
    return {field: ElementTree.fromstring(svg) for field, svg in found}


def scale_of(svg: ElementTree.Element, upright: bool, log: bool) -> functools.partial:
    """A function from pixels to values, computed from the ticks only."""
    end = "end" if upright else "middle"
    labels = [
        (t.attrib["y" if upright else "x"], t.text or "") for t in svg.iter("text") if t.get("text-anchor") == end
    ]
    labels = [(float(at) - 4 * upright, text) for at, text in labels if re.fullmatch(r"[\d.,e-]+[%k]?", text)]
    scale = np.log10 if log else np.asarray
    values = [float(t.rstrip("%k").replace(",", "")) * (1000 if t.endswith("k") else 1) for _, t in labels]
    slope, start = np.polyfit([at for at, _ in labels], scale(values), 1)
    return functools.partial(lambda at: 10 ** (start + slope * at) if log else start + slope * at)


def marks(svg: ElementTree.Element) -> list[tuple[str, float, float, bool, bool]]:
    """(tooltip, x, y, hollow, with an interval) of each dot."""
    found = []
    for group in svg.iter("g"):
        circle = group.find("circle")
        if circle is not None:
            x, y = float(circle.attrib["cx"]), float(circle.attrib["cy"])
            tip = group.findtext("title") or ""
            found.append((tip, x, y, circle.get("class") == "hollow", group.find("path") is not None))
    return found


def by_number(sweep: Sweep) -> dict[int, Trial]:
    return {trial.number: trial for trial in sweep.trials}


@pytest.mark.parametrize("kind", ["grid", "asha", "drawn", "pair"])
def test_each_trial_is_a_dot_at_its_values(kind: str) -> None:
    sweep = KINDS[kind]
    page, trials = html(sweep), by_number(sweep)
    logarithmic = {plot.field: "logarithmic" in plot.x_title for plot in plots(sweep)}
    assert logarithmic.items() >= {"select.k": True}.items()
    assert figures(page).keys() == logarithmic.keys()
    for field, svg in figures(page).items():
        x_of, y_of = scale_of(svg, False, logarithmic[field]), scale_of(svg, True, False)
        groups = {"select.k": 3, "select.p": 5}.get(field, 1) if kind != "pair" else 1
        aside = 5 * (groups - 1) / 2  # marks of different lines are shifted sideways
        seen = set()
        for tip, x, y, hollow, _ in marks(svg):
            trial = trials[int(re.findall(r"trial (\d+)", tip)[0])]
            seen.add(trial.number)
            assert trial.accuracy is not None and trial.low is not None and trial.high is not None
            interval = f"{100 * trial.accuracy:.1f}% ({100 * trial.low:.1f} to {100 * trial.high:.1f})"
            stopped = ", pre-trained only" if trial.state == "stopped" else ""
            assert tip == f"trial {trial.number}: {interval}{stopped}"
            assert hollow == (trial.state == "stopped")
            assert y_of(y) == pytest.approx(100 * trial.accuracy, abs=0.05 + 0.002 * abs(y_of(0) - y_of(250)))
            value = trial.settings[field]
            low, high = sorted((x_of(x - aside - 0.6), x_of(x + aside + 0.6)))
            assert low <= value <= high, (field, value, low, high)
        assert seen == {number for number, trial in trials.items() if trial.state != "failed"}


def test_line_joins_the_best_trials_of_each_k_for_each_p() -> None:
    sweep = KINDS["grid"]
    svg = figures(html(sweep))["select.k"]
    at = {int(re.findall(r"trial (\d+)", tip)[0]): (x, y) for tip, x, y, _, _ in marks(svg)}
    lines = [p.attrib["d"] for p in svg.iter("path") if p.get("class") == "curve"]
    expected = []
    for p in GRID["select.p"]:
        path = []
        for k in GRID["select.k"]:
            rivals = [t for t in sweep.trials if (t.settings["select.k"], t.settings["select.p"]) == (k, p)]
            best = max(rivals, key=lambda t: (t.accuracy or 0, -t.number))
            path.append(at[best.number])
        expected.append(path)
    drawn = [[tuple(map(float, pair.split())) for pair in line[1:].split("L")] for line in lines]
    assert drawn == expected
    barred = {tip for tip, *_, bar in marks(svg) if bar}
    assert len(barred) == 15  # only the best of each (K, P) have intervals
    assert re.findall(r"<bdi>(select.p \d+)</bdi></li>", html(sweep)) == ["select.p 1", "select.p 3", "select.p 10"]


def test_random_rates_are_not_joined_and_words_have_no_plot() -> None:
    svgs = figures(html(KINDS["drawn"]))
    assert svgs.keys() == {"select.k", "select.p", "finetune.schedule.lr", "pretrain.weight_decay"}
    assert [len(list(svg.iter("path"))) > 20 for svg in svgs.values()]
    for field in ("finetune.schedule.lr", "pretrain.weight_decay"):
        assert not [p for p in svgs[field].iter("path") if p.get("class") == "curve"]
    assert figures(html(KINDS["words"])) == {}
    assert "Accuracy by field" not in html(KINDS["words"])


@settings(max_examples=300)
@example([1e-06, 1.0000000000000002e-06], "select.k", False)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30, unique=True)
    | st.lists(st.integers(-5, 10**6), min_size=2, max_size=30, unique=True),
    st.sampled_from(["select.k", "finetune.schedule.lr", "other"]),
    st.booleans(),
)
def test_axis_keeps_its_values_in_order_and_its_labels_do_not_overlap(values, name, upright) -> None:
    values, length = sorted(values), 300 if upright else 380
    axis = _field_axis(name, values, length, upright)
    positions = [axis.at(value) for value in values]
    assert positions == sorted(positions) and 0 <= positions[0] and positions[-1] <= 1
    assert positions[-1] - positions[0] > 0.8
    assert len(axis.ticks) >= 2 and all(-1e-9 <= at <= 1 + 1e-9 for at, _ in axis.ticks)
    for (a, one), (b, other) in itertools.pairwise(axis.ticks):
        assert length * (b - a) >= (12 if upright else LETTER * (len(one) + len(other)) / 2)


@pytest.mark.parametrize("kind", ["grid", "asha", "drawn", "words", "pair"])
def test_line_of_the_parallel_coordinates_links_to_the_row_of_its_trial(kind: str) -> None:
    sweep, page = KINDS[kind], html(KINDS[kind])
    svg = ElementTree.fromstring(re.findall(r"<svg class=\"parallel.*?</svg>", page, re.S)[0])
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    links = list(svg.iter("a"))
    assert len(links) == len(sweep.trials)
    assert all((link.get("tabindex") == "-1") == (len(sweep.trials) > STOPS) for link in links)
    rows = set(re.findall(r'<tr id="(t\d+)"', page))
    fields = [name for name in sweep.best.settings if len({t.settings[name] for t in sweep.trials}) > 1]
    ends, heights = {}, {name: {} for name in fields}
    for link in links:
        target = link.attrib["href"].removeprefix("#")
        trial = by_number(sweep)[int(target[1:])]
        assert target in rows and link.findtext("title") == describe(trial)
        points = [tuple(map(float, pair.split())) for pair in link.find("path").attrib["d"][1:].split("L")]  # pyright: ignore
        assert len(points) == len(fields) + (trial.state != "failed")
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        for name, (_, y) in zip(fields, points, strict=False):
            assert heights[name].setdefault(trial.settings[name], y) == y
        assert (link.find("circle") is None) == (trial.state == "failed") == ("failed" in link.attrib["class"])
        if trial.state != "failed":
            ends[trial.number] = trial.accuracy, points[-1][1]
    for name in fields:
        assert len(set(heights[name].values())) == len(heights[name]) or kind == "drawn"  # y is rounded to 0.1 pixel
    # The axis of the accuracy is linear, with the best on top.
    accuracies, ys = zip(*ends.values(), strict=True)
    if len(set(accuracies)) > 1:
        assert np.corrcoef(accuracies, ys)[0, 1] == pytest.approx(-1, abs=1e-3)
    assert "best" in links[-1].attrib["class"]  # drawn last, on top of the others


def test_page_without_plots_and_without_work() -> None:
    page = html(KINDS["single"])
    assert "<svg" not in page.split("<body>")[1] and "trials on the validation split" not in page
    idle = dataclasses.replace(KINDS["pair"], images=0, trials=tuple(
        dataclasses.replace(trial, images=0, alone=0) for trial in KINDS["pair"].trials
    ))  # fmt: skip
    assert idle.share is None and "one by one" not in html(idle).split("<body>")[1]


@pytest.mark.parametrize("sweep", [KINDS["asha"], make(drawn(30), "fyyyy")])
def test_examples_by_k_and_p_are_those_of_the_best_trial(sweep: Sweep) -> None:
    table = re.findall(r'<table class="byp">(.*?)</table>', html(sweep), re.S)[0]
    ps = [int(p) for p in re.findall(r"P = (\d+)", table)]
    found = {}
    for row in re.findall(r"<tr><td>(.*?)</tr>", table, re.S):
        k, *cells = (re.sub(r"<[^>]+>", " ", cell).split() for cell in row.split("<td>"))
        for p, cell in zip(ps, cells, strict=True):
            found[int(k[0].replace(",", "")), p] = cell
    expected: dict[tuple[int, int], list[str]] = {pair: ["–"] for pair in found}
    for trial in reversed(sweep.trials):  # the best last
        if trial.picks is not None and trial.accuracy is not None and trial.low is not None and trial.high is not None:
            text = f"{trial.picks:,} {100 * trial.accuracy:.1f}% ( {100 * trial.low:.1f} to {100 * trial.high:.1f} )"
            text += " , pre-trained only" if trial.state != "finished" else ""
            expected[trial.settings["select.k"], trial.settings["select.p"]] = text.split()
    assert {pair: "".join(cell) for pair, cell in found.items()} == {
        pair: "".join(cell) for pair, cell in expected.items()
    }


def test_failed_trials_are_listed_with_their_error() -> None:
    sweep = make(drawn(12), "fx", text="the loss is not a number")
    failed = [trial.number for trial in sweep.trials if trial.state == "failed"]
    page = html(sweep)
    items = re.findall(r"<li>trial (\d+): <bdi><span [^>]*>([^<]*)</span></bdi></li>", page)
    assert items == [(str(number), "the loss is not a number") for number in failed] and len(failed) == 6


def test_page_has_a_link_and_commands_to_reproduce() -> None:
    page = html(KINDS["grid"])
    assert 'href="../run-digits-0123456789ab/report.html"' in page
    lines = re.findall(r'<code class="line">(?:<span[^>]*>)?([^<]*)', page)
    best = KINDS["grid"].best.settings
    assert lines == [
        "raylabel sweep digits --root /some/runs --space &#39;select.k=[20,40]&#39; --samples 0 --soup",
        f"raylabel semi-supervised digits --root /some/runs --select.k {best['select.k']} --select.p "
        f"{best['select.p']} --finetune.schedule.lr {best['finetune.schedule.lr']}",
        f"tensorboard --logdir {FOLDER}",
    ]
    without = html(dataclasses.replace(KINDS["grid"], arguments=()))
    assert "jobs/" not in without and "tensorboard" in without


# Hostile text, many trials, and the browser.


def hostile(text: str) -> str:
    fields = {"select.k": [20, 40], text: [text, f"{text} 2"], "finetune.schedule.lr": [0.01, 0.1]}
    return write_sweep_page(make(grid(fields), "fsx", text=text, soup=True), f"/runs/{text}")


@pytest.mark.long
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_element_and_no_attribute(text: str) -> None:
    page = hostile(text)
    page.encode()  # a lone surrogate would fail here
    assert _elements(page) == _elements(hostile("plain"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert all(re.match(r"(#t\d+|\.\./[^/]+/report\.html)$", address) for address in Parsed(page).addresses)


def _elements(page: str) -> dict:
    # The name of a field can be broken after its dots.
    return {what: count for what, count in Parsed(page).elements.items() if what[0] != "wbr"}


@pytest.mark.long
@settings(max_examples=25)
@given(st.text(st.sampled_from("<>\"'&/=;-!]{}%\\ \n\x00a\u202e\u2028\udc80") | st.characters(), min_size=1))
def test_any_text_adds_no_element_and_no_attribute(text: str) -> None:
    assert _elements(hostile(text)) == PLAIN


PLAIN = _elements(hostile("plain"))


def test_page_has_no_scripts_and_no_external_addresses() -> None:
    page = html(KINDS["grid"])
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert not re.search(r"<script|javascript:|https?:|url\(|@import", page)


def test_page_is_deterministic_and_nan_is_an_error() -> None:
    sweep = KINDS["asha"]
    assert html(sweep) == html(sweep)
    with pytest.raises(ValueError, match="not JSON compliant"):
        html(dataclasses.replace(sweep, test=dataclasses.replace(sweep.test, value=math.nan, low=None, high=None)))


def test_page_of_a_thousand_trials_is_small_and_folds_most_rows() -> None:
    sweep = make(drawn(1000), "ffssx")
    page = html(sweep)
    assert len(page) < 4 << 20
    rows = re.findall(r'<tr id="t(\d+)"', page)
    assert [int(row) for row in rows] == [trial.number for trial in sweep.trials]
    folded = page.index("<summary>The other trials</summary>")
    assert page[:folded].count('<tr id="t') == ROWS and page[folded:].count('<tr id="t') == 1000 - ROWS


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_page_opens_in_a_browser_with_its_plots(tmp_path: Path, dark: bool) -> None:
    page = tmp_path / "sweep.html"
    sweep = make(grid(GRID | {HOSTILE[0]: [HOSTILE[1], HOSTILE[6]]}), "fffsx", text=HOSTILE[0], soup=True)
    page.write_text(html(sweep), "utf-8")
    console, pixels = open_in_chromium(page, tmp_path, dark=dark)
    assert console == []
    paper = (0x17, 0x17, 0x15) if dark else (0xFC, 0xFB, 0xF8)
    assert (np.abs(pixels - np.array(paper)).max(axis=2) == 0).mean() > 0.5
    # Each P has a line, in a colour that nothing else on the page has.
    colours = [(0xD8, 0xB5, 0x5B), (0x82, 0xB1, 0xEC)] if dark else [(0x8A, 0x6D, 0x1D), (0x3F, 0x74, 0xB5)]
    for colour in colours:
        assert (np.abs(pixels - np.array(colour)).max(axis=2) <= 6).sum() > 400, colour
