"""TAGS of a corpus in every form, compared with a loop over its samples in Python."""

import csv
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import tar_bytes
from forms import index_here
from heads import eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.corpus.share import rows_of
from raylabel.corpus.tags import TagTexts, tag_lists
from raylabel.errors import InputError
from raylabel.labels import tag_table
from raylabel.labels.tag_map import make_tag_map, read_tag_map
from raylabel.labels.tag_table import make_tags
from raylabel.labels.tags import Tags
from raylabel.schema import TAGS
from raylabel.store.artifact import Artifact, Root

CLASSES = ("playing guitar", "dog, hound", "cat", "great dog", "unseen", "???")
# The oracle of the map, by hand.
OF: dict[str, list[int]] = {
    "playingguitar": [0],
    "guitarplaying": [0],
    "playguitar": [0],
    "guitarplay": [0],
    "dog": [1],
    "hound": [1],
    "cat": [2],
    "greatdog": [3],
    "doggreat": [3],
    "unseen": [4],
}
SOME = [tag for tag in OF if tag != "unseen"]
OTHERS = ["park", "猫", "dogs", "c" * 100]


def random_tags(count: int, seed: int) -> list[list[str]]:
    """The tags of each sample: 0 to 4, of which some are not of a class."""
    rng = random.Random(seed)
    return [rng.choices([*SOME, *OTHERS], k=rng.choice([0, 0, 1, 2, 4])) for _ in range(count)]


def written(tags: list[str], rng: random.Random) -> str:
    """A string with these tags in another form each."""
    forms = (str.title, str.upper, "#{}".format, "＃{}".format, str)
    return "".join(rng.choice(forms)(tag) + rng.choice([" ", ", ", ";", "\u3000"]) for tag in tags)


def as_parquet(folder: Path, files: list[list[list[str]]]) -> Corpus:
    for number, tags in enumerate(files):
        lists = [None if not some and number else [f"#{tag}" for tag in some] for some in tags]
        table = pa.table({"image": [b"x"] * len(tags), "tags": pa.array(lists, pa.list_(pa.string()))})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=50)
    return Corpus(uri=(str(folder / "*.parquet"),))


def as_tar(folder: Path, files: list[list[list[str]]]) -> Corpus:
    rng = random.Random(1)
    for number, tags in enumerate(files):
        members = []
        for row, some in enumerate(tags):
            value = rng.choice([some, written(some, rng)])  # lists and strings
            members += [(f"{row:04}.json", json.dumps({"tags": value}).encode()), (f"{row:04}.jpg", b"x")]
        (folder / f"{number}.tar").write_bytes(tar_bytes(*members))
    return Corpus(uri=(str(folder / "*.tar"),))


def as_csv(folder: Path, files: list[list[list[str]]]) -> Corpus:
    rng = random.Random(2)
    for number, tags in enumerate(files):
        with open(folder / f"{number}.csv", "w", newline="", encoding="utf-8") as file:
            rows = ((f"{number}/{row:04}.jpg", written(some, rng)) for row, some in enumerate(tags))
            csv.writer(file).writerows([("path", "tags"), *rows])
        (folder / f"{number}").mkdir(exist_ok=True)
        (folder / f"{number}" / "0000.jpg").write_bytes(b"x")
    return Corpus(uri=(str(folder / "*.csv"),))


FORMS: dict[str, tuple[Callable[[Path, list[list[list[str]]]], Corpus], str]] = {
    "parquet": (as_parquet, "tags"),
    "tar": (as_tar, "json:tags"),
    "csv": (as_csv, "tags"),
}
COUNTS = (130, 1, 260, 90)


def brute_force(shards: Shards, rows: dict[str, list[list[str]]]) -> dict[int, list[int]]:
    """Key → classes; `rows`: the tags of each row of a shard or list, by its URI."""
    found, taken = {}, dict.fromkeys(rows, 0)
    for number in range(len(shards)):
        shard = shards.row(number)
        first = taken[shard["uri"]]
        taken[shard["uri"]] += shard["rows"]
        for row, tags in enumerate(rows[shard["uri"]][first : first + shard["rows"]]):
            if classes := sorted({c for tag in tags for c in OF.get(tag, [])}):
                found[number << 32 | row] = classes
    return found


