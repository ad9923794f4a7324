"""The same labels give the same classes, or the same error, in every form of a corpus."""

import json
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import tar_bytes
from forms import LABELED, index_here, kind_of_error, outcome
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raylabel.corpus import Corpus, read_labels, read_rows
from raylabel.corpus.label_rule import name_warnings
from raylabel.errors import InputError
from raylabel.labels.truth import GivenLabels
from raylabel.schema import PICKS
from raylabel.store.artifact import Root

SIGNED, FLOAT, BOOLEAN = "is a number with a sign", "is a floating-point number", "is a boolean"
# Labels → the classes, or (the error, the label that it names).
VARIANTS: list[tuple[list[str], tuple[str, ...] | str]] = [
    (["dog", "cat"], ("cat", "dog")),
    (["10", "9", "0"], ("0", "9", "10")),
    (["007", "010", "003"], ("003", "007", "010")),
    ([" cat", "cat ", "dog", "cat\u3000", "\xa0dog"], ("cat", "dog")),
    (["cafe\u0301", "caf\u00e9", "tea"], ("caf\u00e9", "tea")),
    (["golden, retriever", 'a "b" c'], ('a "b" c', "golden, retriever")),
    (["12e4", "ab3f"], ("12e4", "ab3f")),
    (["1.5.2", "v1.0"], ("1.5.2", "v1.0")),
    (["None", "null"], ("None", "null")),
    (["Cat", "cat"], ("Cat", "cat")),
    (["Strasse", "straße", "[x]", "{y"], ("Strasse", "[x]", "straße", "{y")),
    (["cat", " ", "dog"], "no labels: SAMPLE has none"),
    (["0", "-1"], f"label '-1' of SAMPLE {SIGNED}"),
    (["+1", "0"], f"label '+1' of SAMPLE {SIGNED}"),
    (["0", "\u22121"], f"label '\u22121' of SAMPLE {SIGNED}"),
    (["0.0", "1.0"], f"label '0.0' of SAMPLE {FLOAT}"),
    (["cat", "-.5"], f"label '-.5' of SAMPLE {FLOAT}"),
    (["cat", "1e+16"], f"label '1e+16' of SAMPLE {FLOAT}"),
    (["cat", "NaN"], f"label 'NaN' of SAMPLE {FLOAT}"),
    (["False", "True"], f"label 'False' of SAMPLE {BOOLEAN}"),
    (["true", "cat"], f"label 'true' of SAMPLE {BOOLEAN}"),
    (["cat", '{"label": 3}'], "label '{\"label\": 3}' of SAMPLE is a JSON text"),
    (["cat", "[1, 2]"], "label '[1, 2]' of SAMPLE is a JSON text"),
    (["007", "7", "8"], "label '007' of SAMPLE and label '7' of SAMPLE are the same number"),
    (["7", "\uff17"], "label '7' of SAMPLE and label '\uff17' of SAMPLE are the same number"),
    (["7", "cat"], "label '7' of SAMPLE is an integer and label 'cat' of SAMPLE is a name"),
]


@pytest.mark.parametrize("form", LABELED)
@pytest.mark.parametrize("labels, expected", VARIANTS, ids=[repr(labels) for labels, _ in VARIANTS])
def test_labels_have_one_meaning_in_every_form(
    form: str, labels: list[str], expected: tuple[str, ...] | str, tmp_path: Path
) -> None:
    corpus = LABELED[form](tmp_path, labels)
    found = outcome(corpus, tmp_path / "root")
    if form == "folder" and labels == ["7", "cat"]:
        expected = ("7", "cat")  # the name of a folder is a name
    if isinstance(expected, tuple):
        assert found == expected
        rows = read_labels(corpus, index_here(corpus, tmp_path / "root"))["label"].to_pylist()
        stripped = [unicodedata.normalize("NFC", label.strip()) for label in labels]
        assert sorted(rows) == sorted(stripped)  # a folder has another order
    else:
        assert isinstance(found, str) and kind_of_error(found).startswith(expected), found


@pytest.mark.parametrize(
    "form, where",
    [
        ("parquet", "/a.parquet#1' has none (column 'label');"),
        ("csv", "/001.jpg' has none (column 'label', row 2 below the header of '{}/a.csv');"),
        ("txt", "/001.jpg' has none (line 2 of '{}/a.txt');"),
        ("tar", "/a.tar#001' has none (member 'cls');"),
        ("folder", "/all/ /001.jpg' has none;"),
    ],
)
def test_errors_name_the_sample_and_where_its_label_is(form: str, where: str, tmp_path: Path) -> None:
    found = outcome(LABELED[form](tmp_path, ["b", " ", "c"]), tmp_path / "root")
    assert f"no labels: '{tmp_path}{where.format(tmp_path)}" in found


def test_a_row_of_a_list_is_counted_from_the_beginning_of_the_list(tmp_path: Path) -> None:
    corpus = LABELED["csv"](tmp_path, ["a", "b"] * 5 + [""])
    with pytest.raises(InputError, match="row 11 below the header of '.*a.csv'"):
        read_labels(corpus, index_here(corpus, tmp_path / "root", run=3))


