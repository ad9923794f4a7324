"""CUB-200-2011, read from its list files."""

from raylabel.corpus import Corpus
from raylabel.corpus.config import read_lines
from raylabel.datasets.listed import SCHEME, Listed, Row, check_part, is_folder
from raylabel.errors import InputError

Numbered = dict[str, tuple[int, str]]  # id → its line and the text after it

RESTORE = "restore the files of the set"


def cub200(data: str, part: str) -> Corpus:
    """CUB-200-2011 (Wah et al. 2011): 11,788 pictures of 200 species of birds. `part`: train (5,994) or test (5,794).

    `data` is the folder CUB_200_2011 of the archive, or contains it: images.txt, image_class_labels.txt,
    train_test_split.txt, classes.txt and images/001.Black_footed_Albatross/*.jpg. Classes have the names and the order
    of classes.txt.
    """
    return Corpus(uri=(f"{SCHEME}cub200/{part}@{data}",))


def read_cub200(folder: str, part: str) -> Listed:
    check_part("cub200", part, ("train", "test"))
    within = "CUB_200_2011/" if is_folder(f"{folder}/CUB_200_2011") else ""
    base = f"{folder}/{within}"
    classes, images = _numbered(f"{base}classes.txt"), _numbered(f"{base}images.txt")
    if list(classes) != [str(1 + i) for i in range(len(classes))]:
        raise InputError(f"'{base}classes.txt' does not number the classes from 1 on: {RESTORE}")
    labels = _of_images(base, "image_class_labels.txt", images)
    split = _of_images(base, "train_test_split.txt", images)
    rows: list[Row] = []
    for image, (line, path) in images.items():
        at, number = labels[image]
        if number not in classes:
            raise InputError(
                f"line {at} of '{base}image_class_labels.txt' has the class {number}, which '{base}classes.txt' lacks: "
                f"{RESTORE}"
            )
        name = classes[number][1]
        if path.partition("/")[0] != name:
            raise InputError(
                f"line {line} of '{base}images.txt' has the path '{path}', but line {at} of "
                f"'{base}image_class_labels.txt' gives the class '{name}': {RESTORE}"
            )
        at, train = split[image]
        if train not in ("0", "1"):
            raise InputError(f"line {at} of '{base}train_test_split.txt' has {train!r}: expected 1 (train) or 0 (test)")
        if train == ("1" if part == "train" else "0"):
            rows.append((f"{within}images/{path}", name))
    return Listed(rows, [name for _, name in classes.values()])


def _of_images(base: str, file: str, images: Numbered) -> Numbered:
    """The lines of a file that has one for each image. InputError if its ids are not those of `images`."""
    found = _numbered(base + file)
    for here, there, of_here, of_there in (
        (found, images, file, "images.txt"),
        (images, found, "images.txt", file),
    ):
        if lacking := [one for one in here if one not in there]:
            line, _ = here[lacking[0]]
            raise InputError(
                f"line {line} of '{base}{of_here}' has the id {lacking[0]}, which '{base}{of_there}' lacks: {RESTORE}"
            )
    return found


def _numbered(uri: str) -> Numbered:
    """The lines of a file of the set, by their ids. InputError if a line is not an id and a text, or repeats an id."""
    found: Numbered = {}
    for number, line in enumerate(read_lines(uri), 1):
        one, _, text = line.strip().partition(" ")
        if not one.isdecimal() or not text:
            raise InputError(f"line {number} of '{uri}' is {line!r}: expected an id, a blank and its value")
        if one in found:
            raise InputError(f"line {number} of '{uri}' repeats the id {one} of line {found[one][0]}: {RESTORE}")
        found[one] = number, text
    return found
