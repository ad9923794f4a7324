"""The exception for a sample that cannot be used."""

from raylabel.schema import Reason

DETAIL_CHARACTERS = 200


class Reject(Exception):
    """A sample that cannot be used: `reason` for counting, `detail` for the user.

    `detail` has at most DETAIL_CHARACTERS characters, all printable, and is the same in every run for the same bytes.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        detail = "".join(c if c.isprintable() else " " for c in detail)[:DETAIL_CHARACTERS]
        super().__init__(reason, detail)  # both in args, as pickling requires
        self.reason: Reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
