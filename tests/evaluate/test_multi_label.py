"""Mean average precision of resamples against that of the samples themselves, and a transfer to a made-up VOC2007."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DIGITS_VIEW, as_artifact
from image_sets import voc_devkit
from sklearn.metrics import average_precision_score
from trainings import in_this_process

from raylabel import datasets
from raylabel.datasets.voc import CLASSES
from raylabel.errors import InputError
from raylabel.evaluate.average_precision import RULES, average_precision, mean_average_precision
from raylabel.evaluate.multi_label import IDS, Several, bootstrap
from raylabel.evaluate.results import find
from raylabel.experiments.multi_label import write_multi_label
from raylabel.labels.teacher import Label
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import load_model
from raylabel.pipelines.transfer import TransferRun
from raylabel.pipelines.transfer_inputs import Candidate
from raylabel.recipes.transfer import Transfer
from raylabel.store.artifact import Root
from raylabel.training.config import Train
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule


def drawn(seed: int) -> Several:
    """60 samples of 5 classes, of which the last one has no positive sample; many scores are equal."""
    random = np.random.default_rng(seed)
    positive = random.random((60, 5)) < [0.5, 0.3, 0.1, 0.02, 0]
    score = np.round(random.random((60, 5)) + 0.3 * positive, 1).astype(np.float32)
    score[7] = -np.inf
    return Several(score, positive, (random.random((60, 5)) < 0.2) & ~positive, 59)


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_has_the_precision_of_its_samples(seed: int, monkeypatch: pytest.MonkeyPatch):
    several, random = drawn(seed), np.random.default_rng(11)
    found = bootstrap(several, 5, 11)
    for number, weight in enumerate(random.multinomial(60, np.full(60, 1 / 60), 5)):
        rows = np.repeat(np.arange(60), weight)
        for rule in RULES:
            columns = several.score[rows], several.positive[rows], rule, several.ignored[rows]
            assert found[rule][number] == pytest.approx(mean_average_precision(*columns)[0])
    monkeypatch.setattr("raylabel.evaluate.multi_label.AT_ONCE", 120)  # two resamples at a time
    again = bootstrap(several, 5, 11)
    for rule in RULES:
        np.testing.assert_allclose(found[rule], again[rule], rtol=1e-12)


def recipe(data: Path, **more) -> Transfer:
    train = Train(images=120, batch=10, schedule=Schedule(lr=0.02, warmup=0.0, drops=0), precision="fp32", loss="bce")
    whole = Transfer(
        name="voc",
        labeled=datasets.voc2007(str(data), "trainval"),
        test=datasets.voc2007(str(data), "test"),
        several=True,
        holdout=0.0,
        view=DIGITS_VIEW,
        networks=("x",),
        protocols=("finetune", "probe"),
        finetune=train,
        probe=train,
        label=Label(precision="fp32", reject_limit=0.2),
        materialize=Materialize(lanes=2),
    )
    return replace(whole, **more)


@pytest.mark.long
def test_a_transfer_to_voc_is_measured_by_its_own_rules(ray_local, tmp_path: Path):
    states, root = voc_devkit(tmp_path / "data"), Root.open(str(tmp_path / "root"))
    (tmp_path / "data/VOCdevkit/VOC2007/JPEGImages/000003.jpg").write_bytes(b"no picture")
    torch.manual_seed(0)
    model = Model(arch="resnet8x1")
    start = as_artifact(root, model, 10, build(model, 10))
    other = as_artifact(root, model, 10, build(model, 10))
    networks = tuple(
        Candidate(name=name, model=model, weights=one.uri, view=DIGITS_VIEW)
        for name, one in (("first", start), ("other", other))
    )
    with in_this_process(tmp_path):
        run = TransferRun(root, recipe(tmp_path / "data"), networks)
        page, comparison = write_multi_label(run)
    media = tmp_path / "data/VOCdevkit/VOC2007/JPEGImages"
    names = [name for number, name in enumerate(states) if number % 2]
    assert len(run.outcomes) == 4
    by_digest = {a.digest: a for a in run.artifacts}
    for one in run.outcomes:
        trained = by_digest[by_digest[one.classified.identity["scores"]].identity["source"]["model"]]
        score = np.full((15, 20), -np.inf)
        for row, name in enumerate(names):
            if name != "000003":
                pixels = torch.from_numpy(eval_pixels((media / f"{name}.jpg").read_bytes(), DIGITS_VIEW)[None].copy())
                with torch.no_grad():
                    logits = load_model(trained).eval()(normalise(pixels, DIGITS_VIEW, torch.float32))
                score[row] = logits.numpy()[0]
        positive = np.array([[states[name].get(c) == 1 for c in CLASSES] for name in names])
        ignored = np.array([[states[name].get(c) == 0 for c in CLASSES] for name in names])
        for rule, metric in IDS.items():
            mean, each = mean_average_precision(score, positive, rule, ignored)
            row = find(one.metrics, metric=metric)
            assert row and row.value == pytest.approx(mean, abs=1e-6) and row.n == 15
            assert row.low is not None and row.high is not None and row.low <= row.value <= row.high
        for c in np.flatnonzero((positive & ~ignored).any(0)):
            kept = ~ignored[:, c]
            finite = np.where(np.isfinite(score[kept, c]), score[kept, c], -1e9)
            plain = average_precision_score(positive[kept, c], finite)
            assert average_precision(score[:, c], positive[:, c], "area", ignored[:, c]) >= plain - 1e-9
    first, second = (one for one in run.outcomes if one.protocol == "finetune")
    assert first.gain is None and second.gain is not None
    assert second.gain.value == pytest.approx(first.metrics[0].value - second.metrics[0].value)
    frozen = next(one for one in run.outcomes if one.protocol == "probe")
    assert frozen.metrics[0].value > 0
    assert json.loads(page.read("summary.json"))["tables"][0]["rows"][0]["name"] == "first, all layers"
    assert "could not be read, and rank last" in comparison.warnings[-1]
    assert all(c.encode() in page.read("report.html") for c in ("bicycle", "train"))  # have positive samples


@pytest.mark.parametrize(
    "more, message",
    [
        ({"protocols": ("finetune", "knn")}, "protocols has 'knn', but several is True: give some of finetune"),
        ({"holdout": 0.2}, "several is True, with which there are no temperatures"),
        ({"several": False}, "finetune.loss is 'bce', but several is False: give 'softmax'"),
        ({"real": "real.json"}, "there are no temperatures: set holdout to 0, and give neither validation nor real"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, more: dict, message: str):
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, **more)
