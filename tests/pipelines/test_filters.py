"""What excites filters most: plain colours in two shards, for a network whose first filters answer to one each."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_artifact, write_parquet
from PIL import Image

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.filters import exciting_picture, first_filters
from raylabel.experiments.filters import write_filters
from raylabel.features import strongest as ranking
from raylabel.features.strongest import STRONGEST
from raylabel.labels.teacher import Label
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import load_model
from raylabel.models.trunk import trunk
from raylabel.pipelines.filters import FiltersRun, Wanted
from raylabel.schema import make_key
from raylabel.store.artifact import Root

VIEW = View(size=16, resize=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
RED, GREEN, BLUE = range(3)
N = 60


def png(colour: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.broadcast_to(colour.astype(np.uint8), (16, 16, 3)).copy()).save(out, "PNG")
    return out.getvalue()


def coloured() -> torch.nn.Module:
    """Filter c of the first convolution is the mean of colour c less those of the others."""
    torch.manual_seed(0)
    network = build(Model(arch="resnet8x1"), 3)
    with torch.no_grad():
        for colour in range(3):
            network.get_parameter("conv1.weight")[colour] = -0.1
            network.get_parameter("conv1.weight")[colour, colour] = 0.1
    return network


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, 3))


@pytest.fixture
def wanted(ray_local: None, colours: np.ndarray, tmp_path: Path) -> Wanted:
    for shard, some in enumerate(np.split(colours, 2)):
        write_parquet(tmp_path / f"corpus-{shard}.parquet", [png(one) for one in some])
    network = as_artifact(Root.open(str(tmp_path / "root")), Model(arch="resnet8x1"), 3, coloured())
    corpus = Corpus(uri=(str(tmp_path / "corpus-*.parquet"),))
    label = Label(batch=16, precision="fp32")
    return Wanted(network=network, view=VIEW, corpus=corpus, layers=("conv1",), filters=3, steps=5, label=label)


def brute_force(wanted: Wanted, colours: np.ndarray) -> dict[int, list[int]]:
    """Channel → the keys of the nine samples that excite it most."""
    pixels = np.stack([eval_pixels(png(one), VIEW) for one in colours])
    module = trunk(load_model(wanted.network).eval(), "conv1")
    with torch.no_grad():
        means = module(normalise(torch.from_numpy(pixels), VIEW, torch.float32)).numpy()
    keys = np.array([make_key(n // (N // 2), n % (N // 2)) for n in range(N)])
    return {c: keys[np.lexsort((keys, -means[:, c]))[:9]].tolist() for c in range(means.shape[1])}


def test_a_filter_of_a_colour_finds_that_colour(wanted: Wanted, colours: np.ndarray, tmp_path: Path):
    run = FiltersRun(Root.open(str(tmp_path / "root")), wanted, Resources())
    (layer,) = run.layers()
    brute = brute_force(wanted, colours)
    for colour in (RED, GREEN, BLUE):
        found = [key for key, _ in layer.best(colour)]
        assert found == brute[colour]
        places = [(key >> 32) * (N // 2) + (key & 0xFFFFFFFF) for key in found]
        excess = 2 * colours[:, colour] - colours.sum(1)
        assert excess[places].min() >= np.delete(excess, places).max()
    # All channels, but where rounding to float16 changes the order.
    table = layer.ranked.table("strongest", STRONGEST)
    agree = np.mean([len(set(brute[c]) & {key for key, _ in layer.best(c)}) for c in set(table["number"].to_pylist())])
    assert agree > 8.9


@pytest.mark.long
def test_all_layers_are_ranked_in_one_pass(wanted: Wanted, tmp_path: Path):
    root = Root.open(str(tmp_path / "root"))
    layers = FiltersRun(root, replace(wanted, layers=("layer1", "conv1")), Resources()).layers()
    assert len(list(Path(root.uri).glob("features-*"))) == 1
    assert [(one.name, one.first, one.channels) for one in layers] == [("layer1", 0, 16), ("conv1", 16, 16)]
    for one, name in zip(layers, ("layer1", "conv1"), strict=True):
        (alone,) = FiltersRun(root, replace(wanted, layers=(name,)), Resources()).layers()
        np.testing.assert_allclose(one.largest, alone.largest, rtol=2e-3)
        same = [len({key for key, _ in one.best(c)} & {key for key, _ in alone.best(c)}) for c in range(16)]
        assert np.mean(same) > 8.5  # but where rounding to float16 changes the order


@pytest.mark.long
def test_a_run_that_stops_before_the_ranking_ends_with_the_same(
    wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = FiltersRun(Root.open(str(tmp_path / "root")), wanted, Resources()).layers()[0].ranked
    other = Root.open(str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(ranking, "fetch", lambda _: (_ for _ in ()).throw(ValueError("stopped")))
        with pytest.raises(ValueError, match="stopped"):
            FiltersRun(other, wanted, Resources()).layers()
    assert list(Path(other.uri).glob("features-*/manifest.json"))
    again = FiltersRun(other, wanted, Resources()).layers()[0].ranked
    assert again.table("strongest", STRONGEST).equals(whole.table("strongest", STRONGEST))


@pytest.mark.long
def test_the_page_shows_filters_pictures_and_samples(wanted: Wanted, tmp_path: Path):
    root = Root.open(str(tmp_path / "root"))
    page, comparison = write_filters(FiltersRun(root, wanted, Resources()))
    text = page.read("report.html").decode()
    assert text.count('src="data:image/png') == 16 + 3 and text.count('src="data:image/jpeg') == 3 * 9
    assert "gradient ascent" in text and "Never active" in text and "Grad-CAM" not in text
    (table,) = comparison.tables
    assert [cell.value for cell in table.rows[0].cells if cell] == [16, 3, 0]
    none = replace(wanted, steps=0)
    text = write_filters(FiltersRun(root, none, Resources()))[0].read("report.html").decode()
    assert "gradient ascent" not in text.replace("Below it", "")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layers": ()}, "layers is empty"),
        ({"layers": ("penultimate",)}, "layers has 'penultimate'"),
        ({"layers": ("conv1:2",)}, "layers has 'conv1:2'"),
        ({"layers": ("conv9",)}, "no layer 'conv9'"),
        ({"layers": ("conv1+layer1",)}, "layers has 'conv1.layer1'"),
        ({"layers": ("conv1", "conv1")}, "layers has 'conv1' twice"),
        ({"filters": 0}, "filters is 0"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_bad_fields_are_named(wanted: Wanted, change: dict, message: str):
    with pytest.raises(InputError, match=message):
        replace(wanted, **change).check()


def test_gradient_ascent_finds_the_colour_of_a_filter():
    module = trunk(coloured().eval(), "conv1")
    for colour in (RED, GREEN, BLUE):
        picture = exciting_picture(module, colour, 16, lambda x: (x - 0.5) / 0.25, 60)
        means = picture.reshape(-1, 3).mean(0)
        assert picture.shape == (16, 16, 3) and means.argmax() == colour and means.max() > 1.3 * np.sort(means)[1]


def test_first_filters_are_scaled_weights_and_of_gradients_those_of_the_grey_picture():
    network = coloured()
    found = first_filters(network)
    assert found.shape == (16, 3, 3, 3) and found.dtype == np.uint8
    for colour in (RED, GREEN, BLUE):
        assert (found[colour, ..., colour] == 255).all() and found[colour].sum() == 9 * 255
    sobel = build(Model(arch="resnet8x1", input="sobel"), 3).eval()
    grey = first_filters(sobel)
    assert grey.shape == (16, 5, 5, 3) and (grey == grey[..., :1]).all()
    # The response to a grey picture with one bright pixel is the filter, turned over.
    picture = torch.zeros(1, 3, 11, 11)
    picture[..., 5, 5] = 1
    with torch.no_grad():
        response = sobel.get_submodule("conv1")(picture)[0, :, 3:8, 3:8].flip(1, 2)
    for one, wanted in zip(grey[..., 0], response, strict=True):
        scaled = 255 * (wanted - wanted.min()) / (wanted.max() - wanted.min())
        np.testing.assert_allclose(one, scaled.numpy(), atol=1)
