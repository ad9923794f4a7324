"""Networks that are learned layer by layer from stored samples, in the process of the test."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DIGITS_VIEW
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from trainings import MODEL, digits_examples, in_this_process

from raylabel.compute.resources import Resources
from raylabel.errors import InputError
from raylabel.media.image_views import normalise
from raylabel.media.view import Clip
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.init import Init
from raylabel.models.layers import input_of, layer_order
from raylabel.models.start import start_network
from raylabel.models.trained import WEIGHTS, load_model
from raylabel.schema import ROW_GROUPS
from raylabel.ship.card_history import training_section
from raylabel.ship.lineage import Step
from raylabel.store.artifact import Artifact, Root
from raylabel.training import filters_from_patches, layerwise
from raylabel.training.examples import media_of
from raylabel.training.filters_from_patches import Method
from raylabel.training.layerwise import LayerwiseTask, learn_layer, read_sample, train_layerwise

ALONE = Resources(workers=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return Root.open(str(tmp_path_factory.mktemp("layerwise")))


@pytest.fixture(scope="module")
def media(ray_local: None, root: Root, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    with in_this_process(tmp_path_factory.mktemp("process")):
        yield media_of(digits_examples(root, tmp_path_factory.mktemp("digits")))


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "PATCHES", 1_200)
    monkeypatch.setattr(filters_from_patches, "PASSES", 1)


@pytest.fixture
def task(media: Artifact) -> LayerwiseTask:
    return LayerwiseTask(media=media, model=MODEL, classes=10, view=DIGITS_VIEW, seed=3, method="kmeans")


@pytest.fixture(scope="module")
def pixels(media: Artifact) -> torch.Tensor:
    return read_sample(media, DIGITS_VIEW, 3, 1)


def learned(root: Root, task: LayerwiseTask) -> Artifact:
    return train_layerwise(root, f"layer-{task.method}", task, ALONE, 64)


def test_batchnorm_gives_mean_0_and_variance_1_on_the_samples(root: Root, task: LayerwiseTask, pixels: torch.Tensor):
    network = load_model(learned(root, task)).eval()
    x, seen = normalise(pixels, DIGITS_VIEW), 0
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            with torch.no_grad():
                found = layer(input_of(network, name, x)).transpose(0, 1).flatten(1)
            torch.testing.assert_close(found.mean(1), torch.zeros(len(found)), atol=1e-4, rtol=0)
            assert layer.running_var is not None
            wanted = (layer.running_var > 0).float()  # 0: where all digits are black
            torch.testing.assert_close(found.var(1, correction=0), wanted, atol=2e-3, rtol=0)
            seen += 1
    assert seen == 9


def test_filters_are_learned_from_the_layers_before_them(root: Root, task: LayerwiseTask, pixels: torch.Tensor):
    """Whitened components of all patches, by torch's unfold, of what the layers before give: their covariance is 1."""
    network = load_model(learned(root, replace(task, method="pca"))).eval()
    for name in ("layer1.0.conv2", "layer3.0.conv1"):
        layer: Any = network.get_submodule(name)
        x = input_of(network, name, normalise(pixels, DIGITS_VIEW)).detach()
        patches = functional.unfold(x, 3, padding=1, stride=layer.stride).transpose(1, 2).flatten(0, 1)
        covariance = (patches @ layer.weight.detach().flatten(1)[:8].T).T.cov()
        assert (covariance - torch.eye(8)).abs().max() < 0.3


def test_the_head_and_the_scale_of_batchnorm_are_those_of_random_weights(root: Root, task: LayerwiseTask):
    network = load_model(learned(root, task))
    torch.manual_seed(3)
    drawn = start_network(MODEL, 10, Init(), None)
    for name, one in drawn.named_parameters():
        assert torch.equal(one, network.get_parameter(name)) == (one.ndim < 4), name


def test_a_model_card_says_how_it_was_learned(root: Root, task: LayerwiseTask):
    network = learned(root, task)
    told = training_section([Step(artifact=network, inputs=())])
    assert "`resnet8x1`, one after another, without labels, by `kmeans`" in told and task.media.digest in told


LONG = [pytest.param(method, marks=pytest.mark.long) for method in ("pca", "rbm", "autoencoder")]


