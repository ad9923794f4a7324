"""Lists as other programs write them: read where their form is plain, else an error at the line that is not."""

import codecs
import csv
import io
import itertools
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from forms import outcome, write_files
from hypothesis import given
from hypothesis import strategies as st

from raylabel.corpus import Corpus
from raylabel.corpus.config import LINE, read_lines
from raylabel.corpus.lists import list_lines
from raylabel.errors import InputError

FILES = ("img/0/a.jpg", "img/1/b b.png", "c,d.JPG", "plain", "img/two.png", "not\\windows.jpg")


def lines_of(folder: Path, name: str, data: str | bytes, **fields: str) -> list[str] | str:
    """The lines in SHARDS of a list in a folder with FILES, or the error without the path of the list."""
    write_files(folder, *FILES)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    try:
        return list(list_lines(Corpus(uri=(str(folder / name),), **fields), str(folder / name)))  # pyright: ignore[reportArgumentType]
    except InputError as error:
        return str(error).replace(f"{folder}/", "")


LABELED = ["img/0/a.jpg\t0", "img/1/b b.png\t12"]
NEITHER = "which is neither a path nor a path and one label: give one path per line"
TEXTS: dict[str, list[str] | str] = {
    # read as before
    "img/0/a.jpg\nimg/1/b b.png\n": ["img/0/a.jpg", "img/1/b b.png"],
    "img/0/a.jpg\t0\r\nimg/1/b b.png\t12\r\n": LABELED,
    "img/0/a.jpg\t0\nx y.png 3\n": ["img/0/a.jpg\t0", "x y.png 3"],
    "img/0/a.jpg\t\nc,d.JPG\t 1 \n": ["img/0/a.jpg\t", "c,d.JPG\t 1 "],
    "plain\nnone\n": ["plain", "none"],
    "a b\nc 1\n": ["a b", "c 1"],
    "x.jpg,y.jpg\n": ["x.jpg,y.jpg"],  # the name of one file
    "\ufeffimg/0/a.jpg\n": ["img/0/a.jpg"],
    # the forms of other programs
    "img/0/a.jpg 0\nimg/1/b b.png 12\n": LABELED,
    "img/0/a.jpg   0 \nimg/1/b b.png 12\t\n": LABELED,
    "img/0/a.jpg,0\nimg/1/b b.png,12": LABELED,
    "img/0/a.jpg, 0\nimg/1/b b.png ,12\n": LABELED,
    "img/0/a.jpg;0\nimg/1/b b.png;12\n": LABELED,
    "c,d.JPG,golden retriever\n": ["c,d.JPG\tgolden retriever"],
    "img/0/a.jpg cat\n": ["img/0/a.jpg\tcat"],
    "img/0/a.jpg\t0\t\nimg/1/b b.png\t12\t\t\n": LABELED,
    ".\\img\\0\\a.jpg 0\nimg\\1\\b b.png 12\n": ["./img/0/a.jpg\t0", "img/1/b b.png\t12"],
    "x.png\nimg\\0\\a.jpg\n": ["x.png", "img/0/a.jpg"],
    "img/x.png\nimg\\0\\a.jpg\n": ["img/x.png", "img\\0\\a.jpg"],  # not a list of Windows
    "not\\windows.jpg\nimg\\0\\a.jpg\n": ["not\\windows.jpg", "img\\0\\a.jpg"],  # there is such a file
    # errors
    "img/0/a.jpg 0\nimg/1/b b.png\n": "line 2 of 'l.txt' is 'img/1/b b.png', and the form of line 1 is a path, a blank",
    "img/0/a.jpg 0\nimg/1/b b.png,12\n": "line 2 of",
    "img/0/a.jpg,0\nplain,1\n": "line 2 of 'l.txt' is 'plain,1', and the form of line 1 is a path, a comma and a label",
    "img/0/a.jpg 0\nimg/0/a.jpg b.png\n": "line 2 of",
    "img/0/a.jpg 0\n\nimg/0/a.jpg 0\n": "line 2 of 'l.txt' is ''",
    "img/0/a.jpg 0 1 0\n": f"line 1 of 'l.txt' is 'img/0/a.jpg 0 1 0', {NEITHER}",
    "img/0/a.jpg,0,cat\n": NEITHER,
    "img/0/a.jpg golden retriever\n": NEITHER,
    "img/0/a.jpg img/two.png 1\n": NEITHER,
    '"img/0/a.jpg" 0\n': NEITHER,
    "'img/0/a.jpg',0\n": NEITHER,
    "plain 0\n": f"line 1 of 'l.txt' is 'plain 0', {NEITHER}",
    "img/two 0\n": f"line 1 of 'l.txt' is 'img/two 0', {NEITHER}",
    "img/two\n": "line 1 of 'l.txt' has the path 'img/two', which is no file, but 'img/two.png' is one",
    "c,d\n": "which is no file, but 'c,d.JPG' is one",
    "img\\two\n": "line 1 of 'l.txt' has the path 'img/two', which is no file",
    "C:\\img\\a.jpg\n": "line 1 of 'l.txt' has the path 'C:\\\\img\\\\a.jpg' of Windows",
    "\\\\host\\a.jpg\n": "of Windows",
    "img/0/a.jpg\rimg/two.png\r": "line 1 of 'l.txt' is 'img/0/a.jpg\\rimg/two.png', which has a carriage return in it",
    "/abs.jpg 0\n": "line 1 of",
    "https://x/a.jpg 0\n": "line 1 of",
    "img/0/a.jpg\t0\t1\n": "line 1 of",
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_lists(text: str, tmp_path: Path) -> None:
    found, expected = lines_of(tmp_path, "l.txt", text), TEXTS[text]
    assert found == expected if isinstance(expected, list) else isinstance(found, str) and expected in found, found


TABLES: dict[str, list[str] | str] = {
    # read as before
    "path,label\nimg/0/a.jpg,0\nimg/1/b b.png,12\n": LABELED,
    "path,label\r\nimg/0/a.jpg, 0\r\n": ["img/0/a.jpg\t 0"],
    "path,label\rimg/0/a.jpg,0\rimg/1/b b.png,12\r": LABELED,
    ",path,label\n0,img/0/a.jpg,0\n1,img/1/b b.png,12\n": LABELED,
    '"a\nb",path\n1, x.jpg\n': [" x.jpg"],
    # the forms of other programs
    "path, label\nimg/0/a.jpg, 0\nimg/1/b b.png, 12\n": LABELED,
    'id, "path", label\n1, "img/0/a.jpg", 0\n2, "img/1/b b.png" , 12\n': "line 3 of 'l.csv' is not valid CSV",
    'id, "path", label \n1, "img/0/a.jpg", 0\n2, "img/1/b b.png", 12 \n': LABELED,
    "path;label\nimg/0/a.jpg;0\nimg/1/b b.png;12\n": LABELED,
    '"path";"label";"x"\r\n"img/0/a.jpg";"0";"1,5"\r\n"img/1/b b.png";"12";""\r\n': LABELED,
    "path\tlabel\nimg/0/a.jpg\t0\nimg/1/b b.png\t12\n": LABELED,
    "\ufeffpath;label\nimg/0/a.jpg;0\nimg/1/b b.png;12": LABELED,
    "path,label\nimg\\0\\a.jpg,0\nimg\\1\\b b.png,12\n": LABELED,
    # errors
    "path;label\nimg/0/a.jpg;0;1\n": "line 2 of 'l.csv' has 3 fields and the header has 2",
    "img/0/a.jpg,0\nimg/1/b b.png,12\n": "has no column 'path': its header is img/0/a.jpg, 0; set corpus.media",
    "file;label\nimg/0/a.jpg;0\n": "has no column 'path': its header is file;label; set corpus.media",
    "path,label\nimg/two,0\n": "line 2 of 'l.csv' has the path 'img/two', which is no file, but 'img/two.png' is one",
    "path,label\nD:\\img\\a.jpg,0\n": "line 2 of 'l.csv' has the path 'D:\\\\img\\\\a.jpg' of Windows",
}


@pytest.mark.parametrize("text", TABLES)
def test_csv_lists(text: str, tmp_path: Path) -> None:
    found, expected = lines_of(tmp_path, "l.csv", text), TABLES[text]
    assert found == expected if isinstance(expected, list) else isinstance(found, str) and expected in found, found


def test_a_column_may_be_named_with_the_blanks_of_the_header(tmp_path: Path) -> None:
    text = "file, class\nimg/0/a.jpg, 0\n"
    assert lines_of(tmp_path, "l.csv", text, media="file", label=" class") == ["img/0/a.jpg\t0"]
    assert lines_of(tmp_path, "l.csv", text, media="file", label="class") == ["img/0/a.jpg\t0"]


@pytest.mark.parametrize("name", ["l.txt", "l.csv"])
@pytest.mark.parametrize("mark, encoding", [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")])
def test_utf16_is_an_error_that_names_it(name: str, mark: bytes, encoding: str, tmp_path: Path) -> None:
    found = lines_of(tmp_path, name, mark + "path,label\nimg/0/a.jpg,0\n".encode(encoding))
    assert found == f"'{name}' is UTF-16 text: save it as UTF-8"


def test_a_file_without_line_ends_does_not_fill_memory(tmp_path: Path) -> None:
    found = lines_of(tmp_path, "l.txt", "a.jpg\r" * (LINE // 4))
    assert found == f"a line of 'l.txt' has more than {LINE:,} characters: end each line with a line feed"
    (tmp_path / "long.txt").write_text("x" * (LINE - 1) + "\ny\n")
    assert len(read_lines(str(tmp_path / "long.txt"))) == 2


# Names with every separator of a form in them, with and without an extension.
words = st.text("a ,;\\01\"'", min_size=1, max_size=4)
paths = st.builds(lambda name, end: name + end, words, st.sampled_from(["", ".jpg", ".png 0", ".jpg,1", ".PNG"]))


@given(st.lists(paths, min_size=1, max_size=5), st.booleans())
def test_lists_of_existing_files_are_read_as_they_are(names: list[str], labeled: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), *(f"d/{name}" for name in names))
        lines = [f"d/{name}\t{i}" if labeled else f"d/{name}" for i, name in enumerate(names)]
        for path, expected in (("l.txt", lines), ("l.csv", lines)):
            out = io.StringIO()
            csv.writer(out).writerows([["path", "label"], *(line.split("\t") + [""] * (not labeled) for line in lines)])
            text = out.getvalue() if path == "l.csv" else "".join(f"{line}\n" for line in lines)
            (Path(folder) / path).write_text(text, newline="")
            assert list(list_lines(Corpus(uri=(path,)), f"{folder}/{path}")) == expected


@given(
    st.lists(st.text("ab, ;0", min_size=1, max_size=5).map(lambda name: f"d/{name.strip() or 'x'}.jpg"), min_size=1),
    st.sampled_from([" ", ",", ";", "; "]),
    st.sampled_from(["/", "\\"]),
)
def test_a_label_after_a_separator_is_cut_off_and_no_path_is(names: list[str], separator: str, slash: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(f"{name.replace('/', slash)}{separator}{i}\n" for i, name in enumerate(names))
        (Path(folder) / "l.txt").write_text(text)
        found = list(list_lines(Corpus(uri=("l.txt",)), f"{folder}/l.txt"))
        assert found == [f"{name}\t{i}" for i, name in enumerate(names)]


@pytest.mark.long
def test_a_list_of_another_form_is_read_incrementally(tmp_path: Path) -> None:
    for name, head, end in (("l.txt", "", "\n"), ("l.csv", "path;label\n", "\n")):
        path = tmp_path / name
        with open(path, "w") as file:
            file.write(head)
            file.writelines(f"d/{i}.jpg;{i}{end}" for i in range(400_000))
        lines = list_lines(Corpus(uri=(str(path),)), str(path))
        assert list(itertools.islice(lines, 3)) == [f"d/{i}.jpg\t{i}" for i in range(3)]
        path.write_bytes(b"")  # what is not read yet is gone, and the last line is cut
        with suppress(InputError):
            assert sum(1 for _ in lines) < 390_000


CASES = {
    "caffe.txt": True, "comma.txt": True, "space.csv": True, "space2.csv": True, "win.csv": True, "semi.csv": True,
    "idx.csv": True, "many.txt": True,
    "noext.txt": "line 1 of '{}' has the path 'img/0/00000', which is no file",
    "bool.csv": "img/0/00000.png' (column 'label', row 1 below the header of '{}') is a boolean",
    "float.csv": "img/0/00000.png' (column 'label', row 1 below the header of '{}') is a floating-point number",
    "empty.csv": "img/1/00001.png' has none (column 'label', row 3 below the header of '{}')",
    "u16.csv": "'{}' is UTF-16 text",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_shared_lists(name: str, shared: Path, tmp_path: Path) -> None:
    path, expected = shared / "cases" / "lists" / name, CASES[name]
    corpus = Corpus(uri=(str(path),))
    found = outcome(corpus, tmp_path / "root")
    if isinstance(expected, str):
        assert expected.format(path) in found
        return
    assert found == tuple("0123456789")
    for line in list_lines(corpus, str(path)):  # each file of the cases is in the folder of its class
        file, label = line.split("\t")
        assert Path(file).parts[1] == label.strip()
        assert name == "many.txt" or (path.parent / file).is_file()
