"""The labels of files in folders: the classes where a tree is plain, else an error that names two files and the fix."""

from pathlib import Path

import pytest
from forms import index_here, outcome, write_files

from raylabel.corpus import Corpus, read_labels, read_rows
from raylabel.errors import InputError

# Files, URIs (all files if none is given), the classes.
PLAIN: list[tuple[list[str], list[str], tuple[str, ...]]] = [
    (["train/cat/1.jpg", "train/dog/2.jpg"], ["train"], ("cat", "dog")),
    (["cat/1.jpg", "dog/2.jpg"], ["cat", "dog"], ("cat", "dog")),
    (["t/cat/1.jpg", "t/dog/2.jpg"], ["t/*"], ("cat", "dog")),
    (["train/cat/1.jpg", "val/dog/2.jpg"], ["."], ("cat", "dog")),  # one depth, distinct names
    (["a/cat/1.jpg", "a/dog/1.jpg", "b/dog/2.jpg", "b/cat/1.jpg"], ["a", "b"], ("cat", "dog")),
    (["a/x/cat/1.jpg", "b/x/cat/1.jpg", "b/x/dog/1.jpg"], ["a", "b"], ("cat", "dog")),
    (["a/t/cat/1.jpg", "b/t/cat/1.jpg", "b/t/dog/1.jpg"], ["*/t"], ("cat", "dog")),
    (["cat/1.jpg", "more/dog/1.jpg", "more/owl/2.jpg"], ["cat", "more"], ("cat", "dog", "owl")),
    (["t/cat/1.jpg", "t/dog/2.jpg"], ["t", "t/cat"], ("cat", "dog")),  # one folder twice is not two folders
    (["t/cat/1.jpg", "t/cat /2.jpg", "t/cafe\u0301/1.jpg", "t/caf\u00e9/1.jpg"], ["t"], ("caf\u00e9", "cat")),
    (["7/1.jpg", "cat/1.jpg", "10/1.jpg"], ["."], ("10", "7", "cat")),
    (["9/1.jpg", "10/1.jpg"], ["."], ("9", "10")),
]


@pytest.mark.parametrize("files, uris, classes", PLAIN, ids=[" ".join(files) for files, _, _ in PLAIN])
def test_plain_trees(files: list[str], uris: list[str], classes: tuple[str, ...], tmp_path: Path) -> None:
    write_files(tmp_path / "d", *files)
    corpus = Corpus(uri=tuple(f"{tmp_path}/d/{uri}".removesuffix("/.") for uri in uris))
    assert outcome(corpus, tmp_path / "root") == classes