@pytest.mark.parametrize("method", ["kmeans", *LONG])
def test_the_seed_decides_all_weights(root: Root, task: LayerwiseTask, tmp_path: Path, method: Method):
    task = replace(task, method=method)
    again = learned(Root.open(str(tmp_path / "again")), task)
    assert learned(root, task).read(WEIGHTS) == again.read(WEIGHTS)
    if method == "kmeans":
        assert learned(root, replace(task, seed=4)).read(WEIGHTS) != again.read(WEIGHTS)


def test_a_run_that_was_stopped_goes_on_behind_its_last_layer(
    root: Root, task: LayerwiseTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, done, learn = learned(root, task), [], learn_layer

    def break_off(network, layer, *rest):
        if len(done) == 7:
            raise RuntimeError("stopped")
        done.append(layer)
        learn(network, layer, *rest)

    monkeypatch.setattr(layerwise, "MINUTES", 0.0)
    monkeypatch.setattr(layerwise, "learn_layer", break_off)
    other = Root.open(str(tmp_path / "stopped"))
    with pytest.raises(Exception, match="stopped"):
        learned(other, task)
    resumed = []
    monkeypatch.setattr(
        layerwise, "learn_layer", lambda n, layer, *rest: (resumed.append(layer), learn(n, layer, *rest))
    )
    assert learned(other, task).read(WEIGHTS) == whole.read(WEIGHTS)
    assert 0 < 18 - len(resumed) <= 7 and resumed[-1] == "layer3.0.bn2"


def test_samples_are_drawn_uniformly_from_the_groups(media: Artifact, monkeypatch: pytest.MonkeyPatch):
    """With 100 of 600 samples and all groups, each is there with a probability of 1/6."""
    table = media.table("row_groups", ROW_GROUPS)
    assert len(table) == 8
    whole = keys_of_sample(media, 600)
    assert len(np.unique(whole)) == 600
    counts = np.zeros(600)
    for seed in range(30):
        counts[np.searchsorted(np.sort(whole), keys_of_sample(media, 100, seed))] += 1
    assert counts.sum() == 3_000 and 2.5 < counts.var() < 6  # binomial: 30 * 5/36 = 4.2
    monkeypatch.setattr(layerwise, "GROUPS", 2)
    some = keys_of_sample(media, 600)
    assert 140 < len(some) < 160


def keys_of_sample(media: Artifact, count: int, seed: int = 0) -> np.ndarray:
    """The keys of a sample: pictures are not decoded."""
    found = []

    class Keys:
        def __init__(self, *_):
            pass

        def chunks(self, groups):
            for group in groups:
                found.extend(np.asarray(group.key)[group.sample].tolist())
                yield group, group.sample, np.zeros((len(group.sample), 1), np.uint8)

        def close(self):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "Decoder", Keys)
        patch.setattr(layerwise, "SAMPLES", count)
        read_sample(media, DIGITS_VIEW, seed, 1)
    return np.array(found)


@pytest.mark.parametrize(
    "model, shape",
    [
        (Model(arch="r2plus1d8x1"), (6, 8, 8, 8, 3)),
        (Model(arch="alexnetx1", input="sobel"), (6, 16, 16, 3)),
        (Model(arch="resnext50_32x4d"), (4, 32, 32, 3)),
    ],
)
def test_clips_gradients_and_groups(task: LayerwiseTask, model: Model, shape: tuple[int, ...]):
    clips = Clip(frames=8, count=1) if len(shape) == 5 else None
    task = replace(task, model=model, view=replace(DIGITS_VIEW, clip=clips), method="pca")
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = build(model, 10).eval()
    x = normalise(pixels, task.view)
    for name in layer_order(network, x)[:6]:
        learn_layer(network, name, pixels, task, 0)
        layer = network.get_submodule(name)
        with torch.no_grad():
            given = input_of(network, name, x)
            found = layer(given) if isinstance(layer, _BatchNorm) else None
        if found is not None:
            torch.testing.assert_close(
                found.transpose(0, 1).flatten(1).var(1, correction=0), torch.ones(found.shape[1]), atol=0.01, rtol=0
            )


def test_networks_of_attention_are_an_error_before_any_work(root: Root, task: LayerwiseTask):
    task = replace(task, model=Model(arch="vit_b_32"), view=replace(DIGITS_VIEW, size=224, resize=224))
    with pytest.raises(InputError, match="layer-kmeans: vit_b_32: the network has layers of attention"):
        learned(root, task)
