"""Samples that are segments of longer videos, and the name of the video that they were cut from."""

import math
import posixpath
import re

from raylabel.corpus.config import Corpus
from raylabel.errors import InputError

# UCF101's file names: class, group (the source video: one person at one location), clip (Soomro et al. 2012 §2.2).
_UCF101 = re.compile(r"v_(.+_g\d{2})_c\d{2}\.[^.]+")


def parse_segment(start: str | float | None, end: str | float | None, where: str) -> tuple[float, float] | None:
    """(start, end) in seconds. The end is inf if it is not given; the result is None if neither is given.

    InputError naming the row, `where`, if either is not a number, the start is negative, or the end is not after it.
    """
    if start in (None, "") and end in (None, ""):
        return None
    first, last = _seconds("start", start, 0.0, where), _seconds("end", end, math.inf, where)
    if not 0 <= first < last:
        raise InputError(
            f"{where} is the segment from {first:g} to {last:g} seconds: give a start of 0 or more and a later end"
        )
    return first, last


def _seconds(what: str, value: str | float | None, default: float, where: str) -> float:
    if value is None or value == "":
        return default
    try:
        if math.isfinite(seconds := float(value)):
            return seconds
    except ValueError:
        pass
    raise InputError(f"the {what} of {where} is {value!r}: give a number of seconds, or leave it empty")


def named_group(corpus: Corpus, name: str) -> str | None:
    """The source video, taken from the name of a corpus's file; None if the name does not contain it."""
    return ucf101_group(name) if corpus.kind == "video" else None


def ucf101_group(name: str) -> str | None:
    """The group in a file name of UCF101's form: `Archery_g07` for `v_Archery_g07_c02.avi`. None for other names."""
    match = _UCF101.fullmatch(posixpath.basename(name))
    return match[1] if match else None
