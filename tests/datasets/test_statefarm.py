"""State Farm's drivers: a made-up set in its layout, split at random and by driver."""

import csv
import random
from pathlib import Path

import pytest

from raylabel.corpus.config import read_lines
from raylabel.datasets import resolve, statefarm
from raylabel.errors import InputError
from raylabel.store.artifact import Root


def write(folder: Path, within: str = "imgs/train") -> dict[str, tuple[str, str]]:
    """Picture → (driver, class)."""
    draw = random.Random(0)
    rows = {f"img_{i}.jpg": (f"p{draw.randrange(26):03}", f"c{i % 10}") for i in range(1_000)}
    (folder / within).mkdir(parents=True)
    with open(folder / "driver_imgs_list.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("subject", "classname", "img"))
        table.writerows((driver, label, image) for image, (driver, label) in rows.items())
    return rows


def listed(root: Root, data: Path, part: str, split: str) -> tuple[dict[str, str], list[str]]:
    """(path → class, names of the classes)."""
    corpus = resolve(root, statefarm(str(data), part, split))
    with open(corpus.uri[0], newline="") as file:
        found = {row["path"]: row["label"] for row in csv.DictReader(file)}
    assert corpus.classes
    return found, read_lines(corpus.classes)


@pytest.mark.parametrize("within", ["imgs/train", "train"])
@pytest.mark.parametrize("split", ["random", "driver"])
def test_each_picture_is_in_one_part(tmp_path: Path, split: str, within: str):
    rows, root = write(tmp_path / "data", within), Root.open(str(tmp_path / "root"))
    (train, classes), (test, _) = (listed(root, tmp_path / "data", part, split) for part in ("train", "test"))
    expected = {f"{tmp_path}/data/{within}/{label}/{image}": label for image, (_, label) in rows.items()}
    assert train | test == expected and not train.keys() & test.keys()
    assert classes == [f"c{i}" for i in range(10)]
    drivers = [{rows[Path(path).name][0] for path in part} for part in (train, test)]
    if split == "random":
        assert len(test) == round(1_000 * 2_204 / 22_424) == 98 and len(drivers[0] & drivers[1]) > 10
    else:
        assert 98 <= len(test) < 98 + 80 and not drivers[0] & drivers[1]
    assert listed(root, tmp_path / "data", "test", split)[0] == test


def test_what_the_set_does_not_have_is_an_error(tmp_path: Path):
    write(tmp_path / "data")
    root = Root.open(str(tmp_path / "root"))
    with pytest.raises(InputError, match="no split 'person' of statefarm: give 'random' or 'driver'"):
        resolve(root, statefarm(str(tmp_path / "data"), "train", "person"))
    with pytest.raises(InputError, match="no part 'val' of statefarm"):
        resolve(root, statefarm(str(tmp_path / "data"), "val", "driver"))
    path = tmp_path / "data/driver_imgs_list.csv"
    path.write_text(path.read_text().replace("c3", "c11", 1))
    with pytest.raises(InputError, match="has the class 'c11': expected c0 to c9"):
        resolve(root, statefarm(str(tmp_path / "data"), "train", "driver"))
