"""AlexNet with BatchNorm, as DeepCluster trains it (Caron et al. 2018, arXiv 1807.05520, §4, and its official code);
and a narrow one for small pictures.

Letters: B batch, C classes, H W pixels.
"""

import torch
from torch import Tensor, nn

CHANNELS = (96, 256, 384, 384, 256)
HIDDEN = 4_096


class _AlexNet(nn.Module):
    """Five convolutions, each with BatchNorm in place of local response normalisation, and three linear layers. The
    convolutions are not in two groups, as they are in Krizhevsky et al. 2012.

    `conv1` ... `conv5` are convolution, BatchNorm and ReLU; `pool1`, `pool2` and `pool5` are max-pools.
    """

    def __init__(self, classes: int, eighths: int, first: tuple[int, int], last: nn.Module, positions: int):
        """`eighths` of the channels; `first`: side and stride of the first convolution; `last`: the last pool, which
        leaves so many `positions`."""
        super().__init__()
        one, two, three, four, five = (channels * eighths // 8 for channels in CHANNELS)
        hidden = HIDDEN * eighths // 8
        self.conv1 = _convolution(3, one, first[0], stride=first[1])
        self.pool1 = nn.MaxPool2d(3, 2)
        self.conv2 = _convolution(one, two, 5)
        self.pool2 = nn.MaxPool2d(3, 2)
        self.conv3 = _convolution(two, three, 3)
        self.conv4 = _convolution(three, four, 3)
        self.conv5 = _convolution(four, five, 3)
        self.pool5 = last
        self.dropout, self.relu = nn.Dropout(0.5), nn.ReLU()
        self.fc6 = nn.Linear(five * positions, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of float images [B, 3, H, W]."""
        x = self.pool2(self.conv2(self.pool1(self.conv1(images))))
        x = self.pool5(self.conv5(self.conv4(self.conv3(x))))
        x = self.relu(self.fc6(self.dropout(torch.flatten(x, 1))))
        return self.fc8(self.relu(self.fc7(self.dropout(x))))


class AlexNetBN(_AlexNet):
    """For pictures of 224 pixels, of which the last pool leaves 6 x 6 positions."""

    def __init__(self, classes: int):
        super().__init__(classes, 8, (11, 4), nn.MaxPool2d(3, 2), 6 * 6)


class SmallAlexNet(_AlexNet):
    """With `eighths` of the channels, and a first convolution of 5 x 5 with stride 1, for pictures of about 32 pixels,
    of which the last pool leaves 3 x 3 positions."""

    def __init__(self, eighths: int, classes: int):
        # Of 32 pixels 7 x 7 positions reach it, for which it is a max-pool of 3 x 3 with stride 2, as in the large one.
        super().__init__(classes, eighths, (5, 1), nn.AdaptiveMaxPool2d(3), 3 * 3)


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    padding = 1 if side == 3 else 2
    convolution = nn.Conv2d(inputs, outputs, side, stride=stride, padding=padding)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
