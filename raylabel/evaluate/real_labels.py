"""Best classes of ImageNet's validation images + ReaL labels → METRICS."""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from raylabel.corpus import Corpus, Shards
from raylabel.corpus.addresses import addresses
from raylabel.errors import InputError
from raylabel.evaluate.classify import share_right
from raylabel.evaluate.results import REAL_TOP1, Metric, Subject
from raylabel.schema import make_key
from raylabel.store.artifact import Artifact

_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


def real_top1(
    of: Subject, best: Mapping[int, int], corpus: Corpus, shards: Artifact, labels: Sequence[Collection[int]]
) -> Metric:
    """Share of images whose best class, `best` by the key of the image, is one of `labels[i - 1]`, i the number in the
    name of the image's file (`datasets.real_labels`; Beyer et al. 2020). Images without labels are left out; one that
    has some and could not be read counts as wrong. The network's classes must be in the order of the sorted wnids.

    InputError if the corpus is not of loose files named like ILSVRC2012_val_00000001.JPEG, or no image has labels.
    """
    right: list[bool] = []
    listing = Shards(shards)
    for number, rows in enumerate(listing.rows.tolist()):
        shard = listing.row(number)
        if shard["format"] != "files":
            raise InputError(
                f"ReaL labels belong to the names of files, and '{shard['uri']}' is of the form {shard['format']}: "
                "give ImageNet's validation images as loose files"
            )
        for row, address in enumerate(addresses(corpus, shard, range(rows), ())):
            image = _NAME.fullmatch(address.rpartition("/")[2])
            if not image or not 0 < int(image[1]) <= len(labels):
                raise InputError(
                    f"'{address}' is none of the {len(labels):,} images with ReaL labels: expected a name from "
                    f"ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{len(labels):08}.JPEG"
                )
            if seen := labels[int(image[1]) - 1]:
                right.append(best.get(make_key(number, row)) in seen)
    if not right:
        raise InputError(f"no image of {', '.join(corpus.uri)} has ReaL labels: give ImageNet's validation images")
    return share_right(of, REAL_TOP1, np.array(right))
