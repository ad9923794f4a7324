"""PICKS of given labels: one pick per sample, class names, and errors for labels that cannot be used."""

import pytest
from helpers import digit_images, write_parquet

from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError
from raylabel.labels.truth import GivenLabels
from raylabel.schema import PICKS
from raylabel.store.artifact import Root


def labeled(tmp_path, labels, classes=None, given=None):
    media, _ = digit_images()
    names = None
    if classes:
        (tmp_path / "classes.txt").write_text("\n".join(classes))
        names = str(tmp_path / "classes.txt")
    path = write_parquet(tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet", media[: len(labels)], labels)
    corpus = Corpus(uri=(str(path),), classes=names)
    root = Root.open(str(tmp_path / "root"))
    return GivenLabels(classes=given).label(root, corpus, index_corpus(root, path.stem, corpus))


def test_every_sample_is_picked_once_with_its_own_label(ray_local, tmp_path):
    labels = [2, 0, 1, 1, 2, 0, 2]
    made = labeled(tmp_path, labels, ["ant", "bee", "cat"])
    rows = made.table("picks", PICKS).to_pylist()
    assert [(r["label"], r["rank"], r["key"]) for r in rows] == [
        (0, 1, 1),
        (0, 2, 5),
        (1, 1, 2),
        (1, 2, 3),
        (2, 1, 0),
        (2, 2, 4),
        (2, 3, 6),
    ]
    assert made.info["classes"] == ["ant", "bee", "cat"] and made.info["per_class"] == [2, 2, 3]


def test_class_indices_without_names_are_used_as_names_in_numeric_order(ray_local, tmp_path):
    assert labeled(tmp_path, [10, 9, 10, 2]).info["classes"] == ["2", "9", "10"]


@pytest.mark.parametrize(
    "labels, classes, given, message",
    [
        ([1, 1, 1], None, None, "all samples are of one class, '1'"),
        ([0, 1, 3], None, ("0", "1", "2"), "label '3' .* is unknown"),  # a class that was never learned
        ([0, 1, 7], None, ("0", "1"), "'7'"),
        ([0, 0, 1], ["a", "b", "c"], None, "1 of 3 classes have no sample.*'c'"),
    ],
)
def test_labels_that_cannot_be_used_are_an_error(ray_local, tmp_path, labels, classes, given, message):
    with pytest.raises(InputError, match=message):
        labeled(tmp_path, labels, classes, given)


def test_a_test_set_may_lack_classes_of_the_labeled_set(ray_local, tmp_path):
    made = labeled(tmp_path, [0, 1, 1], None, ("0", "2", "1"))
    assert made.info["per_class"] == [1, 0, 2] and made.info["classes"] == ["0", "2", "1"]


def test_a_set_without_labels_is_an_error(ray_local, tmp_path):
    media, _ = digit_images()
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", media[:5])),))
    root = Root.open(str(tmp_path / "root"))
    with pytest.raises(InputError, match="no labels"):
        GivenLabels().label(root, corpus, index_corpus(root, "labeled", corpus))
