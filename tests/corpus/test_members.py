"""Each medium of a tar is a sample with its own members, is counted as passed over, or ends indexing by its name."""

import io
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from corpora import tar_bytes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raylabel.corpus import Corpus, Sample, passed_over, read_rows, tar_read
from raylabel.corpus.config import EXTENSIONS
from raylabel.corpus.fingerprint import measure_packed
from raylabel.corpus.members import MEMBERS, Member, Names
from raylabel.corpus.tar import TarReader
from raylabel.corpus.tar_check import TarMeasure
from raylabel.errors import InputError

Read = list[tuple[str, bytes | None, str | None]]  # name in the tar, media, label


def measure(path: Path | str, **fields: Any) -> tuple[Corpus, dict[str, Any], TarMeasure]:
    """What indexing finds in a tar, without Ray: its corpus, its row of SHARDS, and the rest."""
    corpus = Corpus(uri=(str(path),), **fields)
    rows, size, fingerprint, found = measure_packed(corpus, str(path), "webdataset")
    assert found is not None
    shard = {"shard": 0, "uri": str(path), "format": "webdataset", "paths": [], "rows": rows, "bytes": size}
    starts = [{"row": row, "byte": byte} for row, byte in found.starts]
    return corpus, shard | {"fingerprint": fingerprint, "starts": starts}, found


def rows_of_tar(path: Path | str, labels: bool = True, **fields: Any) -> Read:
    corpus, shard, _ = measure(path, **fields)
    if not shard["rows"]:
        return []
    return [short(sample) for sample in read_rows(corpus, shard, range(shard["rows"]), labels)]


def short(sample: Sample) -> tuple[str, bytes | None, str | None]:
    return sample.uri.partition("#")[2], sample.media, sample.label


def write(folder: Path | str, *names: str) -> Path:
    """A tar whose members contain their own names."""
    path = Path(folder) / "x.tar"
    path.write_bytes(tar_bytes(*((name, name.encode()) for name in names)))
    return path


def is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS["image"]


