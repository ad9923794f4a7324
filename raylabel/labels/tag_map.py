"""Which tags are of which class: as a CSV file says, or made from the names of the classes.

Letters: C classes.
"""

import hashlib
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.corpus.csvs import csv_columns
from raylabel.corpus.label_rule import clean
from raylabel.errors import InputError
from raylabel.labels.tag_text import split_tags
from raylabel.text import listed

ORDERED = 5  # words of a name up to which they are taken in every order: 120 orders of 32 words or stems
VARIED = 11  # words of a name up to which each is a word or a stem: 2,048 tags
EXAMPLES = 5


@dataclass(frozen=True, eq=False)
class TagMap:
    """The classes of each tag. A tag may be of several classes, and a class may have no tag."""

    names: tuple[str, ...]
    """The C classes, in the order of their indices."""
    tags: pa.Array
    """large_string [T]: distinct, in order, in the form of tag_text.py."""
    starts: np.ndarray
    """int64 [T + 1]: where the classes of each tag begin in `classes`."""
    classes: np.ndarray
    """int64: the classes of the tags, in ascending order for each."""
    long: int = 0
    """Names of more than ORDERED words, which are taken in their own order only."""

    @property
    def digest(self) -> str:
        """A hash of the names of the classes and their tags."""
        state = hashlib.sha256()
        for texts in (self.names, self.tags.to_pylist()):
            state.update("".join(f"{len(text.encode())} {text}" for text in texts).encode())
        state.update(self.starts.astype("<i8").tobytes() + self.classes.astype("<i8").tobytes())
        return state.hexdigest()

    @property
    def info(self) -> dict[str, Any]:
        """What a user should know of it: tags, ambiguous_tags (of several classes), ambiguous (examples: those of the
        most classes), without_tag (names of classes), long_names."""
        counts = np.diff(self.starts)
        most = [int(t) for t in np.argsort(-counts, kind="stable")[:EXAMPLES] if counts[t] > 1]
        without = np.setdiff1d(np.arange(len(self.names)), self.classes)
        return {
            "tags": len(self.tags),
            "ambiguous_tags": int(np.count_nonzero(counts > 1)),
            "ambiguous": [{"tag": self.tags[t].as_py(), "classes": self._names_of(t)} for t in most],
            "without_tag": [self.names[c] for c in without],
            "long_names": self.long,
        }

    def _names_of(self, tag: int) -> list[str]:
        return [self.names[c] for c in self.classes[self.starts[tag] : self.starts[tag + 1]]]

    def find(self, tags: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """(indices of tags, ascending; a class of each, ascending) of every pair of one of `tags`, large_string, in the
        form of tag_text.py, and one of its classes; int64 [pairs]."""
        found = pc.index_in(tags, value_set=self.tags)  # pyright: ignore[reportAttributeAccessIssue]
        at = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        tag = found.drop_null().to_numpy()
        first, count = self.starts[tag], self.starts[tag + 1] - self.starts[tag]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(at, count), self.classes[np.repeat(first, count) + within]


def read_tag_map(uri: str, names: Sequence[str]) -> TagMap:
    """The tags in a CSV file with the columns `class` and `tag`. InputError naming the line if a class is not one of
    `names`, or a tag is empty."""
    index = {clean(name) or name: c for c, name in enumerate(names)}
    classes: list[int] = []
    tags: list[str] = []
    lines: list[int] = []
    for line, (name, tag) in csv_columns(uri, ("class", "tag")):
        if (c := index.get(clean(name) or "")) is None:
            what = f"the {len(names):,} classes are {listed(names, 10)}"
            where = f"line {line} of tags.map '{uri}'"
            raise InputError(f"{where} has the class {name!r}, which is unknown: {what}; correct or remove the line")
        classes.append(c)
        tags.append(tag)
        lines.append(line)
    if not tags:
        raise InputError(f"tags.map '{uri}' has no row below its header: give a row for each tag of a class")
    empty = np.setdiff1d(np.arange(len(tags)), split_tags(pa.array(tags, pa.large_string()), single=True)[0])
    if empty.size:
        where = f"line {lines[empty[0]]} of tags.map '{uri}'"
        raise InputError(f"{where} has the tag {tags[empty[0]]!r}: give a tag, or remove the line")
    return _tag_map(names, classes, tags)


def make_tag_map(names: Sequence[str]) -> TagMap:
    """The tags that are made from the names of classes, as for IG-Kinetics (Ghadiyaram et al. 2019; Yalniz et al. 2019
    §4.4): the words of a name, each as it is or as its stem, in every order, without blanks between them.

    A name may be several synonyms, separated by commas. Words are separated by white space, punctuation and symbols,
    except apostrophes, which do not count. The words of longer names are taken in their own order only: ORDERED,
    VARIED. InputError if no name has a letter.
    """
    from snowballstemmer import stemmer

    english = stemmer("english")
    classes: list[int] = []
    tags: list[str] = []
    long = 0
    for c, name in enumerate(names):
        for synonym in name.split(","):
            words = words_of(synonym)
            long += len(words) > ORDERED
            made = dict.fromkeys(_combinations([(word, english.stemWord(word)) for word in words]))
            classes += [c] * len(made)
            tags += made
    if not any(letter.isalpha() for name in names for letter in name):
        raise InputError(
            f"no name of a class has a letter ({listed(names)}), so that no tags can be made from them: give tags.map, "
            "or the names in corpus.classes"
        )
    return _tag_map(names, classes, tags, long)


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case."""
    letters = unicodedata.normalize("NFKC", name).lower().replace("'", "").replace("\u2019", "")
    # Not \w: it has no vowel signs of Indian scripts, and it has the underscore.
    return "".join(" " if unicodedata.category(one)[0] in "ZPSC" else one for one in letters).split()


def _combinations(words: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Tags of (word, stem) pairs; the same may occur several times."""
    for order in itertools.permutations(words) if len(words) <= ORDERED else (words,):
        yield from map("".join, itertools.product(*order) if len(words) <= VARIED else zip(*order, strict=True))


def _tag_map(names: Sequence[str], classes: Iterable[int], tags: Sequence[str], long: int = 0) -> TagMap:
    """The map of pairs of a class and a tag in any form."""
    at, normal = split_tags(pa.array(tags, pa.large_string()), single=True)
    distinct = normal.unique().sort()
    code = pc.index_in(normal, value_set=distinct).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    pairs = np.unique(np.stack([code, np.array(list(classes), np.int64)[at]], 1).reshape(-1, 2), axis=0)
    starts = np.searchsorted(pairs[:, 0], np.arange(len(distinct) + 1))
    return TagMap(tuple(names), distinct, starts, pairs[:, 1].copy(), long)
