"""What networks look at in some pictures: each picture, and the maps of its class by each network, side by side."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylabel.compute.tasks import fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards, read_keys
from raylabel.media.image_views import normalise
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.schema import make_key
from raylabel.store.artifact import Artifact

PICTURES = 10
BYTES = 2_000  # of memory for a value of a pixel, about: outputs of all layers, and their gradients
COLOUR = np.array([235, 60, 20], np.float32)
"""Of what a network looks at."""
GRAD_CAM = (
    "Grad-CAM (Selvaraju et al. 2017) of the class below each picture, which that network has learned for it: red is "
    "what speaks for the class. Each map is scaled to its own maximum."
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """One column: a picture, as PNG or JPEG, and those below it."""

    picture: bytes
    maps: Sequence[bytes]
    """The picture under the map of each network, or other pictures."""
    labels: Sequence[str]
    """The class of each map, which the network has learned for the picture, or another text."""


@dataclass(frozen=True, kw_only=True)
class Looks:
    """A table of pictures."""

    title: str
    networks: Sequence[str]
    """What each network has learned, or what else the rows below the first one are."""
    looks: Sequence[Look]
    side: int
    """Pixels of a picture's side."""
    first: str = "picture"
    """What the first row is."""
    note: str = GRAD_CAM
    """What is shown."""


def look(
    title: str,
    corpus: Corpus,
    shards: Artifact,
    networks: Mapping[str, tuple[Artifact, Artifact]],
    view: View,
) -> Looks:
    """Pictures that networks have learned, evenly spaced in the corpus. `networks`: name → (network, PICKS that it has
    learned). Samples that not all have learned, or that cannot be read, are left out."""
    # One network at a time, and what it computes of the pictures.
    largest = max(sum(file.bytes for file in network.files("model")) for network, _ in networks.values())
    memory = 3 * largest + PICTURES * math.prod(view.eval_shape) * BYTES
    made = fetch(_look.options(memory=memory).remote(corpus, shards, list(networks.values()), view))
    return Looks(title=title, networks=list(networks), looks=made, side=view.tested_size)


@ray.remote(num_cpus=1, max_retries=3)
def _look(corpus: Corpus, shards: Artifact, networks: Sequence[tuple[Artifact, Artifact]], view: View) -> list[Look]:
    import torch

    from raylabel.evaluate.grad_cam import class_maps
    from raylabel.models.trained import load_model

    of_corpus = Shards(shards)
    chosen = _evenly_spaced(of_corpus)
    labels = [_labels(picks, chosen) for _, picks in networks]
    learned = [key for key in chosen if all(key in of for of in labels)]
    samples = [one for one in read_keys(corpus, of_corpus, learned).values() if one.media]
    pixels = np.empty((len(samples), *view.eval_shape), np.uint8)
    with Sandbox(Parser.of(eval_parser, view.cpu_seconds, view=view)) as sandbox:
        rejects = sandbox.fill(pixels, [one.media or b"" for one in samples], [()] * len(samples))
    read = [i for i, reject in enumerate(rejects) if not reject]
    pixels, names = pixels[read], [samples[i].key for i in read]
    if not read:
        return []
    maps, texts = list[np.ndarray](), list[list[str]]()
    for (network, picks), of in zip(networks, labels, strict=True):
        classes = torch.tensor([of[key] for key in names])
        images = normalise(torch.from_numpy(pixels), view)
        maps.append(class_maps(load_model(network), images, classes).numpy())
        texts.append([picks.info["classes"][of[key]] for key in names])
    return [
        Look(
            picture=png(pixels[i]),
            maps=[png(_under(pixels[i], one[i])) for one in maps],
            labels=[text[i] for text in texts],
        )
        for i in range(len(names))
    ]


def _evenly_spaced(shards: Shards) -> list[int]:
    """Keys of PICTURES samples, or of all if there are fewer."""
    ends = np.cumsum(shards.rows)
    total = int(ends[-1])
    places = np.linspace(0, total - 1, min(PICTURES, total)).round().astype(np.int64)
    shard = np.searchsorted(ends, places, "right")
    first = (ends - shards.rows)[shard]
    return [make_key(s, row) for s, row in zip(shard.tolist(), (places - first).tolist(), strict=True)]


def _labels(picks: Artifact, keys: list[int]) -> dict[int, int]:
    """Key → label, of these keys."""
    found, wanted = dict[int, int](), pa.array(keys, pa.int64())
    for file in picks.files("picks-"):
        with picks.opened(file) as opened:
            for batch in opened.iter_batches(columns=["key", "label"]):
                heartbeat()
                some = batch.filter(pc.is_in(batch.column("key"), value_set=wanted))  # pyright: ignore
                found |= dict(zip(some.column("key").to_pylist(), some.column("label").to_pylist(), strict=True))
    return found


def _under(pixels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] in grey, with the colour where the map [H, W] is high."""
    grey = pixels.astype(np.float32).mean(2, keepdims=True)
    share = 0.75 * found[..., None]
    return np.round(grey * (1 - share) + COLOUR * share).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
