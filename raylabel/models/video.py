"""Networks for clips that torchvision lacks: R(2+1)D-34 and a family of small R(2+1)D.

Letters: B batch, C classes, T frames, H W pixels.
"""

import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, R2Plus1dStem, VideoResNet


class Conv2Plus1D(nn.Sequential):
    """A 3x3x3 convolution as two: 1x3x3 in space, batch norm, ReLU, 3x1x1 in time (Tran et al. 2018, arXiv 1711.11248,
    §3.5).

    The number of channels between the two, rounded down, gives them as many weights as the 3x3x3 convolution has. It is
    computed for each convolution; torchvision's class of the same name uses one number for both convolutions of a
    block. The names of the weights are torchvision's.
    """

    def __init__(self, inputs: int, outputs: int, _: int = 0, stride: int = 1):
        # VideoResNet passes torchvision's number of channels between the two as the third argument.
        between = 27 * inputs * outputs // (9 * inputs + 3 * outputs)
        super().__init__(
            nn.Conv3d(inputs, between, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(between),
            nn.ReLU(inplace=True),
            nn.Conv3d(between, outputs, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False),
        )

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        return stride, stride, stride


def r2plus1d_34(classes: int) -> nn.Module:
    """R(2+1)D-34 of facebookresearch/VMZ: 3, 4, 6 and 3 blocks, batch norm with eps 1e-3.

    The names of its weights are torchvision's, so that checkpoints of VMZ and of ig65m-pytorch load. Batch norm's
    momentum is 0.9 in Caffe2, which is 0.1 in PyTorch's definition. VMZ's port to PyTorch sets it to 0.9, which would
    keep only a tenth of the running statistics at each step.
    """
    # torchvision's type annotations allow only its own classes.
    network = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem, classes)  # type: ignore[list-item]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return network


class SmallR2Plus1D(nn.Module):
    """`SmallResNet` for clips of about 32 pixels: each of its 3x3 convolutions is replaced by a (2+1)D one.

    6n+2 layers; a (2+1)D convolution counts as one. The second and third stages halve the resolution in space and time,
    rounded up, so 8 frames become 2, and one frame stays one.
    """

    def __init__(self, depth: int, width: int, classes: int):
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth is {depth}, expected 6n+2")
        self.stem = nn.Sequential(Conv2Plus1D(3, 16 * width), nn.BatchNorm3d(16 * width), nn.ReLU(inplace=True))
        self.layer1 = _stage(16 * width, 16 * width, 1, blocks)
        self.layer2 = _stage(16 * width, 32 * width, 2, blocks)
        self.layer3 = _stage(32 * width, 64 * width, 2, blocks)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [B, C] of float clips [B, 3, T, H, W]; any T, H and W."""
        x = self.layer3(self.layer2(self.layer1(self.stem(clips))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm3d(outputs))
    first = BasicBlock(inputs, outputs, Conv2Plus1D, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, Conv2Plus1D) for _ in range(blocks - 1)))
