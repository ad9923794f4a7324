"""Videos as a corpus: which files are media, CSV lists, segments of longer videos, and their source videos."""

import csv
import io
import itertools
import os
import random
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import Indexed, add, read_all, tar_bytes, values
from hypothesis import example, given
from hypothesis import strategies as st

from raylabel.corpus import Corpus, index_corpus, loose, read, read_groups, read_keys, read_labels, read_rows
from raylabel.corpus.config import Kind
from raylabel.corpus.lists import Entry, file_uri, list_lines, split_line
from raylabel.errors import InputError
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem

INFINITE = float("inf")

# What every form of a corpus stores for a sample: media, label, start, end, group.
Row = tuple[bytes, str, float | None, float | None, str | None]


def random_rows(n: int) -> list[Row]:
    rng = random.Random(0)
    rows: list[Row] = []
    for i in range(n):
        start, end = rng.choice([(None, None), (i / 4, None), (None, i + 0.5), (float(i), i + 10.0)])
        rows.append((rng.randbytes(20), f"class {i % 3}", start, end, rng.choice([None, "a b", f"tape {i // 4}"])))
    return rows


def text(value: object) -> str:
    return "" if value is None else str(value)


def as_parquet(folder: Path, rows: list[Row]) -> Corpus:
    names = ("video", "label", "from", "to", "tape")
    columns = [pa.array([row[i] for row in rows]) for i in range(5)]
    pq.write_table(pa.table(columns, names), folder / "a.parquet", 7)
    return Corpus(uri=(str(folder),), kind="video", start="from", end="to", group="tape")


def as_tar(folder: Path, rows: list[Row]) -> Corpus:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, row in enumerate(rows):
            for extension, value in zip(("cls", "from", "to", "tape"), row[1:], strict=True):
                if value is not None or i % 2:  # a value that is not given is an empty member, or none
                    add(tar, f"{i:03}.{extension}", f"{text(value)}\n".encode())
            add(tar, f"{i:03}.{'mp4' if i % 3 else 'WebM'}", row[0])
            add(tar, f"{i:03}.jpg", b"a still, not the video")
    return Corpus(uri=(str(folder),), kind="video", start="from", end="to", group="tape")


def as_list(folder: Path, rows: list[Row]) -> Corpus:
    (folder / "lists").mkdir()
    with open(folder / "lists" / "all.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["note", "to", "path", "tape", "label", "from"])
        for i, (media, label, start, end, group) in enumerate(rows):
            (folder / f'{i},"x".mp4').write_bytes(media)
            out.writerow(["two\nlines", end, f'../{i},"x".mp4', group, label, start])
    return Corpus(uri=(str(folder / "lists" / "all.csv"),), kind="video", start="from", end="to", group="tape")


FORMS: dict[str, Callable[[Path, list[Row]], Corpus]] = {"parquet": as_parquet, "tar": as_tar, "csv": as_list}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form: str, tmp_path: Path, indexed: Indexed) -> None:
    rows = random_rows(40)
    corpus = FORMS[form](tmp_path, rows)
    shards = indexed(corpus)
    segments = [None if s is None and e is None else (s or 0.0, e or INFINITE) for _, _, s, e, _ in rows]
    for size in (3, 40):
        samples = read_all(corpus, shards, size)
        assert [(s.media, s.label) for s in samples] == [row[:2] for row in rows]
        assert [s.segment for s in samples] == segments
        assert [s.group for s in samples] == [row[4] for row in rows]
    assert all(type(second) is float for segment in segments if segment for second in segment)
    some = read_keys(corpus, shards, [samples[i].key for i in (5, 17, 30)])
    expected = [(s.segment, s.group) for s in (samples[5], samples[17], samples[30])]
    assert [(s.segment, s.group) for s in some.values()] == expected
    groups = read_groups(corpus, shards)
    assert groups.to_pydict() == {"key": [s.key for s in samples], "group": [s.group for s in samples]}
    assert read_labels(corpus, shards)["label"].to_pylist() == [row[1] for row in rows]

    plain = replace(corpus, start=None, end=None, group=None)
    assert {(s.segment, s.group) for s in read_all(plain, indexed(plain))} == {(None, None)}
    assert read_groups(plain, indexed(plain))["group"].null_count == 40


