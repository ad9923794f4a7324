"""A sample that cannot be used, and why."""

from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    ImageCms,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from raylabel.schema import Reason

DETAIL_CHARACTERS = 200


class Reject(Exception):
    """A sample that cannot be used: `reason` for counting, `detail` for the person who looks into it.

    `detail` is at most DETAIL_CHARACTERS printable characters, whatever text it was made from, and the same in every
    run for the same bytes.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        detail = "".join(c if c.isprintable() else " " for c in detail)[:DETAIL_CHARACTERS]
        super().__init__(reason, detail)  # both in args, so that it survives pickling
        self.reason: Reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
