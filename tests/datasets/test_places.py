"""Places365 in the layout of its archives, against torchvision's reader; lists that are damaged."""

import random
from pathlib import Path

import pytest
from corpora import Indexed
from image_sets import read_set, write_lines, write_pictures
from torchvision.datasets import Places365

from raylabel.datasets import places365, resolve
from raylabel.errors import InputError
from raylabel.store.artifact import Root

# The order of the numbers is not that of the names, so that an order by name is seen.
CLASSES = ["/a/airfield", "/z/zen_garden", "/a/apartment_building/outdoor", "/b/bar"]


def write_places(folder: Path, large: str = "large") -> None:
    rng = random.Random(0)
    write_lines(folder / "categories_places365.txt", [f"{name} {number}" for number, name in enumerate(CLASSES)])
    for list_name, within, count in (("train_standard", f"data_{large}_standard", 12), ("val", f"val_{large}", 5)):
        rows = []
        for number in range(count):
            label = rng.randrange(4) if number > 3 else number
            name = f"{CLASSES[label]}/{number:08d}.jpg" if list_name != "val" else f"Places365_val_{number:08d}.jpg"
            rows.append((name, label))
        write_pictures(folder / within, [name.lstrip("/") for name, _ in rows])
        write_lines(folder / f"places365_{list_name}.txt", [f"{name} {label}" for name, label in rows])


@pytest.mark.parametrize("part, split", [("train", "train-standard"), ("val", "val")])
@pytest.mark.parametrize("size", ["large", "256"])
def test_it_is_what_torchvision_reads(
    part: str, split: str, size: str, tmp_path: Path, indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Places365, "_check_integrity", lambda *_: True)  # of made-up lists
    folder, root = tmp_path / "places", Root.open(str(tmp_path / "root"))
    write_places(folder, size)
    found, names = read_set(root, places365(str(folder), part), indexed)
    theirs = Places365(folder, split, small=size == "256")
    labels = {path: label for path, label in theirs.imgs if label is not None}
    assert found == {path: (CLASSES[label].lstrip("/"), label) for path, label in labels.items()}
    assert list(names) == [name.lstrip("/") for name in CLASSES]


@pytest.mark.parametrize(
    "file, line, message",
    [
        ("categories_places365.txt", "/a/airfield 7", "does not number the classes from 0 on"),
        ("categories_places365.txt", "/a/airfield", "line 1 of .* is '/a/airfield': expected a path, a blank and a n"),
        ("places365_val.txt", "Places365_val_0.jpg 4", "line 1 of .* has the class 4, which categories_places365.txt"),
    ],
)
def test_damaged_lists_are_named(file: str, line: str, message: str, tmp_path: Path) -> None:
    write_places(tmp_path / "places")
    path = tmp_path / "places" / file
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]) + "\n")
    with pytest.raises(InputError, match=message):
        resolve(Root.open(str(tmp_path / "root")), places365(str(tmp_path / "places"), "val"))


def test_parts_and_folders_that_it_lacks(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path / "root"))
    with pytest.raises(InputError, match="no part 'test' of places365: give one of train, val"):
        resolve(root, places365(str(tmp_path), "test"))
    write_lines(tmp_path / "categories_places365.txt", ["/a/airfield 0"])
    with pytest.raises(InputError, match="has none of the folders val_large, val_256"):
        resolve(root, places365(str(tmp_path), "val"))