# Files, URIs, the error, and label → classes.
UNCLEAR: dict[str, tuple[list[str], list[str], str, dict[str, tuple[str, ...] | str]]] = {
    "one base name": (
        ["church/indoor/1.jpg", "church/outdoor/2.jpg", "market/indoor/3.jpg"],
        ["."],
        "'{0}/church/indoor/1.jpg' and '{0}/market/indoor/3.jpg' are in two folders named 'indoor'",
        {
            "path": ("church/indoor", "church/outdoor", "market/indoor"),
            "path:1": ("church", "market"),
            "path:2": ("indoor", "outdoor"),
            "path:-1": ("indoor", "outdoor"),
            "path:-2": ("church", "market"),
            "path:3": "no labels: '{0}/church/indoor/1.jpg' has none (corpus.label 'path:3')",
        },
    ),
    "one base name at two depths": (
        ["k/kitchen/1.jpg", "m/market/indoor/3.jpg", "c/church/indoor/1.jpg"],
        ["."],
        "'{0}/c/church/indoor/1.jpg' and '{0}/m/market/indoor/3.jpg' are in two folders named 'indoor'",
        {"path": ("c/church/indoor", "k/kitchen", "m/market/indoor"), "path:2": ("church", "kitchen", "market")},
    ),
    "two depths": (
        ["cat/1.jpg", "dog/1.jpg", "dog/crops/2.jpg"],
        ["."],
        "'{0}/cat/1.jpg' and '{0}/dog/crops/2.jpg' are at different depths",
        {"path": ("cat", "dog", "dog/crops"), "path:1": ("cat", "dog"), "path:-1": ("cat", "crops", "dog")},
    ),
    "beside the classes": (
        ["1.jpg", "cat/1.jpg"],
        ["."],
        "'{0}/1.jpg' and '{0}/cat/1.jpg' are at different depths",
        {"path": "no labels: '{0}/1.jpg' has none", "path:-1": ("cat", "d")},
    ),
    "a folder between": (
        ["cat/images/1.jpg", "dog/images/1.jpg"],
        ["."],
        "'{0}/cat/images/1.jpg' and '{0}/dog/images/1.jpg' are in two folders named 'images'",
        {"path:1": ("cat", "dog"), "path:-2": ("cat", "dog")},
    ),
    "the same folders in each class": (
        ["cat/good/1.jpg", "cat/bad/1.jpg", "dog/bad/2.jpg", "dog/good/1.jpg"],
        ["."],
        "'{0}/cat/bad/1.jpg' and '{0}/dog/bad/2.jpg' are in two folders named 'bad'",
        {"path:1": ("cat", "dog")},
    ),
    "splits": (
        ["train/cat/1.jpg", "val/cat/1.jpg", "val/dog/2.jpg"],
        ["."],
        "are in two folders named 'cat'",
        {"path:2": ("cat", "dog"), "path": ("train/cat", "val/cat", "val/dog")},
    ),
    "a pattern": (
        ["church/indoor/1.jpg", "market/indoor/3.jpg"],
        ["*/*"],
        "'{0}/church/indoor/1.jpg' and '{0}/market/indoor/3.jpg' are in two folders named 'indoor'",
        {"path:-2": ("church", "market"), "path": "no labels: '{0}/church/indoor/1.jpg' has none"},
    ),
    "classes as URIs": (
        ["cat/1.jpg", "dog/crops/1.jpg"],
        ["*"],
        "'{0}/cat/1.jpg' and '{0}/dog/crops/1.jpg' are at different depths",
        {"path:-1": ("cat", "crops")},
    ),
    "two corpora": (
        ["a/x/cat/1.jpg", "b/y/cat/1.jpg"],
        ["a", "b"],
        "'{0}/a/x/cat/1.jpg' and '{0}/b/y/cat/1.jpg' are in two folders named 'cat'",
        {"path": ("x/cat", "y/cat"), "path:1": ("x", "y"), "path:2": ("cat",)},
    ),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_a_tree_that_is_not_plain_is_an_error_that_a_field_settles(case: str, tmp_path: Path) -> None:
    files, uris, error, settled = UNCLEAR[case]
    folder = tmp_path / "d"
    write_files(folder, *files)
    uri = tuple(f"{folder}/{uri}".removesuffix("/.") for uri in uris)
    found = outcome(Corpus(uri=uri), tmp_path / "root")
    assert error.format(folder) in found and "set corpus.label to 'path' for" in found and "'path:1' for" in found
    for label, classes in settled.items():
        corpus = Corpus(uri=uri, label=label)
        found = outcome(corpus, tmp_path / "root")
        assert found == classes if isinstance(classes, tuple) else classes.format(folder) in found, label
    corpus = Corpus(uri=uri)  # reading it without labels never fails
    shards = index_here(corpus, tmp_path / "root")
    assert all(sample.media for number in range(len(shards)) for sample in read_rows(corpus, shards.row(number), [0]))


@pytest.mark.long
def test_the_error_does_not_depend_on_how_files_are_cut_into_shards(tmp_path: Path) -> None:
    write_files(tmp_path / "d", *(f"{a}/{b}/{i}.jpg" for a in "xyz" for b in ("good", a) for i in range(5)))
    corpus, errors = Corpus(uri=(str(tmp_path / "d"),)), set()
    for run in (1, 4, 7, 1024):
        with pytest.raises(InputError) as error:
            read_labels(corpus, index_here(corpus, tmp_path / "root", run))
        errors.add(str(error.value))
    assert len(errors) == 1 and f"'{tmp_path}/d/x/good/0.jpg' and '{tmp_path}/d/y/good/0.jpg'" in errors.pop()


def test_a_label_that_loose_files_cannot_have_is_an_error(tmp_path: Path) -> None:
    write_files(tmp_path / "d", "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "l.txt").write_text("d/cat/1.jpg\tcat\n")
    for label in ("y", "path:", "path:0", "path:-0", "path:x", "path:²"):
        found = outcome(Corpus(uri=(str(tmp_path / "d"),), label=label), tmp_path / "root")
        assert f"corpus.label is '{label}', but '{tmp_path}/d/' is a folder" in found
        with pytest.raises(InputError, match="labeled.label is .* for loose files give 'path' or a depth"):
            Corpus(uri=("d",), format="files", label=label).check("labeled")
    found = outcome(Corpus(uri=(str(tmp_path / "l.txt"),), label="y"), tmp_path / "root")
    assert f"corpus.label is 'y', but '{tmp_path}/l.txt' has no columns" in found
    for label in ("path", "path:1", "path:-2"):
        Corpus(uri=("d",), format="files", label=label).check("labeled")
    with pytest.raises(InputError, match=r"labeled\.media does not apply"):
        Corpus(uri=("d",), format="files", media="jpg").check("labeled")


def test_the_shared_tree_of_places(shared: Path, tmp_path: Path) -> None:
    folder = shared / "cases" / "places" / "train"
    found = outcome(Corpus(uri=(str(folder),)), tmp_path / "root")
    assert f"'{folder}/c/church/indoor/" in found and f"'{folder}/m/market/indoor/" in found
    six = ("c/church/indoor", "c/church/outdoor", "f/field", "k/kitchen", "m/market/indoor", "m/market/outdoor")
    assert outcome(Corpus(uri=(str(folder),), label="path"), tmp_path / "root") == six
