"""The page shows exactly the numbers of the summary, escapes hostile text, and opens in a browser."""

import base64
import dataclasses
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from helpers import open_in_chromium
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import HOSTILE, Parsed, leaves
from PIL import Image
from rich.console import Console

from raylabel.evaluate.results import Metric, Subject
from raylabel.media.encode import encode_mp4
from raylabel.report import page as module
from raylabel.report.charts import Chart, Point
from raylabel.report.control import ControlUsed, TriedControl
from raylabel.report.head import FittedHead, TriedStrength, ZeroShotHead
from raylabel.report.page import NAMED_CLASSES, Copies, Film, Pair, Picture, ShownGroup, Strip, Suspect, write_page
from raylabel.report.summary import Counts, PassedOver, Picks, Reject, Stage, Summary
from raylabel.report.terminal import print_summary
from raylabel.report.thumbnails import thumbnail
from raylabel.selection.audit import Audited
from raylabel.selection.leaks import Leaks, SharedSet

COLOURS = [(255, 0, 255), (0, 255, 0), (255, 255, 0), (0, 0, 255), (255, 0, 0), (0, 255, 255)]


def make(names: list[str], text: str = "plain", video: bool = False) -> Summary:
    """A summary with these classes; `text` is everywhere where text from other sources can be."""
    rng = np.random.default_rng(0)
    per_class = [int(n) for n in rng.integers(1, 50, len(names))]
    test = {"seed": 0, "dataset": text, "split": "test"}
    metrics = [
        Metric(model=model, **test, metric=metric, value=value, low=low, high=high, n=5000)
        for model, top1 in [("teacher", 0.8123456789), ("control", 0.771), (text, 0.75), ("student", 0.79)]
        for metric, value, low, high in [
            ("top1", top1, top1 - 0.011, top1 + 0.0123),
            *[("top5", 0.98, 0.97, 0.99)] * (len(names) > 5),
            *[("clip_top1", 0.71234, 0.6, 0.8)] * video,
        ]
    ]
    unlabeled = Subject(model="teacher", seed=0, dataset=text, split="unlabeled")
    metrics += [
        Metric(model="student", **test, metric="gain_top1", value=0.019, low=0.0101, high=0.0279, n=5000),
        Metric(**vars(unlabeled), metric="pick_precision", value=0.9312, n=1000),
    ]
    return Summary(
        run=text,
        classes=names,
        counts=Counts(
            samples=1234567, scored=1229987 if video else 1230000, rejected=4000, duplicates=567,
            near_duplicates=13 if video else None, labeled=4321, labeled_rejected=9,
        ),
        rejects=[Reject(reason="truncated", count=3999), Reject(reason=text, count=1)],
        passed_over=[
            PassedOver(corpus="unlabeled", extension=text, count=8765, examples=[text, "a/b.heic"]),
            PassedOver(corpus="test", extension="no extension", count=1, examples=["a/README"]),
        ] if video else [],
        metrics=metrics,
        test_per_class=[9] * (len(names) - 1) + [0],
        control=ControlUsed(
            description=text,
            images=44_032,
            trials=[
                TriedControl(
                    settings={"train.schedule.lr": lr, "view.augment": text}, images=640 * (i + 1),
                    value=None if i else 0.61, low=None if i else 0.5, high=None if i else 0.7, n=81, error=text * i,
                )
                for i, lr in enumerate((0.1, 1e30))
            ] if video else [],
        ),
        head=FittedHead(
            strength=0.1, samples=4_298, without=23,
            validation=[
                TriedStrength(strength=strength, accuracy=0.8123) for strength in (0.1, 1e6)
            ] if len(names) > 2 else [],
        ) if video else None,
        zero_shot=ZeroShotHead(templates=[f"{text} {{}}", "{}"], names=[f"{text} {name}" for name in names]) if video
        else None,
        picks=Picks(
            total=sum(per_class), samples=max(per_class), k=50, p=3, rank="log_odds", per_class=per_class,
            min=min(per_class), median=float(np.median(per_class)), max=max(per_class), policy=text if video else "",
        ),
        leaks=Leaks(
            known=4900, videos=3, labeled=12, unlabeled=4567, labeled_copies=5, copies=8, labeled_near=6, near=14,
            threshold=0.93, removed=4582, test=21, n=5000, examples=[text, "v_g02"],
            others=[
                SharedSet(name=text, labeled={"bytes": 7}, unlabeled={"bytes": 3, "near": 41}),
                SharedSet(name="v2", labeled={"near": 2}, unlabeled={"video": 1}),
            ],
        ) if video else None,
        audit=Audited(
            samples=432, source="cross-fitting", foreign=0.0123, suspects=7,
            precision=0.8765 if len(names) > 2 else None,
            low=0.8543 if len(names) > 2 else None, high=0.8987 if len(names) > 2 else None,
        ) if video else None,
        warnings=(text, "two"),
        stages=[
            Stage(name="index", seconds=1.25),
            Stage(name=text, seconds=7200.5, images=10**9, images_per_second=1e5 / 3),
        ],
        hardware=text,
        settings={"seed": 0, text: text, "teacher": {"lr": 1e-05, "arch": None, "flags": [True, {}]}, "a.b": []},
        artifacts={"scores": "scores-0123456789ab", text: text},
    )  # fmt: skip


