"""Networks with all that an export reads of a root, without the time of a run; and a process that cannot import
raylabel, in which the code of a model card is run."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylabel import datasets
from raylabel.corpus import Corpus, index_corpus
from raylabel.labels.teacher import Label
from raylabel.media.image_views import normalise
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import import_model, load_model
from raylabel.models.weights import save_weights
from raylabel.ship.samples import real_samples
from raylabel.ship.shipped import Shipped
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.store.files import write_file

HOSTILE = "`x` <script>alert(1)</script> ](http://a.b) ***\n# c | d\x1b[31m ---"
"""A name that means something in Markdown, HTML, YAML and on a terminal."""


def shipped(root: Root, model: Model, view: View, corpus: Corpus, names: tuple[str, ...], **more: Any) -> Shipped:
    """An untrained network as the given teacher of a run on the corpus, which is also its test set."""
    label = Label()
    torch.manual_seed(0)
    module = build(model, len(names))
    for part in module.modules():  # the statistics of an untrained network would hide an error in their names
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.9, 1.1)
    file = f"{root.uri}/given.safetensors"
    write_file(file, save_weights(module))
    network = import_model(root, "teacher", model, len(names), checkpoint=file, weights="")
    shards = index_corpus(root, "test", datasets.resolve(root, corpus))
    control = _control(root, model)
    used = [network.uri, shards.uri, control.uri]
    settings = {"test": identity_of(corpus), "view": identity_of(view), "label": identity_of(label)}
    row = {"seed": 0, "dataset": ", ".join(corpus.uri), "split": "test", "n": 500}
    run = {
        "run": HOSTILE,
        "classes": list(names),
        "settings": settings | {"teacher": {"view": None, "checkpoint": f"{HOSTILE}.pt"}},
        "metrics": [
            {"model": name, "metric": "top1", "value": value, "low": value - 0.05, "high": value + 0.05, **row}
            for name, value in (("teacher", 0.5), ("control", 0.4))
        ],
        "test_per_class": [500],
        "counts": {},
        "rejects": [],
        "warnings": [HOSTILE],
        "artifacts": {uri.rpartition("/")[2]: uri.rpartition("/")[2] for uri in used},
    }
    found = {"root": root, "network": network, "view": view, "label": label, "classes": names, "run": run}
    return Shipped(**found | more)


def _control(root: Root, model: Model) -> Artifact:
    train = {"schedule": {"lr": 0.1}, "images": 10, "batch": 2}
    identity = {"model": identity_of(model), "train": train, "view": {"size": 8}, "init": None, "seed": 0}

    def build(draft: Draft) -> Built:
        return Built([write_bytes(draft.uri, "none", b"")], {})

    return root.make("control", identity, build)


def blocks(folder: Path) -> list[str]:
    """The Python code of the model card."""
    return re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)


# -I: neither the current folder nor PYTHONPATH is searched. -B: nothing is written beside model.py. The finder refuses
# raylabel, however it is installed.
_WITHOUT = """
import json, os, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "raylabel":
            raise ImportError("raylabel is not installed here")
sys.meta_path.insert(0, Refuse())
import numpy as np
import torch
for task in json.load(sys.stdin):
    os.chdir(task["folder"])
    sys.modules.pop("model", None)
    sys.path.insert(0, task["folder"])
    batch, found = np.load(task["inputs"]), []
    for block in task["blocks"]:
        names = {}
        exec(block, names)
        if "session" in names:
            (given,) = names["session"].get_inputs()
            found.append(names["session"].run(None, {given.name: batch})[0])
        else:
            with torch.inference_mode():
                found.append(names["network"](torch.from_numpy(batch)).numpy())
    np.save(task["outputs"], np.stack(found))
    sys.path.pop(0)
assert "raylabel" not in sys.modules
"""


def run_without_raylabel(
    tasks: Mapping[Path, tuple[list[str], torch.Tensor]], tmp_path: Path
) -> dict[Path, np.ndarray]:
    """Folder → logits [blocks, B, C] by each block of code, run in that folder in a process that cannot import
    raylabel. `tasks`: folder → (blocks of code, its inputs)."""
    given = []
    for number, (folder, (code, inputs)) in enumerate(tasks.items()):
        np.save(tmp_path / f"in-{number}.npy", inputs.numpy())
        given.append(
            {
                "folder": str(folder.resolve()),
                "blocks": code,
                "inputs": str(tmp_path / f"in-{number}.npy"),
                "outputs": str(tmp_path / f"out-{number}.npy"),
            }
        )
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", _WITHOUT],
        input=json.dumps(given),
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return {folder: np.load(tmp_path / f"out-{number}.npy") for number, folder in enumerate(tasks)}


def check_formats(exported: Mapping[Path, Shipped], tmp_path: Path) -> dict[Path, int]:
    """Runs all code of the model cards without raylabel, and compares the logits with those of the network in the root
    on samples of the test set: equal bits, within 1e-4 for ONNX. Returns folder → number of blocks of code."""
    tasks = {folder: (blocks(folder), real_samples(one, 16)) for folder, one in exported.items()}
    found = run_without_raylabel(tasks, tmp_path)
    for folder, one in exported.items():
        code, inputs = tasks[folder]
        with torch.inference_mode():
            expected = load_model(one.network).eval()(inputs).numpy()
        assert np.ptp(expected, axis=0).max() > 1e-3, "the logits do not depend on the sample"
        for logits, text in zip(found[folder], code, strict=True):
            if "onnxruntime" in text:
                np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
            else:
                np.testing.assert_array_equal(logits, expected)
    return {folder: len(code) for folder, (code, _) in tasks.items()}


def as_input(pixels: np.ndarray, view: View) -> torch.Tensor:
    """Float32 [B, 3, S, S] of uint8 [B, S, S, 3]."""
    return normalise(torch.from_numpy(pixels), view).contiguous()
