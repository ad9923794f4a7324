"""Labels of several classes in a list, and VOC's own lists."""

from pathlib import Path

import pyarrow as pa
import pytest
from helpers import digit_images
from image_sets import voc_devkit

from raylabel import datasets
from raylabel.corpus import Corpus, index_corpus
from raylabel.datasets.voc import CLASSES
from raylabel.errors import InputError
from raylabel.labels.several import SeveralLabels, encode_several
from raylabel.schema import PICKS
from raylabel.store.artifact import Root


def test_labels_are_classes_and_those_of_which_nothing_is_said():
    table = pa.table({"key": [5, 7, 9], "label": ["dog|?cat", "dog | ?cat", "cat | dog"]})
    key, label = encode_several(table, ("cat", "dog"))
    pairs = [(5, 1), (5, -1), (7, 1), (7, -1), (9, 0), (9, 1)]
    assert list(zip(key.tolist(), label.tolist(), strict=True)) == pairs
    with pytest.raises(InputError, match=r"the label 'dog\|cow' \(shard 0, row 3\) has 'cow', which is no class"):
        encode_several(pa.table({"key": [3], "label": ["dog|cow"]}), ("cat", "dog"))
    with pytest.raises(InputError, match="has 'dog' twice"):
        encode_several(pa.table({"key": [3], "label": ["dog|?dog"]}), ("cat", "dog"))


def test_the_lists_of_voc_become_labels(ray_local, tmp_path: Path):
    states, root = voc_devkit(tmp_path / "data"), Root.open(str(tmp_path / "root"))
    for part, rest in (("trainval", 0), ("test", 1)):
        corpus = datasets.resolve(root, datasets.voc2007(str(tmp_path / "data"), part))
        shards = index_corpus(root, part, corpus)
        picks = SeveralLabels().label(root, corpus, shards)
        assert picks.info["classes"] == list(CLASSES) and picks.info["samples"] == 15
        table, found = picks.table("picks-", PICKS), list[tuple[int, str, int]]()
        for key, label in zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True):
            found.append((key, CLASSES[label if label >= 0 else -1 - label], int(label >= 0)))
        mine = [own for number, own in enumerate(states.values()) if number % 2 == rest]
        wanted = [(row, name, state) for row, own in enumerate(mine) for name, state in own.items()]
        assert sorted(found) == sorted(wanted)
        assert picks.info["per_class"] == [sum(own.get(name) == 1 for own in mine) for name in CLASSES]


@pytest.mark.parametrize(
    "change, message",
    [
        (("cat_test.txt", "000001 2\n"), "line 1 of '.*cat_test.txt' is '000001 2': expected a picture and 1, 0 or -1"),
        (("cat_test.txt", "000001 1\n000001 1\n"), "line 2 of .* repeats picture 000001"),
        (("cat_test.txt", "000001 1\n"), "the list of aeroplane do not have the same pictures, for example 00000"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, change: tuple[str, str], message: str):
    voc_devkit(tmp_path / "data")
    (tmp_path / "data/VOCdevkit/VOC2007/ImageSets/Main" / change[0]).write_text(change[1])
    with pytest.raises(InputError, match=message):
        datasets.resolve(Root.open(str(tmp_path / "root")), datasets.voc2007(str(tmp_path / "data"), "test"))


def test_names_of_classes_are_needed(ray_local, tmp_path: Path):
    media, _ = digit_images()
    (tmp_path / "a.png").write_bytes(media[0])
    (tmp_path / "list.csv").write_text("path,label\na.png,dog|cat\n")
    corpus, root = Corpus(uri=(str(tmp_path / "list.csv"),)), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "labeled", corpus)
    with pytest.raises(InputError, match="samples have several labels, but corpus.classes is not given"):
        SeveralLabels().label(root, corpus, shards)