def test_the_kind_determines_which_files_are_media(tmp_path: Path, indexed: Indexed) -> None:
    names = ["a.MP4", "b.webm", "c.avi", "d.gif", "e.jpg", "f.txt", "g.mkv", "h.ts", "i.png", "j.mov", "k.mp3"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "t").mkdir()
    members = [(f"{i}{name[1:]}", name.encode()) for i, name in enumerate(names)]
    (tmp_path / "t" / "x.tar").write_bytes(tar_bytes(*members))
    letters: dict[Kind, str] = {"image": "dei", "video": "abcdghj"}
    for kind, wanted in letters.items():
        corpus = Corpus(uri=(str(tmp_path),), kind=kind, format="files")
        assert [s.media.decode()[0] for s in read_all(corpus, indexed(corpus)) if s.media] == list(wanted)
        corpus = Corpus(uri=(str(tmp_path / "t"),), kind=kind)
        found = read_all(corpus, indexed(corpus))
        assert [s.media.decode()[0] for s in found if s.media] == list(wanted) and len(found) == len(names)
    for name in ("a.MP4", "b.webm", "c.avi", "d.gif", "g.mkv", "h.ts", "j.mov", "t/x.tar"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"folder contains no video, \*.parquet or \*.tar file"):
        indexed(Corpus(uri=(str(tmp_path),), kind="video"))


# Fields of CSV lists: quotes, commas, line ends inside quotes, a byte order mark at the beginning of the file.
fields = st.text("ab,\"' ;é\u2028\x0c猫", min_size=1, max_size=6)
seconds = st.sampled_from(["", "0", "1", "1.0", " 2.5", "1e1", "007"])
maybe = fields | st.just("")
rows = st.tuples(fields, maybe, seconds, seconds, maybe, st.text('x,"\n\r\t', max_size=4))


def written(header: list[str], rows: list[list[str]], end: str = "\r\n") -> bytes:
    out = io.StringIO()
    # With \n as line end, QUOTE_MINIMAL leaves a lone \r without quotes.
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator=end, quoting=quoting).writerows([header, *rows])
    return out.getvalue().encode()


@given(st.lists(rows, max_size=8), st.permutations(range(6)), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example([("a", "", "2", "1", "", "")], list(range(6)), "\n", False)
def test_csv_lists_are_read_like_pythons_dictreader(table: list[tuple], order: list[int], end: str, mark: bool) -> None:
    names = ["file", "y", "t0", "t1", "source", "other"]
    corpus = Corpus(uri=("l.csv",), kind="video", media="file", label="y", start="t0", end="t1", group="source")
    data = written([names[i] for i in order], [[row[i] for i in order] for row in table], end)
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write((b"\xef\xbb\xbf" if mark else b"") + data)
        file.flush()
        expected = []
        for row in csv.DictReader(io.StringIO(data.decode(), newline="")):
            start, stop = (float(row[name]) if row[name].strip() else None for name in ("t0", "t1"))
            if stop is not None and stop <= (start or 0.0):
                with pytest.raises(InputError, match=rf"line \d+ of '{file.name}' is the segment from"):
                    list(list_lines(corpus, file.name))
                return
            given_start = start if start is not None or stop is None else 0.0
            expected.append(Entry(row["file"], row["y"], text(given_start), text(stop), row["source"]))
        lines = list(list_lines(corpus, file.name))
        assert [split_line("l.csv", line) for line in lines] == expected
        assert not any(line.endswith("\t") or "\n" in line for line in lines)


def test_errors_in_a_list_name_the_line(tmp_path: Path, indexed: Indexed) -> None:
    path = tmp_path / "l.csv"
    corpus = Corpus(uri=(str(path),), kind="video", start="t0", end="t1")

    def fails(match: str, data: str | bytes, corpus: Corpus = corpus) -> None:
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        with pytest.raises(InputError, match=match):
            indexed(corpus)

    good = 'path,t0,t1\na.mp4,1,2\n"b\n.mp4"'
    bad = [
        "a.mp4,x,2",
        "a.mp4,-1,2",
        "a.mp4,2,2",
        "a.mp4,nan,",
        "a.mp4,,inf",
        "a.mp4,,0",
        "a.mp4,1",
        "a.mp4,1,2,3",
        "a.mp4,1, ",
        ",1,2",
    ]
    bad += ['"a\tb",1,2', '"a\nb",1,2', "a\0,1,2", "https://x/a.mp4,,", 'a"b"c,1,"2"3', '"a.mp4,1,2']
    for row in bad:
        number = 4 if row.startswith('"a.mp4') else 3 + row.count("\n")  # where the row ends
        fails(rf"line {number} of '{path}'", f"path,t0,t1\na.mp4,1,2\n{row}\na.mp4,1,2\n")
    fails(rf"line 4 of '{path}' has 'b\\n.mp4'", good + ",1,2\n")
    fails(f"the CSV list '{path}' has no column 'path': its header is file, t0, t1; set corpus.media", "file,t0,t1\n")
    fails("has no column 't1': its header is path, t0; set corpus.end", "path,t0\n")
    fails("has 2 columns 't0'", "path,t0,t1,t0\n")
    fails("has no column 'y'", "path,t0,t1\n", replace(corpus, label="y"))
    fails("has no column 'path'", "")
    fails("is empty: its 0 shards", "path,t0,t1\n\n\n")
    fails("as a UTF-8 text file", b"path,t0,t1\n\xff,1,2\n")
    # A field that never ends is an error before it fills memory.
    fails("is not valid CSV: field larger than field limit", 'path,t0,t1\n"' + "a.mp4,1,2\n" * 20_000)

    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "l.txt").write_text("a.mp4\n")
    for location in (tmp_path, tmp_path / "l.txt"):
        for field in ("start", "end", "group"):
            with pytest.raises(InputError, match=f"corpus.{field} names a column, and '{location}' has none"):
                indexed(replace(Corpus(uri=(str(location),), kind="video"), **{field: "a"}))
    wrong = ({"kind": "audio"}, {"start": "", "kind": "video"}, {"start": "a"}, {"end": "a"}, {"group": ""})
    for fields in wrong:
        with pytest.raises(InputError, match="^unlabeled\\."):
            Corpus(uri=("a",), **fields).check("unlabeled")  # pyright: ignore[reportArgumentType]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc/self/io, which counts the bytes read")
