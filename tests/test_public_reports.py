"""Public bug reports of other tools for this job, tried on raylabel: each row of docs/public-reports.md is a test here.

The inputs are made after the reports; the outcome is compared with what was put in.
"""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import read_all, tar_bytes
from orientations import UPRIGHT
from PIL import Image
from videos import in_order, scene, video

from raylabel.corpus import Corpus, Shards, class_names, index_corpus, read_labels
from raylabel.errors import InputError
from raylabel.media.image import decode_pixels
from raylabel.media.rejects import Reject
from raylabel.media.video import Video
from raylabel.store.artifact import Root

REPORTS: list[str] = []
Index = Callable[[Corpus], Shards]
Classes = Callable[[Corpus], dict[str, str]]


def report(*where: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test of a report, by its repository and number on GitHub."""

    def register(test: Callable[..., None]) -> Callable[..., None]:
        REPORTS.extend(where)
        return test

    return register


def picture(color: int = 0, size: tuple[int, int] = (24, 16), form: str = "PNG", **options: object) -> bytes:
    """A gradient whose last channel is `color`."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return encoded(Image.fromarray(np.stack([x, y, 0 * x + color], 2).astype(np.uint8)), form, **options)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def indexed(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = Root.open(str(tmp_path_factory.mktemp("root")))
    return lambda corpus: Shards(index_corpus(root, "c", corpus))


@pytest.fixture
def classes(indexed: Index) -> Classes:
    """{name of the file, member or row: label} of a corpus."""

    def read(corpus: Corpus) -> dict[str, str]:
        shards = indexed(corpus)
        names = [re.split(r"[/#]", sample.uri)[-1] for sample in read_all(corpus, shards)]
        labels = read_labels(corpus, shards)["label"].to_pylist()
        assert len(names) == len(set(names)) == len(labels)
        return dict(zip(names, labels, strict=True))

    return read


def rejected(data: bytes) -> str:
    with pytest.raises(Reject) as caught:
        decode_pixels(data)
    return str(caught.value)


def tar(folder: Path, *members: tuple[str, bytes]) -> Corpus:
    return Corpus(uri=(str(write(folder, {"a.tar": tar_bytes(*members)}) / "a.tar"),))


@report("webdataset/webdataset#407", "ray-project/ray#65044")
def test_members_of_a_sample_that_do_not_follow_each_other(tmp_path: Path, indexed: Index) -> None:
    names = [f"{n:06d}.{extension}" for extension in ("jpg", "cls") for n in range(3)]
    with pytest.raises(InputError, match=r"000000\.jpg.*000000\.cls|000000\.cls.*000000\.jpg"):
        indexed(tar(tmp_path, *[(name, picture() if name.endswith("jpg") else b"1") for name in names]))


@report("webdataset/webdataset#157", "webdataset/webdataset#205")
def test_one_name_twice_in_a_tar(tmp_path: Path, indexed: Index) -> None:
    """Both are samples, and the label belongs to the first."""
    corpus = tar(tmp_path, ("d/base.jpg", picture(1)), ("d/base.cls", b"1"), ("d/base.jpg", picture(2)))
    samples = read_all(corpus, indexed(corpus))
    assert [(sample.media, sample.label) for sample in samples] == [(picture(1), "1"), (picture(2), None)]


@report("huggingface/datasets#7144")
def test_dots_in_the_names_of_pictures(tmp_path: Path, classes: Classes) -> None:
    members = [
        (f"22.{n:02d}.{end}", picture(n) if end == "png" else b"%d" % n) for n in range(4) for end in ("cls", "png")
    ]
    assert classes(tar(tmp_path, *members)) == {f"22.{n:02d}.png": str(n) for n in range(4)}


@report("OpenNeuroOrg/openneuro#2520")
def test_files_that_macos_adds(tmp_path: Path, classes: Classes) -> None:
    double = b"\0\5\x16\7\0\2\0\0Mac OS X        "
    write(
        tmp_path, {"d/cat/1.png": picture(1), "d/cat/._1.png": double, "d/dog/2.png": picture(2), "d/.DS_Store": b"x"}
    )
    assert classes(Corpus(uri=(str(tmp_path / "d"),))) == {"1.png": "cat", "2.png": "dog"}
    members = [("._1.png", double), ("1.png", picture(1)), ("1.cls", b"0"), ("._1.cls", double)]
    assert classes(tar(tmp_path, *members)) == {"1.png": "0"}


@report("pytorch/vision#4925", "pytorch/vision#8297")
def test_an_empty_class_folder(tmp_path: Path, classes: Classes) -> None:
    write(tmp_path, {"cat/1.png": picture(), "dog/2.png": picture(), "empty/notes.md": b"none yet"})
    assert classes(Corpus(uri=(str(tmp_path),))) == {"1.png": "cat", "2.png": "dog"}


@report("pytorch/vision#446")
def test_extensions_in_capital_letters(tmp_path: Path, classes: Classes) -> None:
    write(tmp_path, {"cat/1.JPEG": picture(form="JPEG"), "dog/2.Png": picture()})
    assert classes(Corpus(uri=(str(tmp_path),))) == {"1.JPEG": "cat", "2.Png": "dog"}


@report("pytorch/vision#669", "huggingface/pytorch-image-models#1081")
def test_pictures_without_class_folders(tmp_path: Path, indexed: Index) -> None:
    """All pictures are directly in the corpus: the name of the corpus's own folder is no class."""
    write(tmp_path / "val", {f"ILSVRC2012_val_{n:08d}.png": picture(n) for n in range(3)})
    corpus = Corpus(uri=(str(tmp_path / "val"),))
    labels = read_labels(corpus, indexed(corpus))
    # One class: the recipe is refused, since nothing can be told apart.
    assert set(labels["label"].to_pylist()) == {"val"} and class_names(corpus, labels) == ("val",)


@report("ray-project/ray#28417")
def test_one_folder_between_the_class_and_its_pictures(tmp_path: Path, classes: Classes) -> None:
    write(tmp_path, {"cat/images/1.png": picture(), "dog/images/2.png": picture(), "dog/images/3.png": picture()})
    with pytest.raises(InputError, match=r"images.*label"):
        classes(Corpus(uri=(str(tmp_path),)))
    assert classes(Corpus(uri=(str(tmp_path),), label="path:1")) == {"1.png": "cat", "2.png": "dog", "3.png": "dog"}


@report("ray-project/ray#39043")
def test_several_folders_below_a_common_one(tmp_path: Path, classes: Classes) -> None:
    write(
        tmp_path,
        {f"{split}/{animal}/{split}{n}.png": picture(n) for split in "ab" for n, animal in enumerate(("cat", "dog"))},
    )
    found = classes(Corpus(uri=(str(tmp_path / "a"), str(tmp_path / "b"))))
    assert found == {"a0.png": "cat", "b0.png": "cat", "a1.png": "dog", "b1.png": "dog"}


@report("modestyachts/ImageNetV2#10", "modestyachts/ImageNetV2#4")
def test_folders_whose_names_are_class_numbers(tmp_path: Path, indexed: Index) -> None:
    """`10` is class 10 and not class 2: names that are numbers are sorted as numbers."""
    write(tmp_path, {f"{n}/{n}.png": picture(n) for n in range(12)})
    corpus = Corpus(uri=(str(tmp_path),))
    assert class_names(corpus, read_labels(corpus, indexed(corpus))) == tuple(map(str, range(12)))


@report("pandas-dev/pandas#48712", "OasisLMF/OasisLMF#307")
def test_classes_named_like_missing_values(tmp_path: Path, classes: Classes) -> None:
    names = ("NA", "null", "None", "N/A")
    write(tmp_path, {f"{n}.png": picture(n) for n in range(len(names))})
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"{n}.png,{name}\n" for n, name in enumerate(names)))
    found = classes(Corpus(uri=(str(tmp_path / "all.csv"),)))
    assert found == {f"{n}.png": name for n, name in enumerate(names)}
    # A label that a script wrote for a missing number is not taken for a class, unless it is named as one.
    (tmp_path / "nan.csv").write_text("path,label\n0.png,nan\n1.png,cat\n")
    corpus = Corpus(uri=(str(tmp_path / "nan.csv"),))
    with pytest.raises(InputError, match=r"label 'nan' of '.*/0\.png'.*floating-point"):
        classes(corpus)
    (tmp_path / "classes.txt").write_text("cat\nnan\n")
    assert classes(replace(corpus, classes=str(tmp_path / "classes.txt"))) == {"0.png": "nan", "1.png": "cat"}


