"""Predictions of a corpus: against the network itself and its evaluation, in all forms, resumed, and with rejects."""

import csv
import hashlib
import math
import tarfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpora import add
from finished_runs import digits_network, finished_run, various_network
from helpers import DIGITS_VIEW, digit_images, png, write_parquet
from sklearn.datasets import load_digits
from videos import scene, video

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus, units
from raylabel.errors import InputError
from raylabel.evaluate.classify import best_classes
from raylabel.inference import scores as stage
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.labels.truth import GivenLabels
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.parsers import eval_parser
from raylabel.media.view import Clip, View
from raylabel.models.trained import load_model
from raylabel.schema import LEFT_OUT, PREDICTIONS
from raylabel.ship.output import Output
from raylabel.ship.predict import predict
from raylabel.ship.prediction import Prediction
from raylabel.ship.shipped import Shipped, find_network
from raylabel.store.artifact import Root

CLASSES = ["=cmd", 'a,"b"', "ünï", "line\nbreak", *"456789"]
LABEL = Label(batch=32, precision="fp32")


@dataclass
class Case:
    """A root with a network of which a run is finished."""

    folder: Path
    root: Root
    shipped: Shipped

    def predict(
        self,
        to: str,
        *uri: Path | str,
        form: Any = None,
        p: int = 3,
        teachers: int = 2,
        retry: bool = False,
        **more: Any,
    ) -> Prediction:
        """`more`: fields of the corpus."""
        corpus, output = Corpus(uri=tuple(map(str, uri)), **more), Output.of(str(self.folder / to), form, Prediction)
        label, resources = replace(self.shipped.label, p=p, reject_limit=0.5), Resources(teachers=teachers)
        return predict(self.root, self.shipped, corpus, label, output, resources, retry)

    def expected(self, media: list[bytes]) -> np.ndarray:
        """Probabilities float64 [N, C] by the network itself."""
        pixels = torch.from_numpy(np.stack([eval_pixels(one, DIGITS_VIEW) for one in media]))
        with torch.inference_mode():
            logits = load_model(self.shipped.network).eval()(normalise(pixels, DIGITS_VIEW))
        return logits.double().softmax(1).numpy()


def make_case(folder: Path, root: str = "runs") -> Case:
    made = Root.open(root if "://" in root else str(folder / root))
    network = digits_network(made, LABEL, CLASSES)
    return Case(folder, made, find_network(network.uri))


