"""A corpus, and reference sets → which of its samples are copies, in files for other programs.

A copy has the bytes of a sample that is kept, or is a near-duplicate of it, or is in a reference set, such as the test
set of a benchmark. The corpus is read once, for PICTURES; these, DUPLICATES, COPIES and PAIRS are artifacts of the
root. Tasks write the files from the parts of PICTURES.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.resources import Resources
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.corpus.apart import check_apart
from raylabel.errors import InputError
from raylabel.features.thumbnails import SIDE, has_thumbnails
from raylabel.inference.pictures import make_pictures
from raylabel.media.view import Clip, View
from raylabel.pipelines.edited import check_edited
from raylabel.pipelines.inputs import REFERENCE
from raylabel.report.groups import GROUPS, MEMBERS
from raylabel.report.pairs import SHOWN
from raylabel.schema import COPIED
from raylabel.selection import copies as near_duplicates
from raylabel.selection import pairs as of_sets
from raylabel.selection.copies import find_copies
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.groups import find_groups
from raylabel.selection.pairs import THRESHOLD, find_pairs
from raylabel.selection.references import Reference
from raylabel.selection.samples import number_of
from raylabel.ship.deduplication import Deduplication, Found, copied, count
from raylabel.ship.deduplication_page import make_page
from raylabel.ship.output import Output
from raylabel.ship.parts import Part, Places, as_dicts, parts_of, write_files, write_parts
from raylabel.store.artifact import Artifact, File, Root, digest

CORPUS = "corpus"
"""The name of the corpus in the root."""
BATCH = 128  # samples decoded at once
TOGETHER = 16  # parts of a task: about a million samples, whose rows it holds


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How copies are found."""

    near: float | None = THRESHOLD
    """Similarity from which pictures are near-duplicates; None: only equal bytes, and source videos of a set."""
    size: int = 64
    """Side of the square, in pixels, at which pictures are decoded."""
    reject_limit: float = 0.05
    retry_rejects: bool = False

    def check(self) -> None:
        """InputError if a value is invalid."""
        if self.near is not None and not 0 < self.near <= 1:
            raise InputError(f"near is {self.near:g}: give a similarity above 0 and up to 1")
        if not has_thumbnails(self.size):
            raise InputError(f"size is {self.size}: give at least {SIDE} pixels, of which thumbnails are made")
        if not 0 <= self.reject_limit <= 1:
            raise InputError(f"reject-limit is {self.reject_limit:g}: give a share from 0 to 1")

    def view(self, corpus: Corpus) -> View:
        """Of a video the middle frame."""
        return View(size=self.size, resize=self.size, clip=Clip(frames=1, count=1) if corpus.kind == "video" else None)


@dataclass(frozen=True)
class Writing:
    """What tasks write. Plain data, so that Ray can send it."""

    found: Found
    output: Output[Deduplication]


def deduplicate(
    root: Root,
    corpus: Corpus,
    against: Sequence[str],
    settings: Settings,
    output: Output[Deduplication],
    resources: Resources,
) -> Deduplication:
    """Writes to the output which samples of the corpus are copies of others, or in one of the sets whose URIs are
    `against`. Without work if that was done.

    InputError if the output has something else, a set is a part of the corpus or the other way round, a corpus cannot
    be read, or too many samples cannot.
    """
    corpora = check(corpus, against, settings, output)
    shards = {name: _index(root, REFERENCE if name else CORPUS, one) for name, one in corpora.items()}
    output.check_size(Shards(shards[""]).samples)
    wanted = _wanted(corpora, shards, settings, output)
    done = output.claim(wanted)  # an output with something else is found before the work
    if done and not settings.retry_rejects:
        return done
    pictures = {
        name: make_pictures(
            root,
            one,
            shards[name],
            settings.view(one),
            BATCH,
            resources,
            settings.reject_limit,
            settings.retry_rejects,
            names=Shards(shards[name]).format == "webdataset",
        )
        for name, one in corpora.items()
    }
    mine, sets = pictures[""], {name: Reference(made) for name, made in pictures.items() if name}
    duplicates = find_duplicates(root, mine)
    copies = None if settings.near is None else find_copies(root, mine, duplicates, settings.near)
    pairs = find_pairs(root, mine, sets, settings.near) if sets else None
    wanted = replace(wanted, artifacts=[one.uri for one in (*pictures.values(), duplicates, copies, pairs) if one])
    if done and done.artifacts == wanted.artifacts:
        return done
    if done:
        raise InputError(f"'{output.uri}' was written before samples were read again: delete it, or give another --to")
    output.write_summary(wanted)
    places = {name: Places.of(pictures[name], one, Shards(shards[name])) for name, one in corpora.items()}
    groups = find_groups(duplicates, copies, GROUPS, MEMBERS, SHOWN)
    files, counts, listed = _write(Writing(_found(places, duplicates, copies, pairs), output), mine)
    made = replace(
        wanted,
        samples=mine.info["samples"],
        kept=mine.info["scored"] - listed,
        copies=listed,
        rejected=mine.info["rejected"],
        reasons=mine.info["reasons"],
        unread={name: one.samples.info["rejected"] for name, one in sets.items()},
        counts=[{"set": name, "kind": kind, "samples": rows} for (name, kind), rows in sorted(counts.items())],
        groups=groups.count,
        largest=groups.largest[0].size if groups.largest else 0,
    )
    page = make_page(made, groups, pairs, places, settings.view(corpus).max_jpeg_pixels)
    files.append(output.write(output.page, memoryview(page.encode()), 0))
    made = replace(made, files=as_dicts(files))
    output.write_summary(made)
    return made


