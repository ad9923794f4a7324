"""The tags of a corpus → TAGS: the classes of each sample that has a tag of one (Yalniz et al. 2019 §3.3).

The shards are divided into parts of a fixed number of rows, whatever the cluster. A task reads the tags of one part, or
of a large CSV list those of all its parts in one pass, and commits each part: a run that resumes makes only the others.
"""

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import run_tasks
from raylabel.corpus import Corpus, Shards
from raylabel.corpus.tags import TagTexts, list_fingerprint, read_listed_tags, read_tags, tag_lists
from raylabel.errors import InputError
from raylabel.labels.tag_map import EXAMPLES, TagMap, make_tag_map, read_tag_map
from raylabel.labels.tag_text import split_tags
from raylabel.labels.tags import Tags
from raylabel.schema import TAGS, check
from raylabel.selection.select import TAGS_NAME
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table
from raylabel.store.parts import commit_part, committed_parts, files_of
from raylabel.text import listed

VERSION = 1  # of the form of tags, and of how they are made from names
PART = 1 << 20  # rows of a part, about: a shard is in one part
ROW_GROUP = 1 << 16
READ = 200e6  # bytes that a task takes for texts that were read ahead, and for what it does with some of them
ROW = 150  # bytes of a row with its classes, until they are written


def make_tags(root: Root, tags: Tags, corpus: Corpus, shards: Artifact, names: tuple[str, ...]) -> Artifact:
    """TAGS, the artifact `tags`: every sample of the corpus that has a tag of one of the classes `names`, with all its
    classes. A tag of several classes is one of each.

    Files `tags-*`, one per part, in key order. Info, in samples: samples (of the corpus), with_tags, tagged (rows),
    other (with tags, of which none is of a class) and other_tags (examples), unreadable (whose tags are not UTF-8 or
    not in the JSON field) and unreadable_example; pairs (of a sample and a class), per_class [C], classes (names),
    without_sample (names of classes); of the map: see TagMap.info.

    Samples are not read, so some may turn out to be unreadable. InputError if the corpus has no tags, none of a class,
    or `tags` does not fit it.
    """
    of = Shards(shards)
    lists = tag_lists(of)
    tag_map = read_tag_map(tags.map, names) if tags.map else make_tag_map(names)
    identity = {
        "shards": shards.info["content"],
        "column": tags.column,
        "map": tag_map.digest,
        "part": PART,
        "version": VERSION,
    }
    if lists:  # whose tags are not in SHARDS
        with ThreadPoolExecutor(16) as pool:
            identity["lists"] = list(pool.map(list_fingerprint, lists))

    def build(draft: Draft) -> Built:
        task = _Tagging(corpus, of, tags.column, draft.uri, draft.scratch("tags"))
        parts = _divide(of.rows, list(lists.values()))
        committed = committed_parts(task.scratch)
        todo = {number: some for number, some in parts.items() if number not in committed}
        jobs = [(task, part, some) for part, some in _jobs(parts, list(lists.values()), todo)]
        reference, total = ray.put(tag_map), of.samples
        largest = max((int(of.rows[some.start : some.stop].sum()) for some in todo.values()), default=0)
        with PatientProgress("read tags", total, "samples") as progress:
            made = run_tasks(
                _tag,
                [(*job, reference) for job in jobs],
                lambda share: progress.update(int(total * (1 - len(todo) * (1 - share) / len(parts)))),
                READ + ROW * largest,
            )
        committed |= {record["part"]: record for records in made for record in records}
        info = _info([committed[number] for number in sorted(committed)], tag_map)
        if not info["tagged"]:
            raise _no_tags(corpus, tags, info)
        return Built(files_of(committed), {"samples": total, **info})

    return root.make(TAGS_NAME, identity, build)


@dataclass(frozen=True)
class _Tagging:
    """What a task is told to do."""

    corpus: Corpus
    shards: Shards
    column: str
    folder: str
    """Of TAGS."""
    scratch: str
    """Folder of the records of committed parts."""