@pytest.mark.parametrize("form", LABELED)
def test_a_name_in_the_classes_file_is_a_name_whatever_it_looks_like(form: str, tmp_path: Path) -> None:
    corpus = replace(LABELED[form](tmp_path, ["True", "-1", "cafe\u0301", "1.0"]), classes=str(tmp_path / "c"))
    (tmp_path / "c").write_bytes("\ufeff 1.0\r\n-1 \ncaf\u00e9\nTrue\n".encode())
    assert outcome(corpus, tmp_path / "root") == ("1.0", "-1", "caf\u00e9", "True")
    (tmp_path / "c").write_text("1.0\ncaf\u00e9\nTrue\ncafe\u0301")
    assert "line 4 of" in outcome(corpus, tmp_path / "root")  # the same name twice
    (tmp_path / "c").write_text("1.0\ncaf\u00e9\nTrue")
    assert kind_of_error(str(outcome(corpus, tmp_path / "root"))).startswith(f"label '-1' of SAMPLE {SIGNED}")


@pytest.mark.parametrize("form", LABELED)
def test_integers_and_names_may_be_mixed_if_the_classes_file_has_all_of_them(form: str, tmp_path: Path) -> None:
    corpus = replace(LABELED[form](tmp_path, ["2", "dog", "cat", "002"]), classes=str(tmp_path / "c"))
    (tmp_path / "c").write_text("cat\ndog\ncow\n")  # the numbers are line numbers
    assert outcome(corpus, tmp_path / "root") == ("cat", "dog", "cow")


names = st.text("aAbé\u0301 7-.,;'\"{}[]:猫", min_size=1, max_size=5)


def expressible(label: str) -> bool:
    """Whether every form can contain the label: a folder whose name begins with a dot is not searched."""
    return not label.startswith(".") and label not in (".", "..")


@pytest.mark.long
@settings(max_examples=40)
@given(st.lists(names.filter(expressible), min_size=1, max_size=6))
@example(["a", "A", "7", "7.0"])
@example(["e\u0301", "\u00e9 ", " \u00e9"])
def test_every_form_gives_the_same_outcome_for_the_same_labels(labels: list[str]) -> None:
    found = {}
    labels = sorted(labels)
    for form, write in LABELED.items():
        with tempfile.TemporaryDirectory() as folder:
            found[form] = outcome(write(Path(folder), labels), Path(folder) / "root")
    if "is an integer and" in str(found["parquet"]):
        assert not isinstance(found.pop("folder"), str)
    if isinstance(found["parquet"], tuple):
        assert set(found["parquet"]) == {unicodedata.normalize("NFC", label.strip()) for label in labels}
        assert len(set(found.values())) == 1
    else:
        kinds = {str(one).rpartition(" is ")[2].partition(":")[0].partition("(")[0] for one in found.values()}
        assert all(isinstance(one, str) for one in found.values())
        assert len({one.partition(" '")[0] for one in map(str, found.values())}) == 1 or len(kinds) == 1


@pytest.mark.parametrize(
    "column, expected",
    [
        (pa.array([1, 0], pa.int8()), ("0", "1")),
        (pa.array([2**64 - 1, 0], pa.uint64()), ("0", str(2**64 - 1))),
        (pa.array(["b ", "a"]).dictionary_encode(), ("a", "b")),
        (pa.array(["b", "a"], pa.string_view()), ("a", "b")),
        (pa.array([1.0, 0.0]), "is double, expected integers or strings: set corpus.label to another column than 'y'"),
        (pa.array([True, False]), "is bool, expected integers or strings: set corpus.label to another column than 'y'"),
        (pa.array([0, -1]), "label '-1' of '{0}#1' (column 'y') is a number with a sign"),
        (pa.array([0, None]), "no labels: '{0}#1' has none (column 'y')"),
    ],
)
def test_types_of_parquet_columns(column: pa.Array, expected: tuple[str, ...] | str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"x"] * len(column), "y": column}), path)
    found = outcome(Corpus(uri=(str(path),), label="y"), tmp_path / "root")
    assert found == expected if isinstance(expected, tuple) else expected.format(path) in found


def tar_of(folder: Path, *texts: bytes, extension: str = "cls") -> str:
    members = [(f"{i}.{e}", d) for i, text in enumerate(texts) for e, d in (("jpg", b"x"), (extension, text))]
    (folder / "a.tar").write_bytes(tar_bytes(*members))
    return str(folder / "a.tar")


def test_bytes_of_members_of_a_tar(tmp_path: Path) -> None:
    corpus = Corpus(uri=(tar_of(tmp_path, b"3\n", b"\xef\xbb\xbf3\r\n", b" 12", b"\xef\xbb\xbf4"),))
    assert outcome(corpus, tmp_path / "root") == ("3", "4", "12")
    tar_of(tmp_path, b"3", "ä".encode("latin-1"))
    assert "a.tar#1.cls' is not UTF-8 text" in outcome(corpus, tmp_path / "root2")


