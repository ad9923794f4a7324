"""The small residual networks of He et al. 2016 (arXiv 1512.03385) §4.2, for images of about 32 pixels.

Letters: B batch, C classes, H W pixels.
"""

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them, with the same names of weights as torchvision's class.

    That class is not used because importing torchvision takes as long as importing PyTorch, in each actor.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        shortcut = None
        if stride != 1:  # created before the convolutions, which fixes the order of random numbers
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """[B, `outputs`, H / stride, W / stride], rounded up, from [B, `inputs`, H, W]."""
        shortcut = images if self.downsample is None else self.downsample(images)
        x = self.relu(self.bn1(self.conv1(images)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class SmallResNet(nn.Module):
    """6n+2 layers: a 3x3 convolution, three stages of n basic blocks with 16w, 32w and 64w channels, a linear layer.

    The second and third stages halve the resolution. In their first block the shortcut is a 1x1 convolution with batch
    norm (He's option B) instead of the paper's padding with zeros (option A): this adds 2,752 parameters at w = 1, and
    needs no slicing of tensors. Convolutions start with He's normal initialisation (fan out), as in torchvision's
    ResNet.
    """

    def __init__(self, depth: int, width: int, classes: int):
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth is {depth}, expected 6n+2")
        self.conv1 = _conv3x3(3, 16 * width)
        self.bn1 = nn.BatchNorm2d(16 * width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16 * width, 16 * width, 1, blocks)
        self.layer2 = _stage(16 * width, 32 * width, 2, blocks)
        self.layer3 = _stage(32 * width, 64 * width, 2, blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of float images [B, 3, H, W]; any H and W."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
