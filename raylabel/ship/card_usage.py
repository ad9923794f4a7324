"""Sections of the model card: how the network's input is made, how it is loaded, and the files."""

from collections.abc import Mapping
from dataclasses import dataclass

from raylabel.models import Model
from raylabel.ship.markdown import code, table
from raylabel.ship.other_programs import SOURCES, timm_network, torch_code
from raylabel.ship.shipped import Shipped
from raylabel.text import size

ONNX, PROGRAM, PREPROCESS = "model.onnx", "model.pt2", "preprocess.json"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file of the folder."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How an exported network differs from the network in the root, on real samples of the test set."""

    samples: int
    largest: float
    """The largest logit of the network in the root, by magnitude."""
    differences: Mapping[str, float]
    """Format → the largest difference of a logit, by magnitude."""


def input_section(shipped: Shipped) -> str:
    view = shipped.view
    side = view.tested_size
    filtered = "bilinear, FFmpeg's swscale" if view.clip else f"{view.interpolation}, with antialiasing"
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (view.mean, view.std))
    frame = "Each frame" if view.clip else "The picture, turned upright and in RGB,"
    to = f"so that its short side is {view.resize} pixels"
    if view.squash:
        to = f"to {view.resize} x {view.resize} pixels, whatever its shape"
    lines = [
        f"1. {frame} is resized {to} ({filtered}).",
        f"2. The square of {side} x {side} pixels in its centre is cut out.",
        f"3. Values from 0 to 255 are divided by 255; the mean ({mean}) of red, green and blue is subtracted, and the "
        f"result is divided by the standard deviation ({std}).",
    ]
    if clip := view.clip:
        lines.append(
            f"4. A clip is {clip.frames} frames, each {clip.stride} after the one before. A video is evaluated by "
            f"{clip.count} clips, evenly spaced from its first frame to its last: the mean of their softmax. A clip "
            "that is longer than the video continues at its beginning."
        )
    shape = f"[B, 3, {clip.frames}, {side}, {side}]" if clip else f"[B, 3, {side}, {side}]"
    extra = " In the evaluation large JPEG files were decoded at a smaller scale (dct_scale)." if view.dct_scale else ""
    return (
        f"float32 {shape}, any batch B. The output is logits [B, {len(shipped.classes)}], in the order of the classes; "
        "their softmax gives probabilities.\n\n" + "\n".join(lines) + f"\n\n{code(PREPROCESS)} has these numbers and "
        f"the names of all classes.{extra} Another implementation of resizing gives slightly other pixels."
    )


def loading_section(model: Model, shipped: Shipped) -> str:
    name, classes = ("clips" if shipped.view.clip else "images"), len(shipped.classes)
    parts = ["The code runs in this folder, without raylabel.", "PyTorch, from `model.safetensors`:"]
    parts.append(_python(torch_code(model, classes)))
    if timm_network(model):
        lines = ["import timm", "", 'network = timm.create_model("local-dir:.", pretrained=True).eval()']
        parts += ["timm, from the same file (its own transform gives the input above):", _python("\n".join(lines))]
    else:
        parts.append("timm has no such network." if model.features == "raw" else "timm has no such last layer.")
    lines = ["import torch", "", f'network = torch.export.load("{PROGRAM}").module()']
    parts += ["The program of `torch.export`, for a PyTorch of the same version or newer:", _python("\n".join(lines))]
    lines = ["import onnxruntime", "", f'session = onnxruntime.InferenceSession("{ONNX}")']
    lines += [f'# logits = session.run(None, {{"{name}": batch}})[0]']
    parts += ["ONNX Runtime, with a float32 array of NumPy:", _python("\n".join(lines))]
    parts.append("`torch.export.load` can run code that is in a file: use it only for a file whose sha256 you know.")
    return "\n\n".join(parts)


def _python(text: str) -> str:
    return f"```python\n{text}\n```"


def files_section(files: list[Written], parity: Parity) -> str:
    rows = [[code(file.name), size(file.bytes), code(file.sha256)] for file in files]
    same = [[name, f"{value:.2g}"] for name, value in parity.differences.items()]
    copied = [file.name for file in files if file.name in SOURCES]
    own = f"\n\n{' and '.join(map(code, copied))}: parts of raylabel, under its licence (Apache-2.0)."
    return (
        table(["file", "size", "sha256"], rows)
        + (own if copied else "")
        + f"\n\nThe largest difference of a logit from the network in the root, in float32 on {parity.samples} real "
        f"samples of the test set (the largest logit is {parity.largest:.3g}):\n\n"
        + table(["format", "largest difference"], same)
    )