EXPECTED = {"highest class": [(1, 0.99), (64, 0.9)], "median class": [(1, 0.95), (64, 0.5)]}


def make_curves(names: tuple[str, ...] = ("finetune", "teacher", "pretrain", "control")) -> dict[str, list[Point]]:
    return {
        name: [
            Point(images=i * 64 * (j + 1) ** 2, loss=2.3 / i, accuracy=1 - 0.9 / i, lr=0.1 / i) for i in range(1, 1000)
        ]
        for j, name in enumerate(names)
    }


def make_strips(label: str) -> list[Strip]:
    pictures = [
        Picture(rank=10**i, score=12.0 - 4 * i, probability=1 / (1 + math.exp(4 * i - 12)), key=i << 32,
                jpeg=thumbnail(Image.new("RGB", (8, 8), colour)))
        for i, colour in enumerate(COLOURS)
    ]  # fmt: skip
    return [Strip(label=label, pictures=pictures)]


def make_films(label: str) -> list[Strip]:
    """Videos of one colour, with strips and posters of the opposite colour."""
    pictures = []
    for i, picture in enumerate(make_strips(label)[0].pictures):
        opposite = tuple(255 - c for c in COLOURS[i])
        clip = encode_mp4([np.full((112, 112, 3), COLOURS[i], np.uint8)] * 5, 5)
        still = thumbnail(Image.new("RGB", (112, 112), opposite))
        pictures.append(dataclasses.replace(picture, jpeg=still, film=Film(1.25 + i, still, clip)))
    return [Strip(label=label, pictures=pictures)]


@pytest.mark.parametrize(("classes", "video"), [(2, False), (2, True), (10, True), (NAMED_CLASSES + 1, False)])
def test_every_value_of_the_json_is_on_the_page_exactly(classes: int, video: bool) -> None:
    summary = make([f"class {i}" for i in range(classes)], video=video)
    expected = leaves(json.loads(json.dumps(summary.to_dict())))
    found = Parsed(write_page(summary, make_curves(), make_strips("class 0"))).numbers
    for key, value in found:
        assert json.loads(value) == expected[key], key
    missing = expected.keys() - {key for key, _ in found}
    # Empty here: nothing was validated.
    never = {"leaks", "audit", "head", "zero_shot", "counts.near_duplicates", "picks.policy"}
    assert missing == ({"validated"} if video else {"validated", *never})


def test_the_expected_precision_is_drawn_by_rank() -> None:
    summary = make([f"c{i}" for i in range(3)], video=True)
    page = write_page(summary, {}, [], expected=EXPECTED)
    (section,) = re.findall(r"<h2>Audit</h2>(.*?)</section>", page, re.S)
    assert all(name in section for name in EXPECTED) and "were unlike them" in section
    first, second = (re.findall(r'class="curve" d="([^"]*)"', section))[-2:]
    points = [[tuple(map(float, one.split())) for one in re.split("[ML]", path)[1:]] for path in (first, second)]
    for (_, values), line in zip(EXPECTED.items(), points, strict=True):
        x, y = zip(*line, strict=True)
        assert x == (Chart.LEFT, Chart.WIDTH - Chart.RIGHT)
        high = Chart.HEIGHT - Chart.TOP - Chart.BOTTOM
        assert y == pytest.approx([Chart.TOP + high * (1 - p) for _, p in values], abs=0.06)
    suspect = Suspect(
        address="a.jpg", label="c0", found="c<1", probability=0.99, jpeg=thumbnail(Image.new("RGB", (8, 8)))
    )
    shown = write_page(summary, {}, [], suspects=[suspect])
    assert 'title="a.jpg"' in shown and "or <bdi>c&lt;1</bdi>" in shown and "p 0.9900" in shown
    assert summary.audit
    unlike = dataclasses.replace(summary, audit=dataclasses.replace(summary.audit, precision=None, low=None, high=None))
    assert "so nothing is expected" in write_page(unlike, {}, [])
    assert "<h2>Audit</h2>" not in write_page(dataclasses.replace(summary, audit=None), {}, [])


