"""ImageNet (ILSVRC2012), read from its folders and the lists of the validation images."""

import io
import json
import re
from typing import Any

import numpy as np

from raylabel.corpus import Corpus
from raylabel.corpus.config import absolute, is_media, locate, read_lines
from raylabel.corpus.csvs import csv_columns
from raylabel.corpus.entries import entries
from raylabel.datasets.listed import SCHEME, Listed, Row, check_part, is_file, is_folder
from raylabel.errors import InputError
from raylabel.store.files import read_file, reading
from raylabel.text import one_line

WNID = re.compile(r"n\d{8}")  # the id of a class in WordNet 3.0
SOLUTION = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12/data"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def imagenet(data: str, part: str) -> Corpus:
    """ImageNet's 1,000 classes, ILSVRC2012 (Russakovsky et al. 2015). `part`: train (1,281,167 pictures) or val
    (50,000).

    `data` contains train/<wnid>/*.JPEG, where a wnid is a WordNet id like n01440764, and val/<wnid>/*.JPEG or
    val/ILSVRC2012_val_00000001.JPEG; or it contains these as the archive of Kaggle has them, in ILSVRC/Data/CLS-LOC.
    If the pictures of val are not in folders, their classes are read from one of two sources in `data`:

    - LOC_val_solution.csv of Kaggle, if it is there;
    - meta.mat and ILSVRC2012_validation_ground_truth.txt of the development kit, in `data` or in
      ILSVRC2012_devkit_t12/data. Both are needed: the ground truth has numbers that only meta.mat maps to wnids.

    Classes are the sorted wnids, which is the order of all published networks: those of the folders of train, or of val
    if there is no train.
    """
    return Corpus(uri=(f"{SCHEME}imagenet/{part}@{data}",))


def read_imagenet(folder: str, part: str) -> Listed:
    check_part("imagenet", part, ("train", "val"))
    places = (folder, f"{folder}/Data/CLS-LOC", f"{folder}/ILSVRC/Data/CLS-LOC")
    base = next((place for place in places if is_folder(f"{place}/{part}")), None)
    if base is None:
        raise InputError(f"no folder {part} in '{folder}', its Data/CLS-LOC or its ILSVRC/Data/CLS-LOC: give the set")
    here = f"{base}/{part}"
    wnids, pictures = contents(here)
    if part == "train":
        return Listed(None, of_classes(here, wnids), here)
    classes = contents(f"{base}/train")[0] if is_folder(f"{base}/train") else []
    if wnids:
        _check_within(wnids, classes, here, base)
        return Listed(None, classes or wnids, here)
    if not pictures:
        raise InputError(f"'{here}' contains neither pictures nor folders of them: unpack the set there")
    labels, source = _labels_of_val(folder, here)
    if other := [name for name in pictures if name not in labels]:
        raise InputError(f"'{here}/{other[0]}' is not in '{source}': restore the list, or remove the picture")
    wnids = sorted(set(labels.values()))
    _check_within(wnids, classes, source, base)
    rows: list[Row] = [(f"{here}/{name}".removeprefix(f"{folder}/"), labels[name]) for name in sorted(labels)]
    return Listed(rows, classes or wnids)


def contents(folder: str) -> tuple[list[str], list[str]]:
    """(the folders whose names are wnids, the pictures) directly in a folder; both sorted."""
    fs, path, _ = locate(folder)
    with reading(folder):
        found = entries(fs, path, lambda _: None)
    wnids = [one.base_name for one in found if not one.is_file and WNID.fullmatch(one.base_name)]
    names = [one.base_name for one in found if one.is_file and not one.base_name.startswith(".")]
    return sorted(wnids), sorted(name for name in names if is_media(name, "image"))


def of_classes(folder: str, wnids: list[str]) -> list[str]:
    """`wnids`; InputError if there are none."""
    if not wnids:
        raise InputError(
            f"'{folder}' has no folders named by WordNet ids, such as n01440764: unpack the archives of the set there"
        )
    return wnids


def _check_within(wnids: list[str], classes: list[str], where: str, base: str) -> None:
    if lacking := sorted(set(wnids) - set(classes)) if classes else []:
        raise InputError(f"the class {lacking[0]} of '{where}' is no folder of '{base}/train': unpack all of train")


