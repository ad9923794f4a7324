"""A run in Weights & Biases, online or offline: metrics against images, the settings as its config.

W&B only adds to a run, and offline it cannot be asked what it has. So a file in the root lists the rows that were sent,
and how many of them W&B has for certain, since it ended properly after them. A process that continues after a kill
sends the others again. Each row has a number (W&B's step), and a row that is sent again has the same one. Where a
training that resumed with another number of workers gave other values than before, a new run of W&B begins.
"""

import json
import uuid
from typing import Any

import wandb  # pyright: ignore[reportMissingImports]

from raylabel.store.files import read_file, write_file
from raylabel.text import slug
from raylabel.tracking.snapshot import Snapshot

SENT = "wandb.json"  # in the folder of the run: {id, state, rows: [[training, images, values]], certain: rows of them}
LOGIN = 10.0  # seconds to wait for a login, which nobody may be there to give


class Wandb:
    """A run in W&B, as its environment variables say: WANDB_MODE, WANDB_API_KEY, WANDB_DIR."""

    def __init__(self, folder: str):
        self._file, self._run = f"{folder}/{SENT}", None
        try:
            self._kept: dict[str, Any] = json.loads(read_file(self._file))
        except FileNotFoundError:
            self._kept = _nothing()

    def send(self, snapshot: Snapshot) -> None:
        added, changed = list[list[Any]](), False
        for training, rows in snapshot.rows.items():
            wanted = [[training, row.images, dict(row.values)] for row in rows]
            sent = [row for row in self._kept["rows"] if row[0] == training]
            changed |= any(old != new for old, new in zip(sent, wanted, strict=False))
            added += wanted[len(sent) :]
        if changed:
            self._end("stopped")
            self._kept = _nothing()
            self.send(snapshot)
            return
        if not added and self._kept["state"] == "finished":
            return  # an earlier process sent all of it
        if self._run is None:
            self._run = self._begin(snapshot)
            added = self._kept["rows"][self._kept["certain"] :] + added
            self._kept["rows"] = self._kept["rows"][: self._kept["certain"]]
        for training, images, values in added:
            named = {f"{training}/{name}": value for name, value in values.items()}
            self._run.log({"images": images, **named}, step=len(self._kept["rows"]))
            self._kept["rows"].append([training, images, values])
        if snapshot.report:
            self._run.summary.update({**snapshot.scalars, "report": snapshot.report.uri})
        if snapshot.state != "running":
            self._end(snapshot.state)
        self._kept["state"] = snapshot.state
        write_file(self._file, json.dumps(self._kept).encode())

    def _begin(self, snapshot: Snapshot) -> Any:
        run = wandb.init(
            project=slug(snapshot.recipe),
            name=snapshot.run,
            id=self._kept["id"],
            resume="allow",
            config=dict(snapshot.settings),
            settings=wandb.Settings(silent=True, console="off", login_timeout=LOGIN),
        )
        run.define_metric("images")
        run.define_metric("*", step_metric="images")
        return run

    def _end(self, state: str) -> None:
        """Waits until W&B has all that was sent."""
        if self._run is not None:
            self._run.finish(exit_code=0 if state == "finished" else 1)
            self._run, self._kept["certain"] = None, len(self._kept["rows"])


def _nothing() -> dict[str, Any]:
    return {"id": uuid.uuid4().hex[:12], "state": "", "rows": [], "certain": 0}


def open_backend(folder: str) -> Wandb:
    return Wandb(folder)
