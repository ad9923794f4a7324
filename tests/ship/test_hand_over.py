"""Exported picks in the programs that they are for: datasets, webdataset, raylabel itself, Label Studio."""

import csv
import io
import json
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from corpora import add
from finished_runs import digits_network
from helpers import digit_images, example_rows, write_parquet
from picked import HOSTILE, Pick, PickedRoot, picked_root
from PIL import Image
from videos import scene, video

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.corpus.config import Kind
from raylabel.corpus.labels import read_labels
from raylabel.errors import InputError
from raylabel.evaluate.precision import Truth, pick_precision
from raylabel.evaluate.results import Subject
from raylabel.labels.teacher import Label
from raylabel.labels.truth import GivenLabels
from raylabel.schema import PICKS
from raylabel.ship import hand_over, pick_files
from raylabel.ship.hand_over import export_picks
from raylabel.ship.output import Output
from raylabel.ship.pick_files import FilesTask
from raylabel.ship.pick_plan import PlanTask, plan_arguments, plan_file
from raylabel.ship.picked import find_picks
from raylabel.ship.predict import predict
from raylabel.ship.prediction import Prediction
from raylabel.ship.shipped import find_network
from raylabel.store.artifact import Built, Root
from raylabel.store.files import list_files, read_file, write_file
from raylabel.store.uses import Record, write_record
from raylabel.training import media as writing
from raylabel.training.examples import media_of
from raylabel.training.media import Materialize

CLASSES = (*HOSTILE, "line\nbreak", "plain")