def test_groups_of_copies_and_pairs_are_shown_side_by_side() -> None:
    jpegs = [f"jpeg {i}".encode() for i in range(8)]
    uris = [f"data:image/jpeg;base64,{base64.b64encode(one).decode()}" for one in jpegs]
    groups = [
        ShownGroup(1234, "", [(one, "sample of the corpus") for one in jpegs[:3]]),
        ShownGroup(2, "", [(one, "sample of the corpus") for one in jpegs[3:5]]),
    ]
    near = Pair(similarity=0.9312, near=True, set="", jpegs=(jpegs[5], jpegs[6]))
    below = Pair(similarity=0.9212, near=False, set="v2", jpegs=(jpegs[7], jpegs[0]))
    summary = make(["a", "b"])
    page = write_page(summary, {}, [], [below], Copies(count=3, groups=groups, pairs=[near]))
    of_sets, copies = page.split("<h2>Copies in the corpus</h2>")
    assert [uri for uri in re.findall(r'src="([^"]*)"', of_sets) if uri in uris] == [uris[7], uris[0]]
    assert "0.921 below the threshold, <bdi>v2</bdi>" in of_sets and "sample of the v2 set" in of_sets
    assert re.findall(r'src="([^"]*)"', copies) == uris[:7]
    assert re.findall(r"<h3><span>(.*?)</span>", copies) == ["1,234 samples", "2 samples"]
    assert re.findall(r"<figcaption>(?:<strong>)?(kept|copy)", copies) == ["kept", "copy", "copy", "kept", "copy"]
    assert "3 samples have copies" in copies and "the largest of these groups" in copies
    assert re.findall(r"<figcaption>(0.*?)</figcaption>", copies) == ["0.931 near-duplicate"]
    assert "Copies in the corpus" not in write_page(summary, {}, [])


def test_text_of_a_value_is_that_value() -> None:
    page = write_page(make(["a", "b"]), {}, [])
    shown = dict(re.findall(r'data-key="([^"]+)" data-value="[^"]*">([^<]*)<', page))
    # In the table of accuracies and in the table of all metrics.
    assert re.findall(r'data-key="metrics.0.value" data-value="0.8123456789">([^<]*)<', page) == ["81.2%", "0.812346"]
    assert re.findall(r'data-key="metrics.0.low" data-value="[^"]*">([^<]*)<', page) == ["80.1", "0.801346"]
    models = re.findall(r'data-key="metrics.\d.model" data-value="([^"]*)">([^<]*)<', page)
    assert ("&#34;student&#34;", "student (fine-tuned)") in models and ("&#34;teacher&#34;", "teacher") in models
    assert shown["gain.low"] == "+1.0"
    assert shown["counts.samples"] == "1,234,567"
    assert shown["stages.1.images_per_second"] == "33,333.3"
    assert shown["stages.0.images"] == "–"
    assert shown["settings.teacher.lr"] == "1e-05"
    assert shown["settings.teacher.flags.0"] == "true"


