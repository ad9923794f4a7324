"""Small corpora and models for several tests."""

import hashlib
import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import WEIGHTS, describe
from raylabel.models.weights import save_weights
from raylabel.schema import SAMPLES
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.training.examples import media_of

DIGITS_VIEW = View(size=8, resize=8, crop="padded", padding=1, flip=False, mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37))


def digit_images() -> tuple[list[bytes], np.ndarray]:
    """scikit-learn's 1,797 digits as PNGs, and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    return [png(np.round(p.reshape(8, 8) * 15.9375).astype(np.uint8)) for p in np.asarray(pixels)], np.asarray(labels)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_parquet(path: Path, media: Sequence[bytes | None], labels=None, row_group_size: int = 500) -> Path:
    columns: dict = {"image": pa.array(media, pa.binary())}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int32())
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def random_model(root: Root, arch: str = "resnet8x1", classes: int = 10, seed: int = 0) -> Artifact:
    """An untrained network: a teacher for tests that do not depend on its accuracy."""
    torch.manual_seed(seed)
    return as_artifact(root, Model(arch=arch), classes, build(Model(arch=arch), classes))


def broken_model(root: Root) -> Artifact:
    """A network whose logits are all NaN."""
    module = build(Model(arch="resnet8x1"), 10)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float("nan"))
    return as_artifact(root, Model(arch="resnet8x1"), 10, module)


def as_artifact(root: Root, model: Model, classes: int, module: torch.nn.Module) -> Artifact:
    weights = save_weights(module)

    def write(draft: Draft) -> Built:
        return Built([write_bytes(draft.uri, WEIGHTS, weights)], describe(model, classes))

    return root.make("teacher", {"weights": hashlib.sha256(weights).hexdigest()}, write)


def example_rows(examples: Artifact) -> list[dict[str, Any]]:
    """Key, media and labels of all EXAMPLES, in the order of the media."""
    media = media_of(examples)
    found = []
    for file in media.files("media-"):
        found += pa.ipc.open_stream(media.read(file.name)).read_all().to_pylist()
    labels = examples.table("examples-", SAMPLES).to_pylist()
    return [row | of for row, of in zip(found, labels, strict=True)]


def contents(artifact: Artifact) -> dict[str, str]:
    """File name → sha256 of the current content, for each listed file."""
    return {f.name: hashlib.sha256(artifact.read(f.name)).hexdigest() for f in artifact.files()}


def open_in_chromium(page: Path, folder: Path, height: int = 4000, dark: bool = False) -> tuple[list[str], np.ndarray]:
    """Opens a page in the browser; returns the console messages and a screenshot, int [H, W, 3]."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine, which this test needs to open the page")
    shot = folder / "page.png"
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
    flags += " --disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --v=0"
    flags += f" --blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [chromium, *flags.split(), f"--user-data-dir={folder / 'profile'}", f"--window-size=1280,{height}"]
    done = subprocess.run(
        [*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, text=True, timeout=90, check=True
    )
    # Each violation of the page's content security policy, and each script error, is a line with CONSOLE in it.
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return console, np.asarray(Image.open(shot).convert("RGB")).astype(int)
