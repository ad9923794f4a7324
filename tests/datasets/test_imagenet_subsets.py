"""ImageNet's test sets in the layouts of their archives, with labels among its 1,000 classes as timm numbers them."""

import importlib.util
import random
import re
from pathlib import Path
from typing import Any

import pytest
import timm
from corpora import Indexed
from image_sets import Labels, read_set, write_lines, write_pictures

from raylabel.corpus import Corpus
from raylabel.datasets import imagenet_a, imagenet_r, imagenet_sketch, imagenet_v2, resolve
from raylabel.errors import InputError
from raylabel.labels.truth import GivenLabels
from raylabel.schema import PICKS
from raylabel.store.artifact import Root

INFO = Path(timm.__path__[0]) / "data/_info"
THOUSAND = (INFO / "imagenet_synsets.txt").read_text().split()

SETS = {"imagenet-a": imagenet_a, "imagenet-r": imagenet_r, "sketch": imagenet_sketch}


def write_wnids(folder: Path, wnids: list[str]) -> list[str]:
    """Two pictures of each class; returns their paths."""
    paths = [f"{wnid}/{i}.jpg" for wnid in wnids for i in range(2)]
    write_pictures(folder, paths)
    write_pictures(folder, [".hidden/0.jpg"])
    (folder / "README.txt").write_text("not a picture")
    return paths


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("name", list(SETS))
def test_sets_of_some_classes(name: str, within: bool, tmp_path: Path, indexed: Indexed) -> None:
    data, root = tmp_path / "d", Root.open(str(tmp_path / "root"))
    folder = data / name if within else data
    # timm states the index of each of the 200 classes; of all 1,000 it is the place in their list.
    few = {"imagenet-a": "imagenet_a", "imagenet-r": "imagenet_r"}.get(name)
    wnids = (INFO / f"{few}_synsets.txt").read_text().split()[::25] if few else THOUSAND[3::120]
    indices = (INFO / f"{few}_indices.txt").read_text().split()[::25] if few else range(3, 1000, 120)
    expected: Labels = {}
    for wnid, index in zip(wnids, indices, strict=True):
        for path in write_wnids(folder, [wnid]):
            expected[f"{folder}/{path}"] = wnid, int(index)
    found, names = read_set(root, SETS[name](str(data)), indexed)
    assert found == expected and list(names) == THOUSAND
    assert resolve(root, SETS[name](str(data))).uri == (str(folder),)  # no list of all paths


def write_v2(folder: Path) -> dict[str, int]:
    """Sorted as names, 10, 100 and 999 are before 2. Returns the class of each picture."""
    paths = {f"{number}/{i}c{number}.jpeg": number for number in (0, 1, 2, 10, 11, 100, 250, 999) for i in range(3)}
    write_pictures(folder, paths)
    write_pictures(folder, [".cache/0/a.jpeg", "2/.a.jpeg"])
    (folder / "README.md").write_text("not a picture")
    return paths


def test_imagenet_v2(tmp_path: Path, indexed: Indexed) -> None:
    data, root = tmp_path / "d", Root.open(str(tmp_path / "root"))
    paths = write_v2(data)
    found, names = read_set(root, imagenet_v2(str(data)), indexed)
    assert found == {f"{data}/{path}": (THOUSAND[number], number) for path, number in paths.items()}
    assert list(names) == THOUSAND


