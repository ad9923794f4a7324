"""The networks that `bench_label.py` scores with: ResNet-18, and a null teacher that takes almost no time.

Both have random weights (seed 0) except for a linear readout that distinguishes the photographs of the corpus. With a
random readout, the best two of 1,000 classes would be so close for many images that bf16 or another resizing would swap
them, and the arms could not be compared; the cost of the layer is the same.
"""

import os

import safetensors.torch
import torch
from photographs import PHOTOGRAPHS, Photographs
from torch import nn
from torchvision.models import resnet18

CLASSES = 1000
FIT = 60 * len(PHOTOGRAPHS)  # images that the readout is fitted to


class Null(nn.Module):
    """Logits [B, C] of the 4 x 4 averages of the image: represents a device that is never the bottleneck."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.fc = nn.Linear(3 * 4 * 4, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(images).flatten(1))


def make(kind: str, path: str, photographs: Photographs) -> None:
    """Writes the weights of a 'resnet18' or 'null' network, unless the file exists."""
    # Imported only here, because the environment of the peers lacks what raylabel needs.
    from raylabel.media.image_views import eval_pixels, normalise
    from raylabel.media.view import View

    if os.path.exists(path):
        return
    torch.manual_seed(0)
    module = _module(kind).eval()
    readout, module.fc = module.fc, nn.Identity()
    assert isinstance(readout, nn.Linear)
    view = View()
    media = photographs.read(FIT)
    with torch.inference_mode():
        batches = [media[i : i + 60] for i in range(0, FIT, 60)]
        pixels = [torch.stack([torch.tensor(eval_pixels(m, view)) for m in batch]) for batch in batches]
        features = torch.cat([module(normalise(batch, view)) for batch in pixels])
    _fit(readout, features, torch.arange(FIT) % len(PHOTOGRAPHS))
    module.fc = readout
    with open(path, "wb") as file:
        file.write(safetensors.torch.save(module.state_dict()))


def load(path: str) -> nn.Module:
    """The network whose weights `make` wrote, for inference. The file's name is its kind."""
    module = _module(os.path.basename(path).partition(".")[0])
    module.load_state_dict(safetensors.torch.load_file(path))
    return module.eval()


def _module(kind: str) -> nn.Module:
    return resnet18(num_classes=CLASSES) if kind == "resnet18" else Null()


def _fit(readout: nn.Linear, features: torch.Tensor, photograph: torch.Tensor) -> None:
    """Ridge regression of the one-hot photograph on the standardised features [N, D]; other classes are lower."""
    x = features.double()
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    x = (x - mean) / std
    y = nn.functional.one_hot(photograph, len(PHOTOGRAPHS)).double() * 20 - 10
    weight = torch.linalg.solve(x.T @ x + 0.1 * len(x) * torch.eye(x.shape[1]), x.T @ (y - y.mean(0))).T / std
    with torch.no_grad():
        readout.weight.mul_(0.01)
        readout.weight[: len(PHOTOGRAPHS)] = weight.float()
        readout.bias.fill_(-20.0)
        readout.bias[: len(PHOTOGRAPHS)] = (y.mean(0) - weight @ mean).float()
