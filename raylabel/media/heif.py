"""The parsers of AVIF (in Pillow) and of HEIC (in pillow-heif, which the extra raylabel[heic] installs).

Both compute in one thread, so that a picture takes no more than its share of the memory and of the machine. The HEIC
decoder (libde265) starts that thread itself; the sandbox's filter of system calls allows it. Both read the size without
decoding.
"""

from collections.abc import Callable
from typing import Any

from PIL import AvifImagePlugin

from raylabel.media.rejects import Reject

try:
    import pillow_heif
except ImportError:
    pillow_heif = None

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the default is one for each core
if pillow_heif:
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False

INSTALL = "pip install 'raylabel[heic]'"


def heic_opener() -> Callable[..., Any]:
    """The class that opens HEIC; Reject if it is not installed."""
    if pillow_heif is None:
        raise Reject("format_not_allowed", f"HEIC, which needs the extra raylabel[heic]: {INSTALL}")
    return pillow_heif.HeifImageFile


def check_avif() -> None:
    """Reject if this build of Pillow has no AVIF, as some of Linux distributions."""
    if not AvifImagePlugin.SUPPORTED:
        raise Reject(
            "format_not_allowed", "AVIF, which this build of Pillow lacks: pip install --force-reinstall Pillow"
        )