def expected_calibration_error(of: Subject, confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> list[Metric]:
    """A new evaluator: the error of Guo et al. 2017, and the accuracy on another split."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float((right - confidence)[bin_of == b].sum())) for b in range(bins)]
    return [
        Metric(**vars(of), metric="ece", value=sum(gaps) / len(right), n=len(right)),
        Metric(**vars(dataclasses.replace(of, split="wild")), metric="top1", value=0.25, low=0.125, high=0.5, n=1234),
    ]


def test_metrics_of_a_new_evaluator_are_shown_everywhere() -> None:
    of = Subject(model="student", seed=0, dataset="plain", split="test")
    rows = expected_calibration_error(of, np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 0, 1, 1]))
    assert rows[0].value == pytest.approx((0.8 + 0.8) / 4)  # by hand: |1 - 1.8| and |2 - 1.2|
    plain = make(["a", "b"])
    summary = dataclasses.replace(plain, metrics=[*plain.metrics, *rows])
    written = summary.to_dict()["metrics"]
    assert written[-2] == vars(of) | {"metric": "ece", "value": rows[0].value, "low": None, "high": None, "n": 4}
    # On the page they have their own table; the other tables are unchanged.
    (table,) = re.findall(r"<h3>Other metrics</h3>(.*?)</table>", write_page(summary, {}, []), re.S)
    cells = [re.sub(r"(<[^>]+>)+", " ", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", table, re.S)]
    assert cells[:5] == ["ece", "student (fine-tuned) test  of  plain , seed  0", "0.4", "–", "4"]
    assert cells[5:] == ["top1", "student (fine-tuned) wild  of  plain , seed  0", "0.25", "0.125  to  0.5", "1,234"]
    assert "Other metrics" not in write_page(plain, {}, [])
    assert list(summary.accuracies.items()) == list(plain.accuracies.items())
    stream = io.StringIO()
    print_summary(summary, "/runs/x", Console(file=stream, width=100))
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert ["ece", "student", "(fine-tuned)", "plain", "test", "0.4", "-", "4"] in lines
    assert ["top1", "student", "(fine-tuned)", "plain", "wild", "0.25", "0.125", "to", "0.5", "1,234"] in lines


def test_page_is_deterministic_and_nan_is_an_error() -> None:
    summary = make(["a", "b"])
    assert write_page(summary, make_curves(), []) == write_page(summary, make_curves(), [])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_page(dataclasses.replace(summary, settings={"seed": float("nan")}), {}, [])


FILMS = make_films("plain")


def page_of(text: str, classes: int = 3) -> str:
    curves = make_curves((text, "teacher"))
    strips = [*make_strips(text), *FILMS]
    strips[1] = dataclasses.replace(strips[1], label=text)
    return write_page(make([text] + [f"c{i}" for i in range(1, classes)], text, video=True), curves, strips)


@pytest.mark.long
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("classes", [3, NAMED_CLASSES + 1])
def test_hostile_text_adds_no_element_and_no_attribute(text: str, classes: int) -> None:
    page = page_of(text, classes)
    page.encode()  # a lone surrogate would fail here
    parsed = Parsed(page)
    assert parsed.elements == Parsed(page_of("plain", classes)).elements
    assert all(re.match("data:(image/jpeg|video/mp4);base64,", address) for address in parsed.addresses)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    if text.isascii() and text.isprintable():  # it is shown unchanged
        assert text in parsed.texts


@pytest.mark.long
@settings(max_examples=25)
@given(st.text(st.sampled_from("<>\"'&/=;-!]{}%\\ \n\x00a\u202e\u2028\udc80") | st.characters(), min_size=1))
def test_any_text_adds_no_element_and_no_attribute(text: str) -> None:
    assert Parsed(page_of(text)).elements == PLAIN_ELEMENTS


PLAIN_ELEMENTS = Parsed(page_of("plain")).elements


def test_page_has_no_scripts_and_no_external_addresses() -> None:
    page = page_of("plain")
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert not re.search(r"<script|javascript:|https?:|url\(|@import", page)


def svg_paths(page: str) -> list[str]:
    """The curves of the charts. Each SVG has to be well-formed XML."""
    found = []
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        found += [p.attrib["d"] for p in ElementTree.fromstring(svg).iter("path") if p.attrib.get("class") == "curve"]
    return [d for d in found if d != "M1 4H25"]  # the lines of the legend


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"teacher": []},
        {"teacher": [Point(images=0, loss=0.0, accuracy=0.0, lr=0.0)]},
        {"teacher": [Point(images=64, loss=2.0, accuracy=0.5, lr=0.1)], "pretrain": []},
        {"t": [Point(images=64, loss=-1e9, accuracy=1.0, lr=1e-9), Point(images=10**12, loss=1e9, accuracy=0, lr=1)]},
        make_curves(("pretrain",)),
        make_curves(tuple(f"model {i}" for i in range(15))),
    ],
)  # fmt: skip
def test_curves_of_any_number_and_range_stay_inside_the_chart(curves: dict[str, list[Point]]) -> None:
    page = write_page(make(["a", "b"]), curves, [])
    assert len(svg_paths(page)) == (3 * len(curves) if any(curves.values()) else 0)
    for path in svg_paths(page):
        assert re.fullmatch(r"(M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)*)?", path)
        for x, y in re.findall(r"([\d.]+) ([\d.]+)", path):
            assert 0 <= float(x) <= 440 and 0 <= float(y) <= 250
    ticks = re.findall(r'text-anchor="middle">', page)
    assert not curves or not any(curves.values()) or len(ticks) >= 3 * 2


def test_curve_is_drawn_at_its_points() -> None:
    points = [Point(images=i * 100, loss=i / 10, accuracy=i / 10, lr=10.0**-i) for i in range(11)]
    loss, accuracy, lr = (
        np.array([[float(v) for v in pair.split()] for pair in path[1:].split("L")])
        for path in svg_paths(write_page(make(["a", "b"]), {"teacher": points}, []))
    )
    for line, slope in ((loss, -20), (accuracy, -20), (lr, 20)):  # 200 px high; y grows downwards; lr is logarithmic
        np.testing.assert_allclose(line[:, 0], 46 + 38 * np.arange(11))
        np.testing.assert_allclose(np.diff(line[:, 1]), slope, atol=0.11)


def test_loss_that_is_not_finite_breaks_the_line_and_is_reported() -> None:
    points = [Point(images=i * 100, loss=2.0, accuracy=0.5, lr=0.1) for i in range(1, 11)]
    points[4] = dataclasses.replace(points[4], loss=float("nan"))
    points[9] = dataclasses.replace(points[9], loss=float("inf"))
    page = write_page(make(["a", "b"]), {"teacher": points}, [])
    assert svg_paths(page)[0].count("M") == 2
    assert "teacher: training loss not finite at 500 images" in page
    assert not re.search(r"\b(nan|inf)\b", page)


@pytest.mark.parametrize(
    ("clip", "inputs", "counted"), [(None, "images", "images"), ({"frames": 8}, "clips", "samples")]
)
def test_units_of_counts_are_named(clip: dict[str, int] | None, inputs: str, counted: str) -> None:
    summary = dataclasses.replace(make(["a", "b"]), settings={"view": {"size": 16, "clip": clip}})
    curves = make_curves(("teacher",))
    curves["teacher"][4] = dataclasses.replace(curves["teacher"][4], loss=float("nan"))
    page = write_page(summary, curves, [])
    texts = [text.strip() for text in Parsed(page).texts]
    assert texts.count(f"{inputs} processed") == 3 and page.count(f'against {inputs} processed"') == 3
    assert f"teacher: training loss not finite at 320 {inputs}" in texts
    heads = re.findall(r'<th class="number">([^<]+)</th>', page)
    assert heads[heads.index("seconds") :] == ["seconds", counted, f"{counted} per second"]
    assert any("images" in text for text in texts) == (clip is None)


def test_strips_show_rank_log_odds_and_probability() -> None:
    page = write_page(make(["a", "b"]), {}, make_strips("a"))
    captions = re.findall(r"<figcaption><strong>([\d,]+)</strong><br>([^<]+)<br>p ([^<]+)</figcaption>", page)
    assert captions == [
        ("1", "+12.00", "&gt; 0.9999"),
        ("10", "+8.00", "0.9997"),
        ("100", "+4.00", "0.9820"),
        ("1,000", "+0.00", "0.5000"),
        ("10,000", "-4.00", "0.0180"),
        ("100,000", "-8.00", "0.0003"),
    ]
    assert "log-odds of the class, also as a probability" in page
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert [base64.b64decode(s) for s in sources] == [p.jpeg for p in make_strips("a")[0].pictures]


def test_ranking_by_logits_shows_only_logits() -> None:
    summary = make(["a", "b"])
    summary = dataclasses.replace(summary, picks=dataclasses.replace(summary.picks, rank="logits"))
    pictures = [dataclasses.replace(p, probability=None) for p in make_strips("a")[0].pictures]
    page = write_page(summary, {}, [Strip(label="a", pictures=pictures)])
    assert re.findall(r"<figcaption><strong>1</strong><br>(.*?)</figcaption>", page) == ["+12.00"]
    assert "logit of the class" in page and "probability" not in page


def test_films_show_a_strip_and_a_clip_with_controls() -> None:
    page = write_page(make(["a", "b"]), {}, FILMS)
    captions = re.findall(r"<figcaption><strong>[\d,]+</strong><br>[^<]+<br>p [^<]+<br>([^<]+)</figcaption>", page)
    assert captions == ["1.2 s", "2.2 s", "3.2 s", "4.2 s", "5.2 s", "6.2 s"]  # rounded to even
    assert "Videos of the unlabeled corpus" in page and "by their frames alone" not in page
    videos = re.findall(r"<video ([^>]*)>", page)
    for picture, video in zip(FILMS[0].pictures, videos, strict=True):
        attributes = dict(re.findall(r'([\w-]+)(?:="([^"]*)")?', video))
        assert picture.film
        assert attributes == {
            "muted": "", "loop": "", "playsinline": "", "controls": "", "preload": "none",
            "poster": "data:image/jpeg;base64," + base64.b64encode(picture.film.poster).decode(),
            "src": "data:video/mp4;base64," + base64.b64encode(picture.film.clip).decode(),
            "aria-label": f"clip of rank {picture.rank} of plain",
        }  # fmt: skip
    stills = re.findall(r'<img src="data:image/jpeg;base64,([^"]*)" alt="frames of rank ([\d]+) of plain"', page)
    assert [(base64.b64decode(s), int(r)) for s, r in stills] == [(p.jpeg, p.rank) for p in FILMS[0].pictures]


def test_too_large_clips_are_left_out_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def strip(label: str, *sizes: int) -> Strip:
        pictures = [dataclasses.replace(FILMS[0].pictures[0], rank=i, film=Film(1, b"", label.encode() * n))
                    for i, n in enumerate(sizes)]  # fmt: skip
        return Strip(label=label, pictures=pictures)

    def shown(*strips: Strip) -> list[str]:
        page = write_page(make(["a", "b"]), {}, strips)
        clips = [base64.b64decode(clip).decode() for clip in re.findall(r'src="data:video/mp4;base64,([^"]*)"', page)]
        missing = sum(len(s.pictures) for s in strips) - len(clips)
        message = re.search(r"(\d+) of (\d+) are shown by their frames alone: a clip may have at most ([^,]+), "
                         r"and all clips of the page ([^.]+)\.", page)  # fmt: skip
        assert page.count("<img") == sum(len(s.pictures) for s in strips)
        assert (message.groups() if message else None) == (
            (str(missing), str(missing + len(clips)), "3 kB", "8 kB") if missing else None
        )
        return [f"{clip[0]}{len(clip)}" for clip in clips]

    monkeypatch.setattr(module, "CLIP_BYTES", 3 << 10)
    monkeypatch.setattr(module, "CLIPS_BYTES", 8 << 10)
    assert shown(strip("a", 3072, 3072), strip("b", 1024)) == ["a3072", "a3072", "b1024"]
    assert shown(strip("a", 3073, 3072)) == ["a3072"]
    # The first ranks of both classes; then the clips that still fit.
    assert shown(strip("a", 3000, 3000, 100), strip("b", 3000, 3000, 20)) == ["a3000", "a100", "b3000", "b20"]


def test_clips_play_in_a_browser_in_their_colours(tmp_path: Path) -> None:
    page = write_page(make(["a", "b"]), {}, FILMS)
    # With preload, the page is loaded when each video shows its first frame, which is visible without a poster.
    page, changed = re.subn(r'controls preload="none" poster="[^"]*"', 'preload="auto"', page)
    assert changed == len(COLOURS)
    (tmp_path / "report.html").write_text(page, "utf-8")

    def missing(attempt: int) -> list[tuple[int, ...]]:
        (folder := tmp_path / f"{attempt}").mkdir()
        console, pixels = open_in_chromium(tmp_path / "report.html", folder)
        assert console == []
        near = {colour: (np.abs(pixels - np.array(colour)) <= 6).all(axis=2).sum() for colour in COLOURS}
        # A strip of this colour, 112 x 112, is next to the video of the opposite colour; a video has 144 x 144.
        strips = {colour: tuple(255 - c for c in colour) in COLOURS for colour in COLOURS}
        return [colour for colour, found in near.items() if found <= 140 * 140 + 100 * 100 * strips[colour]]

    # On a busy machine the screenshot may be taken before a frame that was decoded is painted.
    found = missing(0) and missing(1) and missing(2) and missing(3)
    assert found == []


def test_page_opens_in_a_browser_with_every_picture(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(write_page(make(HOSTILE, HOSTILE[1]), make_curves(), make_strips(HOSTILE[0])), "utf-8")
    console, pixels = open_in_chromium(page, tmp_path)
    assert console == []
    for colour in COLOURS:  # nothing else on the page has these colours
        near = (np.abs(pixels - np.array(colour)) <= 6).all(axis=2).sum()
        assert near > 80 * 80, f"the picture of colour {colour} is not on the page"
