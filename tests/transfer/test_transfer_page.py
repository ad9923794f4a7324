"""The page of a transfer shows exactly the numbers of its summary, and opens in a browser."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import open_in_chromium
from pages import HOSTILE, Parsed, leaves
from rich.console import Console

from raylabel.transfer.page import write_transfer_page
from raylabel.transfer.result import Row, Share, Summary, print_transfer


def row(network: str, protocol: str, top1: float, gain: float | None, **more) -> Row:
    given = {
        "network": network,
        "arch": "resnet8x1",
        "protocol": protocol,
        "samples": 160,
        "read": 500,
        "top1": Share(value=top1, low=top1 - 0.04, high=top1 + 0.03),
        "top5": Share(value=0.9, low=0.85, high=0.95),
        "subset_top1": None,
        "real_top1": None,
        "ece": 0.05,
        "ece_calibrated": 0.02,
        "temperature": 1.25,
        "strength": None,
        "gain": None if gain is None else Share(value=gain, low=gain - 0.05, high=gain + 0.05),
    }
    return Row(**given | more)


def summary(*rows: Row, **more) -> Summary:
    given = {
        "transfer": "signs",
        "classes": ["zero", "one"],
        "labeled": 160,
        "held": 40,
        "n": 500,
        "rows": list(rows),
        "warnings": (),
        "settings": {"name": "signs", "finetune": {"images": 100}},
        "artifacts": {"shards-test-0123456789ab": "shards-test-0123456789ab"},
    }
    return Summary(**given | more)


BOTH = summary(
    row("student-0a1b2c3d4e5f", "full fine-tuning", 0.62, None),
    row("control-0a1b2c3d4e5f", "full fine-tuning", 0.55, 0.07),
    row("student-0a1b2c3d4e5f", "20 nearest neighbours", 0.4, None, ece_calibrated=None, temperature=None),
    row("control-0a1b2c3d4e5f", "20 nearest neighbours", 0.41, -0.01, ece_calibrated=None, temperature=None),
    row("student-0a1b2c3d4e5f", "logistic regression, unit features", 0.7, None, strength=100.0),
)
KINDS = {
    "both": BOTH,
    "one": summary(row("student", "full fine-tuning", 0.62, None)),
    "few classes": summary(row("student", "full fine-tuning", 0.62, None, top5=None), held=0),
    "imagenet": summary(
        row("student", "full fine-tuning", 0.62, None, subset_top1=Share(value=0.7, low=0.6, high=0.8)),
        row("control", "full fine-tuning", 0.6, 0.02, real_top1=Share(value=0.75, low=0.7, high=0.8)),
    ),
    "unread": summary(row("student", "full fine-tuning", 0.62, None, read=490), warnings=("the test set lacks 'a'",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_the_json_is_on_the_page_exactly(kind: str):
    data = json.loads(json.dumps(KINDS[kind].to_dict()))
    found = Parsed(write_transfer_page(KINDS[kind].to_dict())).numbers

    def value_at(key: str):
        value = data
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value

    for key, value in found:
        assert json.loads(value) == value_at(key), key
    shown = {key for key, _ in found}
    absent = {key for key, value in leaves(data).items() if value is None and key.endswith((".gain", ".top5", "_top1"))}
    missing = {key for key in leaves(data) if not any(key == one or key.startswith(f"{one}.") for one in shown)}
    assert missing - {"warnings"} == absent  # no row and no cell


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_from_other_sources_stays_text(hostile: str):
    def page(text: str) -> Parsed:
        given = replace(
            BOTH, transfer=text, classes=[text], warnings=(text,), rows=[replace(BOTH.rows[0], network=text)]
        )
        return Parsed(write_transfer_page(given.to_dict()))

    found = page(hostile)
    assert found.elements == page("harmless").elements and found.addresses == []


def test_the_page_opens_in_a_browser(tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text(write_transfer_page(BOTH.to_dict()))
    console, pixels = open_in_chromium(page, tmp_path, height=1500)
    assert console == []
    assert pixels.std() > 5


def printed(summary: Summary, width: int) -> str:
    console = Console(width=width, force_terminal=False, color_system=None, record=True, file=open("/dev/null", "w"))
    with console.file:
        print_transfer(summary, "runs/transfer-signs-0a", console)
        return console.export_text()


def test_the_table_fits_80_columns_and_folds_no_number():
    text = printed(BOTH, 80)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line for line in text.splitlines() if "control-0a1b2c3d4e5f" in line]
    assert [line.split()[1:] for line in lines] == [
        ["160", "55.0%", "51.0", "to", "58.0", "5.0", "2.0"],
        ["160", "41.0%", "37.0", "to", "44.0", "5.0", "-"],
        ["+7.0", "+2.0", "to", "+12.0"],
        ["-1.0", "-6.0", "to", "+4.0"],
    ]
    assert "student-0a1b2c3d4e5f minus the others" in text
    assert "runs/transfer-signs-0a/report.html" in text and "could not be read" not in text


def test_what_could_not_be_read_and_warnings_are_printed():
    text = printed(KINDS["unread"], 100)
    assert "10 of 500 test samples could not be read and count as wrong" in text
    assert "warning: the test set lacks 'a'" in text
    assert "minus the others" not in text