@report("huggingface/datasets#4069", "huggingface/datasets#7337")
def test_a_table_of_metadata_beside_the_pictures(tmp_path: Path, classes: Classes) -> None:
    write(tmp_path, {f"train/{n}.png": picture(n) for n in range(2)})
    (tmp_path / "metadata.csv").write_text(
        'file_name,caption,label\ntrain/0.png,"a cat, asleep",cat\ntrain/1.png,,dog\n'
    )
    corpus = Corpus(uri=(str(tmp_path / "metadata.csv"),), media="file_name")
    assert classes(corpus) == {"0.png": "cat", "1.png": "dog"}
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "train/0.png", "label": "cat"}\n')
    with pytest.raises(InputError, match=r"metadata\.jsonl.*\*\.csv"):
        classes(Corpus(uri=(str(tmp_path / "metadata.jsonl"),)))


@report("ieee8023/covid-chestxray-dataset#96")
def test_a_list_whose_names_lack_the_extension(tmp_path: Path, indexed: Index) -> None:
    write(tmp_path, {"RA-1.png": picture(), "RA-2.png": picture()})
    (tmp_path / "all.csv").write_text("path,label\nRA-1,0\nRA-2,1\n")
    with pytest.raises(InputError, match="RA-1"):
        indexed(Corpus(uri=(str(tmp_path / "all.csv"),)))


