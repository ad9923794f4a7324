"""Small networks of open_clip with random weights, and their files in the layout of the hub."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.factory import _MODEL_CONFIGS  # pyright: ignore[reportPrivateUsage]

SMALLEST = "ViT-S-32-alt"
"""Of open_clip's own networks: processes of Ray know only these."""

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TINY: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-quickgelu": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
    "tiny-sigmoid": {
        **{"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True},
        **{"init_logit_bias": -10.0},
    },
    "tiny-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-timm": {
        "embed_dim": 16,
        "vision_cfg": {
            **{"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": True},
            **{"timm_pool": "", "timm_proj": "linear"},
        },
        "text_cfg": TEXT,
        "quick_gelu": True,
    },
    "tiny-coca": {
        "embed_dim": 16,
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    },
}


@contextmanager
def without_warnings() -> Iterator[None]:
    """open_clip warns of random weights through the root logger."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    yield
    logging.getLogger().setLevel(level)


def add_tiny() -> None:
    """Lets open_clip know them in this process."""
    _MODEL_CONFIGS.update(TINY)


def network(name: str, seed: int = 0, quick_gelu: bool = False) -> Any:
    """A network of open_clip with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return open_clip.create_model(name, force_quick_gelu=quick_gelu, pretrained_text=False).eval()


def save(module: torch.nn.Module, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: x.contiguous() for name, x in module.state_dict().items()}, path)
    return str(path)


def save_folder(folder: Path, name: str, module: torch.nn.Module, **preprocess: Any) -> str:
    """In the layout of the hub, as open_clip writes it."""
    save(module, folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return str(folder)