@pytest.fixture(scope="module")
def photos(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loose files; one cannot be decoded."""
    folder = tmp_path_factory.mktemp("photos") / "a b"
    folder.mkdir()
    for number, data in enumerate(digit_images()[0][:90]):
        (folder / f'{number:03d} "é",=#.png').write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def case(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> PickedRoot:
    """PICKS with EXAMPLES of several files, and a finished run."""
    folder = tmp_path_factory.mktemp("root")
    made = picked_root(folder, Corpus(uri=(str(photos),)), CLASSES, each=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "GROUP", {"image": 2, "video": 1})  # samples of a row group
        examples = made.materialize(Materialize(lanes=4))
    assert len(writing_files(made, "media-")) == 4 and examples.info["items"] == 120
    made.finished_run(examples)
    return made


def writing_files(case: PickedRoot, prefix: str) -> list[str]:
    folder = Path(case.root.uri)
    return [path.name for path in sorted(folder.glob(f"media-*/{prefix}*"))]


def exported(case: PickedRoot, to: Path | str, form: Any, **more: Any) -> hand_over.HandedOver:
    return export_picks(find_picks(case.picks.uri), form, str(to), **more)


def with_datasets(folder: Path, kind: Kind = "image") -> datasets.Dataset:
    found = datasets.load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache"))
    assert isinstance(found, datasets.Dataset)
    return found


def encoded(rows: datasets.Dataset, kind: Kind = "image") -> dict[Pick, bytes]:
    """The picks, by what `datasets` says of them."""
    feature: Any = datasets.Image(decode=False) if kind == "image" else datasets.Video(decode=False)
    names = rows.features["label"].names
    found = {}
    for row in rows.cast_column(kind, feature):
        assert isinstance(row, dict) and row["class"] == names[row["label"]]
        found[row["uri"], names[row["label"]], row["rank"], row["score"]] = row[kind]["bytes"]
    return found


def test_datasets_reads_the_same_picks_and_pictures(
    case: PickedRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pick_files, "FILE_BYTES", 5000)  # in the driver: two tasks
    found = exported(case, tmp_path / "picks", "hf")
    assert (found.exported, found.rejected) == (120, 0)
    files = sorted((tmp_path / "picks" / "data").iterdir())
    assert found.files == len(files) > 1 and found.bytes == sum(path.stat().st_size for path in files)
    rows = with_datasets(tmp_path / "picks")
    assert rows.features["label"].names == list(CLASSES) and len(rows) == 120
    expected = case.expected()
    assert encoded(rows) == expected and len(expected) == 120
    assert max(Counter(pick[0] for pick in expected).values()) > 1  # a sample that is picked for two classes
    row: Any = rows[0]
    media = expected[row["uri"], row["class"], row["rank"], row["score"]]
    np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(Image.open(io.BytesIO(media))))
    assert not list((tmp_path).glob("*.tmp")) and not (tmp_path / "picks" / "scratch").exists()
    card = (tmp_path / "picks" / "README.md").read_text()
    assert "- Rows: 120 pairs" in card and "At most 20 samples of each class, of the 2 best classes" in card

    # raylabel itself reads it as a labeled set.
    root = Root.open(str(tmp_path / "again"))
    corpus = Corpus(uri=(f"{tmp_path}/picks",), label="class")
    again = GivenLabels().label(root, corpus, index_corpus(root, "labeled", corpus))
    assert sorted(again.info["classes"]) == sorted(CLASSES) and again.info["per_class"] == [20] * 6

    stamps = {path: path.stat().st_mtime_ns for path in files}
    assert exported(case, tmp_path / "picks", "hf") == found  # nothing is done again
    assert stamps == {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(InputError, match="picks' exists, and is another export: delete it, or give another --to"):
        exported(case, tmp_path / "picks", "webdataset")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves the last tar open
def test_webdataset_reads_the_same_picks_and_pictures(case: PickedRoot, tmp_path: Path) -> None:
    exported(case, tmp_path / "picks", "webdataset")
    tars = sorted(map(str, (tmp_path / "picks" / "data").glob("*.tar")))
    found = {}
    reader: Any = webdataset
    for sample in reader.WebDataset(tars, shardshuffle=False, empty_check=False):
        row = json.loads(sample["json"])
        assert CLASSES[int(sample["cls"])] == row["class"] and len(sample.keys() & {"png", "jpg"}) == 1
        found[row["uri"], row["class"], row["rank"], np.float32(row["score"])] = sample["png"]
    assert found == case.expected()
    root = Root.open(str(tmp_path / "again"))
    corpus = Corpus(uri=(f"{tmp_path}/picks/data",), label="json:class")
    again = GivenLabels().label(root, corpus, index_corpus(root, "labeled", corpus))
    assert sorted(again.info["classes"]) == sorted(CLASSES) and again.info["per_class"] == [20] * 6


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def read_list(folder: Path, corpus: Corpus) -> list[tuple[str, str, int, float]]:
    """(path, label) as raylabel reads the lists, with the rank and the score that csv reads in them."""
    root = Root.open(str(folder / "again"))
    shards = Shards(index_corpus(root, "labeled", corpus))
    labels = read_labels(corpus, shards).column("label").to_pylist()
    rows = [row for uri in corpus.uri for row in read_csv(Path(uri))]
    assert [row["label"] for row in rows] == labels
    return [(row["path"], row["label"], int(row["rank"]), float(np.float32(row["score"]))) for row in rows]


def test_lists_are_a_labeled_set_with_the_same_picks_in_order(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = picked_root(tmp_path, Corpus(uri=(str(photos),), share=0.7), HOSTILE, each=15)
    case.finished_run()
    found = exported(case, tmp_path / "list", "csv")
    lists = sorted(map(str, (tmp_path / "list").glob("picks-*.csv")))
    assert (found.exported, found.files, len(lists)) == (60, 2, 2)
    corpus = Corpus(uri=tuple(lists), classes=f"{tmp_path}/list/classes.txt")
    assert read_list(tmp_path, corpus) == list(case.expected())  # in the order of PICKS
    root = Root.open(str(tmp_path / "again"))
    again = GivenLabels().label(root, corpus, index_corpus(root, "labeled", corpus))
    assert tuple(again.info["classes"]) == HOSTILE
    assert again.table("picks-", PICKS).column("label").to_pylist() == [row["label"] for row in case.rows]


def test_segments_are_listed_and_their_clips_exported(ray_local: None, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(2):
        (tmp_path / "clips" / f"{number}.mp4").write_bytes(video(scene(50, 32, 32, seed=number)))
    with (tmp_path / "segments.csv").open("w") as file:
        file.write("path,t0,t1\n" + "".join(f"clips/{n}.mp4,{s},{s + 1}\n" for n in range(2) for s in (0, 1)))
    corpus = Corpus(uri=(f"{tmp_path}/segments.csv",), kind="video", start="t0", end="t1")
    case = picked_root(tmp_path, corpus, ("a", "b"), each=3)
    examples = case.materialize(Materialize())
    case.finished_run(examples)
    exported(case, tmp_path / "hf", "hf")
    found = encoded(with_datasets(tmp_path / "hf", "video"), "video")
    clips = {row["key"]: row["media"] for row in example_rows(examples)}
    segments = {key: f"{tmp_path}/clips/{key // 2}.mp4#t={key % 2:.1f},{key % 2 + 1:.1f}" for key in range(4)}
    assert found == {
        (segments[row["key"]], "ab"[row["label"]], row["rank"], row["score"]): clips[row["key"]] for row in case.rows
    }
    exported(case, tmp_path / "list", "csv")
    rows = read_csv(tmp_path / "list" / "picks-00000.csv")
    listed = [f"{row['path']}#t={row['start']},{row['end']}" for row in rows]
    assert listed == [segments[row["key"]] for row in case.rows]
    again = Corpus(uri=(f"{tmp_path}/list/picks-00000.csv",), kind="video", start="start", end="end")
    assert read_list(tmp_path, again) == [
        (row["path"], row["label"], int(row["rank"]), np.float32(row["score"])) for row in rows
    ]


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_samples_within_files_have_addresses_and_no_lists(ray_local: None, tmp_path: Path, form: str) -> None:
    import tarfile

    media = digit_images()[0][:40]
    (tmp_path / "data").mkdir()
    for number, some in enumerate((media[:25], media[25:])):
        if form == "parquet":
            write_parquet(tmp_path / "data" / f"{number}.parquet", some)
            continue
        with tarfile.open(tmp_path / "data" / f"{number}.tar", "w") as tar:
            for row, one in enumerate(some):
                add(tar, f"s{row}.png", one)
    case = picked_root(tmp_path, Corpus(uri=(f"{tmp_path}/data",)), ("a", "b", "c"), each=9)
    case.finished_run()
    exported(case, tmp_path / "picks", "hf")  # without EXAMPLES: the corpus is read
    files = "parquet" if form == "parquet" else "tar"
    row = "" if form == "parquet" else "row="

    def address(key: int) -> str:
        return f"{tmp_path}/data/{key >> 32}.{files}#{row}{key & 0xFFFFFFFF}"

    expected = {
        (address(one["key"]), case.classes[one["label"]], one["rank"], one["score"]): media[
            25 * (one["key"] >> 32) + (one["key"] & 0xFFFFFFFF)
        ]
        for one in case.rows
    }
    assert encoded(with_datasets(tmp_path / "picks")) == expected
    assert not [name for name in Path(case.root.uri).iterdir() if name.name.startswith(("media", "examples"))]
    with pytest.raises(InputError, match="which a list cannot name: give --format hf or webdataset, which have"):
        exported(case, tmp_path / "list", "csv")
    assert not (tmp_path / "list").exists()


def annotated(folder: Path, choose: Any) -> str:
    """What Label Studio exports as CSV once each task has a choice; `choose`: data → the class, None if skipped."""
    tasks = [task for path in sorted(folder.glob("tasks-*.json")) for task in json.loads(path.read_text())]
    rows = []
    for number, task in enumerate(tasks):
        if (choice := choose(task["data"])) is not None:
            more = {"id": number, "annotator": 1, "annotation_id": number, "lead_time": 2.5, "created_at": "2026"}
            rows.append({**task["data"], **more, "updated_at": "2026", "choice": choice})
    with (folder / "export.csv").open("w", encoding="utf8") as file:
        writer = csv.DictWriter(file, sorted(rows[0]), quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / "export.csv")


def test_label_studio_gets_the_last_ranks_and_its_labels_come_back(case: PickedRoot, tmp_path: Path) -> None:
    found = exported(case, tmp_path / "the queue", "label-studio", per_class=6)
    folder = tmp_path / "the queue"
    (tasks,) = [json.loads(path.read_text()) for path in folder.glob("tasks-*.json")]
    last = {pick: data for pick, data in case.expected().items() if pick[2] > 14}
    first = {pick[0]: pick for pick in reversed(last)}  # a sample that is in the queue of two classes is one task
    expected = {pick: data for pick, data in last.items() if first[pick[0]] == pick}
    assert found.exported == len(tasks) == len(expected) < len(last) == 36
    pictures, results = {}, []
    for task in tasks:
        data, (prediction,) = task["data"], task["predictions"]
        assert data["image"] == f"/data/local-files/?d=the%20queue/media/{Path(data['path']).name}"
        pick = data["uri"], data["class"], data["rank"], np.float32(data["score"])
        pictures[pick] = Path(data["path"]).read_bytes()
        (result,) = prediction["result"]
        results.append(result)
        assert result["value"] == {"choices": [data["class"]]}
        assert prediction["score"] == pytest.approx(1 / (1 + np.exp(-data["score"])))
    assert pictures == expected and [pick[:3] for pick in pictures] == [pick[:3] for pick in expected]
    view = ElementTree.parse(folder / "config.xml").getroot()
    assert [choice.get("value") for choice in view.iter("Choice")] == list(CLASSES)
    (choices,) = view.iter("Choices")
    assert (choices.get("name"), choices.get("toName")) == ("choice", "image")
    assert {(one["from_name"], one["to_name"]) for one in results} == {("choice", "image")}

    # An annotator who calls each picture of class 0 one of class 1, and skips class 4.
    def choose(data: Any) -> str | None:
        return {0: CLASSES[1], 4: None}.get(CLASSES.index(data["class"]), data["class"])

    labels = annotated(folder, choose)
    root = Root.open(str(tmp_path / "again"))
    corpus = Corpus(uri=(labels,), label="choice")
    shards = index_corpus(root, "labeled", corpus)
    again = GivenLabels().label(root, corpus, shards)
    chosen = {pick[0]: choice for pick in expected if (choice := choose({"class": pick[1]}))}
    counts = dict(zip(again.info["classes"], again.info["per_class"], strict=True))
    assert counts == Counter(chosen.values()) and set(counts) == {CLASSES[index] for index in (1, 2, 3, 5)}
    of = Subject(model="teacher", seed=0, dataset="u", split="unlabeled")
    truth = Truth(uri=labels, id="uri", label="choice")
    row, _ = pick_precision(of, case.picks, case.shards.artifact, 1.0, truth, CLASSES)
    right = [chosen[pick[0]] == pick[1] for pick in case.expected() if pick[0] in chosen]
    assert (row.value, row.n) == (np.mean(right), len(right))
    with pytest.raises(InputError, match="column 'choice' does not contain class indices: .* or only names of classes"):
        pick_precision(of, case.picks, case.shards.artifact, 1.0, truth, CLASSES[2:])


def test_a_run_without_examples_gives_the_same_files(photos: Path, tmp_path: Path) -> None:
    case = picked_root(tmp_path, Corpus(uri=(str(photos),)), HOSTILE, each=10)
    bare = case.finished_run(name="run-bare")
    exported(case, tmp_path / "corpus", "hf")
    case.finished_run(case.materialize(Materialize()), name="run-whole")
    assert find_picks(case.picks.uri).examples  # of the run that has them
    assert find_picks(case.picks.uri, bare.uri).examples is None
    exported(case, tmp_path / "media", "hf")
    one, other = ((tmp_path / name / "data" / "000000.parquet").read_bytes() for name in ("corpus", "media"))
    assert one == other


def test_a_stopped_export_goes_on_to_the_same_files(case: PickedRoot, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(pick_files, "FILE_BYTES", 5000)
    exported(case, tmp_path / "whole", "webdataset")
    whole = contents_of(tmp_path / "whole")
    (media,) = Path(case.root.uri).glob("media-*")
    lost = sorted(media.glob("media-*"))[-1]
    data = lost.read_bytes()
    lost.unlink()
    try:
        with pytest.raises(InputError, match=f"cannot read '{lost}'.* restore the file"):
            exported(case, tmp_path / "stopped", "webdataset")
    finally:
        lost.write_bytes(data)
    assert not (tmp_path / "stopped").exists()
    (begun,) = tmp_path.glob("stopped.*.tmp")
    first = begun / "data" / "000000.tar"
    while not (begun / "scratch" / "export" / "done" / "000000.json").exists():  # other tasks run to their end
        time.sleep(0.02)
    stamp = first.stat().st_ino, first.stat().st_mtime_ns
    exported(case, tmp_path / "stopped", "webdataset")
    assert contents_of(tmp_path / "stopped") == whole and not begun.exists()
    first = tmp_path / "stopped" / "data" / "000000.tar"
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == stamp  # it was not written again


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_object_store_gets_the_same_files(case: PickedRoot, bucket: str, tmp_path: Path) -> None:
    exported(case, tmp_path / "picks", "hf")
    exported(case, f"{bucket}/picks", "hf")
    names = list_files(f"{bucket}/picks")
    assert {name: read_file(f"{bucket}/picks/{name}") for name in names} == contents_of(tmp_path / "picks")
    exported(case, f"{bucket}/queue", "label-studio", per_class=2)
    for task in json.loads(read_file(f"{bucket}/queue/tasks-00000.json")):
        assert task["data"]["image"] == task["data"]["path"] and read_file(task["data"]["path"])
    write_file(f"{bucket}/other/x", b"")
    with pytest.raises(InputError, match="s3://pictures/other' exists, and is another export"):
        exported(case, f"{bucket}/other", "hf")


def test_rejected_samples_are_left_out_and_counted(ray_local: None, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, data in enumerate([*digit_images()[0][:19], b"no picture"]):
        (tmp_path / "photos" / f"{number:02d}.png").write_bytes(data)
    case = picked_root(tmp_path, Corpus(uri=(f"{tmp_path}/photos",)), ("a", "b"), each=20)
    case.finished_run(case.materialize(Materialize()))
    found = exported(case, tmp_path / "picks", "webdataset")
    assert (found.exported, found.rejected) == (38, 1)
    assert "- Left out: 1 samples that cannot be decoded." in (tmp_path / "picks" / "README.md").read_text()


def test_files_begin_anew_at_a_limit_and_row_groups_are_small(
    case: PickedRoot, tmp_path: Path, monkeypatch: Any
) -> None:
    """The task itself, in this process."""
    found = find_picks(case.picks.uri)
    assert found.examples
    out = str(tmp_path / "out")
    plan = PlanTask(
        picks=found.picks, examples=found.examples, corpus=found.corpus, shards=found.shards, queue=None, out=out
    )
    planned = [one for arguments in plan_arguments(plan) for one in plan_file(*arguments)]
    assert len(planned) == 4 and sum(one.picks for one in planned) == 120
    task = FilesTask(
        form="hf", media=media_of(found.examples), kind="image", classes=CLASSES, plans=out, out=out, done=f"{out}/done"
    )
    monkeypatch.setattr(pick_files, "GROUP_ROWS", 7)
    monkeypatch.setattr(pick_files, "FILE_BYTES", 4000)
    record = pick_files.write_files(task, 3, planned)
    names = [file["name"] for file in record["files"]]
    assert names == [f"data/000003{'' if n == 0 else f'-{n}'}.parquet" for n in range(len(names))] and len(names) > 2
    files = [pq.ParquetFile(tmp_path / "out" / name) for name in names]
    sizes = [file.metadata.row_group(group).num_rows for file in files for group in range(file.num_row_groups)]
    assert max(sizes) <= 7 and sum(sizes) == 120 == sum(file["rows"] for file in record["files"])
    for file in files:
        file.close()
    sizes = np.array([3, 3, 3, 100, 1, 1])
    monkeypatch.setattr(pick_files, "GROUP_BYTES", 6)
    assert list(pick_files._runs(sizes)) == [(0, 2), (2, 3), (3, 4), (4, 6)]


def test_a_run_that_is_not_finished_is_known_by_its_record(photos: Path, tmp_path: Path) -> None:
    case = picked_root(tmp_path, Corpus(uri=(str(photos),)), ("a", "b"), each=5)
    with pytest.raises(InputError, match="no run in '.*runs' uses .*/picks-.*, so its classes and its corpus are not"):
        find_picks(case.picks.uri)
    truth = case.root.make("truth", {}, lambda draft: Built([], {"classes": ["a", "b"]}))
    folders = [one.uri.rpartition("/")[2] for one in (truth, case.picks, case.shards.artifact)]
    write_record(case.root.uri, "run-x-1", Record(run="x", command="", time="", uses=(*folders, "examples-begun")))
    found = find_picks(f"{case.picks.uri}/")
    assert (found.classes, found.recipe, found.examples) == (("a", "b"), "x", None)
    assert found.shards == case.shards and found.corpus == case.corpus
    case.finished_run(name="run-one", classes=("a", "b"))
    case.finished_run(name="run-two", classes=("c", "d"))
    with pytest.raises(InputError, match="the runs 'run-one-.*', 'run-two-.*' use .* different classes, corpora or"):
        find_picks(case.picks.uri)
    (two,) = Path(case.root.uri).glob("run-two-*")
    assert find_picks(case.picks.uri, str(two)).classes == ("c", "d")
    with pytest.raises(InputError, match="run 'run-x' does not use .*: give one of 'run-one-.*', 'run-two"):
        find_picks(case.picks.uri, "run-x")
    for folder in (case.shards.artifact.uri, f"{tmp_path}/none-1"):
        with pytest.raises(InputError, match="is not complete PICKS: give a folder such as"):
            find_picks(folder)


def test_what_cannot_be_exported_is_an_error(case: PickedRoot, photos: Path, tmp_path: Path) -> None:
    for form, more, match in [
        (
            "csv",
            {},
            r"class 'line\\nbreak' has a TAB or a line end, which a list cannot have: give --format hf or webdata",
        ),
        ("label-studio", {"per_class": 0}, "per_class is 0: give at least 1 pick of each class"),
    ]:
        with pytest.raises(InputError, match=match):
            exported(case, tmp_path / "out", form, **more)
    for where, what in (photos, "corpus"), (Path(case.picks.uri), "picks"):
        with pytest.raises(InputError, match=f"to is '.*', in the {what} '{where}' itself: give a place outside of it"):
            exported(case, where / "out", "hf")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file' exists, and is another export"):
        exported(case, tmp_path / "file", "hf")
    named = replace(find_picks(case.picks.uri), classes=("\x1b", *CLASSES[1:]))
    with pytest.raises(InputError, match=r"class '\\x1b' has a character that XML cannot have"):
        export_picks(named, "label-studio", str(tmp_path / "out"))
    corpus = Corpus(uri=(write_folders(tmp_path),))
    old = case.root.make(
        "examples-old", {}, lambda draft: Built([], {"lane_items": [[1]], "rejected": 0, "items": 1, "samples": 1})
    )
    with pytest.raises(InputError, match="examples-old-.* was made by an earlier version of raylabel"):
        export_picks(replace(find_picks(case.picks.uri), examples=old), "hf", str(tmp_path / "out"))
    for begun in tmp_path.glob("out.*.tmp"):
        shutil.rmtree(begun)
    given = GivenLabels().label(case.root, corpus, index_corpus(case.root, "labeled", corpus))
    with pytest.raises(InputError, match="was not ranked by a score, so none of its picks are the last ones"):
        export_picks(replace(named, picks=given), "label-studio", str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folders"]


def write_folders(folder: Path) -> str:
    for number, data in enumerate(digit_images()[0][:4]):
        path = folder / "folders" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder / "folders")


def test_picks_of_a_source_are_exported_with_its_classes(ray_local: None, tmp_path: Path) -> None:
    root, corpus = Root.open(str(tmp_path / "runs")), Corpus(uri=(write_folders(tmp_path),))
    shards = index_corpus(root, "labeled", corpus)
    given = GivenLabels().label(root, corpus, shards)
    case = PickedRoot(root, corpus, Shards(shards), given, ("a", "b"))
    case.finished_run(classes=("x", "y", "z"))
    found = exported(case, tmp_path / "list", "csv")
    assert found.exported == 4
    assert [(row["label"], row["rank"], row["score"]) for row in read_csv(tmp_path / "list" / "picks-00000.csv")] == [
        ("a", "1", "0"),
        ("a", "2", "0"),
        ("b", "1", "0"),
        ("b", "2", "0"),
    ]


def test_the_queue_may_have_what_another_network_calls_something_else(case: PickedRoot, tmp_path: Path) -> None:
    exported(case, tmp_path / "picks", "hf")
    rows = pq.read_table(tmp_path / "picks" / "data" / "000000.parquet").drop_columns("image").to_pylist()
    rng = np.random.default_rng(0)
    label = rng.integers(0, 6, len(rows))
    label[::2] = [row["label"] for row in rows[::2]]
    probability = rng.choice([0.25, 0.5, 0.75], len(rows))  # with ties
    (tmp_path / "said" / "predictions").mkdir(parents=True)
    table = pa.table(
        {
            "uri": [f"{tmp_path}/picks/data/000000.parquet#{row}" for row in range(len(rows))],
            "label": [CLASSES[index] for index in label],
            "probability": probability,
        }
    )
    for part in range(2):  # one has a row that was rejected
        pq.write_table(table.slice(60 * part, 60 - part), tmp_path / "said" / "predictions" / f"{part:06d}.parquet")

    def found(per_class: int) -> list[dict[str, Any]]:
        to = tmp_path / f"queue {per_class}"
        exported(case, to, "label-studio", per_class=per_class, predictions=f"{tmp_path}/said")
        return [task["data"] for task in json.loads((to / "tasks-00000.json").read_text())]

    differ = [
        (-probability[at], row["rank"], row["label"], row["uri"], CLASSES[label[at]])
        for at, row in enumerate(rows[:-1])
        if label[at] != row["label"]
    ]
    for per_class in (4, 50):
        best = [one for index in range(6) for one in sorted(one for one in differ if one[2] == index)[:per_class]]
        first = {one[3]: one for one in sorted(best, key=lambda one: (one[2], one[1]), reverse=True)}
        expected = {(CLASSES[one[2]], one[1], one[3], one[4], -one[0]) for one in first.values()}
        names = "class", "rank", "uri", "predicted", "probability"
        assert {tuple(data[name] for name in names) for data in found(per_class)} == expected and expected
    for predictions, form, match in [
        ("said", "hf", "predictions is '.*said', which is only for --format label-studio: leave it out"),
        ("picks", "label-studio", "predictions is '.*picks': give what raylabel predict wrote, as parquet"),
        ("picks/data/000000.parquet", "label-studio", "000000.parquet' has no column 'probability': give what"),
    ]:
        with pytest.raises(InputError, match=match):
            exported(case, tmp_path / "out", form, predictions=f"{tmp_path}/{predictions}")
    (tmp_path / "picks" / "export.json").write_text('{"export": "", "complete": true, "picks": "picks-other"}')
    with pytest.raises(InputError, match="is not of these picks: export .*/picks-.* with --format hf, and predict"):
        exported(case, tmp_path / "out", "label-studio", predictions=f"{tmp_path}/said")


@pytest.mark.slow
def test_what_a_student_predicts_of_exported_picks_is_a_queue(photos: Path, tmp_path: Path) -> None:
    classes = tuple(f"digit {number}" for number in range(10))
    case = picked_root(tmp_path, Corpus(uri=(str(photos),)), classes, each=6)
    case.finished_run()
    exported(case, tmp_path / "picks", "hf")
    label = Label(batch=32, precision="fp32")
    student = find_network(digits_network(case.root, label, classes).uri)
    output = Output.of(f"{tmp_path}/said", None, Prediction)
    corpus = Corpus(uri=(f"{tmp_path}/picks",))
    predict(case.root, student, corpus, replace(label, p=1), output, Resources(teachers=1))
    exported(case, tmp_path / "queue", "label-studio", per_class=99, predictions=f"{tmp_path}/said")
    tasks = json.loads((tmp_path / "queue" / "tasks-00000.json").read_text())
    said = pq.read_table(tmp_path / "said" / "predictions").to_pylist()
    rows = pq.read_table(tmp_path / "picks" / "data").to_pylist()
    assert len(said) == len(rows) == 60
    differ = {(row["uri"], one["label"]) for row, one in zip(rows, said, strict=True) if row["class"] != one["label"]}
    assert {(task["data"]["uri"], task["data"]["predicted"]) for task in tasks} == differ and len(differ) > 10