@report("Roblox/FAI-RL#81", "huggingface/datasets#4987")
def test_a_parquet_column_of_structs_some_without_bytes(tmp_path: Path, indexed: Index) -> None:
    """Rows whose bytes are not in the file are rejects, each with its row; none is dropped."""
    rows = [{"bytes": picture(n) if n != 2 else None, "path": f"{n}.png"} for n in range(4)]
    pq.write_table(pa.table({"image": rows, "label": list(range(4))}), tmp_path / "a.parquet")
    corpus = Corpus(uri=(str(tmp_path / "a.parquet"),))
    found = [(sample.uri[-2:], sample.media, sample.error) for sample in read_all(corpus, indexed(corpus))]
    assert found == [(f"#{n}", rows[n]["bytes"], None if n != 2 else "missing") for n in range(4)]


@report("webdataset/webdataset#206", "huggingface/datasets#6470", "rom1504/img2dataset#224")
def test_truncated_pictures() -> None:
    """The rest of a truncated JPEG would be gray. It is a reject, wherever it ends."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    for end in (len(data) - 45, len(data) // 2, 700):
        assert re.match("truncated|corrupt", rejected(data[:end]))


@report("tensorflow/datasets#2188")
def test_bytes_after_the_image_data() -> None:
    """Some cats and dogs have bytes that no decoder needs before the end marker: the pixels do not change."""
    data = picture(form="JPEG")
    assert data.endswith(b"\xff\xd9")
    assert (decode_pixels(data[:-2] + bytes(99) + data[-2:]) == decode_pixels(data)).all()


@report("tensorflow/datasets#590")
def test_a_cmyk_jpeg_and_a_png_named_jpeg(tmp_path: Path, classes: Classes) -> None:
    """ImageNet has 22 CMYK JPEGs and one PNG among its *.JPEG. The bytes decide, and CMYK becomes RGB."""
    source = Image.open(io.BytesIO(picture(90)))
    as_cmyk = decode_pixels(encoded(source.convert("CMYK"), "JPEG", quality=100, subsampling=0))
    assert as_cmyk.shape == (16, 24, 3) and np.abs(as_cmyk.astype(int) - np.asarray(source)).mean() < 4
    assert (decode_pixels(picture(90)) == np.asarray(source)).all()


@report("python-pillow/Pillow#3011", "unslothai/unsloth#10094")
def test_a_16_bit_grayscale_picture() -> None:
    """A ramp of 256 levels stays one; it does not become white."""
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    found = decode_pixels(encoded(Image.fromarray(ramp), "PNG"))
    assert (found == (ramp // 257).astype(np.uint8)[..., None]).all()


@report("voxel51/fiftyone#3778", "huggingface/dataset-viewer#2605")
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_with_an_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.asarray(Image.open(io.BytesIO(picture(50))))
    assert (decode_pixels(picture(50, exif=exif)) == UPRIGHT[orientation](stored)).all()


@report("datachain-ai/datachain#1823")
def test_a_video_with_a_rotation() -> None:
    """The frames are upright, as a player shows them."""
    data = video(scene(8), rotation=90)
    upright = Video(data)
    assert (upright.width, upright.height) == (48, 64)
    assert (upright.read([0, 7]) == np.rot90(in_order(data)[[0, 7]], 1, (1, 2))).all()


@report("PyAV-Org/PyAV#2303", "meta-pytorch/torchcodec#505", "dmlc/decord#83")
def test_a_video_with_damaged_packets() -> None:
    """Bytes in the middle are lost: frames of other groups of pictures are read; the video as a whole is a reject."""
    data = video(scene(60), options={"g": "10"})
    with av.open(io.BytesIO(data), "r") as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][30]
        assert packet.pos is not None
    damaged = data[: packet.pos] + bytes(packet.size) + data[packet.pos + packet.size :]
    whole = in_order(data)
    for part in (range(20), range(50, 60)):
        assert (Video(damaged).read(part) == whole[part]).all()
    with pytest.raises(Reject, match="^corrupt: "):
        Video(damaged).read(range(60))


def test_every_report_of_the_document_has_a_test() -> None:
    text = (Path(__file__).parents[1] / "docs" / "public-reports.md").read_text()
    found = re.findall(r"https://github\.com/([\w.-]+/[\w.-]+)/(?:issues|pull)/(\d+)", text)
    assert sorted(f"{repository}#{number}" for repository, number in found) == sorted(REPORTS)
