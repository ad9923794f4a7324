"""Data that anyone can run: what comes with the dependencies, and standard sets by the list files they come with."""

from collections.abc import Callable
from dataclasses import replace

from raylabel.corpus import Corpus
from raylabel.datasets.actions import CLASSES, LIST, SCHEME, actions, hmdb51, kinetics, list_videos, ucf101
from raylabel.datasets.digits import digits
from raylabel.datasets.moving_digits import moving_digits
from raylabel.errors import InputError
from raylabel.store.artifact import Artifact, Root

__all__ = ["actions", "digits", "hmdb51", "kinetics", "moving_digits", "resolve", "ucf101"]

EMBEDDED = "embedded://"
# Each is a folder of labeled.parquet, unlabeled.parquet and test.parquet.
SETS: dict[str, Callable[[Root], Artifact]] = {"digits": digits, "moving-digits": moving_digits}


def resolve(root: Root, corpus: Corpus) -> Corpus:
    """The corpus itself, or, for a uri such as `embedded://digits/test` or one that `ucf101` and its like give, one of
    files that are made in the root. InputError if there is no such set, or its list files cannot be read."""
    places: list[str] = []
    for uri in corpus.uri:
        if uri.startswith(EMBEDDED):
            places.append(_embedded(root, uri))
        elif uri.startswith(SCHEME):
            made = list_videos(root, uri)
            places.append(f"{made.uri}/{LIST}")
            if len(corpus.uri) == 1 and not corpus.classes and made.files(CLASSES):
                corpus = replace(corpus, classes=f"{made.uri}/{CLASSES}")
        else:
            places.append(uri)
    return replace(corpus, uri=tuple(places))


def _embedded(root: Root, uri: str) -> str:
    name, _, part = uri.removeprefix(EMBEDDED).partition("/")
    if name not in SETS or part not in ("labeled", "unlabeled", "test"):
        known = " or ".join(f"{EMBEDDED}{name}" for name in SETS)
        raise InputError(f"no embedded data '{uri}': there is {known}, each with /labeled, /unlabeled and /test")
    return f"{SETS[name](root).uri}/{part}.parquet"