def test_a_list_is_read_incrementally(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(written(["path", "note"], [[f"{i}.mp4", "two\nlines " * 20] for i in range(200_000)]))
    assert path.stat().st_size > 40e6

    def bytes_read() -> int:
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    before = bytes_read()
    lines = list_lines(Corpus(uri=(str(path),), kind="video"), str(path))
    assert list(itertools.islice(lines, 1000)) == [f"{i}.mp4" for i in range(1000)]
    assert bytes_read() - before < 9e6
    assert sum(1 for _ in lines) == 199_000


def test_a_list_may_contain_files_of_other_folders_and_stores(tmp_path: Path, bucket: str, indexed: Indexed) -> None:
    fs, _ = filesystem(bucket)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "here.mp4").write_bytes(b"here")
    (tmp_path / "far.mp4").write_bytes(b"far")
    for name in ("there.mp4", "l/a #%20.mp4"):
        with fs.open_output_stream(f"pictures/{name}") as out:
            out.write(name.encode())
    remote = [f"{bucket}/there.mp4", f"{bucket}/l/a #%20.mp4"]
    far = str(tmp_path / "far.mp4")
    local = ["here.mp4", far, remote[0], "../far.mp4", remote[1], remote[0], "gone.mp4", f"{bucket}/gone.mp4"]
    stored = ["../there.mp4", far, remote[1], "a #%20.mp4"]
    data: dict[str, bytes | None] = {"here.mp4": b"here", far: b"far", "../far.mp4": b"far"}
    data |= {remote[0]: b"there.mp4", "../there.mp4": b"there.mp4"}
    data |= {remote[1]: b"l/a #%20.mp4", "a #%20.mp4": b"l/a #%20.mp4"}
    (tmp_path / "d" / "l.csv").write_bytes(written(["path"], [[path] for path in local]))
    with fs.open_output_stream("pictures/l/l.csv") as out:
        out.write(written(["path"], [[path] for path in stored]))
    for uri, paths in ((str(tmp_path / "d" / "l.csv"), local), (f"{bucket}/l/l.csv", stored)):
        corpus = Corpus(uri=(uri,), kind="video")
        shards = indexed(corpus)
        found = read_all(corpus, shards)
        assert [s.media for s in found] == [data.get(path) for path in paths]
        assert [s.error for s in found] == [None if path in data else "missing" for path in paths]
        assert values(shards, "bytes") == [sum(len(data.get(path) or b"") for path in paths)]
        for sample in found:
            if sample.media:
                store, path = filesystem(sample.uri)
                with store.open_input_file(path) as file:
                    assert file.read() == sample.media


