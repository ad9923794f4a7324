"""A trained network of a root → a folder that programs without raylabel load, and how its formats differ.

The folder is written under another name and renamed at the end, so a folder with the wanted name is complete.

Letters: B batch, C classes, n samples.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import WEIGHTS, load_model
from raylabel.models.weights import load_weights
from raylabel.ship.card import CARD, write_card
from raylabel.ship.card_usage import ONNX, PREPROCESS, PROGRAM, Parity, Written
from raylabel.ship.lineage import lineage
from raylabel.ship.other_programs import TIMM_CONFIG, source_texts, timm_config
from raylabel.ship.samples import real_samples
from raylabel.ship.shipped import Shipped
from raylabel.store.artifact import identity_of
from raylabel.store.files import is_local, writing

TOLERANCE = 1e-4  # of a logit, relative to the largest one if that is above 1
BATCH = 8  # samples of a forward pass in the comparison
IN_ONE_FILE = 1_900_000_000  # bytes of weights up to which they are in the ONNX file itself: protobuf's limit is 2 GiB
_NEEDED = ("onnx", "onnxscript", "onnxruntime", "timm")

Logits = Callable[[Tensor], Tensor]
"""float32 [B, 3, ...] → logits float32 [B, C]."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export."""

    folder: str
    files: list[Written]
    parity: Parity


def export_model(shipped: Shipped, to: str) -> Exported:
    """Writes the folder `to`. InputError if it exists, if the packages of the extra are missing, or if a format gives
    other logits than the network."""
    _check(to)
    if layer := shipped.network.info["model"].get("layer"):
        raise InputError(f"the network ends at its layer '{layer}', which cannot be exported: give a whole network")
    inputs, module = real_samples(shipped), load_model(shipped.network).eval()
    with _new_folder(to) as folder:
        parity = _write_formats(folder, shipped, module, inputs)
        files = [_written(path) for path in sorted(folder.iterdir())]
        card = write_card(shipped, files, parity, lineage(shipped))
        (folder / CARD).write_text(card, "utf-8")
        files.append(_written(folder / CARD))
    return Exported(folder=to, files=files, parity=parity)


def preprocessing(shipped: Shipped) -> dict[str, Any]:
    """The content of preprocess.json."""
    view = shipped.view
    found: dict[str, Any] = {"input": _input_name(shipped), "resize": view.resize, "crop": view.tested_size}
    found |= {"interpolation": view.interpolation, "squash": view.squash, "dct_scale": view.dct_scale}
    found |= {"mean": list(view.mean), "std": list(view.std)}
    if view.clip:
        found["clip"] = {name: identity_of(view.clip)[name] for name in ("frames", "stride", "count")}
    return found | {"classes": list(shipped.classes)}


def _check(to: str) -> None:
    if not is_local(to):
        raise InputError(f"to is '{to}': give a local folder, and copy it")
    if os.path.lexists(to):
        raise InputError(f"'{to}' exists: give another folder as --to, or move that one away")
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(f"to export a network, {', '.join(missing)} must be installed: pip install 'raylabel[export]'")


@contextmanager
def _new_folder(to: str) -> Iterator[Path]:
    """A new folder that is renamed to `to` at the end of the block, and deleted if that fails."""
    folder = Path(f"{to.rstrip('/')}.{uuid.uuid4().hex}.tmp")
    with writing(to):
        folder.mkdir(parents=True)
    try:
        yield folder
        with writing(to):
            for path in folder.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            os.rename(folder, to)  # fails if a folder with files was made there since
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _written(path: Path) -> Written:
    with path.open("rb") as file:
        return Written(
            name=path.name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


def _write_formats(folder: Path, shipped: Shipped, module: nn.Module, inputs: Tensor) -> Parity:
    """Writes all files but the card, and compares each format, loaded from its file, with the module."""
    config = json.dumps(preprocessing(shipped), indent=2, ensure_ascii=False)
    (folder / PREPROCESS).write_text(config, "utf-8")
    expected = _logits(module, inputs)
    largest, differences = expected.abs().max().item(), dict[str, float]()
    program = _program(module, inputs[:1])
    written: Mapping[str, Callable[[], Logits | None]] = {
        WEIGHTS: lambda: _write_weights(folder, shipped),
        "timm": lambda: _write_timm(folder, shipped),
        PROGRAM: lambda: _write_program(folder, program),
        ONNX: lambda: _write_onnx(folder, program, _input_name(shipped)),
    }
    for name, write in written.items():
        if run := write():
            differences[name] = (_logits(run, inputs) - expected).abs().max().item()
            if not differences[name] <= TOLERANCE * max(1, largest):  # true for NaN
                raise InputError(
                    f"{name} gives other logits than {shipped.network.uri}: by up to {differences[name]:.2g} on "
                    f"{len(inputs)} samples of the test set (largest logit {largest:.3g}): nothing is exported; try "
                    "other versions of torch, onnxscript, onnxruntime and timm"
                )
    return Parity(samples=len(inputs), largest=largest, differences=differences)


def _logits(run: Logits, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([run(some) for some in inputs.split(BATCH)])


def _input_name(shipped: Shipped) -> str:
    return "clips" if shipped.view.clip else "images"


def _write_weights(folder: Path, shipped: Shipped) -> Logits:
    """The file of the root, byte for byte; and the Python files that programs need."""
    network = shipped.network
    model = Model(**network.info["model"])
    (folder / WEIGHTS).write_bytes(network.read(WEIGHTS))
    for name, text in source_texts(model).items():
        (folder / name).write_text(text, "utf-8")
    module = build(model, network.info["classes"])
    load_weights(module, (folder / WEIGHTS).read_bytes(), str(folder / WEIGHTS))
    return module.eval()


def _write_timm(folder: Path, shipped: Shipped) -> Logits | None:
    """config.json, from which timm loads the weights; None if it has no such network."""
    import timm

    config = timm_config(Model(**shipped.network.info["model"]), shipped.view, shipped.classes)
    if config is None:
        return None
    (folder / TIMM_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _program(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The network as a graph for any batch. It contains neither a sample nor a path of this machine."""
    shape = torch.zeros(2, *example.shape[1:])  # a batch of one would be taken for a constant
    program = torch.export.export(module, (shape,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return program


def _write_program(folder: Path, program: torch.export.ExportedProgram) -> Logits:
    torch.export.save(program, folder / PROGRAM)
    return torch.export.load(folder / PROGRAM).module()  # may unpickle, but only what this process has just written


def _write_onnx(folder: Path, program: torch.export.ExportedProgram, name: str) -> Logits:
    import onnx
    import onnxruntime

    found = torch.onnx.export(
        program,
        (),
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        input_names=[name],
        output_names=["logits"],
        verbose=False,
    )
    assert found is not None
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    path = str(folder / ONNX)
    found.save(path, external_data=size > IN_ONE_FILE)
    onnx.checker.check_model(path, full_check=size <= IN_ONE_FILE)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])
