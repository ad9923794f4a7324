"""PREDICTIONS against softmax in 50 digits, and their files against other readers, with any names."""

import csv
import io
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from raylabel.inference.log_odds import top_classes, top_classes_of_clips
from raylabel.schema import LEFT_OUT, PREDICTIONS, SCORES, check
from raylabel.ship.encode import encode
from raylabel.ship.prediction import predictions

NASTY = [
    "",
    "=1+1",
    "+1",
    "-1",
    "@x",
    "'",
    "'=1",
    "\tx",
    "\rx",
    "\nx",
    "＝1",
    'a,"b"',
    "a\r\nb",
    "é\u2028",
    "nul\0",
    "1",
]


def scores_of(ranked: tuple[torch.Tensor, ...]) -> pa.Table:
    """SCORES of ranked logits."""
    classes, odds, logits, *_ = (one.numpy() for one in ranked)
    n = len(classes)
    columns = [range(n), [b"0" * 16] * n, [0] * n, list(classes), list(odds), list(logits), [[]] * n]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCORES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCORES)


def softmax(logits: list[float]) -> list[Decimal]:
    getcontext().prec = 50
    terms = [Decimal(x).exp() for x in logits]
    return [term / sum(terms) for term in terms]


def test_probabilities_are_those_of_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(200, 7) * torch.logspace(-2, 1.2, 200)[:, None]
    found = predictions(scores_of(top_classes(logits, 3)), [str(i) for i in range(200)], pa.array(list("abcdefg")))
    check(found, PREDICTIONS, "predictions")
    exact = [softmax(row) for row in logits.double().tolist()]
    for row, values in zip(found.to_pylist(), exact, strict=True):
        order = sorted(range(7), key=lambda c: (-values[c], c))[:3]
        assert row["class_indices"] == order and row["class_index"] == order[0]
        assert row["labels"] == ["abcdefg"[c] for c in order] and row["label"] == row["labels"][0]
        assert row["probability"] == row["probabilities"][0]
        for probability, c in zip(row["probabilities"], order, strict=True):
            # Log-odds are float32, so what is exact to 7 digits is the smaller one of p and 1 - p.
            assert min(probability, 1 - probability) == pytest.approx(float(min(values[c], 1 - values[c])), rel=3e-6)


def test_probabilities_of_a_video_are_the_mean_of_its_clips() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 4, 5) * 3
    found = predictions(scores_of(top_classes_of_clips(logits, 5)), [""] * 50, pa.array(list("abcde")))
    mean = logits.double().softmax(2).mean(1)
    np.testing.assert_allclose(
        found.column("probabilities").to_pylist(), mean.sort(1, descending=True).values, rtol=1e-5
    )


def test_the_best_samples_of_a_long_list_do_not_tie() -> None:
    odds = np.linspace(16, 30, 50, dtype=np.float32)  # a probability in float32 would be 1.0 from 17 on
    table = scores_of((torch.zeros(50, 1), torch.from_numpy(odds)[:, None], torch.zeros(50, 1)))
    found = predictions(table, [""] * 50, pa.array(["a"])).column("probability").to_numpy()
    assert (np.diff(found) > 0).all() and found[-1] < 1


def made(labels: list[str], uris: list[str], p: int) -> pa.Table:
    """PREDICTIONS of samples with these addresses: sample i has the classes from i on."""
    c, n = len(labels), len(uris)
    classes = (np.arange(n)[:, None] + np.arange(p)) % c
    odds = -np.arange(n * p, dtype=np.float32).reshape(n, p) / 7
    ranked = tuple(torch.from_numpy(x) for x in (classes, odds, odds))
    return predictions(scores_of(ranked), uris, pa.array(labels, pa.string()))


texts = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


def read_csv(data: memoryview) -> list[list[str]]:
    return list(csv.reader(io.StringIO(bytes(data).decode(), newline=""), strict=True))


def unquoted(text: str) -> str:
    """What the documents say to do: remove one quote in front."""
    return text.removeprefix("'")


@given(st.lists(texts, min_size=2, max_size=6, unique=True), st.lists(texts, max_size=9), st.data())
@example(NASTY, NASTY, None)
def test_csv_keeps_any_names_and_has_no_formula(labels: list[str], uris: list[str], data: Any) -> None:
    p = data.draw(st.integers(1, len(labels))) if data else len(labels)
    table = made(labels, uris, p)
    parts = [table.slice(0, 2), table.slice(2)]
    written = encode("csv", PREDICTIONS, parts, p)
    header, *rows = read_csv(written)
    more = [f"{name}_{rank}" for rank in range(2, p + 1) for name in ("label", "class_index", "probability")]
    assert header == ["uri", "label", "class_index", "probability", *more]
    assert len(rows) == len(uris)
    for row, expected in zip(rows, table.to_pylist(), strict=True):
        assert unquoted(row[0]) == expected["uri"]
        assert [unquoted(text) for text in row[1::3]] == expected["labels"]
        assert [int(text) for text in row[2::3]] == expected["class_indices"]
        assert [float(text) for text in row[3::3]] == expected["probabilities"]
        for text in (row[0], *row[1::3]):
            assert not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
            assert text == unquoted(text) or unquoted(text)[:1] in "'=+-@\t\r\n＝＋－＠"
    again = pacsv.read_csv(  # another reader
        pa.BufferReader(bytes(written)),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types={n: pa.string() for n in header}, strings_can_be_null=False),
    )
    assert [list(row.values()) for row in again.to_pylist()] == rows


@given(st.lists(texts, min_size=2, max_size=6, unique=True), st.lists(texts, max_size=9))
def test_parquet_has_the_table_unchanged(labels: list[str], uris: list[str]) -> None:
    table = made(labels, uris, 2)
    data = encode("parquet", PREDICTIONS, [table.slice(0, 2), table.slice(2)], 2)
    found = pq.read_table(pa.BufferReader(bytes(data)))
    assert found.schema == PREDICTIONS and found.to_pylist() == table.to_pylist()
    assert bytes(data) == bytes(encode("parquet", PREDICTIONS, [table.slice(0, 2), table.slice(2)], 2))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_without_rows_has_the_columns(form: Any) -> None:
    data = encode(form, LEFT_OUT, [])
    if form == "csv":
        assert read_csv(data) == [["uri", "stage", "reason", "detail"]]
    else:
        assert pq.read_table(pa.BufferReader(bytes(data))).schema == LEFT_OUT
    rejects = pa.table([["/a"], ["decode"], ["corrupt"], ["=HYPERLINK()"]], schema=LEFT_OUT)
    if form == "csv":
        assert read_csv(encode(form, LEFT_OUT, [rejects]))[1] == ["/a", "decode", "corrupt", "'=HYPERLINK()"]
