"""ImageNet in the layouts of its archives, against the generator of made-up sets and torchvision; the ReaL labels."""

import hashlib
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import scipy.io
from cloud import Cloud
from corpora import Indexed
from image_sets import Labels, read_set, write_lines, write_pictures
from torchvision.datasets import imagenet as torchvision_imagenet

from raylabel.datasets import imagenet, real_labels, resolve
from raylabel.datasets.imagenet import read_imagenet
from raylabel.errors import InputError
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem

# In the order of ILSVRC2012_ID, of which these are the first five; it is not the sorted order.
WNIDS = ["n02119789", "n02100735", "n02110185", "n02096294", "n02102040"]
CLASSES = tuple(sorted(WNIDS))
VAL = [3, 5, 1, 1, 2, 4, 5, 3, 2, 4, 1, 3]  # ILSVRC2012_IDs of the validation images
SOLUTION, GROUND_TRUTH = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt"


def of_folders(base: Path, pictures: list[str]) -> Labels:
    return {f"{base}/{path}": (name, CLASSES.index(name)) for path in pictures for name in [path.split("/")[0]]}


def write_folders(base: Path, per_class: int, classes: tuple[str, ...] = CLASSES) -> Labels:
    pictures = [f"{wnid}/{wnid}_{i}.JPEG" for wnid in classes for i in range(per_class)]
    write_pictures(base, pictures)
    (base / "README.txt").write_text("not a picture")
    write_pictures(base, [".thumbnails/a.JPEG"])
    return of_folders(base, pictures)


def write_flat(base: Path) -> Labels:
    """The validation images side by side."""
    names = [f"ILSVRC2012_val_{1 + i:08}.JPEG" for i in range(len(VAL))]
    write_pictures(base, names)
    labels = [WNIDS[number - 1] for number in VAL]
    return {f"{base}/{name}": (wnid, CLASSES.index(wnid)) for name, wnid in zip(names, labels, strict=True)}


def write_solution(folder: Path) -> None:
    """As Kaggle's: shuffled, with a wnid and four numbers for each box."""
    rows = [f"ILSVRC2012_val_{1 + i:08},{f'{WNIDS[n - 1]} 8 9 10 11 ' * (1 + i % 2)}" for i, n in enumerate(VAL)]
    write_lines(folder / SOLUTION, ["ImageId,PredictionString", *rows[5:], *rows[:5]])


