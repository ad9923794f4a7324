"""The networks of the post "Why pseudo-label when you can arbitrarily-label?": two convolutions and two linear layers.

Letters: B batch, C classes, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 200


class TwoConvolutions(nn.Module):
    """BatchNorm of the pixels, 3x3 convolutions with 32 and 64 channels without padding, linear layers with 200 and C
    outputs; ReLU between them. Weights begin as Keras's do: Glorot uniform, biases at 0.

    This is the network as it is posted, for pictures of up to about 32 pixels: what is posted has no pooling, so that
    224 pixels would need 620 million weights. `pool` puts a 3x3 max-pool behind each convolution, and `norm` a
    BatchNorm behind each layer but the last, as the course has them that the post follows; that is our reading of it.
    """

    def __init__(self, size: int, classes: int, pool: bool = False, norm: bool = False):
        """`size`: pixels of a side, at least 5, or 20 with pools."""
        super().__init__()
        side = size
        for _ in range(2):
            side = (side - 2) // (3 if pool else 1)
        self.bn0 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.bn1 = nn.BatchNorm2d(32) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.bn2 = nn.BatchNorm2d(64) if norm else nn.Identity()
        self.pool = nn.MaxPool2d(3) if pool else nn.Identity()
        self.fc1 = nn.Linear(64 * side * side, HIDDEN)
        self.bn3 = nn.BatchNorm1d(HIDDEN) if norm else nn.Identity()
        self.fc2 = nn.Linear(HIDDEN, classes)
        _begin_as_keras(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of float images [B, 3, size, size]."""
        x = self.pool(self.bn1(F.relu(self.conv1(self.bn0(images)))))
        x = self.pool(self.bn2(F.relu(self.conv2(x))))
        return self.fc2(self.bn3(F.relu(self.fc1(torch.flatten(x, 1)))))


class TwoLinear(nn.Module):
    """The linear layers of `TwoConvolutions` on the pixels themselves: a control of what convolutions give."""

    def __init__(self, size: int, classes: int):
        super().__init__()
        self.bn0 = nn.BatchNorm2d(3)
        self.fc1 = nn.Linear(3 * size * size, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, classes)
        _begin_as_keras(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of float images [B, 3, size, size]."""
        return self.fc2(F.relu(self.fc1(torch.flatten(self.bn0(images), 1))))


def _begin_as_keras(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