@pytest.fixture
def case(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(stage, "PART", 2)
    return make_case(tmp_path)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def stamps(folder: Path, *patterns: str) -> dict[Path, tuple[int, bytes]]:
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {path: (path.stat().st_ino, path.read_bytes()) for path in found}


@pytest.mark.long
def test_files_get_the_classes_and_probabilities_of_the_network(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    media, _ = digit_images()
    photos = case.folder / "photos"
    names = [f'{row:03d} "é",\n#{row}.png' for row in range(150)]
    bad = {names[7]: b"no picture", names[100]: b""}
    photos.mkdir()
    for name, one in zip(names, media, strict=False):
        (photos / name).write_bytes(bad.get(name, one))
    (photos / "notes.txt").write_text("no sample")
    found = case.predict("out.csv", photos)

    rows = read_csv(case.folder / "out.csv")
    good = [row for row in range(150) if names[row] not in bad]
    assert [row["uri"] for row in rows] == [f"{photos}/{names[row]}" for row in good]
    expected = case.expected([media[row] for row in good])
    order = np.argsort(-expected, axis=1)[:, :3]
    found_classes = np.array([[int(row[f"class_index{rank}"]) for rank in ("", "_2", "_3")] for row in rows])
    assert (found_classes == order).mean() > 0.99  # all except near ties
    probability = np.array([[float(row[f"probability{rank}"]) for rank in ("", "_2", "_3")] for row in rows])
    np.testing.assert_allclose(probability, -np.sort(-expected, axis=1)[:, :3], rtol=1e-4, atol=1e-7)
    assert len(np.unique(found_classes[:, 0])) > 3
    labels = {int(row["class_index"]): row["label"] for row in rows}
    assert labels == {index: f"'{CLASSES[index]}" if index == 0 else CLASSES[index] for index in labels}

    rejects = read_csv(case.folder / "out.rejects.csv")
    assert [(Path(row["uri"]).name, row["stage"], row["reason"]) for row in rejects] == [
        (names[7], "decode", "unrecognized"),
        (names[100], "read", "empty"),
    ]
    assert (found.samples, found.predicted, found.rejected) == (150, 148, 2)
    assert found.reasons == {"unrecognized": 1, "empty": 1}
    assert found.per_class == np.bincount(found_classes[:, 0], minlength=10).tolist()
    assert [kind["extension"] for kind in found.passed_over] == [".txt"]
    assert {file["name"]: (file["rows"], file["sha256"]) for file in found.files} == {
        name: (count, hashlib.sha256((case.folder / name).read_bytes()).hexdigest())
        for name, count in (("out.csv", 148), ("out.rejects.csv", 2))
    }

    # Again: nothing is done. Without the files: they are written again, and nothing is scored.
    before = stamps(case.folder, "out.*", "runs/scores-*/**")
    assert case.predict("out.csv", photos) == found
    assert stamps(case.folder, "out.*", "runs/scores-*/**") == before
    (case.folder / "out.csv").unlink()
    assert "label corpus" in capsys.readouterr().out
    assert case.predict("out.csv", photos) == found
    assert "label corpus" not in capsys.readouterr().out
    again = stamps(case.folder, "out.*", "runs/scores-*/**")
    assert {path: data for path, (_, data) in again.items()} == {path: data for path, (_, data) in before.items()}

    changed: list[dict[str, Any]] = [{"p": 2}, {"share": 0.5}]
    for options in changed:  # found before anything is scored
        with pytest.raises(InputError, match="out.csv' has another prediction"):
            case.predict("out.csv", photos, **options)
    monkeypatch.setattr("raylabel.ship.output.ONE_FILE", 149)
    with pytest.raises(InputError, match="150 samples: a file gets at most 149, so give a folder, .*/b --form csv$"):
        case.predict("b.csv", photos)
    with pytest.raises(
        InputError, match="to is '.*photos/out', in the corpus '.*photos' itself: give a place outside of it"
    ):
        case.predict("photos/out", photos)
    assert len(list((case.folder / "runs").glob("scores-*"))) == 1
    assert not list(case.folder.glob("b.*")) and not (photos / "out").exists()


def write_tar(path: Path, media: dict[str, bytes | None]) -> None:
    """A sample of each name; without a picture if its media are None."""
    with tarfile.open(path, "w") as tar:
        for name, one in media.items():
            if one is not None:
                add(tar, f"{name}.png", one)
            add(tar, f"{name}.json", b"{}")


@pytest.mark.slow
def test_members_of_tars_are_named_without_reading_them_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    media, _ = digit_images()
    shards = case.folder / "shards"
    shards.mkdir()

    def shard(number: int) -> dict[str, bytes | None]:
        names = [f"{'deep/' * (row % 3)}s{number}-{row:03d} #é" for row in range(100)]
        return dict(zip(names, media[100 * number : 100 * number + 100], strict=True)) | {names[5]: None}

    for number in (1, 2):
        write_tar(shards / f"{number}.tar", shard(number))
    first = case.predict("first", shards, teachers=1)
    assert first.reasons == {"missing": 2}
    write_tar(shards / "0.tar", shard(0))  # before the others, so that all keys change
    grown = case.predict("grown", shards, teachers=1)
    made = {one.uri: one for one in case.root.named("scores")}
    assert (made[grown.scores].info["images"], made[grown.scores].info["earlier"]) == (100, 200)

    for folder, numbers in (("first", (1, 2)), ("grown", (0, 1, 2))):
        parts = sorted((case.folder / folder / "predictions").iterdir())
        assert len(parts) == len(numbers)  # a part has two units, and a tar of 100 samples too
        found = pa.concat_tables(pq.read_table(path) for path in parts)
        assert found.schema == PREDICTIONS
        all_of = [(f"{shards}/{n}.tar#{name}", one) for n in numbers for name, one in shard(n).items()]
        good = [(f"{uri}.png", one) for uri, one in all_of if one is not None]
        assert found.column("uri").to_pylist() == [uri for uri, _ in good]
        expected = case.expected([one for _, one in good])
        np.testing.assert_allclose(found.column("probability"), expected.max(axis=1), rtol=1e-4)
        rejects = pq.read_table(case.folder / folder / "rejects")
        assert rejects.schema.names == LEFT_OUT.names
        assert rejects.column("uri").to_pylist() == [uri for uri, one in all_of if one is None]

    # A share has other keys, and its SCORES are those of the whole.
    part = case.predict("part", shards, share=0.5)
    whole = {row["uri"]: row for row in pq.read_table(case.folder / "grown" / "predictions").to_pylist()}
    some = pq.read_table(case.folder / "part" / "predictions").to_pylist()
    assert 100 < len(some) < 200 and all(whole[row["uri"]] == row for row in some)
    (scores,) = (one for one in case.root.named("scores") if one.uri == part.scores)
    assert scores.info["images"] == 0


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_actors_or_where_decoding_runs(case: Case) -> None:
    media, _ = digit_images()
    some = [b"no picture" if row % 100 == 7 else one for row, one in enumerate(media[:500])]
    write_parquet(case.folder / "a.parquet", some[:300])
    write_parquet(case.folder / "b.parquet", some[300:])
    made: list[dict[str, bytes]] = []
    for resources in Resources(teachers=1), Resources(teachers=3), Resources(teachers=1, decode="cluster"):
        case = make_case(case.folder, f"runs-{len(made)}")
        corpus, label = Corpus(uri=(str(case.folder / "*.parquet"),)), replace(LABEL, p=10, reject_limit=0.5)
        made.append({})
        for form in "parquet", "csv":
            to = case.folder / f"{form}-{len(made)}"
            predict(case.root, case.shipped, corpus, label, Output.of(str(to), form, Prediction), resources)
            made[-1] |= {str(path.relative_to(to)): path.read_bytes() for path in to.rglob(f"*.{form}")}
    assert made[0] == made[1] == made[2]
    parts = [f"predictions/{part:06d}" for part in range(5)] + [f"rejects/{part:06d}" for part in range(4)]
    assert sorted(made[0]) == sorted(f"{part}.{form}" for part in parts for form in ("parquet", "csv"))
    table = pq.read_table(case.folder / "parquet-1" / "predictions")
    good = [row for row in range(500) if row % 100 != 7]
    names = [f"a.parquet#{row}" if row < 300 else f"b.parquet#{row - 300}" for row in good]
    assert table.column("uri").to_pylist() == [f"{case.folder}/{name}" for name in names]
    np.testing.assert_allclose(np.array(table.column("probabilities").to_pylist()).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_files_get_the_classes_of_evaluation(ray_local: None, tmp_path: Path) -> None:
    """The evaluation reads a table, and the prediction files in another root: their units and batches differ."""
    case, rng = make_case(tmp_path), np.random.default_rng(0)
    digits, labels = load_digits(return_X_y=True)
    rows = np.arange(10_000) % len(labels)
    noisy = np.clip(np.asarray(digits)[rows] * 15.9375 + rng.normal(0, 12, (10_000, 64)), 0, 255).astype(np.uint8)
    media = [png(pixels.reshape(8, 8)) for pixels in noisy]
    (tmp_path / "files").mkdir()
    for row, one in enumerate(media):
        (tmp_path / "files" / f"{row:05d}.png").write_bytes(one)
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "test.parquet", media, np.asarray(labels)[rows])),))
    shards, resources = index_corpus(case.root, "test", corpus), Resources(teachers=2)
    truth = GivenLabels(classes=tuple("0123456789")).label(case.root, corpus, shards)
    config = replace(LABEL, p=5)
    evaluated = TrainedNetwork(network=case.shipped.network, view=DIGITS_VIEW, config=config, resources=resources)
    _, best = best_classes(evaluated.label(case.root, corpus, shards), truth)

    other, output = Root.open(str(tmp_path / "other")), Output.of(str(tmp_path / "out.csv"), None, Prediction)
    files = Corpus(uri=(str(tmp_path / "files"),))
    found = predict(other, case.shipped, files, config, output, resources)
    table = read_csv(tmp_path / "out.csv")
    assert [Path(row["uri"]).name for row in table] == [f"{row:05d}.png" for row in range(10_000)]
    assert [int(row["class_index"]) for row in table] == best.tolist()
    assert found.predicted == 10_000 and found.per_class == np.bincount(best, minlength=10).tolist()
    assert len(np.unique(best)) > 5  # not all of one class