def check(
    corpus: Corpus, against: Sequence[str], settings: Settings, output: Output[Deduplication]
) -> dict[str, Corpus]:
    """The corpus, by the name '', and each set, by its URI. InputError if a value is invalid; nothing is read."""
    settings.check()
    corpora = {"": corpus} | {uri: Corpus(uri=(uri,), kind=corpus.kind) for uri in against}
    for name, one in corpora.items():
        one.check(REFERENCE if name else CORPUS)
        output.check_outside(one, "reference set" if name else "corpus")
    check_apart(corpus.uri, against)
    return corpora


def _index(root: Root, name: str, corpus: Corpus) -> Artifact:
    return index_corpus(root, name, corpus, partial(check_edited, root, corpus, name="pictures"))


def _wanted(
    corpora: Mapping[str, Corpus], shards: Mapping[str, Artifact], settings: Settings, output: Output[Deduplication]
) -> Deduplication:
    """What is known before the work. The addresses depend on where the corpora are, and so do the digests of SHARDS."""
    against = [name for name in corpora if name]
    identity: dict[str, Any] = {
        "shards": shards[""].digest,
        "sets": {name: shards[name].digest for name in against},
        "view": settings.view(corpora[""]).evaluation_identity,
        "near": settings.near,
        "versions": [near_duplicates.VERSION, of_sets.VERSION],
        "form": [output.form, output.whole, *COPIED.names],
    }
    return Deduplication(
        deduplication=digest(identity),
        corpus=list(corpora[""].uri),
        against=against,
        near=settings.near,
        passed_over=shards[""].info["passed_over"],
    )


def _found(
    places: Mapping[str, Places], duplicates: Artifact, copies: Artifact | None, pairs: Artifact | None
) -> Found:
    def with_rows(made: Artifact) -> tuple[str, ...]:
        return tuple(file.name for file in made.files(f"{made.name}-") if file.rows)

    return Found(
        places=places[""],
        references={name: one for name, one in places.items() if name},
        duplicates=duplicates.uri,
        duplicate_files=with_rows(duplicates),
        copies=copies.uri if copies else "",
        copy_files=with_rows(copies) if copies else (),
        pairs=pairs.uri if pairs else "",
        paired=frozenset(number_of(name) for name in with_rows(pairs)) if pairs else frozenset(),
    )


def _write(writing: Writing, pictures: Artifact) -> tuple[list[File], Counter[tuple[str, str]], int]:
    """(the files, rows by set and kind, samples that have a row)."""
    files, counts, listed, parts = list[File](), Counter[tuple[str, str]](), 0, parts_of(pictures)
    for some, (of_some, samples) in write_parts(
        _write_parts, writing, parts, writing.output.whole, "write copies", TOGETHER
    ):
        files += some
        counts += of_some
        listed += samples
    return files, counts, listed


@ray.remote(num_cpus=0.5, max_retries=3)
def _write_parts(writing: Writing, parts: list[Part]) -> tuple[list[File], tuple[Counter[tuple[str, str]], int]]:
    """Writes parts. It may be repeated."""
    heartbeat()
    key, table = copied(writing.found, parts)
    number = writing.found.places.parts(key)  # ascending, as keys and parts have the same order

    def of_parts(some: list[Part]) -> list[pa.Table]:
        first, end = np.searchsorted(number, [some[0].number, some[-1].number + 1]).tolist()
        return [table[first:end]] if end > first else []

    files = write_files(writing.output, writing.found.places, parts, COPIED, of_parts)
    return files, (count(table), len(np.unique(key)))