def test_content_depends_on_segments_and_groups_but_not_on_number_formats(tmp_path: Path, ray_local: None) -> None:
    root = Root.open(str(tmp_path / "root"))
    (tmp_path / "a.mp4").write_bytes(b"x")
    path = tmp_path / "l.csv"
    corpus = Corpus(uri=(str(path),), kind="video", start="t0", end="t1", group="g")

    def content(row: str, corpus: Corpus = corpus) -> str:
        path.write_text(f"path,t0,t1,g,label,note\na.mp4,{row}\n")
        return index_corpus(root, "c", corpus).info["content"]

    first = content("1,2,tape,cat,x")
    assert content("1.0,2e0,tape,cat,y") == first
    others = [
        content(row)
        for row in ("1,3,tape,cat,x", "0,2,tape,cat,x", "1,2,disc,cat,x", "1,2,tape,dog,x", "1,,tape,cat,x")
    ]
    others += [content("1,2,tape,cat,x", replace(corpus, **{name: None})) for name in ("start", "end", "group")]
    assert len({first, *others}) == 9

    pq.write_table(pa.table({"video": [b"x"], "t": [1.0], "u": [2.0]}), tmp_path / "a.parquet")
    packed = Corpus(uri=(str(tmp_path / "a.parquet"),), kind="video")
    kinds = [packed, *(replace(packed, start=start, end=end) for start, end in (("t", None), (None, "t"), ("u", None)))]
    assert len({index_corpus(root, f"p{i}", one).info["content"] for i, one in enumerate(kinds)}) == 4


def test_groups_are_taken_from_ucf101_file_names(tmp_path: Path, indexed: Indexed) -> None:
    names = {
        "v_HandStandPushups_g01_c02.avi": "HandStandPushups_g01",
        "v_HandStandPushups_g01_c03.avi": "HandStandPushups_g01",
        "v_HandStandPushups_g10_c03.avi": "HandStandPushups_g10",
        "v_Archery_g01_c01.mp4": "Archery_g01",
        "v_Archery_g1_c01.avi": None,
        "v_Archery_g01.avi": None,
        "x_v_Archery_g01_c01.avi": None,
        "Archery_g01_c01.avi": None,
    }
    for name in names:
        (tmp_path / "d" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "x" / name).write_bytes(b"x")
    (tmp_path / "l.csv").write_bytes(written(["path", "g"], [[f"d/x/{name}", "mine"] for name in names]))
    (tmp_path / "l.txt").write_text("".join(f"d/x/{name}\n" for name in names))
    (tmp_path / "t.tar").write_bytes(tar_bytes(*((f"x/{name}", b"x") for name in names)))
    for name in ("d", "l.csv", "l.txt", "t.tar"):
        corpus = Corpus(uri=(str(tmp_path / name),), kind="video")
        shards = indexed(corpus)
        samples = read_all(corpus, shards)
        assert {os.path.basename(s.uri.partition("#")[2] or s.uri): s.group for s in samples} == names
        assert read_groups(corpus, shards)["group"].to_pylist() == [s.group for s in samples]
    (tmp_path / "l.csv").write_bytes(written(["path", "g"], [[f"d/x/{name}", name[2:5]] for name in names]))
    corpus = Corpus(uri=(str(tmp_path / "l.csv"),), kind="video", group="g")
    assert [s.group for s in read_all(corpus, indexed(corpus))] == [name[2:5] for name in names]
    (tmp_path / "l.csv").write_bytes(written(["path", "g"], [[f"d/x/{name}", ""] for name in names]))
    # The list takes precedence over the file name, also where it is empty.
    assert {s.group for s in read_all(corpus, indexed(corpus))} == {None}
    corpus = Corpus(uri=(str(tmp_path / "l.txt"),))  # images
    assert {s.group for s in read_all(corpus, indexed(corpus))} == {None}
    assert read_groups(corpus, indexed(corpus))["group"].null_count == len(names)