def _labels_of_val(folder: str, here: str) -> tuple[dict[str, str], str]:
    """(the wnid of each picture of val by its file's name, the list that they were read from)."""
    if is_file(solution := f"{folder}/{SOLUTION}"):
        return _solution(solution), solution
    kit = next((place for place in (folder, f"{folder}/{DEVKIT}") if is_file(f"{place}/{GROUND_TRUTH}")), None)
    if kit is None:
        raise InputError(
            f"the pictures in '{here}' are not in folders of classes: give their labels, {SOLUTION} in '{folder}', or "
            f"{GROUND_TRUTH} and {META} there or in {DEVKIT}"
        )
    if not is_file(f"{kit}/{META}"):
        raise InputError(
            f"'{kit}/{GROUND_TRUTH}' has numbers that are not in the order of the WordNet ids, and only {META} of the "
            f"same development kit maps them: put it there, or {SOLUTION} into '{folder}'"
        )
    return _ground_truth(f"{kit}/{GROUND_TRUTH}", f"{kit}/{META}"), f"{kit}/{GROUND_TRUTH}"


def _solution(uri: str) -> dict[str, str]:
    """The wnids by LOC_val_solution.csv, whose second column has a wnid and four numbers for each box."""
    labels: dict[str, str] = {}
    for line, (image, boxes) in csv_columns(uri, ("ImageId", "PredictionString")):
        wnid, name = boxes.strip().partition(" ")[0], f"{image}.JPEG"
        if not image or not WNID.fullmatch(wnid):
            raise InputError(f"line {line} of '{uri}' has {image!r} and {boxes!r}: expected an image and a WordNet id")
        if name in labels:
            raise InputError(f"line {line} of '{uri}' repeats the image '{image}': restore the list")
        labels[name] = wnid
    return labels


def _ground_truth(uri: str, meta: str) -> dict[str, str]:
    """The wnids by the development kit: line i is the ILSVRC2012_ID of the class of image i, counted from 1."""
    wnids, labels = _ids(meta), dict[str, str]()
    for number, line in enumerate(read_lines(uri), 1):
        if (wnid := wnids.get(line.strip())) is None:
            raise InputError(f"line {number} of '{uri}' is {line!r}: expected an ILSVRC2012_ID of '{meta}'")
        labels[f"ILSVRC2012_val_{number:08}.JPEG"] = wnid
    return labels


def _ids(uri: str) -> dict[str, str]:
    """ILSVRC2012_ID → wnid of the classes in meta.mat, which also has the synsets above them: those have children."""
    from scipy.io import loadmat

    with reading(uri):
        data = read_file(uri)
    try:
        table = np.atleast_1d(loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"])
        columns = (table[name].tolist() for name in ("ILSVRC2012_ID", "WNID", "num_children"))
        found = {str(int(one)): str(wnid) for one, wnid, children in zip(*columns, strict=True) if not int(children)}
    except Exception as error:  # scipy raises many kinds for a file of another form
        raise InputError(f"'{uri}' is not the {META} of ImageNet: {one_line(error)}; restore the file") from error
    if bad := [wnid for wnid in found.values() if not WNID.fullmatch(wnid)]:
        raise InputError(f"'{uri}' is not the {META} of ImageNet: it has the WordNet id {bad[0]!r}; restore the file")
    return found


def real_labels(uri: str) -> list[tuple[int, ...]]:
    """The ReaL labels of ImageNet's validation images (Beyer et al. 2020, arXiv 2006.07159): the classes that people
    saw in image i, counted from 0, as indices of sorted wnids; none where they agreed on none.

    `uri` is the file real.json, local or in an object store: a list of 50,000 lists of class indices, in the order of
    the numbers in the images' names. InputError if it has another form.
    """
    uri = absolute(uri)
    with reading(uri):
        data = read_file(uri)
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{uri}' is not JSON: {error}; restore real.json") from error
    if not isinstance(found, list):
        raise InputError(f"'{uri}' is not a list: restore real.json")
    for number, labels in enumerate(found, 1):
        if not isinstance(labels, list) or not all(type(one) is int and one >= 0 for one in labels):
            raise InputError(
                f"item {number} of '{uri}' is {str(labels)[:80]}: expected a list of class indices; restore real.json"
            )
    return [tuple(labels) for labels in found]
