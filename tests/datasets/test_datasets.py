"""Standard sets in the layouts of their archives, and the lists that are made of them."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from corpora import Indexed, read_all

from raylabel.corpus import Corpus, Sample, Shards, class_names, read_groups, read_labels
from raylabel.datasets import actions, hmdb51, kinetics, resolve, ucf101
from raylabel.errors import InputError
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem

Read = Callable[[Corpus], tuple[Corpus, Shards, list[Sample]]]


@pytest.fixture
def read(tmp_path: Path, indexed: Indexed) -> Read:
    """Resolves a corpus in its own root, indexes it, and reads all samples."""
    root = Root.open(str(tmp_path / "root"))

    def read(corpus: Corpus) -> tuple[Corpus, Shards, list[Sample]]:
        corpus = resolve(root, corpus)
        shards = indexed(corpus)
        return corpus, shards, read_all(corpus, shards)

    return read


def write(path: Path, data: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)


# class: the name in its files, which may differ as in the real set. The classes are not in alphabetical order.
UCF101 = {"YoYo": "YoYo", "HandstandPushups": "HandStandPushups", "Archery": "Archery"}


def write_ucf101(folder: Path, within: str = "UCF-101/") -> dict[str, dict[str, tuple[str, str]]]:
    """{name of a list: {path: (class, group)}}. Groups 1 to 7 are the test part of split 1, and so on."""
    lists: dict[str, dict[str, tuple[str, str]]] = {}
    for label, name in UCF101.items():
        for group in range(1, 26):
            for clip in range(1, 2 + group % 3):
                file = f"v_{name}_g{group:02}_c{clip:02}.avi"
                write(folder / within / label / file, f"video of {file}")
                for split in (1, 2, 3):
                    part = "test" if (group - 1) // 7 + 1 == split else "train"
                    lists.setdefault(f"{part}list0{split}", {})[f"{label}/{file}"] = (label, f"{name}_g{group:02}")
    classes = list(UCF101)
    write(folder / "ucfTrainTestlist/classInd.txt", "".join(f"{1 + i} {c}\r\n" for i, c in enumerate(classes)))
    for name, rows in lists.items():
        number = {path: f" {1 + classes.index(label)}" if "train" in name else "" for path, (label, _) in rows.items()}
        write(folder / f"ucfTrainTestlist/{name}.txt", "".join(f"{path}{number[path]}\r\n" for path in rows))
    return lists


@pytest.mark.parametrize("within", ["UCF-101/", ""])
def test_ucf101(within: str, tmp_path: Path, read: Read) -> None:
    folder = tmp_path / "ucf@101, all"
    lists = write_ucf101(folder, within)
    for split in (1, 3):
        groups = {}
        for part in ("train", "test"):
            corpus, shards, samples = read(ucf101(str(folder), part, split))
            expected = lists[f"{part}list0{split}"]
            assert [s.uri for s in samples] == [f"{folder}/{within}{path}" for path in expected]
            assert [(s.label, s.group) for s in samples] == list(expected.values())
            assert [(s.media or b"").decode() for s in samples] == [f"video of {Path(path).name}" for path in expected]
            assert corpus.kind == "video" and {s.segment for s in samples} == {None}
            assert class_names(corpus, read_labels(corpus, shards)) == tuple(UCF101)
            groups[part] = set(read_groups(corpus, shards)["group"].to_pylist())
        assert len(groups["train"]) + len(groups["test"]) == 3 * 25 and not groups["train"] & groups["test"]


def test_missing_files_and_wrong_lists_of_ucf101(tmp_path: Path, read: Read) -> None:
    lists = write_ucf101(tmp_path / "d")
    first, *others = lists["testlist02"]
    (tmp_path / "d/UCF-101" / first).unlink()
    assert [s.error for s in read(ucf101(str(tmp_path / "d"), "test", 2))[2]] == ["missing"] + [None] * len(others)

    def fails(match: str, part: str = "train", split: int = 1) -> None:
        with pytest.raises(InputError, match=match):
            read(ucf101(str(tmp_path / "d"), part, split))

    fails("no part 'val' of ucf101: give one of train, test", "val")
    fails("no split 4 of ucf101", split=4)
    path = tmp_path / "d/ucfTrainTestlist/trainlist01.txt"
    for line in (
        "Archery/v_Archery_g09_c01.avi 1",
        "Bowling/v_Bowling_g09_c01.avi 1",
        "Archery/v_Archery_g09_c01.avi 3 3",
        "",
    ):
        path.write_text(f"Archery/v_Archery_g08_c01.avi 3\n{line}\nYoYo/v_YoYo_g08_c01.avi 1\n")
        fails(f"line 2 of '{path}'")
    path.write_text("\n")
    fails("lists no video")
    path.unlink()
    fails(f"cannot read '{path}'")
    for data in ("1 YoYo\n3 Archery\n", "YoYo\nArchery\n", "1 YoYo\n\n2 Archery\n", "1 Yo Yo\n"):
        write(path.parent / "classInd.txt", data)
        fails("classInd.txt' does not number the classes")


HMDB51 = {  # file: class, source
    "April_09_brush_hair_u_nm_np1_ba_goo_0.avi": ("brush_hair", "April_09"),
    "April_09_brush_hair_u_nm_np1_ba_goo_1.avi": ("brush_hair", "April_09"),
    "Haarek_mmen_brush_hair_h_cm_np1_fr_goo_0.avi": ("brush_hair", "Haarek_mmen"),
    "20060723sfjffbartsinger_wave_f_cm_np1_ba_med_0.avi": ("wave", "20060723sfjffbartsinger"),
    "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi": ("clap", "#20_Rhythm"),
    "Faith_Rewarded_run_wave_f_nm_np3_le_bad_12.avi": ("wave", "Faith_Rewarded_run"),
    "April_09_wave_l_nm_np1_ri_med_2.avi": ("wave", "April_09"),
    "no_such_tags_wave.avi": ("wave", None),
}


@pytest.mark.parametrize("lists", ["", "testTrainMulti_7030_splits"])
def test_hmdb51(lists: str, tmp_path: Path, read: Read) -> None:
    folder = tmp_path / "d"
    # The flags of split 1; those of split 2 are one more, modulo 3.
    flags = {file: number % 3 for number, file in enumerate(HMDB51)}
    for file, (label, _) in HMDB51.items():
        write(folder / label / file, file)
    for split in (1, 2):
        for label in ("brush_hair", "clap", "wave"):
            files = [file for file in HMDB51 if HMDB51[file][0] == label]
            lines = [f"{file} {(flags[file] + split - 1) % 3} \n" for file in files]
            write(folder / lists / f"{label}_test_split{split}.txt", "".join(lines))
        for flag, part in enumerate(("unused", "train", "test")):
            corpus, _, samples = read(hmdb51(str(folder), part, split))
            expected = [file for file in HMDB51 if (flags[file] + split - 1) % 3 == flag]
            expected.sort(key=lambda file: HMDB51[file][0])
            assert [s.media for s in samples] == [file.encode() for file in expected]
            assert [(s.label, s.group) for s in samples] == [HMDB51[file] for file in expected]
            assert corpus.classes and Path(corpus.classes).read_text().split() == ["brush_hair", "clap", "wave"]
    for match, part, split in (("no part 'val'", "val", 1), ("no <class>_test_split3.txt in", "train", 3)):
        with pytest.raises(InputError, match=match):
            read(hmdb51(str(folder), part, split))
    path = folder / lists / "wave_test_split1.txt"
    for line in ("a.avi", "a.avi 3", " 1"):
        path.write_text(f"b.avi 1\n{line}\n")
        with pytest.raises(InputError, match=f"line 2 of '{path}'"):
            read(hmdb51(str(folder), "train", 1))


KINETICS = [  # label, youtube_id, time_start, time_end
    ("zumba", "--aJ0kN_jZ0", "1", "11"),
    ("air drumming", "-0Bu2aGTHfc", "114", "124"),
    ("massaging person's head", "zzyzx", "0", "10"),
    ("zumba", "--aJ0kN_jZ0", "31", "41"),
    ("air drumming", "gone", "1000", "1010"),
]


@pytest.mark.parametrize("layout", ["train/{}/", "train/{_}/", "train/", "{}/", ""])
@pytest.mark.parametrize("where", ["", "annotations/"])
def test_kinetics(layout: str, where: str, tmp_path: Path, read: Read) -> None:
    folder = tmp_path / "d"
    for name, with_label in (("train", True), ("test", False)):
        path = folder / where / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            table = csv.writer(file)
            table.writerow(
                [*(["label"] if with_label else []), "youtube_id", "time_start", "time_end", "split", "is_cc"]
            )
            table.writerows([*row[0 if with_label else 1 :], name, "0"] for row in KINETICS)
    files = []
    for label, video, start, end in KINETICS:
        inner = layout.replace("{}", label).replace("{_}", label.replace(" ", "_"))
        files.append(folder / f"{inner}{video}_{int(start):06}_{int(end):06}.mp4")
        if video != "gone":
            write(files[-1], f"{video} {start}")
    corpus, shards, samples = read(kinetics(str(folder), "train"))
    assert [s.uri for s in samples] == [str(file) for file in files]
    assert [(s.label, s.group) for s in samples] == [row[:2] for row in KINETICS]
    assert [s.error for s in samples] == [None] * 4 + ["missing"]
    classes = class_names(corpus, read_labels(corpus, shards))
    assert classes == ("air drumming", "massaging person's head", "zumba")
    if layout == "":
        assert [(s.label, s.media) for s in read(kinetics(str(folder), "test"))[2]] == [
            (None, s.media) for s in samples
        ]
    with pytest.raises(InputError, match=r"no val.csv in '.*' or its folder annotations"):
        read(kinetics(str(folder), "val"))
    for data, match in [
        ("label,youtube_id,time_start\n", "has no column 'time_end': its header is label, youtube_id, time_start"),
        ("youtube_id,time_start,time_end\na,1,2\nb,1\n", "line 3 of '.*train.csv' has 2 fields and the header has 3"),
        ("youtube_id,time_start,time_end\na,1,2\nb,1,x\n", "line 3 of '.*train.csv': could not convert"),
        ('youtube_id,time_start,time_end\n"a"b,1,2\n', "line 2 of '.*train.csv' is not valid CSV"),
    ]:
        (folder / where / "train.csv").write_text(data)
        with pytest.raises(InputError, match=match):
            read(kinetics(str(folder), "train"))


@pytest.mark.long
def test_a_set_and_its_list_may_be_in_two_stores(tmp_path: Path, bucket: str, indexed: Indexed) -> None:
    lists = write_ucf101(tmp_path / "d")
    fs, _ = filesystem(bucket)
    pafs.copy_files(str(tmp_path / "d"), "pictures/ucf 101", destination_filesystem=fs)
    here, there = Root.open(str(tmp_path / "root")), Root.open(f"{bucket}/root")
    expected = [(f"video of {Path(path).name}".encode(), *row) for path, row in lists["testlist01"].items()]
    for root in (here, there):
        for data in (str(tmp_path / "d"), f"{bucket}/ucf 101"):
            corpus = resolve(root, ucf101(data, "test"))
            shards = indexed(corpus)
            assert [(s.media, s.label, s.group) for s in read_all(corpus, shards)] == expected
            assert class_names(corpus, read_labels(corpus, shards)) == tuple(UCF101)


def test_a_list_is_made_again_only_when_the_set_changes(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path / "root"))
    write_ucf101(tmp_path / "d")
    corpus = ucf101(str(tmp_path / "d"), "train")
    first = resolve(root, corpus)
    assert resolve(root, corpus) == first and resolve(root, first) == first
    assert resolve(root, ucf101(str(tmp_path / "d"), "test")) != first
    path = tmp_path / "d/ucfTrainTestlist/trainlist01.txt"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[1:]))
    assert resolve(root, corpus) != first
    path.write_text(whole)
    assert resolve(root, corpus) == first


def test_several_sets_make_one_unlabeled_corpus(tmp_path: Path, read: Read) -> None:
    lists = write_ucf101(tmp_path / "d")
    uris = [ucf101(str(tmp_path / "d"), "test", split).uri[0] for split in (1, 2)]
    corpus, _, samples = read(Corpus(uri=tuple(uris), kind="video", group="group"))
    expected = [row for split in (1, 2) for row in lists[f"testlist0{split}"].values()]
    assert sorted((str(s.label), str(s.group)) for s in samples) == sorted(expected) and corpus.classes is None


def test_unknown_sets_are_errors(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path / "root"))
    for name in (
        "ucf101/train@/d",
        "ucf101/train/1",
        "kinetics/train/1@/d",
        "imagenette/train@/d",
        "imagenet/train/1@/d",
        "imagenet_a/train@/d",
        "imagenet_v2@",
        "@/d",
        "ucf101/train/1@",
    ):
        with pytest.raises(InputError, match="no data set 'dataset://"):
            resolve(root, Corpus(uri=(f"dataset://{name}",)))
    for name in ("digits", "digits/train", "faces/test"):
        with pytest.raises(InputError, match=f"no embedded data set 'embedded://{name}'"):
            resolve(root, Corpus(uri=(f"embedded://{name}",)))


def test_the_actions_set(shared: Path, read: Read) -> None:
    folder = shared / "actions"
    with open(folder / "manifest.csv", newline="") as file:
        table = list(csv.DictReader(file))
    groups: list[set[str | None]] = []
    for part, count in (("labeled", 40), ("unlabeled", 71), ("test", 46)):
        corpus, shards, samples = read(actions(str(folder), part))
        expected = [row for row in table if row["split"] == part]
        assert len(samples) == len(expected) == count
        for sample, row in zip(samples, expected, strict=True):
            assert sample.media == (folder / row["file"]).read_bytes()
            assert (sample.label or "", sample.group) == (row["label"], row["group"])
        groups.append({s.group for s in samples})
        if part != "unlabeled":
            names = class_names(corpus, read_labels(corpus, shards))
            assert names == tuple((folder / "classes.txt").read_text().split())
    assert sum(map(len, groups)) == len(set.union(*groups))  # no source video is in two parts
    with pytest.raises(InputError, match="no part 'train' of actions: give one of labeled, test, unlabeled"):
        read(actions(str(folder), "train"))


@pytest.mark.long
@pytest.mark.parametrize(
    "names, labels, labeled",
    [
        (("digits-0-4", "digits-5-9"), [set("01234"), set("56789")], 40),
        (
            ("moving-digits-straight", "moving-digits-diagonal"),
            [{"east", "north", "west", "south"}, {"northeast", "northwest", "southwest", "southeast"}],
            50,
        ),
    ],
)
def test_the_halves_of_an_embedded_set(tmp_path: Path, names, labels, labeled: int) -> None:
    root, kind = Root.open(str(tmp_path / "root")), "video" if "moving" in names[0] else "image"
    media: list[bytes] = []
    for name, expected in zip(names, labels, strict=True):
        for part in ("labeled", "test"):
            (uri,) = resolve(root, Corpus(uri=(f"embedded://{name}/{part}",), kind=kind)).uri
            table = pq.read_table(uri)
            counts = Counter(table["label"].to_pylist())
            assert set(counts) == expected
            if part == "labeled":
                assert set(counts.values()) == {labeled}
            media += table[kind].to_pylist()
    assert len(media) == 1_797
    whole = "moving-digits" if kind == "video" else "digits"
    of_whole: list[bytes] = []
    for part in ("labeled", "unlabeled", "test"):
        (uri,) = resolve(root, Corpus(uri=(f"embedded://{whole}/{part}",), kind=kind)).uri
        of_whole += pq.read_table(uri)[kind].to_pylist()
    assert Counter(media) == Counter(of_whole)
    with pytest.raises(InputError, match=f"no embedded data set 'embedded://{names[0]}/unlabeled'"):
        resolve(root, Corpus(uri=(f"embedded://{names[0]}/unlabeled",)))
