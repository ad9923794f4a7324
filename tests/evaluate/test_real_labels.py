"""Accuracy by ReaL labels against timm's, and the corpora to which they do not belong."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import Indexed, add, read_all
from image_sets import write_lines, write_pictures
from timm.data.real_labels import RealLabelsImagenet

from raylabel.corpus import Corpus
from raylabel.datasets import imagenet, real_labels, resolve
from raylabel.errors import InputError
from raylabel.evaluate.classify import wilson
from raylabel.evaluate.real_labels import real_top1
from raylabel.evaluate.results import Subject
from raylabel.store.artifact import Root

OF = Subject(model="m", seed=0, dataset="d", split="val")
C = 6


def best_of(keys: list[int], logits: torch.Tensor) -> dict[int, int]:
    return dict(zip(keys, logits.argmax(1).tolist(), strict=True))


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("layout", ["folders", "list"])
def test_the_accuracy_is_that_of_timm(layout: str, share: float, tmp_path: Path, indexed: Indexed) -> None:
    rng, data, root = np.random.default_rng(0), tmp_path / "d", Root.open(str(tmp_path / "root"))
    names = [f"ILSVRC2012_val_{1 + i:08}.JPEG" for i in range(200)]
    wnids = [f"n{rng.integers(3):08}" for _ in names]  # in folders, the order is not that of the numbers
    paths = [f"{wnid}/{name}" for wnid, name in zip(wnids, names, strict=True)]
    write_pictures(data / "val", paths if layout == "folders" else names)
    solution = [f"{name.removesuffix('.JPEG')},{wnid} 1 2 3 4" for wnid, name in zip(wnids, names, strict=True)]
    write_lines(data / "LOC_val_solution.csv", ["ImageId,PredictionString", *solution])
    real = [rng.choice(C, rng.integers(0, 4), replace=False).tolist() for _ in names]
    (tmp_path / "real.json").write_text(json.dumps(real))
    corpus = replace(resolve(root, imagenet(str(data), "val")), share=share)
    shards = indexed(corpus)
    of_key = {sample.key: sample.uri.rpartition("/")[2] for sample in read_all(corpus, shards)}
    assert (list(of_key.values()) == sorted(of_key.values())) == (layout == "list")
    logits = torch.from_numpy(rng.random((len(of_key), C), np.float32))

    # timm takes a result for each image; those outside the share are not counted, as if they had no labels.
    some = [labels if name in of_key.values() else [] for name, labels in zip(names, real, strict=True)]
    (tmp_path / "some.json").write_text(json.dumps(some))
    others = [name for name in names if name not in of_key.values()]
    timm = RealLabelsImagenet([*of_key.values(), *others], tmp_path / "some.json", topk=(1,))
    timm.add_result(torch.cat([logits, torch.zeros(len(others), C)]))

    labels, n = real_labels(str(tmp_path / "real.json")), sum(map(bool, some))
    found = real_top1(OF, best_of(list(of_key), logits), corpus, shards.artifact, labels)
    assert (found.metric, found.model, found.n) == ("real_top1", "m", n) and 0 < n < len(of_key)
    assert found.value == np.mean(timm.is_correct[1]) and 0 < found.value < 1
    assert (found.low, found.high) == wilson(round(found.value * n), n)

    # An image without scores, which could not be read, counts as wrong.
    keys = list(of_key)
    right = [int(row.argmax()) in real[names.index(of_key[key])] for key, row in zip(keys, logits, strict=True)]
    read = [i for i in range(len(keys)) if i != right.index(True)]
    fewer = real_top1(OF, best_of([keys[i] for i in read], logits[read]), corpus, shards.artifact, labels)
    assert (fewer.value, fewer.n) == ((sum(right) - 1) / n, n)


def test_corpora_without_real_labels(tmp_path: Path, indexed: Indexed) -> None:
    def fails(match: str, uri: Path, labels: list[tuple[int, ...]]) -> None:
        corpus = Corpus(uri=(str(uri),))
        shards = indexed(corpus).artifact
        with pytest.raises(InputError, match=match):
            real_top1(OF, {0: 1}, corpus, shards, labels)

    for name in ("dog", "ILSVRC2012_test_00000001", "ILSVRC2012_val_00000000", "ILSVRC2012_val_00000004"):
        name += ".JPEG"
        write_pictures(tmp_path / name, [f"a/{name}"])
        fails(f"'{tmp_path}/{name}/a/{name}' is none of the 3 images with ReaL labels", tmp_path / name, [(1,)] * 3)
    write_pictures(tmp_path / "empty", ["a/ILSVRC2012_val_00000001.JPEG"])
    fails(f"no image of {tmp_path}/empty has ReaL labels", tmp_path / "empty", [(), (1,)])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "ILSVRC2012_val_00000001.JPEG", b"x")
    fails("a.tar' is of the form webdataset: give ImageNet's validation images as", tmp_path / "a.tar", [(1,)])
