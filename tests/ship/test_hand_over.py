"""Exported picks in the programs that they are for: datasets, webdataset, raylabel itself, Label Studio."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import webdataset
from corpora import add
from helpers import digit_images, example_rows, write_parquet
from picked import HOSTILE, Pick, PickedRoot, picked_root
from PIL import Image
from videos import scene, video

from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.corpus.config import Kind
from raylabel.corpus.labels import read_labels
from raylabel.errors import InputError
from raylabel.evaluate.precision import Truth, pick_precision
from raylabel.evaluate.results import Subject
from raylabel.labels.truth import GivenLabels
from raylabel.schema import PICKS
from raylabel.ship import hand_over, pick_files
from raylabel.ship.hand_over import export_picks
from raylabel.ship.picked import find_picks
from raylabel.store.artifact import Root
from raylabel.training import media as writing
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


def test_webdataset_reads_the_same_picks_and_pictures(case: PickedRoot, tmp_path: Path) -> None:
    exported(case, tmp_path / "picks", "webdataset")
    tars = sorted(map(str, (tmp_path / "picks" / "data").glob("*.tar")))
    found = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        row = json.loads(sample["json"])
        assert CLASSES[int(sample["cls"])] == row["class"] and len(sample.keys() & {"png", "jpg"}) == 1
        found[row["uri"], row["class"], row["rank"], np.float32(row["score"])] = sample["png"]
    assert found == case.expected()
    root = Root.open(str(tmp_path / "again"))
    corpus = Corpus(uri=(f"{tmp_path}/picks/data",), label="json:class")
    again = GivenLabels().label(root, corpus, index_corpus(root, "labeled", corpus))
    assert sorted(again.info["classes"]) == sorted(CLASSES) and again.info["per_class"] == [20] * 6


def read_list(folder: Path, corpus: Corpus) -> list[tuple[str, str, int, float]]:
    """(path, label) as raylabel reads the lists, with the rank and the score that csv reads in them."""
    root = Root.open(str(folder / "again"))
    shards = Shards(index_corpus(root, "labeled", corpus))
    labels = read_labels(corpus, shards).column("label").to_pylist()
    rows = [row for uri in corpus.uri for row in csv.DictReader(Path(uri).open(newline="", encoding="utf-8"))]
    assert [row["label"] for row in rows] == labels
    return [(row["path"], row["label"], int(row["rank"]), np.float32(row["score"])) for row in rows]


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
    rows = list(csv.DictReader((tmp_path / "list" / "picks-00000.csv").open()))
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
    found = exported(case, tmp_path / "the queue", "label-studio", per_class=3)
    folder = tmp_path / "the queue"
    (tasks,) = [json.loads(path.read_text()) for path in folder.glob("tasks-*.json")]
    expected = {pick: data for pick, data in case.expected().items() if pick[2] > 17}
    assert found.exported == len(tasks) == len(expected) == 18
    pictures = {}
    for task in tasks:
        data, (prediction,) = task["data"], task["predictions"]
        assert data["image"] == f"/data/local-files/?d=the%20queue/media/{Path(data['path']).name}"
        pick = data["uri"], data["class"], data["rank"], np.float32(data["score"])
        pictures[pick] = Path(data["path"]).read_bytes()
        (result,) = prediction["result"]
        assert result["value"] == {"choices": [data["class"]]}
        assert prediction["score"] == pytest.approx(1 / (1 + np.exp(-data["score"])))
    assert pictures == expected and [pick[:3] for pick in pictures] == [pick[:3] for pick in expected]
    view = ElementTree.parse(folder / "config.xml").getroot()
    assert [choice.get("value") for choice in view.iter("Choice")] == list(CLASSES)
    (choices,) = view.iter("Choices")
    assert (
        (choices.get("name"), choices.get("toName")) == ("choice", "image") == (result["from_name"], result["to_name"])
    )

    # An annotator who calls each picture of class 0 one of class 1, and skips class 4.
    def choose(data: Any) -> str | None:
        return {0: CLASSES[1], 4: None}.get(CLASSES.index(data["class"]), data["class"])

    labels = annotated(folder, choose)
    root = Root.open(str(tmp_path / "again"))
    corpus = Corpus(uri=(labels,), label="choice")
    shards = index_corpus(root, "labeled", corpus)
    again = GivenLabels().label(root, corpus, shards)
    assert dict(zip(again.info["classes"], again.info["per_class"], strict=True)) == {
        CLASSES[1]: 6,
        **{CLASSES[index]: 3 for index in (2, 3, 5)},
    }
    of = Subject(model="teacher", seed=0, dataset="u", split="unlabeled")
    truth = Truth(uri=labels, id="uri", label="choice")
    queue = {pick[0] for pick in expected if choose({"class": pick[1]}) is not None}
    if len(queue) == 15:  # no sample is in the queue of two classes
        (row,) = pick_precision(of, case.picks, case.shards.artifact, 1.0, truth, CLASSES)
        label = {pick[0]: choose({"class": pick[1]}) for pick in expected}
        known = [label[pick[0]] == pick[1] for pick in case.expected() if label.get(pick[0])]
        assert (row.value, row.n) == (np.mean(known), len(known))
    with pytest.raises(InputError, match="column 'annotator' does not contain class indices|none of the picks"):
        pick_precision(
            of, case.picks, case.shards.artifact, 1.0, Truth(uri=labels, id="uri", label="created_at"), ("x",)
        )


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
