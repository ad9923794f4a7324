"""Networks in a root of which a finished run says the view and the classes, without the time of a run."""

import json
from collections.abc import Sequence

from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.report.run import SUMMARY
from raylabel.store.artifact import Artifact, Built, Root, identity_of, write_bytes


def finished_run(root: Root, network: Artifact, view: View, label: Label, classes: Sequence[str]) -> Artifact:
    """The artifact of a run that uses the network as its teacher."""
    folder = network.uri.rpartition("/")[2]
    settings = {"view": identity_of(view), "teacher": {"view": None}, "label": identity_of(label)}
    summary = {"run": "made-up", "classes": list(classes), "settings": settings, "artifacts": {folder: folder}}
    text = json.dumps(summary).encode()
    return root.make("run-made-up", summary, lambda draft: Built([write_bytes(draft.uri, SUMMARY, text)], {}))