def table_of(made: Artifact) -> dict[int, list[int]]:
    table = made.table("tags-", TAGS)
    keys = table["key"].to_pylist()
    assert keys == sorted(set(keys))
    return dict(zip(keys, table["classes"].to_pylist(), strict=True))


def files_of(made: Artifact) -> list[tuple[str, int]]:
    return [(file.name, file.rows) for file in made.files()]


@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_tags_of_a_loop_in_python(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_table, "PART", 100)
    write, column = FORMS[form]
    files = [random_tags(count, seed) for seed, count in enumerate(COUNTS)]
    (tmp_path / "c").mkdir()
    corpus, root = write(tmp_path / "c", files), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "c", corpus)
    rows = {f"{tmp_path}/c/{number}.{form}": tags for number, tags in enumerate(files)}
    made = make_tags(root, Tags(column=column), corpus, shards, CLASSES)
    oracle = brute_force(Shards(shards), rows)
    assert table_of(made) == oracle
    assert [name for name, _ in files_of(made)] == [f"tags-{n:06d}.parquet" for n in range(len(made.files()))]
    assert len(made.files()) == {"parquet": 3, "tar": 3, "csv": 4}[form]
    every = [tags for some in files for tags in some]
    info = made.info
    counts = [sum(c in classes for classes in oracle.values()) for c in range(len(CLASSES))]
    assert info["samples"] == sum(COUNTS) and info["with_tags"] == sum(map(bool, every))
    assert info["tagged"] == len(oracle) and info["other"] == sum(map(bool, every)) - len(oracle)
    assert info["per_class"] == counts and info["pairs"] == sum(counts) and info["classes"] == list(CLASSES)
    assert info["without_sample"] == ["unseen", "???"] and info["without_tag"] == ["???"]
    assert info["tags"] == len(OF) and info["ambiguous_tags"] == info["unreadable"] == 0
    assert set(info["other_tags"]) <= {tag[:80] for tag in OTHERS} and info["other_tags"]
    again = make_tags(root, Tags(column=column), corpus, index_corpus(root, "c", corpus), CLASSES)
    assert again == made


batches = st.lists(st.tuples(st.booleans(), st.lists(st.lists(st.sampled_from("abcdx#")), max_size=5)), max_size=4)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcd")), min_size=1), batches)
def test_the_classes_of_samples_are_those_of_a_loop_in_python(
    pairs: list[tuple[int, str]], found: list[tuple[bool, list[list[str]]]]
) -> None:
    """Batches of samples, each with lists or strings of tags, of which some are of several classes."""
    names, rows, texts = ("k", "l", "m"), dict[int, list[str]](), list[TagTexts]()
    for single, samples in found:
        keys = range(len(rows), len(rows) + len(samples))
        rows |= dict(zip(keys, samples, strict=True))
        values = [
            (key, tag)
            for key, tags in zip(keys, samples, strict=True)
            for tag in (tags if single else [";".join(tags)])
        ]
        key, text = zip(*values, strict=True) if values else ((), ())
        texts.append(TagTexts(np.array(key, np.int64), pa.array(text, pa.large_string()), single))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "map.csv").write_text("class,tag\n" + "".join(f"{names[c]},{tag}\n" for c, tag in pairs))
        task: Any = SimpleNamespace(folder=folder, scratch=folder)
        record = tag_table._commit(task, read_tag_map(f"{folder}/map.csv", names), 0, reversed(texts))
        table = pq.read_table(f"{folder}/tags-000000.parquet", schema=TAGS)
    oracle = {key: sorted({c for c, tag in pairs if tag in tags}) for key, tags in rows.items()}
    oracle = {key: classes for key, classes in oracle.items() if classes}
    assert list(zip(*table.to_pydict().values(), strict=True)) == list(oracle.items())
    assert record["per_class"] == [sum(c in classes for classes in oracle.values()) for c in range(3)]
    tagged = sum(any(tag != "#" for tag in tags) for tags in rows.values())
    assert (record.get("with_tags", 0), record.get("other", 0)) == (tagged, tagged - len(oracle))


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), min_size=1, max_size=8), st.booleans(), st.data())
def test_parts_and_tasks_have_every_shard_once(sizes: list[list[int]], listed: bool, data: st.DataObject) -> None:
    """Shards of lists: each task reads whole lists, and only large lists are in several parts."""
    rows, ends = np.concatenate(sizes), np.cumsum([len(some) for some in sizes]).tolist()
    lists = [range(end - len(some), end) for some, end in zip(sizes, ends, strict=True)] if listed else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tag_table, "PART", 100)
        parts = tag_table._divide(rows, lists)
        todo = data.draw(st.sets(st.sampled_from(sorted(parts))))
        jobs, every = list(tag_table._jobs(parts, lists, todo)), list(tag_table._jobs(parts, lists, parts))
    assert list(parts) == list(range(len(parts)))
    assert [number for numbers in parts.values() for number in numbers] == list(range(len(rows)))
    together = 60 if not lists else max(60, *(total for some in sizes if (total := sum(some)) <= 100), 0)
    assert all(rows[list(numbers)].sum() <= 100 + together for numbers in parts.values())
    assert [number for some, _ in every for number in some] == list(parts)
    assert sorted(number for some, _ in jobs for number in some) == sorted(todo)
    for some, of in every if lists else []:
        assert [n for numbers in some.values() for n in numbers] == [n for numbers in of for n in numbers]
        assert len(some) == 1 or (len(of) == 1 and rows[list(of[0])].sum() > 100)
    assert all((set(some) <= set(whole)) for some, of in jobs for whole, other in every if lists and of == other)
    assert listed or all(len(some) == 1 and not of for some, of in jobs)