# Well-formed: the oracle is what was written. Each sample has a name of its own, no name begins another one.
letters = st.text("aZé猫 -_()", min_size=1, max_size=4)
numbers = st.integers(0, 99).map("{:02}".format)
written = st.lists(
    st.tuples(
        st.sampled_from(["", "d/", "d.e/"]),
        letters,
        st.booleans(),  # whether the name has a dot
        st.sampled_from(["jpg", "JPG", "png", "jpeg", "jfif", "avif", "WebP"]),
        st.permutations(["media", "cls", "json", "seg.png", "0.txt"]),
        st.integers(1, 5),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(written, st.integers(1, 3))
def test_every_picture_is_a_sample_with_its_own_label(made: list, size: int) -> None:
    names, expected, others = [], [], 0
    for number, (folder, letter, dotted, extension, order, count) in enumerate(made):
        stem = f"{folder}{letter}{number}" + (f".{number:03}" if dotted else "")
        kinds = order[:count] if "media" in order[:count] else [*order[:count], "media"]
        members = [f"{stem}.{extension if kind == 'media' else kind}" for kind in kinds]
        names += members
        media, label = f"{stem}.{extension}", f"{stem}.cls"
        expected.append((media, media.encode(), label.strip() if label in members else None))
        others += "seg.png" in kinds
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, *names)
        assert rows_of_tar(path) == expected
        corpus, shard, found = measure(path)
        assert sum(kind["count"] for kind in found.passed) == others  # the masks
        rows = len(expected)
        assert (found.rows, found.without) == (rows, 0)
        for first in reversed(range(0, rows, size)):  # units from any sample on, without what was read before
            tar_read._seen_starts.cache_clear()
            unit = range(first, min(first + size, rows))
            assert [short(sample) for sample in read_rows(corpus, shard, unit, True)] == expected[first : first + size]
            old = {name: value for name, value in shard.items() if name != "starts"}  # SHARDS of an earlier version
            assert [short(sample) for sample in read_rows(corpus, old, unit, True)] == expected[first : first + size]
        with TarReader(str(path)) as tar:
            samples = list(tar.samples(corpus))
            for sample in samples:
                assert next(tar.samples(corpus, sample.offset)) == sample


# Anything: names that repeat, overlap and come in any order.
stems = st.sampled_from(["a", "b", "d/a", "a.1", "a.01", "a.01.left", "a.left", "b.2.3", "B", "é x", "a.b.c", ".a"])
anything = st.lists(
    st.tuples(stems, st.sampled_from(["jpg", "JPG", "png", "cls", "CLS", "json", "seg.png", "heic"])), max_size=9
)
ORDERS = [[("a", "jpg"), ("b", "jpg"), ("a", "cls")], [("a", "cls"), ("b", "jpg"), ("a", "jpg")]]


@settings(max_examples=200)
@given(anything, st.sampled_from([None, "jpg", "seg.png", "JPG"]))
@example(ORDERS[0], None)
@example(ORDERS[1], "jpg")
@example([("a.left", "jpg"), ("a.b.c", "png"), ("a.left", "cls")], None)
def test_no_picture_is_lost_whatever_the_names(made: list[tuple[str, str]], media: str | None) -> None:
    names = [f"{stem}.{extension}" for stem, extension in made]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(passed_over, "EXAMPLES", 1000)  # so that they are all there by name
        path = write(folder, *names)
        try:
            _, _, found = measure(path, media=media)
        except InputError as error:
            once = len({name.lower() for name in names}) == len(names)
            assert sum(f"'{name}'" in str(error) for name in set(names)) >= 1 + once  # it names two members
            return
        rows = rows_of_tar(path, media=media)
    passed = [example.partition("#")[2] for kind in found.passed for example in kind["examples"]]
    assert len(passed) == sum(kind["count"] for kind in found.passed)
    pictures = [name for name in names if is_picture(name)]
    scored = [name for name, data, _ in rows if data is not None]
    assert Counter(scored) + Counter(name for name in passed if is_picture(name)) == Counter(pictures)
    assert all(data in (None, name.encode()) for name, data, _ in rows)
    assert sum(data is None for _, data, _ in rows) == found.without
    visible = [name for name in names if not name.rpartition("/")[2].startswith(".")]
    assert [name for name in passed if not is_picture(name)] == [
        name for name in names if name not in visible and not is_picture(name)
    ]
    once = len({name.lower() for name in names}) == len(names)
    owns = Counter(without_extension(name, media) for name, data, _ in rows if data is not None)
    for name, data, label in rows:
        own = without_extension(name, media)
        if data is not None and label:  # the label of a picture has the picture's name
            assert (label[:-4], label[-4:].lower()) == (own, ".cls")
        elif data is not None and once and owns[own] == 1:  # and no such label is lost
            assert not {f"{own}.cls", f"{own}.CLS"} & set(names)


def without_extension(name: str, media: str | None) -> str:
    return name[: -len(media) - 1] if media else name.rpartition(".")[0]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.permutations(["jpg", "cls", "json", "seg.png"])), max_size=8,
             unique_by=lambda one: one[0]),
    st.lists(st.integers(1, 4), min_size=8, max_size=8),
)  # fmt: skip
def test_names_with_one_dot_give_the_rows_of_webdataset(made: list, counts: list[int]) -> None:
    runs = [(stem, extensions[:count]) for (stem, extensions), count in zip(made, counts, strict=False)]
    runs = [run for run in runs if run[1] != ["seg.png"]]  # a mask alone
    names = [f"{stem}.{extension}" for stem, extensions in runs for extension in extensions]
    with tempfile.TemporaryDirectory() as folder:
        expected = [
            (f"{stem}.jpg" if "jpg" in some else stem, f"{stem}.jpg".encode() if "jpg" in some else None,
             f"{stem}.cls" if "cls" in some else None)
            for stem, some in runs
        ]  # fmt: skip
        assert rows_of_tar(write(folder, *names)) == expected
        _, _, found = measure(write(folder, *names))
        assert (found.rows, found.runs) == (len(runs), len(runs))


