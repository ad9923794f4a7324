"""The image tower of a network of open_clip with a last layer. Programs without raylabel use a copy of this file.

Letters: B batch, C classes, D numbers of an embedding, H W pixels.
"""

from typing import Any

from torch import Tensor, nn

_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}
"""The smallest text tower that open_clip builds. It is not kept."""


class ClipNetwork(nn.Module):
    """Logits [B, C] of images [B, 3, H, W]. The features are the embeddings of the images, [B, D]."""

    def __init__(self, visual: nn.Module, width: int, classes: int):
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Any = self.visual(x)
        return self.head(found[0] if isinstance(found, tuple) else found)  # CoCa's tower gives tokens too


def clip_network(name: str, quick_gelu: bool, classes: int) -> ClipNetwork:
    """The network with random weights, as open_clip initialises them. Nothing is downloaded.

    `quick_gelu`: whether the activation is the approximation of GELU by OpenAI; networks of timm always have GELU.
    """
    from open_clip import CLIP, get_model_config

    config: Any = get_model_config(name)
    vision = config["vision_cfg"] | {"timm_model_pretrained": False}
    visual = CLIP(config["embed_dim"], vision, _NO_TEXT, quick_gelu).visual  # pyright: ignore[reportArgumentType]
    return ClipNetwork(visual, config["embed_dim"], classes)
