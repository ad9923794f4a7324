"""CUB-200-2011 in the layout of its archive, against the generator of made-up sets; lists that disagree."""

import random
import re
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from corpora import Indexed
from image_sets import Labels, read_set, write_lines, write_pictures

from raylabel.datasets import cub200, resolve
from raylabel.errors import InputError
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem

# The order of the numbers is not that of the names, so that an order by name is seen.
CLASSES = ["001.Black_footed_Albatross", "002.Crow", "010.Ani", "003.Wren"]


def write_cub(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """{part: [(path below the folder, class)]} of 20 pictures. Ids begin with 1 as in the real set, and the lists of
    labels and parts have other orders than that of the pictures."""
    rng = random.Random(0)
    rows = [(str(1 + i), 1 + i % 4, f"{CLASSES[i % 4]}/picture {i}.jpg", "01"[i % 3 == 0]) for i in range(20)]
    write_pictures(folder / "images", [path for _, _, path, _ in rows])
    write_lines(folder / "classes.txt", [f"{1 + i} {name}" for i, name in enumerate(CLASSES)])
    write_lines(folder / "images.txt", [f"{one} {path}" for one, _, path, _ in rows])
    for file, field in (("image_class_labels.txt", 1), ("train_test_split.txt", 3)):
        write_lines(folder / file, [f"{row[0]} {row[field]}" for row in rng.sample(rows, len(rows))])
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for _, number, path, train in rows:
        parts["train" if train == "1" else "test"].append((f"images/{path}", CLASSES[number - 1]))
    return parts


def expected(base: str, rows: list[tuple[str, str]]) -> Labels:
    return {f"{base}/{path}": (name, CLASSES.index(name)) for path, name in rows}


@pytest.mark.parametrize("within", ["", "CUB_200_2011"])
def test_cub(within: str, tmp_path: Path, indexed: Indexed) -> None:
    root, folder = Root.open(str(tmp_path / "root")), tmp_path / "birds, all"
    parts = write_cub(folder / within)
    for part, rows in parts.items():
        found, names = read_set(root, cub200(str(folder), part), indexed)
        assert found == expected(str(folder / within), rows) and names == tuple(CLASSES)
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 7, "test": 13}
    missing, _ = parts["test"][0]
    (folder / within / missing).unlink()
    assert len(read_set(root, cub200(str(folder), "test"), indexed)[0]) == 13  # it is read as missing


def test_cub_in_an_object_store(tmp_path: Path, bucket: str, indexed: Indexed) -> None:
    parts = write_cub(tmp_path / "CUB_200_2011")
    fs, _ = filesystem(bucket)
    pafs.copy_files(str(tmp_path), "pictures/birds", destination_filesystem=fs)
    found, _ = read_set(Root.open(f"{bucket}/root"), cub200(f"{bucket}/birds", "train"), indexed)
    assert found == expected(f"{bucket}/birds/CUB_200_2011", parts["train"])


LABELS, SPLIT = "image_class_labels.txt", "train_test_split.txt"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("classes.txt", "2 002.Crow\n", "", "'classes.txt' does not number the classes from 1 on"),
        ("classes.txt", "1 001.Black_footed_Albatross", "1", "line 1 of 'classes.txt' is '1': expected an id"),
        ("images.txt", "\n2 ", "\nb ", "line 2 of 'images.txt' is 'b 002.Crow/picture 1.jpg': expected an id"),
        ("images.txt", "\n2 ", "\n1 ", "line 2 of 'images.txt' repeats the id 1 of line 1"),
        ("images.txt", "\n2 ", "\n21 ", "line {label} of '{LABELS}' has the id 2, which 'images.txt' lacks"),
        (
            "images.txt",
            "\n2 ",
            "\n21 003.Wren/a.jpg\n2 ",
            "line 2 of 'images.txt' has the id 21, which '{LABELS}' lacks",
        ),
        (
            "images.txt",
            "\n2 002.Crow",
            "\n2 010.Ani",
            "line 2 of 'images.txt' has the path '010.Ani/picture 1.jpg', but line {label} of '{LABELS}' gives the "
            "class '002.Crow'",
        ),
        (LABELS, "\n2 2\n", "\n2 5\n", "line {label} of '{LABELS}' has the class 5, which 'classes.txt' lacks"),
        (SPLIT, "\n2 0\n", "\n2 2\n", "line {part} of '{SPLIT}' has '2': expected 1 (train) or 0 (test)"),
        (SPLIT, "\n2 0\n", "\n", "line 2 of 'images.txt' has the id 2, which '{SPLIT}' lacks"),
    ],
)
def test_lists_of_cub_that_disagree(file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    write_cub(tmp_path)
    lines = {name: (tmp_path / name).read_text().splitlines() for name in (LABELS, SPLIT)}
    of_2 = {name: 1 + [line.split()[0] for line in some].index("2") for name, some in lines.items()}
    message = message.format(label=of_2[LABELS], part=of_2[SPLIT], LABELS=LABELS, SPLIT=SPLIT)
    before = (tmp_path / file).read_text()
    assert before.count(old) == 1
    (tmp_path / file).write_text(before.replace(old, new))
    with pytest.raises(InputError, match=re.escape(re.sub(r"'(\w+\.txt)'", rf"'{tmp_path}/\1'", message))):
        resolve(Root.open(str(tmp_path / "root")), cub200(str(tmp_path), "train"))


def test_parts_and_files_that_cub_lacks(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path / "root"))
    with pytest.raises(InputError, match="no part 'val' of cub200: give one of train, test"):
        resolve(root, cub200(str(tmp_path), "val"))
    for file in ("train_test_split.txt", "image_class_labels.txt", "images.txt", "classes.txt"):
        write_cub(tmp_path)
        (tmp_path / file).unlink()
        with pytest.raises(InputError, match=f"cannot read '{tmp_path}/{file}'"):
            resolve(root, cub200(str(tmp_path), "train"))
    write_cub(tmp_path)
    write_lines(tmp_path / "train_test_split.txt", [f"{1 + i} 1" for i in range(20)])
    with pytest.raises(InputError, match="lists no image: give a part with images"):
        resolve(root, cub200(str(tmp_path), "test"))
