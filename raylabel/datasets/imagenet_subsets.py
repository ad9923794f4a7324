"""Test sets for networks that are trained on ImageNet: their classes are among its 1,000.

Their labels must be the indices of those 1,000 classes, of which two sets have only 200, and the fourth names its
folders by number. So each needs the list of all 1,000: a file that the user names, or the list in timm.
"""

import importlib.util

import pyarrow.fs as pafs

from raylabel.corpus import Corpus
from raylabel.corpus.config import is_media, locate
from raylabel.datasets.imagenet import WNID, contents, of_classes
from raylabel.datasets.listed import SCHEME, Listed, Row, is_folder
from raylabel.errors import InputError
from raylabel.store.files import reading

CLASSES = 1000


def imagenet_v2(data: str, classes: str | None = None) -> Corpus:
    """ImageNet-V2 (Recht et al. 2019), one of its three sets: 10,000 pictures, 10 of each class.

    `data` contains folders 0 to 999, as imagenetv2-matched-frequency-format-val does; the names are indices of the
    sorted wnids. `classes`: a text file with the 1,000 wnids of ImageNet, one per line, in the order of the network's
    classes; without it they are those of timm, sorted (the extra raylabel[timm]).
    """
    return _corpus("imagenet_v2", data, classes)


def imagenet_a(data: str, classes: str | None = None) -> Corpus:
    """ImageNet-A (Hendrycks et al. 2021, "Natural Adversarial Examples"): 7,500 pictures of 200 classes.

    `data` is the folder imagenet-a of the archive, or contains it: <wnid>/*.jpg. `classes` as for `imagenet_v2`. The
    paper takes the best of the 200 classes: see `evaluate.classified.classified_metrics`.
    """
    return _corpus("imagenet_a", data, classes)


def imagenet_r(data: str, classes: str | None = None) -> Corpus:
    """ImageNet-R (Hendrycks et al. 2021, "The Many Faces of Robustness"): 30,000 pictures of 200 classes.

    `data` is the folder imagenet-r of the archive, or contains it: <wnid>/*.jpg. `classes` and the 200 classes as for
    `imagenet_a`.
    """
    return _corpus("imagenet_r", data, classes)


def imagenet_sketch(data: str, classes: str | None = None) -> Corpus:
    """ImageNet-Sketch (Wang et al. 2019): 50,889 drawings of the 1,000 classes.

    `data` is the folder sketch of the archive, or contains it: <wnid>/*.JPEG. `classes` as for `imagenet_v2`.
    """
    return _corpus("imagenet_sketch", data, classes)


def _corpus(name: str, data: str, classes: str | None) -> Corpus:
    return Corpus(uri=(f"{SCHEME}{name}@{data}",), classes=classes)


def read_imagenet_a(folder: str, names: tuple[str, ...]) -> Listed:
    return _of_wnids(folder, "imagenet-a", names)


def read_imagenet_r(folder: str, names: tuple[str, ...]) -> Listed:
    return _of_wnids(folder, "imagenet-r", names)


def read_imagenet_sketch(folder: str, names: tuple[str, ...]) -> Listed:
    return _of_wnids(folder, "sketch", names)


def read_imagenet_v2(folder: str, names: tuple[str, ...]) -> Listed:
    if names and (len(names) != CLASSES or not all(map(WNID.fullmatch, names))):
        raise InputError(
            f"corpus.classes has {len(names):,} names: give a file with the {CLASSES:,} WordNet ids of ImageNet, whose "
            "sorted order the folders of ImageNet-V2 are numbered by"
        )
    wnids = sorted(names or _thousand())
    fs, path, _ = locate(folder)
    with reading(folder):
        found = fs.get_file_info(pafs.FileSelector(path, recursive=True))
    files = sorted(one.path.removeprefix(path).strip("/") for one in found if one.is_file)
    rows: list[Row] = []
    for file in files:
        number, _, name = file.partition("/")
        if not is_media(file, "image") or any(part.startswith(".") for part in file.split("/")):
            continue
        if not number.isdecimal() or str(int(number)) != number or int(number) >= CLASSES or not name or "/" in name:
            raise InputError(
                f"'{folder}/{file}' is not in a folder of a number from 0 to {CLASSES - 1}: give the folder that "
                "contains these, as imagenetv2-matched-frequency-format-val does"
            )
        rows.append((file, wnids[int(number)]))
    return Listed(rows, None if names else wnids)


def _of_wnids(folder: str, inner: str, names: tuple[str, ...]) -> Listed:
    """A folder with a folder for each class; `inner` is the name that it has in the archive."""
    here = f"{folder}/{inner}" if is_folder(f"{folder}/{inner}") else folder
    found = of_classes(here, contents(here)[0])
    known = names or _thousand()
    if lacking := [wnid for wnid in found if wnid not in set(known)]:
        raise InputError(f"'{here}/{lacking[0]}' is no class of ImageNet's {len(known):,}: correct corpus.classes")
    return Listed(None, None if names else known, here)


def _thousand() -> tuple[str, ...]:
    """The wnids of ImageNet's classes, sorted."""
    if importlib.util.find_spec("timm") is None:
        raise InputError(
            f"corpus.classes is not given, and without it the {CLASSES:,} classes of ImageNet are those of timm: name "
            "a file with their WordNet ids, one per line, or pip install 'raylabel[timm]'"
        )
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo().label_names())
