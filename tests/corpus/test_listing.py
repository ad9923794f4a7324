"""The files found at a URI, compared with complete lists that are sorted afterwards."""

import os
import re
import tempfile
import threading
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raylabel.corpus import Corpus, listing
from raylabel.corpus.config import read_lines
from raylabel.corpus.listing import Loose, find, walk
from raylabel.corpus.surveyed import natural_key
from raylabel.errors import InputError

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "parquet", "tar")

# '!' to '.' sort before the slash between folders, digits and letters after it; some characters take two UTF-16 units.
names = st.text("ab01.-!~é猫\ue000𐀀", min_size=1, max_size=3).filter(lambda name: name.strip("."))
files = st.builds(lambda name, extension: f"{name}{extension}", names, st.sampled_from([".jpg", ".PNG", ".tar", "x"]))
paths = st.builds(lambda folders, name: "/".join([*folders, name]), st.lists(names, max_size=4), files)


def write_tree(folder: str, tree: list[str]) -> None:
    for number, path in enumerate(tree):
        full = os.path.join(folder, path)
        try:
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as file:
                file.write(b"x" * number)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            pass  # another path has a file where this one needs a folder, or the reverse


def sorted_after_the_walk(folder: str) -> list[tuple[str, int, int]]:
    found = []
    for inner, _, names in os.walk(folder):
        for file in names:
            path = os.path.relpath(os.path.join(inner, file), folder)
            if file.rpartition(".")[2].lower() in EXTENSIONS and not any(p.startswith(".") for p in path.split("/")):
                stat = os.stat(os.path.join(folder, path))
                found.append((path, stat.st_size, stat.st_mtime_ns))
    return sorted(found)


@given(st.lists(paths, max_size=25), st.integers(1, 4), st.integers(0, 4))
@example(["a/b.jpg", "a-b.jpg", "a.jpg/x.jpg", "a0.jpg", "a/b/c.jpg", "a/b-c.jpg"], 1, 0)
def test_a_walk_is_in_the_order_of_whole_paths(tree: list[str], ahead: int, held: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "AHEAD", ahead)
        patch.setattr(listing, "HELD", held)
        write_tree(folder, tree)
        expected = sorted_after_the_walk(folder)
        assert list(walk(pafs.LocalFileSystem(), folder, "image")) == expected
        # Not a LocalFileSystem, so it is listed like an object store.
        store = pafs.SubTreeFileSystem(folder, pafs.LocalFileSystem())
        assert list(walk(store, "", "image")) == expected


def test_folders_are_listed_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(str(tmp_path), [f"{letter}/{i}.jpg" for letter in "abcdefgh" for i in range(2)])
    together = threading.Barrier(4)
    plain = listing._list_local

    def list_local(folder: listing._Folder) -> list:
        if folder.below:
            together.wait(timeout=60)  # fails unless four folders are listed at the same time
        return plain(folder)

    monkeypatch.setattr(listing, "AHEAD", 4)
    monkeypatch.setattr(listing, "_list_local", list_local)
    assert [path for path, *_ in walk(pafs.LocalFileSystem(), str(tmp_path), "image")] == [
        f"{letter}/{i}.jpg" for letter in "abcdefgh" for i in range(2)
    ]


def test_large_folders_limit_how_many_are_listed_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(str(tmp_path), [f"{i:02}/{j}.jpg" for i in range(30) for j in range(10)])
    listed: list[str] = []
    plain = listing._list_local

    def list_local(folder: listing._Folder) -> list:
        listed.append(folder.below)
        return plain(folder)

    class ImmediateExecutor:
        """An executor without threads: `submit` calls the function."""

        def __init__(self, threads: int) -> None: ...

        def submit(self, function, folder):
            future = listing.Future()
            future.set_result(function(folder))
            return future

        def shutdown(self, cancel_futures: bool) -> None: ...

    monkeypatch.setattr(listing, "ThreadPoolExecutor", ImmediateExecutor)
    monkeypatch.setattr(listing, "_list_local", list_local)
    monkeypatch.setattr(listing, "HELD", 25)
    for number, _ in enumerate(walk(pafs.LocalFileSystem(), str(tmp_path), "image")):
        assert len(listed) - 1 <= number // 10 + 1 + 3  # the folder itself, and three with 30 names ahead of it
    assert len(listed) == 31


@pytest.mark.parametrize("where", ["a/", "b/"])
def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    write_tree(str(tmp_path), ["a/1.jpg", "b/2.jpg"])
    plain = listing._list_local

    def list_local(folder: listing._Folder) -> list:
        if folder.below == where:
            raise PermissionError(f"no entry to {folder.path}")
        return plain(folder)

    monkeypatch.setattr(listing, "_list_local", list_local)
    with pytest.raises(InputError, match=f"cannot list '{tmp_path}': no entry to {tmp_path}/{where[0]}"):
        for found in find(Corpus(uri=(str(tmp_path),)), str(tmp_path)):
            assert isinstance(found, Loose) and list(found.files)


@given(st.text("ab \r\n\t\u2028\x0cé", max_size=30), st.booleans())
def test_read_lines_gives_the_lines_of_the_whole_text(text: str, mark: bool) -> None:
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(text.encode("utf-8-sig" if mark else "utf-8"))
        file.flush()
        lines = [line.rstrip("\r") for line in text.split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        assert read_lines(file.name) == lines


def numbers_and_text(uri: str) -> tuple[list[int | str], str]:
    split: list[int | str] = list(re.split("([0-9]+)", uri))
    split[1::2] = [int(digits) for digits in split[1::2]]
    return split, uri


@given(st.lists(st.text("a/.-0129²\x01é", max_size=8)))
@example(["p10", "p9", "p09", "p", "p9a", "p9-10", "p9-9", "p00", "p0", "a" + "9" * 400, "a" + "1" + "0" * 400])
def test_natural_order_compares_numbers_and_text(uris: list[str]) -> None:
    assert sorted(uris, key=natural_key) == sorted(uris, key=numbers_and_text)
