"""Where a prediction is written, and what may exist there."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from raylabel.errors import InputError
from raylabel.ship.output import Output
from raylabel.ship.prediction import Prediction

WANTED = Prediction(prediction="abc", network="runs/n", corpus=["photos"], classes=["a", "b"], p=2, passed_over=[])


@pytest.mark.parametrize(
    "to, form, found, names",
    [
        ("a.csv", None, ("csv", True), ("a.csv", "a.rejects.csv", "a.summary.json")),
        ("x/b.1.PARQUET", "parquet", ("parquet", True), ("b.1.PARQUET", "b.1.rejects.parquet", "b.1.summary.json")),
        ("x", None, ("parquet", False), ("predictions/000007.parquet", "rejects/000007.parquet", "summary.json")),
        ("x.d/", "csv", ("csv", False), ("predictions/000007.csv", "rejects/000007.csv", "summary.json")),
        ("csv", None, ("csv", False), ()),
    ],
)
def test_the_ending_says_whether_it_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, form: Any, found: tuple[str, bool], names: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    output = Output.of(to, form, Prediction)
    assert output.uri == str(tmp_path / to).rstrip("/")
    if not names:
        assert not output.whole and output.form == "parquet"
        return
    assert (output.form, output.whole) == found
    assert (output.name("predictions", 7), output.name("rejects", 7)) == names[:2]
    assert output.summary == names[2]


def test_a_form_that_contradicts_the_ending_is_an_error() -> None:
    with pytest.raises(InputError, match="form is csv, but to is 'a.parquet': leave form out, or change the ending"):
        Output.of("a.parquet", "csv", Prediction)


def write(output: Output[Prediction], prediction: Prediction, complete: bool = True) -> None:
    output.write_summary(prediction)
    files = [output.write(output.name(table), memoryview(table.encode()), 3) for table in ("predictions", "rejects")]
    if complete:
        output.write_summary(dataclasses.replace(prediction, files=[dataclasses.asdict(file) for file in files]))


@pytest.mark.parametrize("to", ["a.csv", "out"])
def test_only_the_same_prediction_may_exist(tmp_path: Path, to: str) -> None:
    output = Output.of(str(tmp_path / to), None, Prediction)
    assert output.claim(WANTED) is None  # nothing is there
    write(output, WANTED, complete=False)
    assert output.claim(WANTED) is None  # a call that was killed
    write(output, WANTED)
    done = output.claim(WANTED)
    assert done and done.prediction == "abc" and [file["rows"] for file in done.files] == [3, 3]
    with pytest.raises(InputError, match=f"/{to}' has another prediction, by runs/n of photos: delete it, or give"):
        output.claim(dataclasses.replace(WANTED, prediction="def"))

    path = Path(output.folder, output.name("predictions"))
    path.write_text("edited by hand")
    with pytest.raises(InputError, match="' was changed after it was written: move it away, or give another --to"):
        output.claim(WANTED)
    path.unlink()
    assert output.claim(WANTED) is None  # it is written again

    summary = Path(output.folder, output.summary)
    summary.write_text('{"a": 1}')
    with pytest.raises(InputError, match="summary.json' exists and is no summary of a prediction"):
        output.claim(WANTED)
    summary.unlink()
    with pytest.raises(InputError, match=f"/{to}' exists .*rejects.*: delete it, or give another --to"):
        output.claim(WANTED)


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="/out' exists"):
        Output.of(str(tmp_path / "out"), None, Prediction).claim(WANTED)
    (tmp_path / "empty").mkdir()
    assert Output.of(str(tmp_path / "empty"), None, Prediction).claim(WANTED) is None
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match="a.csv' exists"):
        Output.of(str(tmp_path / "a.csv"), None, Prediction).claim(WANTED)