def test_the_classes_of_a_network_in_another_order(
    tmp_path: Path, indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as without timm
    data, root = tmp_path / "d", Root.open(str(tmp_path / "root"))
    order = random.Random(0).sample(THOUSAND, 1000)
    write_lines(tmp_path / "classes.txt", order)
    classes = str(tmp_path / "classes.txt")
    paths, wnids = write_v2(data / "v2"), write_wnids(data / "imagenet-a", THOUSAND[::200])
    v2 = {f"{data}/v2/{path}": THOUSAND[number] for path, number in paths.items()}
    a = {f"{data}/imagenet-a/{path}": path.partition("/")[0] for path in wnids}
    for corpus, labels in ((imagenet_v2(f"{data}/v2", classes), v2), (imagenet_a(str(data), classes), a)):
        found, names = read_set(root, corpus, indexed)
        assert found == {uri: (wnid, order.index(wnid)) for uri, wnid in labels.items()} and list(names) == order
        # A pipeline gives the classes of the network and not those of the corpus.
        corpus = resolve(root, corpus)
        backwards = tuple(reversed(order))
        picks = GivenLabels(classes=backwards).label(root, corpus, indexed(corpus).artifact).table("picks", PICKS)
        expected = sorted(backwards.index(wnid) for wnid in labels.values())
        assert sorted(picks["label"].to_pylist()) == expected
    for corpus in (imagenet_v2(f"{data}/v2"), imagenet_a(str(data))):
        with pytest.raises(
            InputError, match=r"the 1,000 classes .* are those of timm: .* pip install 'raylabel\[timm\]'"
        ):
            resolve(root, corpus)


def test_several_sets_in_one_corpus(tmp_path: Path, indexed: Indexed) -> None:
    write_lines(tmp_path / "classes.txt", THOUSAND)
    uris, expected = [], {}
    for name, make, wnids in (("a", imagenet_a, THOUSAND[:3]), ("r", imagenet_r, THOUSAND[2:5])):
        expected |= {
            f"{tmp_path}/{name}/{path}": path.partition("/")[0] for path in write_wnids(tmp_path / name, wnids)
        }
        uris += make(str(tmp_path / name)).uri
    corpus = Corpus(uri=tuple(uris), classes=str(tmp_path / "classes.txt"))
    found, _ = read_set(Root.open(str(tmp_path / "root")), corpus, indexed)
    assert found == {uri: (wnid, THOUSAND.index(wnid)) for uri, wnid in expected.items()}
    assert not list((tmp_path / "root").glob("list-*"))  # the folders and the classes are read where they are


def test_folders_and_classes_that_do_not_fit(tmp_path: Path) -> None:
    data, root = tmp_path / "d", Root.open(str(tmp_path / "root"))

    def fails(message: str, make: Any, *arguments: str) -> None:
        with pytest.raises(InputError, match=re.escape(message.replace("{}", str(data)))):
            resolve(root, make(str(data), *arguments))

    fails("cannot read '{}'", imagenet_a)
    fails("cannot read '{}'", imagenet_v2)
    write_pictures(data, ["dog/0.jpg"])
    for make in SETS.values():
        fails("'{}' has no folders named by WordNet ids, such as n01440764: unpack the archives", make)
    write_wnids(data, ["n00001740", THOUSAND[5]])
    fails("'{}/n00001740' is no class of ImageNet's 1,000: correct corpus.classes", imagenet_r)
    classes = str(tmp_path / "classes.txt")
    write_lines(tmp_path / "classes.txt", THOUSAND[6:])
    fails("'{}/n00001740' is no class of ImageNet's 994", imagenet_r, classes)
    fails("corpus.classes has 994 names: give a file with the 1,000 WordNet ids", imagenet_v2, classes)
    write_lines(tmp_path / "classes.txt", [*THOUSAND[:-1], "toilet paper"])
    fails("corpus.classes has 1,000 names: give a file with the 1,000 WordNet ids", imagenet_v2, classes)
    for path in ("01/a.jpg", "1000/a.jpg", "a.jpg", "1/b/a.jpg", "-1/a.jpg", "v2/1/a.jpg"):
        folder = tmp_path / path.replace("/", "_")
        write_pictures(folder, ["0/a.jpg", path])
        with pytest.raises(InputError, match=f"'{folder}/{path}' is not in a folder of a number from 0 to 999"):
            resolve(root, imagenet_v2(str(folder)))
    (tmp_path / "none/7").mkdir(parents=True)
    with pytest.raises(InputError, match="lists no image"):
        resolve(root, imagenet_v2(str(tmp_path / "none")))
