"""The standard sets by the names in their URIs."""

from collections.abc import Callable

from raylabel.corpus import Corpus
from raylabel.corpus.config import absolute
from raylabel.corpus.labels import read_classes
from raylabel.datasets.actions import read_actions, read_hmdb51, read_kinetics, read_ucf101
from raylabel.datasets.cub import read_cub200
from raylabel.datasets.imagenet import read_imagenet
from raylabel.datasets.imagenet_subsets import (
    read_imagenet_a,
    read_imagenet_r,
    read_imagenet_sketch,
    read_imagenet_v2,
)
from raylabel.datasets.listed import CLASSES, LIST, SCHEME, Listed, make_list
from raylabel.datasets.places import read_places365
from raylabel.datasets.statefarm import read_statefarm
from raylabel.datasets.voc import read_voc2007
from raylabel.errors import InputError
from raylabel.store.artifact import Root

# By the number of parts in the URI, as in `train/1`. Each takes the folder of the set and then these parts.
READERS: dict[str, tuple[int, Callable[..., Listed]]] = {
    "actions": (1, read_actions),
    "cub200": (1, read_cub200),
    "hmdb51": (2, read_hmdb51),
    "imagenet": (1, read_imagenet),
    "kinetics": (1, read_kinetics),
    "places365": (1, read_places365),
    "statefarm": (2, read_statefarm),
    "ucf101": (2, read_ucf101),
    "voc2007": (1, read_voc2007),
}
# Each takes the folder of the set and the names in `Corpus.classes`.
SUBSETS: dict[str, Callable[[str, tuple[str, ...]], Listed]] = {
    "imagenet_a": read_imagenet_a,
    "imagenet_r": read_imagenet_r,
    "imagenet_sketch": read_imagenet_sketch,
    "imagenet_v2": read_imagenet_v2,
}


def list_set(root: Root, corpus: Corpus, uri: str) -> tuple[str, str | None]:
    """What a `dataset://` URI of the corpus stands for: (the URI of a list in the root or of a folder of the set, the
    URI of a file with its class names or None).

    InputError if there is no such set or part, or a list cannot be read or has another form.
    """
    head, _, folder = uri.removeprefix(SCHEME).partition("@")
    name, *parts = head.split("/")
    count, read = READERS.get(name, (0, None))
    if (read is None and name not in SUBSETS) or len(parts) != count or not folder:
        made_by = ", ".join(sorted([*READERS, *SUBSETS]))
        raise InputError(f"no data set '{uri}' in corpus.uri: give a corpus made by one of {made_by}")
    folder = absolute(folder)
    listed = read(folder, *parts) if read else SUBSETS[name](folder, read_classes(corpus))
    if listed.rows == []:
        raise InputError(f"'{uri}' lists no {corpus.kind}: give a part with {corpus.kind}s")
    if listed.rows is None and listed.classes is None:
        return listed.folder, None
    made = make_list(root, name, parts, corpus.kind, folder, listed)
    classes = f"{made.uri}/{CLASSES}" if listed.classes else None
    return listed.folder if listed.rows is None else f"{made.uri}/{LIST}", classes
