"""The architecture of a network as a config, checked without building it.

PyTorch is not imported here, since that takes three seconds: a command line that names a network is parsed in one.
"""

import difflib
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

from raylabel.errors import InputError
from raylabel.models.clip_networks import check_clip, clip_side, is_clip
from raylabel.models.init import parse_layers
from raylabel.models.timm_networks import check_timm, fixed_size, is_timm, pretrained_config
from raylabel.store.artifact import ADDED_LATER

Stem = Literal["imagenet", "small"]

# Yalniz et al. 2019 and Mahajan et al. 2018 (WSL): 32 groups of d channels in the first stage, 3-4-23-3 blocks. 32x8d
# is torchvision's own.
RESNEXT101 = {f"resnext101_32x{d}d": d for d in (4, 16, 32, 48)}

SMALL = re.compile(r"(resnet|r2plus1d)(\d+)x([1-9]\d*)")
SMALL_C3D = re.compile(r"c3dx([1-9]\d*)")
SMALL_ALEXNET = re.compile(r"alexnetx([1-9]\d*)")
TWO_LAYERS = re.compile(r"(conv2|linear2)(_pool)?(_norm)?")
"""Two convolutions, or none, and two linear layers."""

ALEXNET = "alexnet_bn"
ALEXNET_SIZES = 223, 254
"""Pixels of a side, least and most: its first linear layer takes 6 x 6 positions."""
SMALL_ALEXNET_LEAST = 15
"""Pixels of a side: its pools leave 3 x 3 positions, of which the last one needs all."""
VIDEO = ("r2plus1d_18", "r2plus1d_34", "r3d_18", "mc3_18", "c3d")
_EXAMPLES = ("resnet8x1", "resnet20x1", "resnet56x1", "r2plus1d8x1", "r2plus1d14x1", "c3dx1", "conv2", "alexnetx1")

C3D_FRAMES = 16
C3D_SIZE = 112
"""Side in pixels. fc6 of C3D takes 512 channels of 1 x 4 x 4, the size that such a clip has there."""
SMALL_C3D_LEAST = 8
"""Frames, and pixels of a side: the pools of the small network halve both three times."""


