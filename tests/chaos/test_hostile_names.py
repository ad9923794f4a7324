"""Names from outside are handled as data: in the report, in the terminal, in files and in paths.

The job runs twice over the same images: once with hostile names wherever text comes from outside, and once with
harmless names in the same order. Both must give the same result.
"""

import base64
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import digit_images, open_in_chromium
from hypothesis import given
from hypothesis import strategies as st
from paths import JOBS
from PIL import Image

from raylabel.corpus import Corpus, Shards, index_corpus, read_keys
from raylabel.errors import InputError
from raylabel.labels.truth import GivenLabels
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.weights import save_weights
from raylabel.schema import PICKS, REJECTS
from raylabel.store.artifact import Root
from raylabel.text import slug

JOB = JOBS / "semi_supervised.py"
SECRET = "s3cret-of-the-driver"
CANARY = "CANARY-51.5N"

CLASSES = [
    "../../../escape",
    "<script>alert(1)</script>",
    "</script></style><img src=x onerror=alert(1)>",
    "\"><img src='x' onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "\x1b]0;title\x07\x1b[31mred\x9b2J\r\nfake: ok",
    "\u202egnp.exe\u2066\u2028\u2029",
    "nul\0byte\ttab",
    "CON",
    "4 KB " + "x<b>\u00e9" * 680,
]
FILES = [
    "<img src=x onerror=alert(1)>",
    "=cmd",
    "\x1b[31mred\x9b2J",
    "line\nbreak\r",
    "\u202egnp\u2028",
    "CON",
    "'\"&{{7*7}}{%x%}$(id)`id`;|",
    "x" * 220,
    "%2e%2e%2f",
    "#?*[a]",
]
RUN = "../../up/<img src=x onerror=alert(1)>\x1b[31m\u202e" + "n" * 300

RECIPE = """
import json, os
from raylabel.corpus import Corpus
from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.training.media import Materialize
from raylabel.compute.resources import Resources
from raylabel.training.schedule import Schedule
from raylabel.selection.config import Select
from raylabel.training.config import Train

def recipe():
    settings = json.load(open(os.path.join(os.path.dirname(__file__), "settings.json")))
    train = Train(images=256, batch=64, schedule=Schedule(lr=0.05))
    return Recipe(
        name=settings["run"],
        labeled=Corpus(uri=(settings["labeled"],)),
        unlabeled=Corpus(uri=(settings["unlabeled"],)),
        test=Corpus(uri=(settings["test"],)),
        view=View(size=8, resize=8, crop="padded", padding=1, flip=False),
        teacher=Teacher(model=Model(arch="resnet8x1"), checkpoint=settings["checkpoint"], unchecked=True),
        label=Label(batch=64, reject_limit=0.2),
        select=Select(k=20, p=10),
        materialize=Materialize(lanes=8),
        student=Model(arch="resnet8x1"),
        pretrain=train,
        finetune=train,
        resources=Resources(workers=1),
    )
"""


def picture(png: bytes) -> bytes:
    """A digit as JPEG with a location in its metadata."""
    exif = Image.Exif()
    exif[0x010E] = CANARY
    exif.get_ifd(0x8825)[29] = CANARY
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).save(out, "JPEG", exif=exif, comment=CANARY.encode())
    return out.getvalue()


def write_labeled(path: Path, media: list[bytes], labels: list[str]) -> str:
    pq.write_table(pa.table({"image": media, "label": labels}), path)
    return str(path)