def _divide(rows: np.ndarray, lists: Sequence[range]) -> dict[int, range]:
    """Number of a part → the numbers of its shards; `rows`: int64 [S]. `lists`: the shards of each CSV list, of which
    small ones are not divided, and large ones are in parts of their own."""
    first = np.cumsum(rows) - rows
    large = {numbers for numbers in lists if rows[numbers.start : numbers.stop].sum() > PART}
    for numbers in lists:
        if numbers not in large:
            first[numbers.start : numbers.stop] = first[numbers.start]
    ends = {end for numbers in large for end in (numbers.start, numbers.stop)}
    starts = sorted({0, *(np.flatnonzero(np.diff(first // PART)) + 1).tolist(), *ends, len(rows)})
    return dict(enumerate(itertools.starmap(range, itertools.pairwise(starts))))


def _jobs(
    parts: Mapping[int, range], lists: Sequence[range], todo: Collection[int]
) -> Iterator[tuple[dict[int, range], list[range]]]:
    """(parts, the CSV lists that they are of) of each task: one part, or those of a large list. Only parts in `todo`,
    and no task without one."""
    begin = {numbers.start for numbers in lists}
    starts = [numbers.start for numbers in lists]
    runs: list[list[int]] = []
    for number, numbers in parts.items():
        if not lists or numbers.start in begin:
            runs.append([])
        runs[-1].append(number)
    for run in runs:
        if some := {number: parts[number] for number in run if number in todo}:
            first, end = parts[run[0]].start, parts[run[-1]].stop
            yield some, list(lists[bisect_left(starts, first) : bisect_left(starts, end)])


def _tag(task: _Tagging, parts: Mapping[int, range], lists: Sequence[range], tag_map: TagMap) -> list[dict[str, Any]]:
    """Commits these parts, in order, and returns their records. `lists`: the shards of the CSV lists that they are
    of."""
    if not lists:
        return [
            _commit(task, tag_map, number, read_tags(task.corpus, task.shards, numbers, task.column))
            for number, numbers in parts.items()
        ]
    each = (read_listed_tags(task.corpus, task.shards, numbers, task.column) for numbers in lists)
    shards, records, at = itertools.chain.from_iterable(each), list[dict[str, Any]](), lists[0].start
    for number, numbers in parts.items():
        for _ in itertools.islice(shards, numbers.start - at):
            pass  # of a part that is committed
        some = itertools.islice(shards, len(numbers))
        records.append(_commit(task, tag_map, number, itertools.chain.from_iterable(some)))
        at = numbers.stop
    return records


def _commit(task: _Tagging, tag_map: TagMap, number: int, found: Iterable[TagTexts]) -> dict[str, Any]:
    """Writes TAGS of a part, and its record."""
    keys, classes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    counts, other_tags, example = Counter[str](), dict[str, None](), ""
    for texts in found:
        at, tags = split_tags(texts.texts, texts.single)
        own = texts.key[at]
        index, found_classes = tag_map.find(tags)
        tagged, row = np.unique(own[index], return_inverse=True)
        pairs = np.unique(row * len(tag_map.names) + found_classes)
        keys.append(tagged[pairs // len(tag_map.names)])
        classes.append(pairs % len(tag_map.names))
        if len(other_tags) < EXAMPLES:
            others = tags.take(np.flatnonzero(~np.isin(own, tagged))[: 10 * EXAMPLES]).to_pylist()
            other_tags |= dict.fromkeys(tag[:80] for tag in others)
        with_tags = len(np.unique(own))
        counts.update(with_tags=with_tags, other=with_tags - len(tagged), unreadable=texts.unreadable)
        example = example or texts.example
    key, label = np.concatenate(keys), np.concatenate(classes)
    table, per_class = _table(key, label), np.bincount(label, minlength=len(tag_map.names))
    groups = [table[start : start + ROW_GROUP] for start in range(0, max(1, len(table)), ROW_GROUP)]
    file = write_table(task.folder, f"tags-{number:06d}.parquet", *groups)
    record = {**counts, "example": example, "other_tags": list(other_tags)[:EXAMPLES], "per_class": per_class.tolist()}
    return commit_part(task.scratch, number, [file], record)


def _table(key: np.ndarray, classes: np.ndarray) -> pa.Table:
    """TAGS of distinct pairs of a key and a class, int64 [n]; the classes of a key are ascending."""
    if (key[1:] < key[:-1]).any():  # strings and lists of tags in the JSON of one shard
        order = np.argsort(key, kind="stable")
        key, classes = key[order], classes[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    offsets = pa.array(np.append(starts, len(key)), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.array(classes, pa.int32()))
    return check(pa.Table.from_arrays([pa.array(key[starts]), lists], schema=TAGS), TAGS, "tags")


def _info(records: list[dict[str, Any]], tag_map: TagMap) -> dict[str, Any]:
    counts = {name: sum(record.get(name, 0) for record in records) for name in ("with_tags", "other", "unreadable")}
    per_class = np.sum([record["per_class"] for record in records], axis=0)
    others = dict.fromkeys(tag for record in records for tag in record["other_tags"])
    return {
        **counts,
        "tagged": counts["with_tags"] - counts["other"],
        "other_tags": list(others)[:EXAMPLES],
        "unreadable_example": next((record["example"] for record in records if record["example"]), ""),
        "pairs": int(per_class.sum()),
        "per_class": per_class.tolist(),
        "classes": list(tag_map.names),
        "without_sample": [name for name, count in zip(tag_map.names, per_class, strict=True) if not count],
        **tag_map.info,
    }


def _no_tags(corpus: Corpus, tags: Tags, info: Mapping[str, Any]) -> InputError:
    where = f"the corpus {', '.join(corpus.uri)}"
    if info["with_tags"]:
        what = f"no tag of {where} is of a class: its tags are such as {listed(info['other_tags'])}"
        return InputError(f"{what}; give tags.map, or set tags.column to another column")
    why = f"; {info['unreadable']:,} samples are such that {info['unreadable_example']}" if info["unreadable"] else ""
    what = f"no sample of {where} has tags in '{tags.column}'{why}"
    return InputError(f"{what}; set tags.column to the column or the tar members' extension with the tags")
