"""Networks in a root of which a finished run says the view and the classes, without the time of a run."""

import json
from collections.abc import Sequence

import numpy as np
import torch
from helpers import DIGITS_VIEW, as_artifact, digit_images

from raylabel.labels.teacher import Label
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.store.artifact import Artifact, Built, Root, identity_of, write_bytes
from raylabel.store.names import SUMMARY


def finished_run(root: Root, network: Artifact, view: View, label: Label, classes: Sequence[str]) -> Artifact:
    """The artifact of a run that uses the network as its teacher."""
    folder = network.uri.rpartition("/")[2]
    settings = {"view": identity_of(view), "teacher": {"view": None}, "label": identity_of(label)}
    summary = {"run": "made-up", "classes": list(classes), "settings": settings, "artifacts": {folder: folder}}
    text = json.dumps(summary).encode()
    return root.make("run-made-up", summary, lambda draft: Built([write_bytes(draft.uri, SUMMARY, text)], {}))


def digits_network(root: Root, label: Label, classes: Sequence[str]) -> Artifact:
    """An untrained network for digits, of which a run is finished."""
    media, _ = digit_images()
    pixels = torch.from_numpy(np.stack([eval_pixels(one, DIGITS_VIEW) for one in media[::4]]))
    network = various_network(root, DIGITS_VIEW, pixels)
    finished_run(root, network, DIGITS_VIEW, label, classes)
    return network


def various_network(
    root: Root, view: View, pixels: torch.Tensor, arch: str = "resnet8x1", classes: int = 10
) -> Artifact:
    """An untrained network that does not predict the same class for all samples: the statistics of its BatchNorm are
    those of `pixels`, uint8 [N, H, W, 3] or [N, T, H, W, 3], and each class is as frequent as chance has it."""
    torch.manual_seed(0)
    module = build(Model(arch=arch), classes).train()
    with torch.no_grad():
        for _ in range(30):
            module(normalise(pixels, view))
        logits = module(normalise(pixels, view))
        head = [one for one in module.modules() if isinstance(one, torch.nn.Linear)][-1]
        head.bias -= logits.mean(0)
        head.weight *= 8 / logits.std()
        head.bias *= 8 / logits.std()
    return as_artifact(root, Model(arch=arch), classes, module)
