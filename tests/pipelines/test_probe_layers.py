"""Probes of two layers in a transfer of one small network to scikit-learn's digits."""

import json
from pathlib import Path

import pytest
from finished_runs import digits_network
from helpers import DIGITS_VIEW
from trainings import in_this_process

from raylabel.compute.resources import Resources
from raylabel.labels.teacher import Label
from raylabel.models import Model
from raylabel.pipelines.transfer import TransferRun
from raylabel.pipelines.transfer_inputs import Candidate
from raylabel.recipes import Corpus, Schedule, Train, Transfer
from raylabel.store.artifact import Root
from raylabel.transfer.result import write_transfer


@pytest.mark.long
@pytest.mark.timeout(600)
def test_each_layer_has_a_probe(ray_local: None, tmp_path: Path):
    root = Root.open(str(tmp_path))
    network = digits_network(root, Label(batch=64), [str(n) for n in range(10)])
    train = Train(images=640, batch=32, schedule=Schedule(lr=0.02, drops=1), precision="fp32")
    recipe = Transfer(
        name="digits",
        labeled=Corpus(uri=("embedded://digits/test",)),
        test=Corpus(uri=("embedded://digits/labeled",)),
        view=DIGITS_VIEW,
        protocols=("probe",),
        layers=("layer1:2", "penultimate"),
        holdout=0.0,
        finetune=train,
        probe=train,
        label=Label(batch=64, precision="fp32"),
        resources=Resources(teachers=1, workers=1),
    )
    one = Candidate(name="first", model=Model(arch="resnet8x1"), weights=network.uri, view=DIGITS_VIEW)
    run = TransferRun(root, recipe, (one,))
    with in_this_process(tmp_path):
        assert [each.layer for each in run.outcomes] == ["layer1:2", "penultimate"]
    made, _ = write_transfer(run)
    rows = json.loads((Path(made.uri) / "summary.json").read_text())["rows"]
    assert [row["protocol"] for row in rows] == ["linear probe, layer1:2", "linear probe, penultimate"]
    assert all(row["read"] for row in rows)
    (probed,) = [a for a in run.artifacts if a.info.get("model", {}).get("layer") == "layer1:2"]
    assert probed.info["model"] == {"arch": "resnet8x1", "stem": "imagenet", "layer": "layer1:2"}
