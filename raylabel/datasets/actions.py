"""Standard video sets of human actions, read from the list files that come with them."""

import re
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from raylabel.corpus import Corpus
from raylabel.corpus.config import THREADS, locate, read_lines
from raylabel.corpus.csvs import csv_columns
from raylabel.corpus.segments import ucf101_group
from raylabel.datasets.listed import SCHEME, Listed, Row, check_part, is_file, is_folder
from raylabel.errors import InputError
from raylabel.store.files import reading


def ucf101(data: str, part: str, split: int = 1) -> Corpus:
    """UCF101 (Soomro et al. 2012): 13,320 clips of 101 classes. `part`: train or test; `split`: 1, 2 or 3.

    `data` contains the unpacked archives: UCF-101/<Class>/v_<Class>_g01_c01.avi (the folder UCF-101 may be left out)
    and ucfTrainTestlist. The group is in the file name: each class has 25, and no split has a group in both parts.
    """
    return _corpus("ucf101", data, part, split)


def hmdb51(data: str, part: str, split: int = 1) -> Corpus:
    """HMDB51 (Kuehne et al. 2011): 6,766 clips of 51 classes. `part`: train, test, or unused (the clips that a
    split leaves out); `split`: 1, 2 or 3.

    `data` contains <class>/<name>.avi, and <class>_test_split1.txt there or in testTrainMulti_7030_splits. A name is
    <source>_<class>_<body>_<camera>_<people>_<view>_<quality>_<number>; its source is the group. The set gives nothing
    more exact: one film may have two spellings, and the same source name in two classes is treated as one video.
    """
    return _corpus("hmdb51", data, part, split)


def kinetics(data: str, part: str) -> Corpus:
    """Kinetics-400, -600 or -700 (Kay et al. 2017). `part` names the list: train, val or validate, test.

    `data` contains <part>.csv directly or in annotations (columns label, youtube_id, time_start, time_end, and others),
    and the trimmed videos <youtube_id>_<time_start>_<time_end>.mp4, seconds in six digits, in <part>/<label>, in <part>
    or directly; spaces of a label may be underscores. The group is the video on YouTube. Classes are in the order of
    their names. Videos are removed from YouTube, so expect a few percent of the list to be missing.
    """
    return _corpus("kinetics", data, part)


def actions(data: str, part: str) -> Corpus:
    """A set with a manifest.csv and a classes.txt. The manifest has columns file, split, label and group, and possibly
    others; a label is a line number of classes.txt. `part` is one of the splits."""
    return _corpus("actions", data, part)


def _corpus(name: str, data: str, part: str, split: int | None = None) -> Corpus:
    where = f"{part}/{split}" if split is not None else part
    return Corpus(uri=(f"{SCHEME}{name}/{where}@{data}",), kind="video", group="group")


def read_ucf101(folder: str, part: str, split: str) -> Listed:
    check_part("ucf101", part, ("train", "test"))
    _check_split("ucf101", split)
    lists = f"{folder}/ucfTrainTestlist"
    numbered = [line.split() for line in read_lines(f"{lists}/classInd.txt")]
    classes = [words[-1] for words in numbered if words]
    if numbered != [[str(1 + i), name] for i, name in enumerate(classes)]:
        raise InputError(f"'{lists}/classInd.txt' does not number the classes from 1 on: restore the file of the set")
    within = "UCF-101/" if is_folder(f"{folder}/UCF-101") else ""
    rows: list[Row] = []
    for number, line in enumerate(read_lines(f"{lists}/{part}list0{split}.txt"), 1):
        path, *index = line.split() or [""]  # in the lists for training the class's number follows the path
        label = path.partition("/")[0]
        if label not in classes or index not in ([], [str(1 + classes.index(label))]):
            where = f"line {number} of '{lists}/{part}list0{split}.txt'"
            raise InputError(f"{where} is {line!r}: expected <Class>/<video>, with that class's number or none")
        rows.append((within + path, label, ucf101_group(path) or ""))
    return Listed(rows, classes)


def read_hmdb51(folder: str, part: str, split: str) -> Listed:
    flags = {"train": "1", "test": "2", "unused": "0"}
    check_part("hmdb51", part, tuple(flags))
    _check_split("hmdb51", split)
    lists = f"{folder}/testTrainMulti_7030_splits"
    lists = lists if is_folder(lists) else folder
    fs, path, _ = locate(lists)
    ending = f"_test_split{split}.txt"
    with reading(lists):
        names = [info.base_name for info in fs.get_file_info(pafs.FileSelector(path))]
    classes = sorted(name.removesuffix(ending) for name in names if name.endswith(ending))
    if not classes:
        raise InputError(f"no <class>{ending} in '{lists}': unpack the splits of the set there")
    rows: list[Row] = []
    for label in classes:
        for number, line in enumerate(read_lines(f"{lists}/{label}{ending}"), 1):
            file, _, flag = line.rstrip().rpartition(" ")
            if flag not in flags.values() or not file:
                raise InputError(
                    f"line {number} of '{lists}/{label}{ending}' is {line!r}: expected <video>.avi 0, 1 or 2"
                )
            if flag == flags[part]:
                rows.append((f"{label}/{file}", label, _hmdb51_source(file, label)))
    return Listed(rows, classes)


def _hmdb51_source(file: str, label: str) -> str:
    """The part of a file's name before class and tags; empty if the name has another form."""
    named = re.fullmatch(r"(.+)_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+\.avi", file)
    return named[1].removesuffix(f"_{label}") if named else ""


def read_kinetics(folder: str, part: str) -> Listed:
    possible = [f"{folder}/{part}.csv", f"{folder}/annotations/{part}.csv"]
    listed = next((uri for uri in possible if is_file(uri)), None)
    if listed is None:
        raise InputError(f"no {part}.csv in '{folder}' or its folder annotations: unpack the lists of the set there")
    table = list(csv_columns(listed, ("youtube_id", "time_start", "time_end"), "label"))
    classes = sorted({label for _, (*_, label) in table if label})
    within = f"{folder}/{part}" if is_folder(f"{folder}/{part}") else folder
    with ThreadPoolExecutor(THREADS) as pool:
        inner = dict(zip(classes, pool.map(lambda label: _class_folder(within, label), classes), strict=True))
    rows: list[Row] = []
    for number, (video, start, end, label) in table:
        try:
            file = f"{video}_{round(float(start)):06}_{round(float(end)):06}.mp4"
        except (ValueError, OverflowError) as error:
            raise InputError(f"line {number} of '{listed}': {error}; give seconds") from error
        rows.append((f"{within}/{inner.get(label, '')}{file}".removeprefix(f"{folder}/"), label, video))
    return Listed(rows, classes or None)


def _class_folder(folder: str, label: str) -> str:
    """The name of the class's folder in `folder`, with a slash at its end; empty if it has none."""
    names = (label, label.replace(" ", "_"))
    return next((f"{name}/" for name in names if is_folder(f"{folder}/{name}")), "")


def read_actions(folder: str, part: str) -> Listed:
    table = [row for _, row in csv_columns(f"{folder}/manifest.csv", ("file", "label", "group", "split"))]
    check_part("actions", part, tuple(sorted({split for *_, split in table})))
    rows = [(file, label, group) for file, label, group, split in table if split == part]
    return Listed(rows, read_lines(f"{folder}/classes.txt"))


def _check_split(name: str, split: str) -> None:
    if split not in ("1", "2", "3"):
        raise InputError(f"no split {split} of {name}: give 1, 2 or 3")
