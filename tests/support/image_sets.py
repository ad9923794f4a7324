"""Small real pictures in the folders of a set, and the labels with which such a set is read."""

import io
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from corpora import read_all
from helpers import digit_images
from PIL import Image

from raylabel.corpus import Corpus, Shards, class_names, encode_labels, read_labels
from raylabel.datasets import resolve
from raylabel.datasets.voc import CLASSES
from raylabel.store.artifact import Root

Labels = dict[str, tuple[str, int]]
"""Location of a picture → its label, and the index of its class."""


def write_pictures(folder: Path, paths: Iterable[str]) -> None:
    """A JPEG of 8 pixels a side at each path, with pixels of its own."""
    for path in paths:
        pixels = np.random.default_rng(zlib.crc32(path.encode())).integers(0, 256, (8, 8, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(out.getvalue())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def read_set(root: Root, corpus: Corpus, indexed: Callable[[Corpus], Shards]) -> tuple[Labels, tuple[str, ...]]:
    """(the labels of all pictures, the names of the classes). Every picture has its own bytes, or is missing."""
    corpus = resolve(root, corpus)
    shards = indexed(corpus)
    table = read_labels(corpus, shards)
    names = class_names(corpus, table)
    columns = table["key"].to_pylist(), table["label"].to_pylist(), encode_labels(table, names, corpus).tolist()
    by_key = {key: (label, index) for key, label, index in zip(*columns, strict=True)}
    found: Labels = {}
    for sample in read_all(corpus, shards):
        if "://" not in sample.uri:
            media = Path(sample.uri).read_bytes() if Path(sample.uri).exists() else None
            assert sample.media == media and (sample.error == "missing") == (media is None), sample.uri
        assert sample.uri not in found and sample.label == by_key[sample.key][0]
        found[sample.uri] = by_key[sample.key]
    return found, names


def voc_devkit(folder: Path, pictures: int = 30) -> dict[str, dict[str, int]]:
    """A made-up VOC2007: picture → class → 1 or 0 of those that it has; the even ones are trainval, the others test."""
    random, media = np.random.default_rng(0), digit_images()[0]
    main, images = folder / "VOCdevkit/VOC2007/ImageSets/Main", folder / "VOCdevkit/VOC2007/JPEGImages"
    main.mkdir(parents=True)
    images.mkdir()
    states = {f"{number:06d}": dict[str, int]() for number in range(pictures)}
    for number, (name, own) in enumerate(states.items()):
        (images / f"{name}.jpg").write_bytes(media[number])  # its first bytes say what it is
        own[CLASSES[number % 4]] = 1
        for other in random.permutation(20)[:2].tolist():
            own.setdefault(CLASSES[other], int(random.integers(2)))
    for part, rest in (("trainval", 0), ("test", 1)):
        for name in CLASSES:
            mine = [one for number, one in enumerate(states) if number % 2 == rest]
            lines = [f"{one} {states[one].get(name, -1):2d}\n" for one in mine]
            (main / f"{name}_{part}.txt").write_text("".join(lines))
    return states