@pytest.mark.slow
def test_rejects_are_read_again_on_request(case: Case) -> None:
    media, _ = digit_images()
    photos = case.folder / "photos"
    photos.mkdir()
    for row, one in enumerate(media[:80]):
        (photos / f"{row:02d}.png").write_bytes(one if row not in (5, 70) else bytes(len(one)))
    first = case.predict("a.csv", photos)
    assert first.reasons == {"unrecognized": 2}
    assert case.predict("a.csv", photos, retry=True) == first  # they still cannot be read
    (photos / "05.png").write_bytes(media[5])  # of the same size, so the corpus is the same
    assert case.predict("a.csv", photos) == first
    with pytest.raises(InputError, match="a.csv' was written before samples were read again: delete it, or give"):
        case.predict("a.csv", photos, retry=True)
    second = case.predict("b.csv", photos)
    assert (second.predicted, second.rejected) == (79, 1)
    before, after = (read_csv(case.folder / name) for name in ("a.csv", "b.csv"))
    assert [row for row in after if not row["uri"].endswith("/05.png")] == before


@pytest.mark.slow
def test_videos_and_their_segments(ray_local: None, tmp_path: Path) -> None:
    view, root = View(size=16, resize=16, clip=Clip(frames=4)), Root.open(str(tmp_path / "runs"))
    clips = [scene(40, 32, 24, seed) for seed in range(6)]
    pixels = torch.from_numpy(np.stack([clip[i : i + 4, 4:20, 8:24] for clip in clips for i in range(0, 36, 6)]))
    network = various_network(root, view, pixels, "r2plus1d8x1", 4)
    finished_run(root, network, view, Label(batch=4, precision="fp32"), "abcd")
    case = Case(tmp_path, root, find_network(network.uri))
    for number, clip in enumerate(clips):
        (tmp_path / f"{number}.mp4").write_bytes(video(clip))
    (tmp_path / "5.mp4").write_bytes(b"no video")
    lines = [f"{number}.mp4,," for number in range(6)] + ["0.mp4,0.4,0.8", "0.mp4,1,"]
    (tmp_path / "list.csv").write_text("\n".join(["path,from,to", *lines]))
    found = case.predict("out.parquet", tmp_path / "list.csv", p=9, start="from", end="to")
    assert (found.predicted, found.reasons, found.p) == (7, {"unrecognized": 1}, 4)
    rows = {row["uri"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    names = [*map(str, range(5)), *("0.mp4#t=0.4,0.8", "0.mp4#t=1.0")]
    assert list(rows) == [f"{tmp_path}/{name}" if "#" in name else f"{tmp_path}/{name}.mp4" for name in names]
    module = load_model(network).eval()
    for uri, row in rows.items():
        name, _, segment = uri.partition("#t=")
        span = tuple(float(end) if end else math.inf for end in segment.split(",")) if segment else ()
        span = (*span, math.inf)[:2] if span else ()
        some = torch.from_numpy(eval_parser(view=asdict(view))(Path(name).read_bytes(), span))
        with torch.inference_mode():
            expected = module(normalise(some, view)).double().softmax(1).mean(0)
        np.testing.assert_allclose(row["probabilities"], expected.sort(descending=True).values, rtol=1e-4, atol=1e-7)
    assert pq.read_table(tmp_path / "out.rejects.parquet").column("uri").to_pylist() == [f"{tmp_path}/5.mp4"]
