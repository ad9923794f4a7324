"""Data sets that come with the dependencies, and standard sets of images and videos, read in their own layouts."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from raylabel.corpus import Corpus
from raylabel.datasets.actions import actions, hmdb51, kinetics, ucf101
from raylabel.datasets.cub import cub200
from raylabel.datasets.digits import digits, half_of_digits
from raylabel.datasets.imagenet import imagenet, real_labels
from raylabel.datasets.imagenet_subsets import imagenet_a, imagenet_r, imagenet_sketch, imagenet_v2
from raylabel.datasets.listed import SCHEME
from raylabel.datasets.moving_digits import half_of_moving_digits, moving_digits
from raylabel.datasets.places import places365
from raylabel.datasets.standard import list_set
from raylabel.datasets.statefarm import statefarm
from raylabel.datasets.voc import voc2007
from raylabel.errors import InputError
from raylabel.store.artifact import Artifact, Root

__all__ = [
    "actions",
    "cub200",
    "digits",
    "hmdb51",
    "imagenet",
    "imagenet_a",
    "imagenet_r",
    "imagenet_sketch",
    "imagenet_v2",
    "kinetics",
    "moving_digits",
    "places365",
    "real_labels",
    "resolve",
    "statefarm",
    "ucf101",
    "voc2007",
]

EMBEDDED = "embedded://"
# Each is a folder with labeled.parquet and test.parquet; the whole ones have unlabeled.parquet too.
SETS: dict[str, Callable[[Root], Artifact]] = {
    "digits": digits,
    "digits-0-4": partial(half_of_digits, first=0),
    "digits-5-9": partial(half_of_digits, first=5),
    "moving-digits": moving_digits,
    "moving-digits-straight": partial(half_of_moving_digits, diagonal=False),
    "moving-digits-diagonal": partial(half_of_moving_digits, diagonal=True),
}
WHOLE = ("digits", "moving-digits")


def resolve(root: Root, corpus: Corpus) -> Corpus:
    """The corpus with each URI of a data set replaced by that of a file that is made in the root, or of a folder of the
    set. Such URIs are `embedded://digits/test`, or those of `ucf101`, `imagenet` and the others of this module.
    InputError if there is no such set, or its files cannot be read."""
    uris: list[str] = []
    for uri in corpus.uri:
        if uri.startswith(EMBEDDED):
            uris.append(_embedded(root, uri))
        elif uri.startswith(SCHEME):
            listed, classes = list_set(root, corpus, uri)
            uris.append(listed)
            if len(corpus.uri) == 1 and not corpus.classes:
                corpus = replace(corpus, classes=classes)
        else:
            uris.append(uri)
    return replace(corpus, uri=tuple(uris))


def _embedded(root: Root, uri: str) -> str:
    name, _, part = uri.removeprefix(EMBEDDED).partition("/")
    if name not in SETS or part not in ("labeled", "test", *(("unlabeled",) if name in WHOLE else ())):
        known = ", ".join(f"{EMBEDDED}{name}" for name in SETS)
        raise InputError(
            f"no embedded data set '{uri}' in corpus.uri: give one of {known}, with /labeled or /test; "
            f"{' and '.join(WHOLE)} have /unlabeled too"
        )
    return f"{SETS[name](root).uri}/{part}.parquet"
