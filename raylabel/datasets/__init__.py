"""Data sets that come with the dependencies, and standard video sets, read from their own list files."""

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
# Each is a folder with labeled.parquet, unlabeled.parquet and test.parquet.
SETS: dict[str, Callable[[Root], Artifact]] = {"digits": digits, "moving-digits": moving_digits}


def resolve(root: Root, corpus: Corpus) -> Corpus:
    """The corpus with each URI of a data set replaced by that of a file that is made in the root. Such URIs are
    `embedded://digits/test`, or those of `ucf101`, `hmdb51`, `kinetics` and `actions`. InputError if there is no such
    set, or its list files cannot be read."""
    uris: list[str] = []
    for uri in corpus.uri:
        if uri.startswith(EMBEDDED):
            uris.append(_embedded(root, uri))
        elif uri.startswith(SCHEME):
            made = list_videos(root, uri)
            uris.append(f"{made.uri}/{LIST}")
            if len(corpus.uri) == 1 and not corpus.classes and made.files(CLASSES):
                corpus = replace(corpus, classes=f"{made.uri}/{CLASSES}")
        else:
            uris.append(uri)
    return replace(corpus, uri=tuple(uris))


def _embedded(root: Root, uri: str) -> str:
    name, _, part = uri.removeprefix(EMBEDDED).partition("/")
    if name not in SETS or part not in ("labeled", "unlabeled", "test"):
        known = " or ".join(f"{EMBEDDED}{name}" for name in SETS)
        raise InputError(
            f"no embedded data set '{uri}' in corpus.uri: give {known}, with /labeled, /unlabeled or /test"
        )
    return f"{SETS[name](root).uri}/{part}.parquet"