def test_columns_of_parquet_are_checked(tmp_path: Path, indexed: Indexed) -> None:
    table = pa.table(
        {
            "video": [b"x", b"y", b"z"],
            "label": [0, 1, 0],
            "s": ["1", "2", "3"],
            "i": pa.array([1, None, 3], pa.int16()),
            "f": pa.array([2.5, None, 3], pa.float32()),
            "dict": pa.array(["a", None, "a"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    corpus = Corpus(uri=(str(tmp_path),), kind="video")
    for field in ("start", "end", "group"):
        with pytest.raises(
            InputError, match=f"no column 'none' in '.*a.parquet': it has video, .*; set corpus.{field}"
        ):
            indexed(replace(corpus, **{field: "none"}))
    for field in ("start", "end"):
        with pytest.raises(
            InputError, match=f"column 's' of '.*a.parquet' is string: expected numbers.*; set corpus.{field}"
        ):
            indexed(replace(corpus, **{field: "s"}))
    with pytest.raises(
        InputError, match="column 'f' of '.*a.parquet' is float: expected strings or integers; set corpus.group"
    ):
        indexed(replace(corpus, group="f"))
    for group, expected in (("i", ["1", None, "3"]), ("dict", ["a", None, "a"]), ("s", ["1", "2", "3"])):
        grouped = replace(corpus, group=group)
        assert [s.group for s in read_all(grouped, indexed(grouped))] == expected
        assert read_groups(grouped, indexed(grouped))["group"].to_pylist() == expected
    segments = replace(corpus, start="i", end="f")
    reader = read_rows(segments, indexed(segments).row(0), [0, 1])
    assert [s.segment for s in reader] == [(1.0, 2.5), None]
    with pytest.raises(InputError, match=r"a.parquet#2 is the segment from 3 to 3 seconds"):
        read_all(segments, indexed(segments))


def test_a_start_in_a_tar_that_is_not_a_number_is_an_error(tmp_path: Path, indexed: Indexed) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(("a.mp4", b"x"), ("a.t0", b"1:30")))
    corpus = Corpus(uri=(str(tmp_path),), kind="video", start="t0")
    with pytest.raises(InputError, match=r"the start of .*a.tar#a.mp4 is '1:30': give a number of seconds"):
        read_all(corpus, indexed(corpus))


def test_the_segments_of_a_video_share_one_read_and_few_videos_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: Indexed
) -> None:
    files = [f"{i}.mp4" for i in range(60)]
    for file in files:
        (tmp_path / file).write_bytes(file.encode() * 100)
    table = [[file, str(second), str(second + 1)] for file in files for second in range(3)]
    (tmp_path / "l.csv").write_bytes(written(["path", "t0", "t1"], table))
    corpus = Corpus(uri=(str(tmp_path / "l.csv"),), kind="video", start="t0", end="t1")
    shard = indexed(corpus).row(0)
    opened: list[str] = []
    plain = loose._read_file

    def read_file(uri: str) -> tuple[bytes | None, loose.Unread]:
        opened.append(os.path.basename(uri))
        return plain(uri)

    monkeypatch.setattr(loose, "_read_file", read_file)
    # HELD in bytes, and the number of files of about 500 bytes that fit.
    for held, ahead in ((1, 1), (5000, 10), (1 << 20, 60)):
        monkeypatch.setattr(loose, "HELD", held)
        opened.clear()
        for number, sample in enumerate(read_rows(corpus, shard, range(180))):
            assert len(opened) <= number // 3 + 1 + ahead
            assert sample.media == files[number // 3].encode() * 100
            assert sample.segment == (number % 3, number % 3 + 1)
        assert sorted(opened) == sorted(files)


def test_few_large_videos_of_parquet_are_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: Indexed
) -> None:
    media = pa.array([os.urandom(1_000_000) for _ in range(60)])
    pq.write_table(pa.table({"video": media}), tmp_path / "a.parquet", write_batch_size=1)
    del media
    corpus = Corpus(uri=(str(tmp_path),), kind="video")
    shard = indexed(corpus).row(0)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    monkeypatch.setattr(read, "HELD", 4_000_000)
    held = [pool.bytes_allocated() - before for sample in read_rows(corpus, shard, range(60)) if sample.media]
    assert len(held) == 60 and max(held) < 15e6


def test_the_manifest_of_the_actions_set(shared: Path, indexed: Indexed) -> None:
    path = shared / "actions" / "manifest.csv"
    corpus = Corpus(uri=(str(path),), kind="video", media="file", group="group")
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    shards = indexed(corpus)
    samples = read_all(corpus, shards)
    assert [s.uri for s in samples] == [str(path.parent / row["file"]) for row in table] and len(table) == 157
    assert [(s.label or "", s.group, len(s.media or b"")) for s in samples] == [
        (row["label"], row["group"], int(row["bytes"])) for row in table
    ]
    assert read_groups(corpus, shards)["group"].to_pylist() == [row["group"] for row in table]


def test_the_uri_of_a_listed_file(tmp_path: Path) -> None:
    for uri, path, expected in [
        ("/d/", "a\tb.mp4", "/d/a\tb.mp4"),
        ("/d/l.csv", "../a//b.mp4", "/a/b.mp4"),
        ("/d/l.csv", "/x/../a.mp4", "/x/../a.mp4"),
        ("s3://b/l.csv", "x/a.mp4", "s3://b/x/a.mp4"),
        ("s3://b/k/l.csv", "../a.mp4", "s3://b/a.mp4"),
        ("gs://b/k/", "v/a.mp4", "gs://b/k/v/a.mp4"),
        ("gs://b/k/l.txt", "s3://c/a.mp4", "s3://c/a.mp4"),
    ]:
        assert file_uri(uri, path) == expected
    assert split_line("/d/", "a\tb.mp4") == Entry("a\tb.mp4")