ONE = ["a.jpg", "a.cls"]
READ = {
    "numbers": (["f.0001.jpg", "f.0002.jpg", "f.0003.png"], {}, ["f.0001.jpg", "f.0002.jpg", "f.0003.png"]),
    "numbers, any order of members": (
        ["f.1.cls", "f.1.jpg", "f.2.jpg", "f.2.cls"], {}, ["f.1.jpg=f.1.cls", "f.2.jpg=f.2.cls"]),
    "two kinds of pictures at each number": (
        ["f.1.left.jpg", "f.1.right.jpg", "f.2.left.jpg"], {}, ["f.1.left.jpg", "f.1.right.jpg", "f.2.left.jpg"]),
    "a mask at each number": (["f.1.jpg", "f.1.seg.png", "f.1.cls", "f.2.jpg"], {}, ["f.1.jpg=f.1.cls", "f.2.jpg"]),
    "words": (["Smith.Ann.jpg", "Smith.Ann.cls", "Smith.Bo.jpg"], {}, ["Smith.Ann.jpg=Smith.Ann.cls", "Smith.Bo.jpg"]),
    "a version": (["photo v1.12.jpg", "photo v1.12.cls"], {}, ["photo v1.12.jpg=photo v1.12.cls"]),
    "a mask that is not named": ([*ONE, "a.seg.png"], {}, ["a.jpg=a.cls"]),
    "a mask before the picture": (["a.depth.png", *ONE], {}, ["a.jpg=a.cls"]),
    "a mask that is named": ([*ONE, "a.seg.png"], {"media": "seg.png"}, ["a.seg.png=a.cls"]),
    "upper case in the tar": (["a.JPG", "a.CLS"], {"media": "jpg"}, ["a.JPG=a.CLS"]),
    "upper case in the field": (ONE, {"media": "JPG", "label": "CLS"}, ["a.jpg=a.cls"]),
    "an extension with numbers": (["f.0001.jpg", "f.0002.jpg"], {"media": "jpg"}, ["f.0001.jpg", "f.0002.jpg"]),
    "an extension beside numbers": (["f.0001.jpg", "f.jpg"], {"media": "jpg"}, ["f.jpg"]),
    "a view that is named": (["f.0.jpg", "f.1.jpg", "f.cls"], {"media": "0.jpg"}, ["f.0.jpg=f.cls"]),
    "the same name again": ([*ONE, *ONE], {}, ["a.jpg=a.cls", "a.jpg=a.cls"]),
    "the same name later": ([*ONE, "b.jpg", *ONE], {}, ["a.jpg=a.cls", "b.jpg", "a.jpg=a.cls"]),
    "the same name in upper case": (["a.jpg", "a.JPG"], {}, ["a.jpg", "a.JPG"]),
    "captions with numbers": (["a.0.txt", "a.1.txt", "a.jpg"], {}, ["a.jpg"]),
    "new extensions": (["a.jfif", "b.JPE", "c.avif", "d.heic", "e.heif"], {},
                       ["a.jfif", "b.JPE", "c.avif", "d.heic", "e.heif"]),
    "an extension of your own": (["a.ppm", "a.cls", "b.jpg"], {"extensions": ("PPM",)}, ["a.ppm=a.cls", "b.jpg"]),
    "no extension": (["a", "a.cls", "b"], {"extensions": ("",)}, ["a=a.cls", "b"]),
    "numbered samples without pictures": (
        ["f.1.jpg", "f.2.cls", "f.3.cls", "f.4.jpg", "f.5.cls", "f.6.cls"], {}, ["f.1.jpg", "f!", "f.4.jpg", "f!"]),
    "a sample without a picture": (["a.json", "b.jpg"], {}, ["a!", "b.jpg"]),
    "only a mask is left": (["a.jpg", "a.seg.png", "b.seg.png", "b.cls"], {}, ["a.jpg", "b!=b.cls"]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_names_are_read(case: str, tmp_path: Path) -> None:
    names, fields, expected = READ[case]
    found = rows_of_tar(write(tmp_path, *names), **fields)
    texts = [f"{name}{'!' if data is None else ''}{f'={label}' if label else ''}" for name, data, label in found]
    assert texts == expected
    assert all(data == name.encode() for name, data, _ in found if data is not None)


ERRORS = {
    "two pictures": (["a.jpg", "a.png"], {}, "'a.jpg' and 'a.png' .*corpus.media .*'jpg' or 'png'"),
    "a picture and a numbered one": (["a.jpg", "a.1.jpg"], {}, "'a.1.jpg' and 'a.jpg' .*'1.jpg' or 'jpg'"),
    "the numbered one first": (["a.0.jpg", "a.jpg"], {}, "'a.0.jpg' and 'a.jpg' .*corpus.media"),
    "a label of two pictures": (["a.left.jpg", "a.right.jpg", "a.cls"], {}, "'a.cls' and 'a.left.jpg' .*'left.jpg'"),
    "a label of two views": (["a.0.jpg", "a.1.jpg", "a.cls"], {}, "'a.1.jpg' and 'a.cls' .*corpus.media"),
    "one view": (["22.00.png", "22.cls"], {}, "'22.00.png' and '22.cls' .*corpus.media"),
    "first all pictures": (["a.jpg", "b.jpg", "a.cls", "b.cls"], {}, "'a.jpg' and 'a.cls' .*do not follow each other"),
    "first all labels": (["a.cls", "b.cls", "a.jpg", "b.jpg"], {}, "'a.jpg' and 'a.cls' .*do not follow each other"),
    "first all numbered pictures": (
        ["a.1.jpg", "a.2.jpg", "a.1.cls", "a.2.cls"], {}, "'a.1.jpg' and 'a.1.cls' .*do not follow each other"),
    "numbered pictures, labels elsewhere": (
        ["a.1.jpg", "a.2.jpg", "b.jpg", "a.1.cls"], {}, "'a.1.jpg' and 'a.1.cls' .*do not follow each other"),
    "pictures of words, then labels": (
        ["a.x.jpg", "a.y.jpg", "a.x.cls", "a.y.cls"], {}, "'a.x.jpg' and 'a.x.cls' .*do not follow each other"),
    "a mask of words apart": (
        ["a.x.jpg", "a.y.jpg", "a.x.seg.png"], {}, "'a.x.jpg' and 'a.x.seg.png' .*do not follow each other"),
    "a numbered picture elsewhere": (
        ["a.1.jpg", "b.jpg", "a.1.cls", "a.jpg"], {}, "'a.1.jpg' and 'a.jpg' .*'1.jpg' or 'jpg'"),
    "two folders": (["i/1.jpg", "l/1.cls", "i/2.jpg", "l/2.cls"], {}, "'i/1.jpg' and 'l/1.cls' .*two folders"),
    "a label twice": (["a.jpg", "a.cls", "a.cls"], {}, "'a.jpg' and 'a.cls' .*do not follow each other"),
    "a mask beside a picture, and alone": (
        ["a.jpg", "a.seg.png", "b.seg.png"], {}, "'a.seg.png' .*'b.seg.png' .*corpus.media to 'seg.png'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_names_that_can_be_read_in_two_ways_are_an_error(case: str, tmp_path: Path) -> None:
    names, fields, message = ERRORS[case]
    with pytest.raises(InputError, match=message):
        measure(write(tmp_path, *names), **fields)


def test_class_folders_with_the_same_numbers_are_no_error(tmp_path: Path) -> None:
    # A picture that is missing in one class has a number that pictures of others have.
    names = ["cat/1.jpg", "cat/1.json", "dog/1.json", "dog/2.jpg", "dog/2.json"]
    assert [name for name, _, _ in rows_of_tar(write(tmp_path, *names))] == ["cat/1.jpg", "dog/1", "dog/2.jpg"]


def test_members_that_belong_to_no_sample_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in [
            ("d", tarfile.DIRTYPE), ("d/a.jpg", tarfile.REGTYPE), ("d/._a.jpg", tarfile.REGTYPE),
            ("README", tarfile.REGTYPE), ("l.jpg", tarfile.SYMTYPE), ("../up.jpg", tarfile.REGTYPE),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info, io.BytesIO())
    _, shard, found = measure(tmp_path / "x.tar")
    where = f"{tmp_path}/x.tar#"
    assert shard["rows"] == 1
    assert found.passed == [
        {"extension": "no regular file", "count": 2, "examples": [f"{where}l.jpg", f"{where}../up.jpg"]},
        {"extension": "hidden", "count": 1, "examples": [f"{where}d/._a.jpg"]},
        {"extension": "no extension", "count": 1, "examples": [f"{where}README"]},
    ]


def test_a_million_frames_of_one_video_are_divided_while_they_are_read() -> None:
    read_ahead = 0

    def members():
        nonlocal read_ahead
        for number in range(1_000_000):
            read_ahead = number
            yield number, Member(f"frame.{number:06}.jpg", 0, 0)

    samples = Names(Corpus(uri=("x.tar",)), "x.tar").samples(members())
    for number in range(3 * MEMBERS):
        assert next(samples).name == f"frame.{number:06}"
        assert read_ahead == number + 1
    named = Names(Corpus(uri=("x.tar",), media="jpg"), "x.tar").samples(members())
    for number in range(3 * MEMBERS):
        assert next(named).name == f"frame.{number:06}"
        assert read_ahead <= number + MEMBERS + 1
    words = (Member(f"a.{'x' * number}b.jpg", 0, 0) for number in range(MEMBERS + 1))
    with pytest.raises(InputError, match=r"sample 'a' has more than 1,000 members"):
        list(Names(Corpus(uri=("x.tar",)), "x.tar").samples(enumerate(words)))
