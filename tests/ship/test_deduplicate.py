"""Copies in a corpus and of reference sets: against brute force over files, in all forms, resumed, and with rejects."""

import csv
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from copies import COPIES as ALTER
from copies import encoded, photographs
from corpora import add
from helpers import open_in_chromium, write_parquet
from PIL import Image
from scoring import scored_in_this_process
from videos import scene, video

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, units
from raylabel.errors import InputError
from raylabel.features.alignment import similarities
from raylabel.features.thumbnails import descriptors
from raylabel.inference import scores as stage
from raylabel.schema import COPIED, LEFT_OUT, THUMBNAILS
from raylabel.selection.compare import BELOW, CANDIDATE
from raylabel.selection.pairs import THRESHOLD
from raylabel.ship import deduplicate as command
from raylabel.ship.deduplicate import Settings, deduplicate
from raylabel.ship.deduplication import Deduplication
from raylabel.ship.deduplication_terminal import print_deduplication
from raylabel.ship.output import Output
from raylabel.store.artifact import Artifact, Root

Row = dict[str, Any]


@dataclass
class Case:
    folder: Path
    root: Root

    def output(self, to: str, form: Any = None) -> Output[Deduplication]:
        return Output.of(str(self.folder / to), form, Deduplication)

    def deduplicate(
        self, to: str, *uri: Path | str, against: tuple[Path, ...] = (), form: Any = None, **more: Any
    ) -> Deduplication:
        """`more`: fields of the settings, or of the corpus."""
        mine = {name: more.pop(name) for name in ("kind", "start", "end", "share") if name in more}
        corpus, settings = Corpus(uri=tuple(map(str, uri)), **mine), Settings(**{"reject_limit": 0.5, **more})
        sets = tuple(map(str, against))
        return deduplicate(self.root, corpus, sets, settings, self.output(to, form), Resources(teachers=1))