@pytest.mark.usefixtures("ray_local")
def test_small_lists_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [random_tags(30, seed) for seed in range(5)]
    corpus, root = as_csv(tmp_path, files), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "c", corpus)
    monkeypatch.setattr(tag_table, "PART", 70)
    made = make_tags(root, Tags(column="tags"), corpus, shards, CLASSES)
    rows = {f"{tmp_path}/{number}.csv": tags for number, tags in enumerate(files)}
    assert table_of(made) == brute_force(Shards(shards), rows)
    assert len(made.files()) == 2


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_share_has_the_tags_that_its_samples_have_in_the_whole(form: str, tmp_path: Path) -> None:
    write, column = FORMS[form]
    corpus = write(tmp_path, [[[tag] for tag in SOME] * 20])
    root = Root.open(str(tmp_path / "root"))
    every = Shards(index_corpus(root, "c", corpus))
    half = replace(corpus, share=0.5)
    some = Shards(index_corpus(root, "c", half))
    whole = table_of(make_tags(root, Tags(column=column), corpus, every.artifact, CLASSES))
    found = table_of(make_tags(root, Tags(column=column), half, some.artifact, CLASSES))
    rows = rows_of(0.5, some.row(0)).tolist()
    assert 0 < len(rows) < len(whole) == every.samples
    assert found == {row: whole[whole_row] for row, whole_row in enumerate(rows)}


@pytest.mark.usefixtures("ray_local")
def test_a_run_that_resumes_reads_only_the_parts_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_table, "PART", 100)
    files = [random_tags(count, seed) for seed, count in enumerate(COUNTS)]
    corpus, root = as_parquet(tmp_path, files), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "c", corpus)
    (tmp_path / "3.parquet").rename(tmp_path / "3")
    with pytest.raises(InputError, match="cannot read the tags of '.*3.parquet'"):
        make_tags(root, Tags(column="tags"), corpus, shards, CLASSES)
    (folder,) = (tmp_path / "root").glob("tags-*")
    eventually(lambda: len(list(folder.glob("scratch/tags/parts/*.json"))) == 2)
    (tmp_path / "0.parquet").unlink()
    (tmp_path / "3").rename(tmp_path / "3.parquet")
    made = make_tags(root, Tags(column="tags"), corpus, shards, CLASSES)
    rows = {f"{tmp_path}/{number}.parquet": tags for number, tags in enumerate(files)}
    assert table_of(made) == brute_force(Shards(shards), rows)
    assert made.info["per_class"][1] == sum(1 in classes for classes in table_of(made).values())
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == []


