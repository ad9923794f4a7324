"""Places365, read from its lists."""

from raylabel.corpus import Corpus
from raylabel.corpus.config import read_lines
from raylabel.datasets.listed import SCHEME, Listed, Row, check_part, is_folder
from raylabel.errors import InputError

CATEGORIES = "categories_places365.txt"
LISTS = {"train": "places365_train_standard.txt", "val": "places365_val.txt"}
FOLDERS = {
    "train": ("data_large_standard", "data_large", "data_256_standard", "data_256"),
    "val": ("val_large", "val_256"),
}
"""Of the pictures: as torchvision renames the archive's folders, and as they are in the archives."""


def places365(data: str, part: str) -> Corpus:
    """Places365-Standard (Zhou et al. 2017): scenes of 365 classes. `part`: train (1,803,460 pictures) or val (36,500).

    `data` contains categories_places365.txt, places365_train_standard.txt and places365_val.txt, and the folders of the
    archives: data_large (or data_256) with a/airfield/00000001.jpg, and val_large (or val_256). The large pictures are
    taken if both are there. Classes have the names and the order of categories_places365.txt.
    """
    return Corpus(uri=(f"{SCHEME}places365/{part}@{data}",))


def read_places365(folder: str, part: str) -> Listed:
    check_part("places365", part, tuple(LISTS))
    named = _numbered(f"{folder}/{CATEGORIES}")
    classes = {number: name for name, number in named}
    if sorted(classes) != list(range(len(named))):
        raise InputError(f"'{folder}/{CATEGORIES}' does not number the classes from 0 on: restore the files of the set")
    within = next((one for one in FOLDERS[part] if is_folder(f"{folder}/{one}")), None)
    if within is None:
        raise InputError(f"'{folder}' has none of the folders {', '.join(FOLDERS[part])}: unpack the pictures there")
    rows = list[Row]()
    for line, (path, number) in enumerate(_numbered(f"{folder}/{LISTS[part]}"), 1):
        if number not in classes:
            raise InputError(
                f"line {line} of '{folder}/{LISTS[part]}' has the class {number}, which {CATEGORIES} lacks: restore "
                "the files of the set"
            )
        rows.append((f"{within}/{path}", classes[number]))
    return Listed(rows, [classes[number] for number in range(len(classes))])


def _numbered(uri: str) -> list[tuple[str, int]]:
    """(text without the leading slash, number) of each line. InputError if a line is something else."""
    found = list[tuple[str, int]]()
    for number, line in enumerate(read_lines(uri), 1):
        text, _, index = line.strip().rpartition(" ")
        if not text.strip("/ ") or not index.isdecimal():
            raise InputError(f"line {number} of '{uri}' is {line!r}: expected a path, a blank and a number")
        found.append((text.strip().lstrip("/"), int(index)))
    return found
