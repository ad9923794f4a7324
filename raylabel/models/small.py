"""The small residual networks of He et al. 2016 (arXiv 1512.03385) §4.2, for images of about 32 pixels.

Letters: B batch, C classes, H W pixels.
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3


class SmallResNet(nn.Module):
    """6n+2 layers: a 3x3 convolution, three stages of n basic blocks at 16w, 32w and 64w channels, a linear layer.

    The second and third stage halve the resolution. Where a stage begins, the shortcut is a 1x1 convolution with batch
    norm (He's option B) instead of the paper's padding with zeros (option A): 2,752 parameters more at w = 1, and no
    slicing of tensors. Convolutions start with He's normal initialisation (fan out), as torchvision's ResNet does.
    """

    def __init__(self, depth: int, width: int, classes: int):
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth is {depth}, expected 6n+2")
        self.conv1 = conv3x3(3, 16 * width)
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
    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))
