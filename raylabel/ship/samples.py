"""Real samples of a run's test set, as the input of an exported network.

Letters: n samples, S side of the square at evaluation, T frames of a clip.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raylabel import datasets
from raylabel.corpus import Shards, read_keys
from raylabel.errors import InputError
from raylabel.media.image_views import normalise
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.schema import make_key
from raylabel.ship.shipped import Shipped, corpus_of
from raylabel.store.artifact import Artifact

SAMPLES = 32


def real_samples(shipped: Shipped, count: int = SAMPLES) -> Tensor:
    """Normalised float32 [n, 3, S, S] of at most `count` evenly spaced samples of the test set, or [n, 3, T, S, S] of
    the middle clip of each video. Those that cannot be read are left out.

    InputError if none can be read.
    """
    view, settings = shipped.view, shipped.run["settings"]
    if view.clip:
        view = replace(view, clip=replace(view.clip, count=1))
    corpus = datasets.resolve(shipped.root, corpus_of(settings["test"]))
    shards = Shards(shards_of_test(shipped))
    keys, found = evenly_spaced(shards, count), list[np.ndarray]()
    with Sandbox(Parser.of(eval_parser, view.cpu_seconds, view=view)) as sandbox:
        for some in [[key] for key in keys] if view.clip else [keys]:  # 32 videos may not fit into memory
            samples = [sample for sample in read_keys(corpus, shards, some).values() if sample.media]
            pixels = np.zeros((len(samples), *view.eval_shape), np.uint8)
            rejects = sandbox.fill(pixels, [s.media or b"" for s in samples], [s.segment or () for s in samples])
            found.append(pixels[[reject is None for reject in rejects]])
    pixels = np.concatenate(found)
    if not len(pixels):
        raise InputError(
            f"none of {len(keys)} samples of the test set ({', '.join(settings['test']['uri'])}) can be read, and an "
            "exported network is compared on real samples: restore them"
        )
    if view.clip:
        pixels = pixels[:, 0]
    return normalise(torch.from_numpy(pixels), view).contiguous()


def shards_of_test(shipped: Shipped) -> Artifact:
    """SHARDS of the run's test set."""
    folder = next(f for f in shipped.run["artifacts"].values() if f.startswith("shards-test-"))
    return Artifact(f"{shipped.root.uri}/{folder}", *folder.rsplit("-", 1))


def evenly_spaced(shards: Shards, count: int) -> list[int]:
    """The keys of at most `count` samples, from the first to the last of the corpus."""
    ends = np.cumsum(shards.rows)
    at = np.unique(np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).round().astype(np.int64))
    shard = np.searchsorted(ends, at, side="right")
    row = at - (ends - shards.rows)[shard]
    return [make_key(*pair) for pair in zip(shard.tolist(), row.tolist(), strict=True)]
