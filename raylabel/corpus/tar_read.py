"""Reads the samples of a tar: the byte ranges of the wanted rows, each once and forward."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from raylabel.corpus.config import Corpus
from raylabel.corpus.fingerprint import row_count_changed, verify_open
from raylabel.corpus.label_rule import clean_all, split_member
from raylabel.corpus.members import TarSample
from raylabel.corpus.ranges import AheadReader, Range, RangeFile
from raylabel.corpus.sample import Metadata, Sample, make_sample
from raylabel.corpus.segments import named_group, parse_segment
from raylabel.corpus.tar import TarReader
from raylabel.errors import InputError
from raylabel.schema import MAX_BYTES, make_key


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a tar and where they are: those from `row` up to `end_row` are the bytes from `byte` up to
    `end_byte`. The ends are None if they are not known."""

    row: int
    byte: int
    end_row: int | None
    end_byte: int | None


def spans(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int]) -> Iterator[tuple[Span, Sequence[int]]]:
    """The byte ranges to read for some rows of a tar (ascending, numbered in the whole file), each with its rows.

    A range is that of a unit, or of units that follow each other. It is found in the shard's row of SHARDS without
    reading the tar. SHARDS of earlier versions do not have `starts`: then there is one range without an end, from the
    last start before the rows that this process has seen.
    """
    starts = shard.get("starts")
    if not starts:
        known = _seen(corpus, shard)
        row = max(row for row in list(known) if row <= rows[0])  # a copy: another thread may add to it
        yield Span(row, known[row], None, None), rows
        return
    firsts = [start["row"] for start in starts]
    if rows[-1] >= firsts[-1]:
        raise row_count_changed(shard)
    at = 0
    while at < len(rows):
        first = bisect_right(firsts, rows[at]) - 1
        last, begin = first, at
        while True:  # the next unit, if it has wanted rows too
            at = bisect_left(rows, firsts[last + 1], at)
            if at == len(rows) or rows[at] >= firsts[last + 2]:
                break
            last += 1
        one, other = starts[first], starts[last + 1]
        yield Span(one["row"], one["byte"], other["row"], other["byte"]), rows[begin:at]


@lru_cache(maxsize=64)
def _seen_starts(uri: str, fingerprint: str, *names: object) -> dict[int, int]:
    """{row: byte} of the unit starts of a tar that this process has seen; for SHARDS without `starts`. `names`: the
    fields that divide its members into samples."""
    return {0: 0}


def _seen(corpus: Corpus, shard: Mapping[str, Any]) -> dict[int, int]:
    return _seen_starts(shard["uri"], shard["fingerprint"], corpus.media, corpus.kind, corpus.extensions)


def ranges(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int]) -> list[Range] | None:
    """The byte ranges that `read_tar` reads whole for these rows; None if it skips some of their bytes, or if they are
    not known."""
    found = []
    for span, some in spans(corpus, shard, rows):
        if not _is_dense(span, some) or span.end_byte is None:
            return None
        found.append(Range(span.byte, span.end_byte))
    return found


def _is_dense(span: Span, rows: Sequence[int]) -> bool:
    return span.end_row is not None and 2 * len(rows) >= span.end_row - span.row


def read_tar(
    corpus: Corpus,
    shard: Mapping[str, Any],
    rows: Sequence[int],
    labels: bool,
    ahead: "Future[RangeFile] | None" = None,
) -> Iterator[Sample]:
    """The Samples of these rows, as in `read_rows`.

    Where at least half of the rows of a range are wanted it is read in large blocks. Otherwise small members are read
    with what is between them, and large ones are skipped.
    """
    with TarReader(shard["uri"], source=AheadReader(ahead.result()) if ahead else None) as tar:
        try:
            for span, some in spans(corpus, shard, rows):
                for row, found in _wanted(corpus, shard, tar, span, some):
                    yield _sample(corpus, tar, shard, row, found, labels)
        except InputError:
            verify_open(shard, tar.source.file)  # if the tar changed, that is the reason
            raise
        verify_open(shard, tar.source.file)


def _wanted(
    corpus: Corpus, shard: Mapping[str, Any], tar: TarReader, span: Span, rows: Sequence[int]
) -> Iterator[tuple[int, TarSample]]:
    """(row, its sample) of some rows in a span."""
    samples, at = tar.samples(corpus, span.byte, end=span.end_byte, whole=_is_dense(span, rows)), span.row
    for row in rows:
        found = next(islice(samples, row - at, None), None)
        if found is None:
            raise _other_samples(shard)
        if span.end_row is None and row == rows[0]:
            _seen(corpus, shard)[row] = found.offset
        at = row + 1
        yield row, found
    following = next(samples, None) if span.end_row in (None, at) else None
    if following is not None and span.end_row is not None:
        raise _other_samples(shard)
    if following is not None:
        _seen(corpus, shard)[at] = following.offset


def _other_samples(shard: Mapping[str, Any]) -> InputError:
    """The error for a tar with more or fewer samples between two starts than SHARDS say."""
    stem = shard["uri"].removesuffix(".tar")
    return InputError(
        f"'{shard['uri']}' does not have the samples that it had when it was indexed: restore it; or, if it is right "
        f"and '{stem}.idx' is not, delete that file and the folders shards-* of the root, then run again"
    )


def _sample(
    corpus: Corpus, tar: TarReader, shard: Mapping[str, Any], row: int, found: TarSample, labels: bool
) -> Sample:
    member = found.media
    location = f"{shard['uri']}#{member.name if member else found.name}"
    start, end = (tar_text(tar, found, name) for name in (corpus.start, corpus.end))
    metadata = Metadata(
        tar_label(corpus, tar, found) if labels else None,
        parse_segment(start, end, location),
        tar_group(corpus, tar, found),
    )
    large = member is not None and member.size > MAX_BYTES
    media = tar.read_member(member) if member and not large else None
    return make_sample(
        make_key(shard["shard"], row), location, media, metadata, "too_many_bytes" if large else "missing"
    )


def sample_name(corpus: Corpus, shard: Mapping[str, Any], row: int) -> str:
    """The name of the sample at a row of the whole tar."""
    with TarReader(shard["uri"]) as tar:
        ((span, some),) = spans(corpus, shard, [row])
        ((_, found),) = _wanted(corpus, shard, tar, span, some)
        return found.name


def tar_text(tar: TarReader, sample: TarSample, extension: str | None) -> str | None:
    """The stripped text of the sample's member with that extension; None if it is missing or empty. InputError if it is
    not UTF-8."""
    member = sample.member(extension)
    if member is None:
        return None
    try:
        return tar.read_member(member).decode("utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise InputError(f"'{tar.uri}#{member.name}' is not UTF-8 text: {error}; fix it or remove it") from error


def tar_label(corpus: Corpus, tar: TarReader, sample: TarSample) -> str | None:
    """The label of a tar's sample; None if it has none. InputError if its member is not text or not as expected."""
    extension, field = split_member(corpus.label_extension)
    return clean_all([tar_text(tar, sample, extension)], field, lambda _: f"{tar.uri}#{sample.name}")[0]


def tar_group(corpus: Corpus, tar: TarReader, sample: TarSample) -> str | None:
    """The group of a tar's sample: the text of its member if `corpus.group` is set, else from the name of its media."""
    if corpus.group:
        return tar_text(tar, sample, corpus.group)
    return named_group(corpus, sample.media.name) if sample.media else None
