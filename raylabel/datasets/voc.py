"""Pascal VOC's classification task, read from the lists of its devkit."""

from raylabel.corpus import Corpus
from raylabel.corpus.config import read_lines
from raylabel.corpus.label_rule import BETWEEN, UNSURE
from raylabel.datasets.listed import SCHEME, Listed, Row, check_part, is_folder
from raylabel.errors import InputError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
PARTS = ("train", "val", "trainval", "test")
STATES = {"1": "", "0": UNSURE, "-1": None}
"""In a list of a class: it is there; only as difficult objects; it is not there."""


def voc2007(data: str, part: str) -> Corpus:
    """Pascal VOC 2007 (Everingham et al. 2010): 9,963 pictures with objects of 20 classes, several in one picture.
    `part`: train, val, trainval (5,011) or test (4,952).

    `data` is the folder VOCdevkit of the archives, or contains it: VOC2007/ImageSets/Main/CLASS_PART.txt and
    VOC2007/JPEGImages/*.jpg. Only these 20 lists are read. A label is the names of all classes in the picture, such as
    'dog|person'; '?chair' says that there are only difficult chairs, which count neither as present nor as absent.
    """
    return Corpus(uri=(f"{SCHEME}voc2007/{part}@{data}",))


def read_voc2007(folder: str, part: str) -> Listed:
    check_part("voc2007", part, PARTS)
    within = "VOCdevkit/VOC2007" if is_folder(f"{folder}/VOCdevkit") else "VOC2007"
    labels = dict[str, list[str]]()
    for number, name in enumerate(CLASSES):
        uri = f"{folder}/{within}/ImageSets/Main/{name}_{part}.txt"
        states = _states(uri)
        if not number:
            labels = {image: [] for image in states}
        if differing := sorted(labels.keys() ^ states.keys()):
            raise InputError(
                f"'{uri}' and the list of {CLASSES[0]} do not have the same pictures, for example {differing[0]}: "
                "restore the files of the set"
            )
        for image, state in states.items():
            if state is not None:
                labels[image].append(f"{state}{name}")
    rows: list[Row] = []
    for image, found in labels.items():
        if not found:
            raise InputError(f"'{folder}/{within}' has no class for picture {image}: restore the files of the set")
        rows.append((f"{within}/JPEGImages/{image}.jpg", BETWEEN.join(found)))
    return Listed(rows, CLASSES)


def _states(uri: str) -> dict[str, str | None]:
    """Picture → what `STATES` says. InputError if a line is not a picture and one of these, or repeats a picture."""
    found: dict[str, str | None] = {}
    for number, line in enumerate(read_lines(uri), 1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in STATES:
            raise InputError(f"line {number} of '{uri}' is {line!r}: expected a picture and 1, 0 or -1")
        if fields[0] in found:
            raise InputError(f"line {number} of '{uri}' repeats picture {fields[0]}: restore the files of the set")
        found[fields[0]] = STATES[fields[1]]
    return found
