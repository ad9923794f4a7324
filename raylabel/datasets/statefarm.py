"""State Farm's distracted drivers, read from its list file, and split at random or by driver."""

import hashlib

from raylabel.corpus import Corpus
from raylabel.corpus.csvs import csv_columns
from raylabel.datasets.listed import SCHEME, Listed, Row, check_part, is_folder
from raylabel.errors import InputError

CLASSES = tuple(f"c{i}" for i in range(10))
TESTED = 2_204 / 22_424
"""Share of the pictures to test on: the post trains on 20,220 of 22,424."""


def statefarm(data: str, part: str, split: str) -> Corpus:
    """State Farm Distracted Driver Detection (Kaggle 2016): 22,424 labeled pictures of 26 drivers in ten classes.
    `part`: train or test; `split`: random, by picture, or driver, in which no driver is in both parts.

    `data` contains driver_imgs_list.csv (columns subject, classname and img), and the pictures as
    imgs/train/c0/img_1.jpg or train/c0/img_1.jpg. Pictures are frames of a few videos: in a random split nearly the
    same picture is often in both parts. Kaggle's own test set has no labels. Which pictures or drivers are tested on
    depends on a hash of their names.
    """
    return Corpus(uri=(f"{SCHEME}statefarm/{part}/{split}@{data}",))


def read_statefarm(folder: str, part: str, split: str) -> Listed:
    check_part("statefarm", part, ("train", "test"))
    if split not in ("random", "driver"):
        raise InputError(f"no split '{split}' of statefarm: give 'random' or 'driver'")
    listed = f"{folder}/driver_imgs_list.csv"
    table = [row for _, row in csv_columns(listed, ("subject", "classname"), "img")]
    if bad := [label for _, label, _ in table if label not in CLASSES]:
        raise InputError(f"'{listed}' has the class {bad[0]!r}: expected c0 to c9; restore the file of the set")
    within = "imgs/train" if is_folder(f"{folder}/imgs/train") else "train"
    units = [image if split == "random" else driver for driver, _, image in table]
    tested = _tested(units)
    rows: list[Row] = [
        (f"{within}/{label}/{image}", label)
        for (_, label, image), unit in zip(table, units, strict=True)
        if (unit in tested) == (part == "test")
    ]
    return Listed(rows, CLASSES)


def _tested(units: list[str]) -> set[str]:
    """The units, each with its pictures, that are tested on: in the order of a hash, while the share is not reached."""
    counts: dict[str, int] = {}
    for unit in units:
        counts[unit] = counts.get(unit, 0) + 1
    found, total = set[str](), 0
    for unit in sorted(counts, key=lambda one: hashlib.blake2b(one.encode(), digest_size=8).digest()):
        if total >= round(TESTED * len(units)):
            break
        found.add(unit)
        total += counts[unit]
    return found