Features = Literal["raw", "unit"]
Input = Literal["rgb", "sobel"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The architecture of a network, without weights. `check` tests whether the network exists."""

    arch: str = "resnet50"
    """For images: a torchvision classifier ('resnet18', 'vit_b_16', ...), resnext101_32x4d, _32x8d, _32x16d, _32x32d or
    _32x48d, or resnet{6n+2}x{w}, the network of He et al. 2016 §4.2 for small images at w times its width ('resnet8x1',
    'resnet20x4').

    With the extra raylabel[timm] also 'timm/' and any name of timm, with the tag of its weights or without
    ('timm/vit_small_patch14_dinov2.lvd142m'), except networks with several last layers.

    With the extra raylabel[clip] also 'clip/' and any name of open_clip, with the tag of its weights or without
    ('clip/ViT-B-32.laion2b_s34b_b79k'): its image tower and a last layer. With a tag it has the activation that these
    weights need.

    alexnet_bn: AlexNet with BatchNorm, without groups of channels, as DeepCluster trains it, for 224 pixels (its VGG16
    is torchvision's vgg16_bn); alexnetx{w}: the same with w eighths of its channels, for about 32 pixels ('alexnetx2').

    conv2, conv2_norm, conv2_pool and conv2_pool_norm: two convolutions and two linear layers, for pictures of `size`
    pixels, without and with BatchNorm and pools behind the convolutions; linear2: the linear layers alone.

    For clips: torchvision's r2plus1d_18, r3d_18 or mc3_18, r2plus1d_34 as in VMZ, c3d (only for 16 frames of 112 x 112
    pixels), c3dx{w}, which is c3d with w eighths of its channels for clips of 16 to 32 pixels ('c3dx2'), or
    r2plus1d{6n+2}x{w}, which is resnet{6n+2}x{w} with (2+1)D convolutions ('r2plus1d8x1').
    """

    stem: Stem = "imagenet"
    """'small': the first convolution of a ResNet or ResNeXt is 3x3 with stride 1 and no max-pool follows, for images of
    about 32 pixels. resnet{6n+2}x{w} always begins in this way.
    """

    size: int = field(default=0, metadata=ADDED_LATER)
    """Side of the input in pixels, for networks that are built for one size: conv2 and linear2, and networks of timm
    such as vision transformers. 0: the size that the weights of timm were trained for. Weights are resampled to another
    size by timm.
    """

    features: Features = field(default="raw", metadata=ADDED_LATER)
    """What the last layer takes: 'unit': the features scaled to unit length, and rounded to float16 as FEATURES are. It
    is then linear in them (models/unit.py).
    """

    input: Input = field(default="rgb", metadata=ADDED_LATER)
    """What the first convolution takes: the colours, or 'sobel': the two gradients of the grey picture (Caron et al.
    2018 §4), so that no layer sees colours.
    """

    layer: str = field(default="", metadata=ADDED_LATER)
    """Where the network ends: NAME of a layer, whose output is averaged over all positions, or NAME:G, averaged in each
    of G x G areas; a linear head follows. It has no layers behind it. Empty: the whole network.
    """


def check(model: Model, name: str = "model") -> None:
    """InputError if there is no such network. It builds nothing, so it takes little time.

    `name` is that of this config in the recipe, for example 'student'. The error has the closest known architectures.
    """
    arch, stem = model.arch, model.stem
    if not isinstance(arch, str) or not arch:
        raise InputError(f"{name}.arch is {arch!r}: give the name of a network, for example 'resnet50'")
    if stem not in get_args(Stem):
        raise InputError(f"{name}.stem is {stem!r}: give {' or '.join(map(repr, get_args(Stem)))}")
    if small := SMALL.fullmatch(arch):
        kind, depth, width = small[1], int(small[2]), small[3]
        if depth < 8 or depth % 6 != 2:
            lower = max(8, depth - (depth - 2) % 6)
            raise InputError(
                f"{name}.arch is '{arch}', but the depth of {kind}{{6n+2}}x{{w}} must be 8, 14, 20, ...: "
                f"the closest are {kind}{lower}x{width} and {kind}{lower + 6}x{width}"
            )
    elif is_timm(arch):
        check_timm(arch, model.size, name)
    elif is_clip(arch):
        check_clip(arch, name)
    elif TWO_LAYERS.fullmatch(arch):
        _check_two_layers(model, name)
    elif not SMALL_C3D.fullmatch(arch) and not SMALL_ALEXNET.fullmatch(arch) and arch not in _names():
        close = difflib.get_close_matches(arch.lower(), [*_names(), *_EXAMPLES], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise InputError(f"{name}.arch is {arch!r}, which is not a known network: {hint}")
    sized = is_timm(arch) or TWO_LAYERS.fullmatch(arch)
    if type(model.size) is not int or model.size < 0 or (model.size and not sized):
        raise InputError(f"{name}.size is {model.size!r}, which only conv2 and networks of timm have: leave it out")
    if model.input not in get_args(Input):
        raise InputError(f"{name}.input is {model.input!r}: give {' or '.join(map(repr, get_args(Input)))}")
    if model.input == "sobel" and (is_clip(arch) or is_timm(arch) or arch == "linear2"):
        raise InputError(
            f"{name}.input is 'sobel', but the first layer of {arch} may be no convolution of colours: give another "
            "network, or 'rgb'"
        )
    if model.features not in get_args(Features):
        raise InputError(f"{name}.features is {model.features!r}: give {' or '.join(map(repr, get_args(Features)))}")
    if model.layer:
        parse_layers(model.layer)
    if stem == "small" and (small or not re.match(r"(wide_)?resne(x)?t\d", arch)):
        raise InputError(
            f"{name}.stem is 'small', which only ResNet and ResNeXt can have, not '{arch}': give 'imagenet'"
        )


def _check_two_layers(model: Model, name: str) -> None:
    arch = model.arch
    if arch.startswith("linear2_"):
        raise InputError(f"{name}.arch is '{arch}', but linear2 has no convolutions: give linear2")
    least = 20 if "_pool" in arch else 5
    if arch.startswith("conv2") and model.size < least or model.size < 1:
        raise InputError(
            f"{name}.size is {model.size}, but {arch} is built for one size: give that of the view, at least {least}"
        )


def is_torchvision_name(weights: str) -> bool:
    """Whether it is like the name of torchvision weights, 'ResNet50_Weights.IMAGENET1K_V2'."""
    return bool(re.fullmatch(r"\w+_Weights\.\w+", weights))


def takes_clips(model: Model) -> bool:
    """Whether the input is clips [B, 3, T, H, W] instead of images [B, 3, H, W]."""
    return model.arch in VIDEO or model.arch.startswith(("r2plus1d", "c3d"))


def check_input(model: Model, frames: int | None, size: int, name: str = "model") -> None:
    """InputError if `model`, which is `name` in the recipe, cannot take clips of `frames` frames (None: images) of
    `size` x `size` pixels."""
    if takes_clips(model) != (frames is not None):
        given, wanted = ("images", "clips of video") if frames is None else ("clips of video", "images")
        names = ", ".join([*VIDEO, "r2plus1d8x1"]) if frames is not None else "resnet50, resnet8x1"
        raise InputError(
            f"{name}.arch is '{model.arch}', which takes {wanted}, but the view gives {given}: "
            f"give a network for {given}, for example {names}"
        )
    if is_timm(model.arch) and (side := fixed_size(model.arch, model.size)) not in (0, size):
        raise InputError(
            f"{name}.arch is '{model.arch}', which is built for {side} x {side} pixels, but the view gives {size} x "
            f"{size}: set {name}.size to {size}, or the size of the view to {side}"
        )
    if TWO_LAYERS.fullmatch(model.arch) and model.size != size:
        raise InputError(
            f"{name}.arch is '{model.arch}', which is built for {model.size} x {model.size} pixels, but the view gives "
            f"{size} x {size}: set {name}.size to {size}"
        )
    if is_clip(model.arch) and (side := clip_side(model.arch)) != size:
        raise InputError(
            f"{name}.arch is '{model.arch}', which is built for {side} x {side} pixels, but the view gives {size} x "
            f"{size}: set the size of the view to {side}"
        )
    if model.arch == "c3d" and (frames, size) != (C3D_FRAMES, C3D_SIZE):
        raise InputError(
            f"{name}.arch is 'c3d', which takes clips of {C3D_FRAMES} frames of {C3D_SIZE} x {C3D_SIZE} pixels, but "
            f"the view gives {frames} of {size} x {size}: set view.clip.frames and view.size, or use r2plus1d_18"
        )
    least, most = ALEXNET_SIZES
    if model.arch == ALEXNET and not least <= size <= most:
        raise InputError(
            f"{name}.arch is '{model.arch}', which takes pictures of {least} to {most} pixels, but the view gives "
            f"{size} x {size}: set view.size, or use alexnetx2"
        )
    if SMALL_ALEXNET.fullmatch(model.arch) and size < SMALL_ALEXNET_LEAST:
        raise InputError(
            f"{name}.arch is '{model.arch}', which takes pictures of at least {SMALL_ALEXNET_LEAST} pixels, but the "
            f"view gives {size} x {size}: set view.size"
        )
    if SMALL_C3D.fullmatch(model.arch) and frames is not None and min(frames, size) < SMALL_C3D_LEAST:
        least = SMALL_C3D_LEAST
        raise InputError(
            f"{name}.arch is '{model.arch}', which takes clips of at least {least} frames of {least} x {least} pixels, "
            f"but the view gives {frames} of {size} x {size}: set view.clip.frames and view.size"
        )


def some_shape(model: Model) -> tuple[int, ...]:
    """The shape of an input, without the batch, that the network takes; it may take others."""
    if takes_clips(model):
        return 3, C3D_FRAMES, C3D_SIZE, C3D_SIZE
    if is_timm(model.arch):
        side = fixed_size(model.arch, model.size) or pretrained_config(model.arch)["input_size"][-1]
    else:
        side = clip_side(model.arch) if is_clip(model.arch) else model.size or 224
    return 3, side, side


@cache
def _names() -> frozenset[str]:
    import torchvision

    return frozenset([*torchvision.models.list_models(module=torchvision.models), *RESNEXT101, *VIDEO, ALEXNET])