def write_meta(path: Path, rows: list[tuple[int, str, int]]) -> None:
    """(ILSVRC2012_ID, wnid, children) of synsets, with the fields of the real file."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "num_train_images")
    table = np.zeros((len(rows), 1), [(field, "O") for field in fields])
    for i, (number, wnid, children) in enumerate(rows):
        table[i, 0] = (number, wnid, f"word {i}, more", f"gloss {i}", children, np.arange(children), 1300)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"synsets": table})


def write_devkit(folder: Path) -> None:
    """The synsets above the classes have numbers too, in the real file from 1,001 on."""
    classes = [(1 + i, wnid, 0) for i, wnid in enumerate(WNIDS)]
    write_meta(folder / "meta.mat", [*classes, (6, "n00001740", 2), (7, "n00001930", 1)])
    write_lines(folder / GROUND_TRUTH, map(str, VAL))


@pytest.mark.parametrize("within", ["", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"])
def test_folders_of_classes(within: str, tmp_path: Path, indexed: Indexed) -> None:
    root, data = Root.open(str(tmp_path / "root")), tmp_path / "d"
    val = write_folders(data / within / "val", 2, CLASSES[1:])
    found, names = read_set(root, imagenet(str(data), "val"), indexed)
    assert names == CLASSES[1:]  # those of the folders of val, since there is no train
    assert {uri: label for uri, (label, _) in found.items()} == {uri: label for uri, (label, _) in val.items()}
    train = write_folders(data / within / "train", 3)
    assert read_set(root, imagenet(str(data), "train"), indexed) == (train, CLASSES)
    assert read_set(root, imagenet(str(data), "val"), indexed) == (val, CLASSES)  # indices of the classes of train
    made = resolve(root, imagenet(str(data), "train"))
    assert made.uri == (str(data / within / "train"),)  # no list of 1.28 million paths
    assert made.classes and Path(made.classes).read_text().split() == list(CLASSES)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("labels", ["kaggle", "devkit", "devkit in its folder"])
def test_flat_validation_images(labels: str, train: bool, tmp_path: Path, indexed: Indexed) -> None:
    root, data = Root.open(str(tmp_path / "root")), tmp_path / "d"
    base = data / ("ILSVRC/Data/CLS-LOC" if labels == "kaggle" else "")
    val = write_flat(base / "val")
    if labels == "kaggle":
        write_solution(data)
    else:
        write_devkit(data / ("ILSVRC2012_devkit_t12/data" if "folder" in labels else ""))
    if train:
        write_folders(base / "train", 1)
    assert read_set(root, imagenet(str(data), "val"), indexed) == (val, CLASSES)
    assert [label for label, _ in val.values()] != [CLASSES[number - 1] for number in VAL]  # ids are no line numbers
    (base / "val/ILSVRC2012_val_00000007.JPEG").unlink()
    assert read_set(root, imagenet(str(data), "val"), indexed) == (val, CLASSES)  # it is read as missing


def test_the_devkit_is_read_as_torchvision_reads_it(
    tmp_path: Path, indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    val = write_flat(tmp_path / "val")
    write_devkit(tmp_path / "ILSVRC2012_devkit_t12/data")
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(torchvision_imagenet.ARCHIVE_META, "devkit", (archive.name, digest))
    torchvision_imagenet.parse_devkit_archive(str(tmp_path))
    _, expected = torchvision_imagenet.load_meta_file(str(tmp_path))
    found, _ = read_set(Root.open(str(tmp_path / "root")), imagenet(str(tmp_path), "val"), indexed)
    assert [found[uri][0] for uri in sorted(val)] == expected


def test_a_listing_takes_no_request_per_picture(tmp_path: Path, bucket: str, server: Cloud, indexed: Indexed) -> None:
    fs, _ = filesystem(bucket)
    requests = []
    for per_class in (1, 12):
        expected = write_folders(tmp_path / "train", per_class)
        pafs.copy_files(str(tmp_path), "pictures/d", destination_filesystem=fs)
        with server.counting() as counted:
            listed = read_imagenet(f"{bucket}/d", "train")
        assert (listed.rows, listed.classes, listed.folder) == (None, list(CLASSES), f"{bucket}/d/train")
        requests.append(counted.kinds)
    assert requests[0] == requests[1] and sum(requests[1].values()) <= 4
    found, names = read_set(Root.open(f"{bucket}/root"), imagenet(f"{bucket}/d", "train"), indexed)
    assert found == {uri.replace(str(tmp_path), f"{bucket}/d"): label for uri, label in expected.items()}
    assert names == CLASSES


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    data, root = tmp_path / "d", Root.open(str(tmp_path / "root"))

    def fails(message: str, part: str = "val") -> None:
        with pytest.raises(InputError, match=re.escape(message.replace("{}", str(data)))):
            resolve(root, imagenet(str(data), part))

    fails("no part 'test' of imagenet: give one of train, val", "test")
    fails("no folder train in '{}', its Data/CLS-LOC or its ILSVRC/Data/CLS-LOC: give the set", "train")
    write_lines(data / "train/n02096294.tar", [""])
    fails("'{}/train' has no folders named by WordNet ids, such as n01440764: unpack the archives", "train")
    (data / "val").mkdir()
    fails("'{}/val' contains neither pictures nor folders of them: unpack the set there")
    write_folders(data / "val", 1)
    resolve(root, imagenet(str(data), "val"))
    write_folders(data / "train", 1, CLASSES[:3])
    fails(f"the class {CLASSES[3]} of '{{}}/val' is no folder of '{{}}/train': unpack all of train")


def test_lists_of_validation_images_that_do_not_fit(tmp_path: Path) -> None:
    data, root = tmp_path / "d", Root.open(str(tmp_path / "root"))

    def fails(message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message.replace("{}", str(data)))):
            resolve(root, imagenet(str(data), "val"))

    write_flat(data / "val")
    fails(f"the pictures in '{{}}/val' are not in folders of classes: give their labels, {SOLUTION} in '{{}}', or")
    write_devkit(data)
    (data / "meta.mat").unlink()
    write_lines(data / "LOC_synset_mapping.txt", [f"{wnid} a, b" for wnid in CLASSES])  # it does not map these numbers
    fails(f"'{{}}/{GROUND_TRUTH}' has numbers that are not in the order of the WordNet ids, and only meta.mat of")
    for write, what in (
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file, but no more of it" * 9), ""),
        (lambda path: scipy.io.savemat(path, {"synsets": np.arange(3)}), ""),
        (lambda path: scipy.io.savemat(path, {"others": np.arange(3)}), "'synsets'"),
        (lambda path: write_meta(path, [(1, "kit fox", 0), (2, "n02100735", 0)]), "it has the WordNet id 'kit fox'"),
    ):
        write(data / "meta.mat")
        fails(f"'{{}}/meta.mat' is not the meta.mat of ImageNet: {what}")
    write_devkit(data)
    for line in ("0", "6", "n02096294", "", "1 1"):  # 6 is a synset above the classes
        write_lines(data / GROUND_TRUTH, ["3", line, *map(str, VAL[2:])])
        fails(f"line 2 of '{{}}/{GROUND_TRUTH}' is {line!r}: expected an ILSVRC2012_ID of '{{}}/meta.mat'")
    write_lines(data / GROUND_TRUTH, map(str, VAL[:-2]))
    fails(f"'{{}}/val/ILSVRC2012_val_00000011.JPEG' is not in '{{}}/{GROUND_TRUTH}': restore the list, or remove")
    write_solution(data)
    resolve(root, imagenet(str(data), "val"))  # it is read instead of the ground truth
    lines = (data / SOLUTION).read_text().splitlines()
    for line in ("ILSVRC2012_val_00000001,", "ILSVRC2012_val_00000001,1 2 3 4", ",n02096294 1 2 3 4"):
        write_lines(data / SOLUTION, [lines[0], line, *lines[2:]])
        image, _, boxes = line.partition(",")
        fails(f"line 2 of '{{}}/{SOLUTION}' has {image!r} and {boxes!r}: expected an image and a WordNet id")
    write_lines(data / SOLUTION, [*lines, lines[4]])
    fails(f"line 14 of '{{}}/{SOLUTION}' repeats the image '{lines[4].partition(',')[0]}': restore the list")
    write_lines(data / SOLUTION, ["ImageId,Label", *lines[1:]])
    fails(f"'{{}}/{SOLUTION}' has no column 'PredictionString'")
    write_lines(data / SOLUTION, lines)
    write_folders(data / "train", 1, CLASSES[1:])
    fails(f"the class {CLASSES[0]} of '{{}}/{SOLUTION}' is no folder of '{{}}/train': unpack all of train")


def test_real_labels(tmp_path: Path, bucket: str) -> None:
    path = tmp_path / "real.json"
    path.write_text("[[], [970, 795], [230]]")
    assert real_labels(str(path)) == [(), (970, 795), (230,)]
    pafs.copy_files(str(path), "pictures/real.json", destination_filesystem=filesystem(bucket)[0])
    assert real_labels(f"{bucket}/real.json") == [(), (970, 795), (230,)]
    cases: list[tuple[Any, str]] = [
        ("[[1]", "is not JSON"),
        ('{"1": [2]}', "is not a list: restore real.json"),
        ("[[1], 2]", "item 2 of '{}' is 2: expected a list of class indices; restore real.json"),
        ("[[1], [-2]]", "item 2 of '{}' is [-2]: expected a list of class indices"),
        ("[[1], [true]]", "item 2 of '{}' is [True]: expected a list of class indices"),
        ("[[1], [2.0]]", "item 2 of '{}' is [2.0]: expected a list of class indices"),
    ]
    for text, message in cases:
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(message.replace("{}", str(path)))):
            real_labels(str(path))
    path.unlink()
    with pytest.raises(InputError, match=f"cannot read '{path}'"):
        real_labels(str(path))


def test_the_real_labels_that_timm_has() -> None:
    import timm

    found = real_labels(str(Path(timm.__path__[0]) / "data/_info/imagenet_real_labels.json"))
    assert len(found) == 50_000 and sum(map(bool, found)) == 46_837  # Beyer et al. 2020