JSON: list[tuple[str, list[object], tuple[str, ...] | str]] = [
    ("json:label", [{"label": "dog"}, {"label": " cat "}], ("cat", "dog")),
    ("json:meta.label", [{"meta": {"label": 10}}, {"meta": {"label": "9"}}], ("9", "10")),
    ("json:label", [{"label": 1}, {"label": True}], "#1' has true in the field 'label', which is a boolean"),
    ("json:label", [{"label": 1.0}], "#0' has 1.0 in the field 'label', which is a floating-point number"),
    ("json:label", [{"label": [1]}], "#0' has [1] in the field 'label', which is a list"),
    ("json:label", [{"label": {"a": 1}}], "which is an object"),
    ("json:label", [{"label": 1}, {"label": None}], "#1' has none"),
    ("json:label", [{"label": 1}, {"other": 1}], "#1' has none"),
    ("json:label", [{"label": 1}, {"label": -1}], f"label '-1' of '{{0}}#1' ({{1}} 'json:label') {SIGNED}"),
    ("json:label", [[1]], "#0' is not a JSON object"),
    ("json:a.b.c", [{"a": {"b": 1}}], "#0' has none"),
    (
        "json",
        [{"caption": "x", "label": 1}],
        "is a JSON text with the fields 'label', 'caption': name the field of the",
    ),
    ("json", [{"caption": "x", "label": 1}], "for example 'json:label'"),
]


@pytest.mark.parametrize("form", ["tar", "parquet"])
@pytest.mark.parametrize("label, values, expected", JSON, ids=[f"{label} {values}" for label, values, _ in JSON])
def test_a_field_of_json(
    form: str, label: str, values: list[object], expected: tuple[str, ...] | str, tmp_path: Path
) -> None:
    texts = [json.dumps(value) for value in values]
    if form == "tar":
        path = tar_of(tmp_path, *(text.encode() for text in texts), extension="json")
    else:
        path = str(tmp_path / "a.parquet")
        pq.write_table(pa.table({"image": [b"x"] * len(texts), "json": texts}), path)
    corpus = Corpus(uri=(path,), label=label)
    found = outcome(corpus, tmp_path / "root")
    if isinstance(expected, str):
        assert expected.format(path, "member" if form == "tar" else "column") in found
        return
    assert found == expected
    shards = index_here(corpus, tmp_path / "root")
    labels = read_labels(corpus, shards)["label"].to_pylist()
    assert [s.label for s in read_rows(corpus, shards.row(0), range(len(texts)), labels=True)] == labels


@pytest.mark.parametrize("text", [b"{", b'{"label": ' + b"9" * 5000 + b"}", b'{"a":' * 100_000, b"3"])
def test_json_that_cannot_be_read_is_an_error_that_names_the_sample(text: bytes, tmp_path: Path) -> None:
    corpus = Corpus(uri=(tar_of(tmp_path, b'{"label": 1}', text, extension="json"),), label="json:label")
    assert "a.tar#1' is not a JSON object: give one with the field 'label'" in outcome(corpus, tmp_path / "root")


def test_a_column_whose_name_has_a_colon_is_that_column(tmp_path: Path) -> None:
    table = pa.table({"image": [b"x", b"y"], "a": ['{"b": 1}', '{"b": 2}'], "a:b": ["cat", "dog"]})
    pq.write_table(table, tmp_path / "a.parquet")
    corpus = Corpus(uri=(str(tmp_path),), label="a:b")
    assert outcome(corpus, tmp_path / "root") == ("cat", "dog")


def test_classes_that_differ_only_in_case_are_a_warning() -> None:
    assert name_warnings(["cat", "dog", "7"]) == ()
    found = name_warnings(["Cat", "cat", "dog", "DOG", "Dog", "cow"])
    assert found == (
        "classes whose names differ only in case are different classes: 'Cat' and 'cat'; 'dog' and 'DOG' and 'Dog'",
    )
    assert name_warnings([f"{c}{i}" for i in range(9) for c in "aA"])[0].endswith("'a2' and 'A2' and 6 more")


def test_picks_of_labels_that_were_good_before_are_the_same_bytes(tmp_path: Path) -> None:
    labels = ["dog", "cat", "owl", "cat", "ant"]
    corpus = LABELED["parquet"](tmp_path, labels)
    shards = index_here(corpus, tmp_path / "root")
    found = GivenLabels().label(Root.open(str(tmp_path / "root")), corpus, shards.artifact)
    assert found.table("picks", PICKS).to_pydict() == {
        "label": [0, 1, 1, 2, 3],
        "rank": [1, 1, 2, 1, 1],
        "score": [0.0] * 5,
        "key": [4, 1, 3, 0, 2],
    }
    assert found.info["classes"] == ["ant", "cat", "dog", "owl"]
    assert found.digest == "f646a487262b"  # of the content "x"; the same as before the rule


def test_the_labels_of_the_shared_cases(shared: Path, tmp_path: Path) -> None:
    path = shared / "cases" / "parquet" / "noisy.parquet"
    found = outcome(Corpus(uri=(str(path),)), tmp_path / "root")
    assert found == ("Cat", "DOG", "cat", "dog")
    assert name_warnings(found)