@pytest.mark.parametrize("left", [[1, 3], [2], [0], [3]])
def test_parts_of_a_list_that_are_left_are_the_same_bytes(
    left: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_table, "PART", 100)
    corpus = as_csv(tmp_path, [random_tags(350, 0)])
    shards = index_here(corpus, tmp_path / "root", run=30)
    (numbers,) = tag_lists(shards).values()
    parts = tag_table._divide(shards.rows, [numbers])
    assert len(parts) == 4

    def make(folder: str, some: list[int]) -> list[dict[str, Any]]:
        task: Any = SimpleNamespace(
            corpus=corpus, shards=shards, column="tags", folder=str(tmp_path / folder), scratch=str(tmp_path / folder)
        )
        ((todo, lists),) = tag_table._jobs(parts, [numbers], some)
        return tag_table._tag(task, todo, lists, make_tag_map(CLASSES))

    every = make("every", [*parts])
    assert make("left", left) == [every[number] for number in left]  # with checksums of their files


@pytest.mark.usefixtures("ray_local")
def test_another_tag_in_a_list_is_other_tags(tmp_path: Path) -> None:
    corpus, root = as_csv(tmp_path, [[["cat"]] * 50]), Root.open(str(tmp_path / "root"))
    made = make_tags(root, Tags(column="tags"), corpus, index_corpus(root, "c", corpus), CLASSES)
    text = (tmp_path / "0.csv").read_text("utf-8")
    (tmp_path / "0.csv").write_text(text.replace("cat", "dog").replace("Cat", "Dog").replace("CAT", "DOG"), "utf-8")
    other = make_tags(root, Tags(column="tags"), corpus, index_corpus(root, "c", corpus), CLASSES)
    assert len(root.named("shards-c")) == 1  # SHARDS have no tags
    assert made.info["per_class"] == [0, 0, 50, 0, 0, 0] and other.info["per_class"] == [0, 50, 0, 0, 0, 0]


@pytest.mark.usefixtures("ray_local")
def test_a_map_may_give_a_tag_to_two_classes_and_a_corpus_may_grow(tmp_path: Path) -> None:
    corpus, root = as_parquet(tmp_path, [[["pup"], ["cat", "pup"], ["park"], []]]), Root.open(str(tmp_path / "root"))
    (tmp_path / "map.csv").write_text("class,tag\ndog,pup\nwolf,pup\ncat,cat\n")
    tags, names = Tags(column="tags", map=str(tmp_path / "map.csv")), ("wolf", "cat", "dog", "owl")
    made = make_tags(root, tags, corpus, index_corpus(root, "c", corpus), names)
    assert table_of(made) == {0: [0, 2], 1: [0, 1, 2]}
    assert made.info["ambiguous"] == [{"tag": "pup", "classes": ["wolf", "dog"]}]
    assert (made.info["pairs"], made.info["other"], made.info["other_tags"]) == (5, 1, ["park"])
    assert made.info["without_sample"] == made.info["without_tag"] == ["owl"]
    as_parquet(tmp_path, [[["pup"], ["cat", "pup"], ["park"], []], [["cat"]]])
    grown = make_tags(root, tags, corpus, index_corpus(root, "c", corpus), names)
    assert grown != made and table_of(grown) == {0: [0, 2], 1: [0, 1, 2], 1 << 32: [1]}
    (tmp_path / "map.csv").write_text("class,tag\ndog,dog\n")
    with pytest.raises(InputError, match="no tag of the corpus .* is of a class: its tags are such as 'pup', 'cat'"):
        make_tags(root, tags, corpus, index_corpus(root, "c", corpus), names)


@pytest.mark.usefixtures("ray_local")
def test_a_corpus_without_tags_is_an_error(tmp_path: Path) -> None:
    corpus, root = as_tar(tmp_path, [[["cat"], ["dog"]]]), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "c", corpus)
    with pytest.raises(InputError, match="no sample of the corpus .* has tags in 'json:hashtags'; set tags.column"):
        make_tags(root, Tags(column="json:hashtags"), corpus, shards, CLASSES)
    with pytest.raises(InputError, match="has tags in 'jpg:x'; set tags.column"):
        make_tags(root, Tags(column="jpg:x"), corpus, shards, CLASSES)
    with pytest.raises(InputError, match="tags.map is .*but tags.column is not given"):
        Tags(map="m.csv")