class World:
    """A recipe and its corpora, with names of one kind, and the result of the job."""

    def __init__(self, folder: Path, hostile: bool) -> None:
        self.folder = folder
        media, digits = digit_images()
        names = sorted(CLASSES) if hostile else [f"class {i}" for i in range(10)]
        labels = [names[digit] for digit in digits]
        settings = {"run": RUN if hostile else "harmless"}
        data = folder / ("data <svg onload=alert(1)> \x1b[5m" if hostile else "data")
        data.mkdir(parents=True)
        settings["labeled"] = write_labeled(data / "labeled.parquet", media[:100], labels[:100])
        settings["test"] = write_labeled(data / "test.parquet", media[100:200], labels[100:200])

        paths = sorted(f"{a}/{b} {i}.jpg" if i % 2 else f"{a} {b[:9]} {i}.jpg" for i in range(2)
                       for a in FILES for b in FILES)  # fmt: skip
        self.bad = paths[7::25]
        corpus = data / ("corpus =cmd() '\"<b>" if hostile else "corpus")
        for i, path in enumerate(paths):
            at = corpus / (path if hostile else f"{i:04}.jpg")
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(b"\x1b[31mno picture" + path.encode() if path in self.bad else picture(media[200 + i]))
        settings["unlabeled"] = str(corpus)

        torch.manual_seed(0)
        checkpoint = data / ("teacher <script>\n\u202e.safetensors" if hostile else "teacher.safetensors")
        checkpoint.write_bytes(save_weights(build(Model(arch="resnet8x1"), 10)))
        settings["checkpoint"] = str(checkpoint)
        (data / "settings.json").write_text(json.dumps(settings))
        code = data / ("=cmd() <b>\x1b[31m.py" if hostile else "my.py")
        code.write_text(RECIPE)

        self.root = folder / ("results =cmd() <b>'\"\x1b[31m\n\u202e" if hostile else "results")
        (folder / "here").mkdir()
        (folder / "home").mkdir()
        before = set(folder.rglob("*"))
        environment = {"HOME": str(folder / "home"), "AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": SECRET}
        self.process = subprocess.Popen(
            [sys.executable, str(JOB), f"{code}:recipe", "--root", str(self.root)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder / "here", env=os.environ | environment,
        )  # fmt: skip
        self.before = before

    def wait(self) -> None:
        out, _ = self.process.communicate(timeout=500)
        assert self.process.returncode == 0, out.decode()[-1000:]
        self.out = out.decode()
        after = set(self.folder.rglob("*")) - self.before
        self.made = {p for p in after if not p.is_relative_to(self.folder / "home")}
        (summary,) = self.folder.rglob("summary.json")
        self.summary = json.loads(summary.read_text("utf-8"))
        self.page = summary.with_name("report.html")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
    """The hostile and the harmless one; their jobs run in parallel."""
    both = [World(tmp_path_factory.mktemp("world"), hostile) for hostile in (True, False)]
    try:
        for world in both:
            world.wait()
    finally:
        for world in both:
            world.process.kill()
            world.process.communicate()
    return both[0], both[1]


class Parsed(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.addresses: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def control_characters(text: str) -> list[str]:
    """Characters that could control a terminal or reorder the text of a page."""
    kinds = ("Cc", "Cs", "Zl", "Zp")
    return [c for c in text if c != "\n" and (unicodedata.category(c) in kinds or c in "\u202e\u2066")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_names_are_kept_and_do_not_change_the_result(worlds: tuple[World, World]):
    hostile, harmless = worlds
    classes = sorted(name.strip() for name in CLASSES)  # white space at the ends of a label does not count
    assert hostile.summary["classes"] == classes and hostile.summary["run"] == RUN
    assert hostile.summary["counts"] == harmless.summary["counts"]
    assert hostile.summary["counts"]["rejected"] == len(hostile.bad) == 8
    assert hostile.summary["picks"] == harmless.summary["picks"]
    for table in ("scores", "picks", "duplicates"):
        found = [contents(world, table) for world in worlds]
        assert found[0] == found[1] and (found[0] or table == "duplicates"), table


def contents(world: World, table: str) -> list[tuple]:
    """The rows of a table, each sample by the digest of its bytes: the names decide where files are cut into runs, and
    so the keys."""
    scores, rows = (
        pa.concat_tables(map(pq.read_table, world.root.glob(f"{name}-*/{name}-*.parquet"))).to_pylist()
        for name in ("scores", table)
    )
    digests = {row["key"]: row["digest"] for row in scores}
    keys = ("key", "original")
    return sorted(
        tuple(str(digests.get(value, value) if name in keys else value) for name, value in row.items()) for row in rows
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rejects_contain_the_exact_names(worlds: tuple[World, World]):
    hostile, _ = worlds
    found = [pq.read_table(p, schema=REJECTS) for p in hostile.root.glob("scores-*/rejects-*.parquet")]
    rows = [row for table in found for row in table.to_pylist() if "/corpus" in row["uri"]]
    assert sorted(row["uri"].partition("<b>/")[2] for row in rows) == sorted(hostile.bad)
    assert {row["reason"] for row in rows} == {"unrecognized"}
    assert not any(control_characters(row["detail"]) for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_names_add_no_element_to_the_page(worlds: tuple[World, World]):
    pages = [world.page.read_text("utf-8") for world in worlds]
    hostile, harmless = map(Parsed, pages)
    assert hostile.elements == harmless.elements
    assert hostile.addresses and all(a.startswith("data:image/jpeg;base64,") for a in hostile.addresses)
    assert not control_characters(pages[0])
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', pages[0])
    assert policy and policy[1].startswith("default-src 'none';")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_opens_in_a_browser_and_contains_no_location_of_images(worlds: tuple[World, World], tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_bytes(worlds[0].page.read_bytes())
    addresses = Parsed(page.read_text("utf-8")).addresses
    assert len(addresses) > 30
    for address in addresses:
        jpeg = base64.b64decode(address.partition(",")[2])
        assert jpeg.startswith(b"\xff\xd8\xff") and CANARY.encode() not in jpeg and b"Exif" not in jpeg
    console, _ = open_in_chromium(page, tmp_path)
    assert console == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_terminal_gets_plain_text(worlds: tuple[World, World]):
    for world in worlds:
        assert control_characters(world.out) == []
    assert "report.html" in worlds[0].out and "[31mred" in worlds[0].out
    assert len(worlds[0].out.splitlines()) >= len(worlds[1].out.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_files_are_written_under_the_root_with_plain_names(worlds: tuple[World, World]):
    for world in worlds:
        assert all(path.is_relative_to(world.root) for path in world.made), world.made
        inside = [path.relative_to(world.root) for path in world.made if path != world.root]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,100}", part) for path in inside for part in path.parts), inside
        assert len({path.parts[0] for path in inside if path.parts[0].startswith("run-")}) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_secret_and_no_location_is_written(worlds: tuple[World, World]):
    for world in worlds:
        assert SECRET not in world.out
        for path in world.made:
            if path.is_file():
                data = path.read_bytes()
                assert SECRET.encode() not in data, path
                if not path.parent.name.startswith("media-"):  # these keep the bytes of the corpus
                    assert CANARY.encode() not in data, path


# Each form of a corpus ----------------------------------------------------------------------------------------------


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    import tarfile

    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_parquet(folder: Path, labels: list[str]) -> Corpus:
    pq.write_table(pa.table({"image": [b"x"] * len(labels), "label": labels}), folder / "a.parquet")
    return Corpus(uri=(str(folder / "a.parquet"),))


def as_tar(folder: Path, labels: list[str]) -> Corpus:
    members = []
    for i, label in enumerate(labels):
        members += [(f"{i:03}.jpg", b"x"), (f"{i:03}.cls", label.encode())]
    return Corpus(uri=(str(tar_of(folder / "a.tar", members)),))


def as_list(folder: Path, labels: list[str]) -> Corpus:
    (folder / "x.jpg").write_bytes(b"x")
    (folder / "list.txt").write_text("".join(f"x.jpg\t{label}\n" for label in labels), "utf-8", newline="")
    return Corpus(uri=(str(folder / "list.txt"),))


def as_folders(folder: Path, labels: list[str]) -> Corpus:
    for i, label in enumerate(labels):
        (folder / "c" / label).mkdir(parents=True, exist_ok=True)
        (folder / "c" / label / f"{i:03}.jpg").write_bytes(b"x")
    return Corpus(uri=(str(folder / "c"),))


@pytest.mark.parametrize(
    ("form", "allows"),
    [
        (as_parquet, lambda label: True),
        (as_tar, lambda label: True),
        (as_list, lambda label: not set(label) & set("\t\r\n")),  # these characters end a label in a list
        (as_folders, lambda label: not set(label) & set("/\0") and len(label.encode()) < 256),
    ],
)
def test_every_form_of_a_corpus_keeps_the_labels_that_it_allows(
    form: Callable[[Path, list[str]], Corpus], allows: Callable[[str], bool], tmp_path: Path, ray_local: None
):
    labels = [label for label in dict.fromkeys([*CLASSES, *FILES]) if allows(label)]
    assert len(labels) >= 13
    corpus = form(tmp_path, labels)
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "labeled", corpus)
    found = GivenLabels().label(root, corpus, shards)
    # White space at the ends of a label does not count, in any form.
    assert found.info["classes"] == sorted(label.strip() for label in labels)
    keys = found.table("picks", PICKS, ["key"])["key"].to_pylist()
    samples = read_keys(corpus, Shards(shards), keys)
    assert all(sample.media == b"x" for sample in samples.values())


def test_names_of_tar_members_are_reported_and_not_used_as_paths(tmp_path: Path, ray_local: None):
    names = [f"{name}/{i}" for i, name in enumerate([*CLASSES[1:7], *FILES, "\udcff\udcfe no utf-8", "x" * 4000])]
    path = tmp_path / "a.tar"
    tar_of(path, [(f"{name}.jpg", b"x%d" % i) for i, name in enumerate(names)])
    corpus = Corpus(uri=(str(path),))
    shards = Shards(index_corpus(Root.open(str(tmp_path / "root")), "c", corpus))
    samples = list(read_keys(corpus, shards, list(range(shards.samples))).values())
    wanted = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names]
    assert [s.uri.partition("#")[2] for s in samples] == [f"{name}.jpg" for name in wanted]
    assert [s.media for s in samples] == [b"x%d" % i for i in range(len(names))]


# Paths and errors ---------------------------------------------------------------------------------------------------


@given(st.text(max_size=200), st.text(max_size=200))
def test_slugs_are_plain_and_unique(a: str, b: str):
    assert re.fullmatch("[A-Za-z0-9_-]{0,73}", slug(a))
    assert (slug(a) == slug(b)) == (a == b)
    assert slug("digits-8x8_v2") == "digits-8x8_v2"


@pytest.mark.parametrize("uri", ["a\0b", "a\udcffb.parquet", "s3://bucket/\udcff"])
def test_a_uri_that_is_not_utf8_is_an_error(uri: str):
    with pytest.raises(InputError, match="not UTF-8 or has a NUL"):
        Corpus(uri=(uri,)).check("unlabeled")


@pytest.mark.parametrize("line", ["a\0.jpg", "https://example.org/a.jpg", "/etc/passwd", ""])
def test_an_invalid_path_in_a_list_is_an_error(line: str, tmp_path: Path, ray_local: None):
    (tmp_path / "list.txt").write_text(f"{line}\t1\n")
    with pytest.raises(InputError, match="line 1 of '.*list.txt'"):
        index_corpus(Root.open(str(tmp_path / "root")), "c", Corpus(uri=(str(tmp_path / "list.txt"),)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["\x1b[31m\r\nfake ok \u202e\x9b2J"], b"error: no recipe '[31m  fake ok 2J'"),
        (["digits", "--root", os.fsdecode(b"/tmp/\xff\xfe")], b"is not UTF-8"),
    ],
)
def test_an_input_error_is_one_line_without_control_characters(arguments: list[str], message: bytes, tmp_path: Path):
    done = subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count(b"\n") == 1
    assert control_characters(done.stderr.decode()) == []


@pytest.mark.long
def test_an_unexpected_error_has_no_control_characters(tmp_path: Path):
    # Raised where raylabel uses what the recipe returned; an error in the recipe itself is one line.
    (tmp_path / "my.py").write_text(
        "def fail(self):\n    raise RuntimeError('\\x1b[31m\\x9b2J\\u202e\\r' + 'told')\n\n"
        "class Odd:\n    __class__ = property(fail)\n\ndef recipe():\n    return Odd()\n"
    )
    done = subprocess.run([sys.executable, str(JOB), "my.py:recipe"], capture_output=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and b"told" in done.stderr and done.stderr.count(b"\n") > 3
    assert control_characters(done.stderr.decode()) == []
