"""What networks look at in some pictures: each picture, and the maps of its class by each network, side by side."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from raylabel.compute.tasks import fetch
from raylabel.corpus import Corpus, Shards, read_keys
from raylabel.media.image_views import normalise
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact

PICTURES = 10
COLOUR = np.array([235, 60, 20], np.float32)
"""Of what a network looks at."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One picture, as PNG."""

    picture: bytes
    maps: Sequence[bytes]
    """The picture under the map of each network."""
    labels: Sequence[str]
    """The class of each map, which the network has learned for the picture."""


@dataclass(frozen=True, kw_only=True)
class Looks:
    title: str
    networks: Sequence[str]
    """What each network has learned."""
    looks: Sequence[Look]
    side: int
    """Pixels of a picture's side."""


def look(
    title: str,
    corpus: Corpus,
    shards: Artifact,
    networks: Mapping[str, tuple[Artifact, Artifact]],
    view: View,
) -> Looks:
    """Pictures that networks have learned. `networks`: name → (network, PICKS that it has learned), all of the same
    samples. Samples that cannot be read are left out."""
    made = fetch(_look.options(memory=4 << 30).remote(corpus, shards, list(networks.values()), view))
    return Looks(title=title, networks=list(networks), looks=made, side=view.tested_size)


@ray.remote(num_cpus=1, max_retries=3)
def _look(corpus: Corpus, shards: Artifact, networks: Sequence[tuple[Artifact, Artifact]], view: View) -> list[Look]:
    import torch

    from raylabel.evaluate.grad_cam import class_maps
    from raylabel.models.trained import load_model

    labels = [_labels(picks) for _, picks in networks]
    keys = sorted(labels[0])
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, min(PICTURES, len(keys))).round().astype(int)]
    samples = [one for one in read_keys(corpus, Shards(shards), chosen).values() if one.media]
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
            picture=_png(pixels[i]),
            maps=[_png(_under(pixels[i], one[i])) for one in maps],
            labels=[text[i] for text in texts],
        )
        for i in range(len(names))
    ]


def _labels(picks: Artifact) -> dict[int, int]:
    """Key → label."""
    table = picks.table("picks-", PICKS, ["key", "label"])
    return dict(zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True))


def _under(pixels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] in grey, with the colour where the map [H, W] is high."""
    grey = pixels.astype(np.float32).mean(2, keepdims=True)
    share = 0.75 * found[..., None]
    return np.round(grey * (1 - share) + COLOUR * share).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
