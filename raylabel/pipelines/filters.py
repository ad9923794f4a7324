"""A trained network and a corpus → the samples that excite filters of its layers most, and a picture that does so.

Caron et al. 2018 (arXiv 1807.05520), Figures 3 to 5.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from raylabel.compute.resources import Resources
from raylabel.compute.tasks import PROCESS_BYTES, fetch, wait_for
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.features.strongest import STRONGEST, strongest
from raylabel.labels.features import Frozen, feature_width
from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.init import PENULTIMATE, parse_layers
from raylabel.pipelines.inputs import index_corpora
from raylabel.pipelines.steps import Used
from raylabel.store.artifact import Artifact, Root

CORPUS = "corpus"
"""The name of the corpus in the root."""
NINE = 9
"""Samples of a filter, as in the paper's figures."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which filters are looked at."""

    network: Artifact
    view: View
    """Its own, at evaluation."""
    corpus: Corpus
    layers: tuple[str, ...]
    filters: int = 10
    """Of each layer, evenly spaced among its channels."""
    steps: int = 200
    """Of gradient ascent; 0: no such pictures."""
    label: Label = Label()

    def check(self) -> None:
        """InputError if a field is invalid, or the network has no such layer."""
        if not self.layers:
            raise InputError("layers is empty: name one or more, for example layer3")
        for layer in self.layers:
            if layer == PENULTIMATE or parse_layers(layer) != [(layer, 1)]:
                raise InputError(f"layers has '{layer}', but filters are those of a layer, as NAME: give layer3")
            feature_width(self.model, self.view, layer)
        if twice := [one for number, one in enumerate(self.layers) if one in self.layers[:number]]:
            raise InputError(f"layers has '{twice[0]}' twice: name it once")
        for name, least in (("filters", 1), ("steps", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} is {value}: give at least {least}")
        self.corpus.check(CORPUS)
        self.label.check_against(self.corpus, self.view)

    @property
    def model(self) -> Model:
        return Model(**self.network.info["model"])

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each layer."""
        return tuple(feature_width(self.model, self.view, layer) for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What excites the filters of a layer."""

    name: str
    ranked: Artifact
    """STRONGEST of the channels of all layers."""
    first: int
    """The number of its first channel there."""
    channels: int
    shown: tuple[int, ...]
    """The channels that are shown."""

    @property
    def largest(self) -> np.ndarray:
        """The largest value of each channel, float32 [K]."""
        table = self.ranked.table("strongest", STRONGEST, ["rank", "value"])
        best = table.column("value").to_numpy()[table.column("rank").to_numpy() == 0]
        return best[self.first : self.first + self.channels]

    def best(self, channel: int) -> list[tuple[int, float]]:
        """(key, value) of the samples that excite a channel most."""
        table = self.ranked.table("strongest", STRONGEST, ["number", "key", "value"])
        own = table.column("number").to_numpy() == self.first + channel
        return list(zip(*(table.column(name).to_numpy()[own].tolist() for name in ("key", "value")), strict=True))


class FiltersRun(Used):
    """The artifacts of what is wanted, which are built if the root has them not. InputError if the user has to fix an
    input."""

    def __init__(self, root: Root, wanted: Wanted, resources: Resources, retry_rejects: bool = False):
        wanted.check()
        super().__init__()
        self.root, self.wanted, self._resources, self._retry = root, wanted, resources, retry_rejects
        corpora, shards = index_corpora(root, {CORPUS: wanted.corpus})
        self.corpus, self.shards = corpora[CORPUS], shards[CORPUS]

    def layers(self) -> list[Layer]:
        """All layers, for which the corpus is read once. A feature has the channels of all, in float16 and of unit
        length: a value below a millionth of its norm is rounded to a few digits."""
        wanted, found, first = self.wanted, list[Layer](), 0
        frozen = Frozen(
            model=wanted.model,
            weights=wanted.network,
            view=wanted.view,
            config=wanted.label,
            resources=self._resources,
            layer="+".join(wanted.layers),
            retry_rejects=self._retry,
        )
        features = self._use(frozen.features(self.root, self.corpus, self.shards))
        ranked = self._use(strongest(self.root, features, NINE))
        for name, channels in zip(wanted.layers, wanted.channels, strict=True):
            shown = tuple(np.linspace(0, channels - 1, min(wanted.filters, channels)).round().astype(int).tolist())
            found.append(Layer(name=name, ranked=ranked, first=first, channels=channels, shown=shown))
            first += channels
        return found

    def first_filters(self) -> np.ndarray:
        """The filters of the first convolution, uint8 [K, h, w, 3]."""
        return fetch(_first.options(memory=self._memory).remote(self.wanted.network))

    def exciting_pictures(self, layer: Layer) -> list[np.ndarray]:
        """A picture for each channel that is shown, uint8 [H, W, 3]; none without steps, and of networks for clips."""
        if not self.wanted.steps or self.wanted.view.clip:
            return []
        network, view, steps = self.wanted.network, self.wanted.view, self.wanted.steps
        task = _exciting.options(memory=self._memory)
        running = [task.remote(network, layer.name, channel, view, steps) for channel in layer.shown]
        wait_for(f"gradient ascent for {layer.name}", running, "pictures")
        return [fetch(one) for one in running]

    @property
    def _memory(self) -> int:
        """Bytes of a task with the network: its weights, and outputs of all layers for one picture."""
        weights = sum(file.bytes for file in self.wanted.network.files("model"))
        return int(PROCESS_BYTES + 4 * weights + 4_000 * self.wanted.view.tested_size**2)


@ray.remote(num_cpus=1, max_retries=3)
def _first(network: Artifact) -> np.ndarray:
    from raylabel.evaluate.filters import first_filters
    from raylabel.models.trained import load_model

    return first_filters(load_model(network))


@ray.remote(num_cpus=1, max_retries=3)
def _exciting(network: Artifact, layer: str, channel: int, view: View, steps: int) -> np.ndarray:
    import torch

    from raylabel.evaluate.filters import exciting_picture
    from raylabel.models.trained import load_model
    from raylabel.models.trunk import trunk

    mean, std = (torch.tensor(values)[:, None, None] for values in (view.mean, view.std))

    def normalised(pixels: Any) -> Any:
        return (pixels - mean) / std

    module = trunk(load_model(network).eval(), layer)
    return exciting_picture(module, channel, view.tested_size, normalised, steps)
