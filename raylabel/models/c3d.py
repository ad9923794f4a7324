"""C3D (Tran et al. 2015, arXiv 1412.0767, §3), as used by Pondenkandath et al. 2018 (arXiv 1811.01640).

Letters: B batch, C classes, T frames, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class C3D(nn.Module):
    """Eight 3x3x3 convolutions, five max-pools, three linear layers with dropout 0.5, and no batch norm. The names of
    its weights are those of DavideA/c3d-pytorch, so that checkpoints of that repository load.

    That code returns the softmax, which cross-entropy would apply again; this class returns logits. Weights are
    initialised as in torchvision's VGG, the same kind of network for images: convolutions with He's normal
    initialisation (fan out), linear layers with a standard deviation of 0.01, biases at 0.
    """

    def __init__(self, classes: int, width: int = 8, small: bool = False):
        """`width`: channels, in eighths of those of the paper. `small`: as in `SmallC3D`."""
        super().__init__()
        w = width
        self.conv1 = nn.Conv3d(3, 8 * w, 3, padding=1)
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.conv2 = nn.Conv3d(8 * w, 16 * w, 3, padding=1)
        self.pool2 = nn.MaxPool3d(2)
        self.conv3a = nn.Conv3d(16 * w, 32 * w, 3, padding=1)
        self.conv3b = nn.Conv3d(32 * w, 32 * w, 3, padding=1)
        self.pool3 = nn.MaxPool3d(2)
        self.conv4a = nn.Conv3d(32 * w, 64 * w, 3, padding=1)
        self.conv4b = nn.Conv3d(64 * w, 64 * w, 3, padding=1)
        self.pool4 = nn.MaxPool3d((2, 1, 1) if small else 2)
        self.conv5a = nn.Conv3d(64 * w, 64 * w, 3, padding=1)
        self.conv5b = nn.Conv3d(64 * w, 64 * w, 3, padding=1)
        self.pool5 = nn.AdaptiveMaxPool3d((1, 2, 2)) if small else nn.MaxPool3d(2, padding=(0, 1, 1))
        self.fc6 = nn.Linear(64 * w * (4 if small else 16), 512 * w)
        self.fc7 = nn.Linear(512 * w, 512 * w)
        self.fc8 = nn.Linear(512 * w, classes)
        self.dropout = nn.Dropout(0.5)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                mode = "fan_in" if small else "fan_out"
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, (2 / module.in_features) ** 0.5 if small else 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [B, C] of float clips [B, 3, 16, 112, 112]; of `SmallC3D` [B, 3, T, H, W]."""
        x = self.pool1(F.relu(self.conv1(clips)))
        x = self.pool2(F.relu(self.conv2(x)))
        x = self.pool3(F.relu(self.conv3b(F.relu(self.conv3a(x)))))
        x = self.pool4(F.relu(self.conv4b(F.relu(self.conv4a(x)))))
        x = self.pool5(F.relu(self.conv5b(F.relu(self.conv5a(x)))))
        x = self.dropout(F.relu(self.fc6(torch.flatten(x, 1))))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)


class SmallC3D(C3D):
    """C3D for clips of 16 to 32 pixels, with `width` eighths of its channels: small enough for a CPU.

    The fourth pool halves time alone, and the last one gives 1 x 2 x 2 places whatever the size of the clip: five
    halvings would leave one place of 32 pixels. All layers begin with He's normal initialisation by their inputs (fan
    in), which keeps the scale of what passes them. There is no normalisation: where the channels double, or a linear
    layer has few inputs, the initialisation of C3D lets so little through that nothing is learned for many epochs.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(classes, width, small=True)