@pytest.fixture
def case(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setattr(units, "UNIT", 16)
    monkeypatch.setattr(stage, "PART", 2)
    with scored_in_this_process(tmp_path):
        yield Case(tmp_path, Root.open(str(tmp_path / "runs")))


@pytest.fixture(scope="module")
def media() -> list[bytes]:
    """40 photographs, altered copies of 20 of these and 20 of one more, and byte copies of 5 of the photographs, of 3
    altered copies, and of one of both kinds; shuffled."""
    rng, some = np.random.default_rng(1), photographs(41)
    kinds = list(ALTER.values())
    near = [encoded(kinds[i % len(kinds)](some[i], rng)) for i in range(20)]
    near += [encoded(ALTER["jpeg"](some[40], rng)) for _ in range(20)]
    whole = [encoded(picture) for picture in some[:40]]
    found = whole + near + whole[17:23] + near[:3] + [whole[30]] * 3
    return [found[i] for i in rng.permutation(len(found))]


def brute_force(
    mine: dict[str, bytes], thumbnails: np.ndarray, sets: dict[str, tuple[dict[str, bytes], np.ndarray]]
) -> list[tuple[str, str, str, str, float]]:
    """COPIED of samples and their thumbnails, in the same order."""
    names, rows = list(mine), list[tuple[str, str, str, str, float]]()
    kept = list[int]()
    first = dict[bytes, int]()
    for at, name in enumerate(names):
        if (other := first.setdefault(mine[name], at)) != at:
            rows.append((name, names[other], "", "bytes", 1.0))
        elif near := [(s, -k, k) for k in kept if (s := similar(thumbnails[at], thumbnails[k])) >= THRESHOLD]:
            best = max(near)
            rows.append((name, names[best[2]], "", "near", best[0]))
        else:
            kept.append(at)
        for of, (theirs, others) in sets.items():
            uris = list(theirs)
            same = [uri for uri in uris if theirs[uri] == mine[name]]
            near = [(s, -k, k) for k in range(len(uris)) if (s := similar(thumbnails[at], others[k])) >= THRESHOLD]
            if same:
                rows.append((name, same[0], of, "bytes", 1.0))
            elif near:
                rows.append((name, uris[max(near)[2]], of, "near", max(near)[0]))
    return rows


def similar(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (descriptors(x[None])[0].astype(np.float64) for x in (one, other))
    return float(similarities(one[None], other[None])[0]) if a @ b >= CANDIDATE else 0.0


def thumbnails_of(pictures: Artifact) -> np.ndarray:
    table = pictures.table("thumbnails-", THUMBNAILS)
    return np.stack([np.frombuffer(one, np.uint8) for one in table.column("thumbnail").to_pylist()])


def made(root: Root, uri: str) -> Artifact:
    name = uri.rpartition("/")[2].rpartition("-")[0]
    return next(one for one in root.named(name) if one.uri == uri)


def read_csv(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def read_parts(folder: Path) -> list[Row]:
    paths = sorted((folder / "copies").iterdir())
    return [row for path in paths for row in (read_csv if path.suffix == ".csv" else read_parquet)(path)]


def read_parquet(path: Path) -> list[Row]:
    return pq.read_table(path).to_pylist()


def values(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows]


def assert_equal(rows: list[Row], expected: list[tuple[str, str, str, str, float]]) -> None:
    found = [(*row[:4], float(row[4])) for row in values(rows)]
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    np.testing.assert_allclose([row[4] for row in found], [row[4] for row in expected], atol=1e-4)


def write_files(folder: Path, media: list[bytes], bad: tuple[int, ...] = ()) -> dict[str, bytes]:
    """URI → bytes of those that are not bad."""
    folder.mkdir()
    names = [f"{row:03d} =é#.png" for row in range(len(media))]
    for row, name in enumerate(names):
        (folder / name).write_bytes(b"no picture" if row in bad else media[row])
    return {f"{folder}/{name}": media[row] for row, name in enumerate(names) if row not in bad}


def stamps(folder: Path, *patterns: str) -> dict[Path, tuple[int, bytes]]:
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {path: (path.stat().st_ino, path.read_bytes()) for path in found}


@pytest.mark.long
def test_copies_in_a_folder_are_those_of_brute_force(
    case: Case, media: list[bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = case.folder / "photos"
    good = write_files(photos, media, (7, 50))
    (photos / "notes.txt").write_text("no sample")
    found = case.deduplicate("out.csv", photos)
    rows = read_csv(case.folder / "out.csv")
    expected = brute_force(good, thumbnails_of(made(case.root, found.artifacts[0])), {})
    assert_equal(rows, expected)
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["bytes"] >= 8 and kinds["near"] >= 30  # all that was planted: the text is about few pictures

    # Removing what is listed leaves one of each group.
    original = {row["uri"]: row["original"] for row in rows}
    roots = [original.get(one, one) for one in original.values()]
    assert not set(roots) & original.keys()
    sizes = Counter(roots)
    assert (found.groups, found.largest) == (len(sizes), max(sizes.values()) + 1) and found.largest > 8
    assert (found.samples, found.kept, found.copies, found.rejected) == (92, 90 - len(rows), len(rows), 2)
    assert found.counts == [{"set": "", "kind": kind, "samples": kinds[kind]} for kind in ("bytes", "near")]
    assert found.reasons == {"unrecognized": 2} and [kind["extension"] for kind in found.passed_over] == [".txt"]
    rejects = read_csv(case.folder / "out.rejects.csv")
    assert list(rejects[0]) == LEFT_OUT.names and len(rejects) == 2
    assert json.loads((case.folder / "out.summary.json").read_text())["copies"] == len(rows)
    names = "out.csv", "out.rejects.csv", "out.html"
    assert {file["name"]: (file["rows"], file["sha256"]) for file in found.files} == {
        name: (count, hashlib.sha256((case.folder / name).read_bytes()).hexdigest())
        for name, count in zip(names, (len(rows), 2, 0), strict=True)
    }

    # Again: nothing is done. Without a file: it is written again, and nothing is read.
    before = stamps(case.folder, "out.*", "runs/*-*/**")
    capsys.readouterr()
    assert case.deduplicate("out.csv", photos) == found
    assert stamps(case.folder, "out.*", "runs/*-*/**") == before
    for name in names:
        (case.folder / name).unlink()
        assert case.deduplicate("out.csv", photos) == found
    assert "thumbnails" not in capsys.readouterr().out
    after = stamps(case.folder, "out.*", "runs/*-*/**")
    assert {path: data for path, (_, data) in after.items()} == {path: data for path, (_, data) in before.items()}

    changed: list[dict[str, Any]] = [{"near": 0.9}, {"near": None}, {"size": 48}, {"share": 0.5}]
    for options in changed:  # found before anything is read
        with pytest.raises(
            InputError, match="out.csv' has another deduplication, of .*photos, with --near 0.93: delete"
        ):
            case.deduplicate("out.csv", photos, **options)
    monkeypatch.setattr("raylabel.ship.output.ONE_FILE", 91)
    with pytest.raises(InputError, match="92 samples: a file gets at most 91, so give a folder, .*/b --form csv$"):
        case.deduplicate("b.csv", photos)
    assert len(list((case.folder / "runs").glob("pictures-*"))) == 1

    only = case.deduplicate("bytes", photos, near=None, form="csv")
    assert_equal(read_parts(case.folder / "bytes"), [row for row in expected if row[3] == "bytes"])
    assert only.near is None and len(list((case.folder / "runs").glob("pictures-*"))) == 1


@pytest.mark.long
def test_an_edited_file_of_the_same_size_is_noticed(case: Case, media: list[bytes]) -> None:
    photos = case.folder / "photos"
    first = next(iter(write_files(photos, media[:10])))
    case.deduplicate("a.csv", photos)
    Path(first).write_bytes(bytes(Path(first).stat().st_size))
    with pytest.raises(InputError, match="000 =é#.png' was edited after .*pictures-"):
        case.deduplicate("b.csv", photos)


@pytest.mark.slow
def test_samples_of_reference_sets_are_listed_for_each_set(case: Case, media: list[bytes]) -> None:
    """A sample of the corpus may be a copy in it and in both sets. Tables in parts, whose originals are in others."""
    tables = [case.folder / f"{name}.parquet" for name in ("a", "b")]
    for path, some in zip(tables, (media[:50], [*media[50:80], b"bad"]), strict=True):
        write_parquet(path, some)
    uris = [f"{tables[0]}#{row}" for row in range(50)] + [f"{tables[1]}#{row}" for row in range(30)]
    rng = np.random.default_rng(2)
    pictures = [Image.open(io.BytesIO(one)).convert("RGB") for one in media[:12]]
    altered = [encoded(ALTER["crop"](picture, rng)) for picture in pictures]
    files = write_files(case.folder / "test", [*altered, *media[80:]])
    write_parquet(case.folder / "other.parquet", [*media[78:82], *altered[:2], b"bad"])
    against = case.folder / "test", case.folder / "other.parquet"
    other = {f"{against[1]}#{row}": one for row, one in enumerate([*media[78:82], *altered[:2]])}
    found = case.deduplicate("out", *tables, against=against)
    mine, *sets = (thumbnails_of(made(case.root, uri)) for uri in found.artifacts[:3])
    named = {str(uri): pair for uri, pair in zip(against, zip((files, other), sets, strict=True), strict=True)}
    expected = brute_force(dict(zip(uris, media, strict=False)), mine, named)
    parts = sorted((case.folder / "out/copies").iterdir())
    assert len(parts) == 3
    rows = read_parts(case.folder / "out")
    assert pq.read_schema(parts[0]) == COPIED
    order = {"": 0, str(against[1]): 1, str(against[0]): 2}  # by name
    expected.sort(key=lambda row: (uris.index(row[0]), order[row[2]]))
    assert_equal(rows, expected)
    counts = Counter((row["set"], row["kind"]) for row in rows)
    assert found.counts == [{"set": s, "kind": k, "samples": n} for (s, k), n in sorted(counts.items())]
    listed = {row["uri"] for row in rows}
    assert len(listed) < len(rows) and (found.samples, found.copies, found.kept) == (81, len(listed), 80 - len(listed))

    assert found.unread == {str(against[0]): 0, str(against[1]): 1}

    # Without the sets, the rows of the corpus itself are the same.
    case.deduplicate("alone.parquet", *tables)
    assert pq.read_table(case.folder / "alone.parquet").to_pylist() == [row for row in rows if not row["set"]]

    page = (case.folder / "out/index.html").read_text()
    assert page.count(" near-duplicate</") + page.count(" near-duplicate, <") == 12
    case.deduplicate("strict", *tables, against=against, near=0.99)
    others = [one for _, some in named.values() for one in some]
    below = [one for one in mine if any(0.99 - BELOW <= similar(one, other) < 0.99 for other in others)]
    page = (case.folder / "strict/index.html").read_text()
    assert page.count(" below the threshold, <") == min(12, len(below)) > 0
    console, pixels = open_in_chromium(case.folder / "out/index.html", case.folder)
    assert not console and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


@pytest.mark.slow
def test_members_of_tars_are_named_also_those_of_other_parts(case: Case, media: list[bytes]) -> None:
    folder = case.folder / "shards"
    folder.mkdir()

    def write(number: int, some: list[bytes]) -> list[str]:
        names = [f"{'deep/' * (row % 3)}s{number}-{row:03d} #é" for row in range(len(some))]
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for name, one in zip(names, some, strict=True):
                add(tar, f"{name}.png", one)
                add(tar, f"{name}.json", b"{}")
        return [f"{folder}/{number}.tar#{name}.png" for name in names]

    later = write(1, media[40:])
    first = case.deduplicate("first", folder)
    before = thumbnails_of(made(case.root, first.artifacts[0]))
    rows = read_parts(case.folder / "first")
    assert_equal(rows, brute_force(dict(zip(later, media[40:], strict=True)), before, {}))
    earlier = write(0, media[:40])  # before the other, so that all keys change
    grown = case.deduplicate("grown", folder)
    pictures = made(case.root, grown.artifacts[0])
    assert (pictures.info["images"], pictures.info["earlier"]) == (40, 52)
    expected = brute_force(dict(zip(earlier + later, media, strict=True)), thumbnails_of(pictures), {})
    rows = read_parts(case.folder / "grown")
    assert_equal(rows, expected)
    assert any("/1.tar#" in row["uri"] and "/0.tar#" in row["original"] for row in rows)

    # The same media in a table have the same copies.
    path = write_parquet(case.folder / "same.parquet", media)
    case.deduplicate("same.csv", path)
    places = {f"{path}#{row}": uri for row, uri in enumerate(earlier + later)}
    same = [(places[row["uri"]], places[row["original"]]) for row in read_csv(case.folder / "same.csv")]
    assert same == [(row["uri"], row["original"]) for row in rows]


@pytest.mark.slow
def test_videos(case: Case) -> None:
    folder, others = case.folder / "clips", case.folder / "test"
    folder.mkdir()
    others.mkdir()
    clips = [scene(24, 96, 64, seed) for seed in range(4)]
    for name, data in {
        "0.mp4": video(clips[0]),
        "1.mp4": video(clips[1]),
        "2.mp4": video(clips[0], options={"crf": "30"}),
        "3.mp4": video(clips[1]),
        "4.mp4": b"no video",
        "v_Jump_g01_c01.mp4": video(clips[2]),
    }.items():
        (folder / name).write_bytes(data)
    (others / "v_Jump_g01_c07.mp4").write_bytes(video(clips[3]))
    (others / "x.mp4").write_bytes(video(clips[1]))
    found = case.deduplicate("out.csv", folder, against=(others,), kind="video")
    rows = {(row["uri"], row["set"]): row for row in read_csv(case.folder / "out.csv")}
    names = {(Path(uri).name, of): (Path(row["original"]).name, row["kind"]) for (uri, of), row in rows.items()}
    test = str(others)
    assert names == {
        ("2.mp4", ""): ("0.mp4", "near"),
        ("3.mp4", ""): ("1.mp4", "bytes"),
        ("1.mp4", test): ("x.mp4", "bytes"),
        ("3.mp4", test): ("x.mp4", "bytes"),
        ("v_Jump_g01_c01.mp4", test): ("v_Jump_g01_c07.mp4", "video"),
    }
    assert rows[f"{folder}/v_Jump_g01_c01.mp4", test]["similarity"] == ""
    assert (found.samples, found.kept, found.copies, found.rejected) == (6, 1, 4, 1)


@pytest.mark.slow
def test_rejects_are_read_again_on_request(case: Case, media: list[bytes]) -> None:
    photos = case.folder / "photos"
    write_files(photos, media[:20])
    (photos / "003 =é#.png").write_bytes(bytes(len(media[3])))
    first = case.deduplicate("a.csv", photos)
    assert first.rejected == 1 and case.deduplicate("a.csv", photos, retry_rejects=True) == first
    (photos / "003 =é#.png").write_bytes(media[3])
    with pytest.raises(InputError, match="a.csv' was written before samples were read again: delete it, or give"):
        case.deduplicate("a.csv", photos, retry_rejects=True)
    assert case.deduplicate("b.csv", photos).rejected == 0


def test_a_corpus_without_copies_has_a_page_and_an_empty_table(
    case: Case, media: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    found = case.deduplicate("out.csv", write_parquet(case.folder / "a.parquet", [media[0]]))
    assert (case.folder / "out.csv").read_text() == ",".join(f'"{name}"' for name in COPIED.names) + "\n"
    assert (found.kept, found.copies, found.groups, found.largest, found.counts) == (1, 0, 0, 0, [])
    assert "<h2>Largest groups" not in (case.folder / "out.html").read_text()
    print_deduplication(found, case.output("out.csv"))
    assert "samples: 1 in = 1 kept + 0 copies + 0 rejected\n" in capsys.readouterr().out


def test_the_terminal_names_sets_and_files(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    counts = [{"set": of, "kind": kind, "samples": n} for of, kind, n in (("", "bytes", 2000), ("t\x1b", "video", 3))]
    found = Deduplication(
        deduplication="abc",
        corpus=["photos"],
        against=["t"],
        near=0.9,
        passed_over=[],
        counts=counts,
        samples=9000,
        kept=6990,
        copies=2003,
        rejected=7,
        reasons={"corrupt": 7},
        groups=1500,
        largest=12,
        unread={"t": 5, "u": 0},
    )
    print_deduplication(found, case.output("out"))
    text = capsys.readouterr().out
    assert "within the corpus" in text and "2,000" in text and "\x1b" not in text
    assert "1,500 samples have copies in the corpus; the largest group has 12 samples" in text
    assert "samples: 9,000 in = 6,990 kept + 2,003 copies + 7 rejected\n" in text
    assert "\nt: 5 samples could not be read, and were not compared\nrejected: corrupt 7\n" in text
    lines = text.splitlines()[-4:]
    assert lines == [f"{case.folder}/out{name}" for name in ("", "/rejects", "/summary.json", "/index.html")]


@pytest.mark.parametrize(
    "uri, against, to, settings, message",
    [
        ("a", (), "out", {"near": 2.0}, "near is 2: give a similarity above 0 and up to 1"),
        ("a", (), "out", {"near": 0.0}, "near is 0: give a similarity above 0 and up to 1"),
        ("a", (), "out", {"size": 8}, "size is 8: give at least 24 pixels, of which thumbnails are made"),
        ("a", (), "out", {"reject_limit": 2.0}, "reject-limit is 2: give a share from 0 to 1"),
        ("a", (), "a/out.csv", {}, "to is '/a/out.csv', in the corpus '/a' itself: give a place outside of it"),
        ("a", ("b",), "b/out", {}, "to is '/b/out', in the reference set '/b' itself: give a place outside of it"),
        ("a", ("b", "./b/"), "out", {}, "against has '/b' twice: give each reference set once"),
        ("a", ("a/",), "out", {}, "the reference set '/a' is the corpus itself, '/a', so that"),
        ("a", ("a/test",), "out", {}, "the reference set '/a/test' overlaps the corpus, '/a', so that"),
        ("a/b", ("a",), "out", {}, "the reference set '/a' overlaps the corpus, '/a/b', so that"),
    ],
)
def test_what_cannot_be_meant_is_an_error_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, against: Any, to: str, settings: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    output = Output.of(to, None, Deduplication)
    with pytest.raises(InputError) as error:
        command.check(Corpus(uri=(uri,)), against, replace(Settings(), **settings), output)
    assert str(error.value).replace(str(tmp_path), "").startswith(message)
