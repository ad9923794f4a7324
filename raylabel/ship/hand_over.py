"""PICKS → a folder for other programs: with media for Hugging Face's datasets or webdataset, as lists for raylabel, or
the last ranks of each class as tasks for Label Studio.

With media, the rows are in the order of MEDIA, which mixes the classes as training needs it, and each has its rank: so
the media are read once, in long runs. Lists and tasks are in the order of PICKS.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import run_tasks
from raylabel.corpus.config import THREADS
from raylabel.errors import InputError
from raylabel.labels.teacher import Label
from raylabel.ship.label_studio import CONFIG, check_queue, interface, task_files
from raylabel.ship.pick_card import CARD, write_card
from raylabel.ship.pick_files import FILE_BYTES, FilesTask, divide, write_files
from raylabel.ship.pick_lists import CLASSES, ListTask, check_listable, write_list
from raylabel.ship.pick_plan import PlanTask, plan_arguments, plan_file
from raylabel.ship.pick_queue import Queue, border, disagreement
from raylabel.ship.picked import Picked
from raylabel.ship.staged import Staged
from raylabel.store.artifact import Artifact, Root, digest
from raylabel.store.files import list_files, read_file, write_file
from raylabel.training.examples import materialize, media_of
from raylabel.training.media import Materialize, WritingTask

PickForm = Literal["hf", "webdataset", "csv", "label-studio"]

PER_CLASS = 20


@dataclass(frozen=True, kw_only=True)
class HandedOver:
    """What was exported: the contents of export.json."""

    folder: str
    form: PickForm
    picks: str
    """Folder of the PICKS."""
    exported: int
    """Picks that were exported: pairs of a sample and a class."""
    rejected: int
    """Samples that were left out because they cannot be decoded."""
    files: int
    bytes: int


def export_picks(
    picked: Picked, form: PickForm, to: str, per_class: int = PER_CLASS, predictions: str = ""
) -> HandedOver:
    """Writes the folder `to`, or completes it. Without work if that was done. `per_class`: picks of each class in the
    queue for Label Studio, those with the last ranks or, with `predictions`, those that are something else there; see
    pick_queue.py.

    If the run has no EXAMPLES of the picks yet, their media are first read from the corpus, as training does it, into
    files that are deleted at the end. InputError if something else is at `to`, or the form cannot have the picks.
    """
    queue = None
    if predictions and form != "label-studio":
        raise InputError(f"predictions is '{predictions}', which is only for --format label-studio: leave it out")
    if form == "csv":
        check_listable(picked.shards, picked.classes)
    elif form == "label-studio":
        check_queue(picked, per_class, not predictions)
        queue = disagreement(picked, predictions, per_class) if predictions else border(picked, per_class)
    examples = picked.examples if form != "csv" else None
    identity = {"picks": picked.picks.digest, "examples": examples and examples.digest, "form": form}
    identity |= {"queue": [predictions, hashlib.sha256(queue.codes.tobytes()).hexdigest()]} if queue else {}
    identity |= {"shards": picked.shards.artifact.digest, "classes": picked.classes}
    staged = Staged.of(to, digest(identity))
    staged.check_outside({uri: "corpus" for uri in picked.corpus.uri} | {picked.picks.uri: "picks"})
    if done := staged.claim():
        return _handed(staged, picked, form, done)
    of = {"form": form, "picks": picked.picks.uri.rpartition("/")[2]}
    staged.begin(of)
    rejected, records = 0, list[dict[str, Any]]()
    if form == "csv":
        records = _write_lists(picked, staged)
    else:
        examples = examples or _materialize(picked, staged)
        rejected = examples.info["rejected"]
        records = _write_media(picked, examples, form, staged, queue)
    files = [file for record in records for file in record["files"]]
    if form == "csv":
        write_file(f"{staged.folder}/{CLASSES}", "".join(f"{name}\n" for name in picked.classes).encode())
    elif queue:
        write_file(f"{staged.folder}/{CONFIG}", interface(picked.corpus.kind, picked.classes).encode())
        written = []
        for name, data in task_files(picked, staged.uri, files, queue.said):
            write_file(f"{staged.folder}/{name}", data)
            written.append({"name": name, "bytes": len(data)})
        files = written
    exported = sum(record["picks"] for record in records)
    summary: dict[str, Any] = {**of, "exported": exported, "rejected": rejected, "files": files}
    if form in ("hf", "webdataset"):
        write_file(f"{staged.folder}/{CARD}", write_card(picked, form, exported, rejected).encode())
    staged.finish(summary)
    return _handed(staged, picked, form, summary)


def _handed(staged: Staged, picked: Picked, form: PickForm, summary: dict[str, Any]) -> HandedOver:
    files = summary["files"]
    return HandedOver(
        folder=staged.uri,
        form=form,
        picks=picked.picks.uri,
        exported=summary["exported"],
        rejected=summary["rejected"],
        files=len(files),
        bytes=sum(file["bytes"] for file in files),
    )


def _materialize(picked: Picked, staged: Staged) -> Artifact:
    """EXAMPLES of the picks with the bytes of the corpus, in the scratch folder of the export: the root of a run that
    may go on is not touched."""
    task = WritingTask(shards=picked.shards, corpus=picked.corpus, config=Materialize())
    return materialize(Root(staged.scratch), "picks", picked.picks, task, Label().reject_limit)


def _write_lists(picked: Picked, staged: Staged) -> list[dict[str, Any]]:
    task = ListTask(
        picks=picked.picks,
        classes=picked.classes,
        corpus=picked.corpus,
        shards=picked.shards,
        out=staged.folder,
        done=f"{staged.scratch}/done",
    )
    files = picked.picks.files("picks-")
    memory = 500 * max(file.rows for file in files)  # with the paths
    return _run(write_list, task.done, [(task, number) for number in range(len(files))], memory)


def _write_media(
    picked: Picked, examples: Artifact, form: Any, staged: Staged, queue: Queue | None
) -> list[dict[str, Any]]:
    media, plans = media_of(examples), f"{staged.scratch}/plans"
    plan = PlanTask(
        picks=picked.picks,
        examples=examples,
        corpus=picked.corpus,
        shards=picked.shards,
        queue=queue and queue.codes,
        out=plans,
    )
    rows = max((file.rows for file in examples.files("examples-")), default=0)
    each = -(-examples.info["items"] // max(1, examples.info["samples"]))  # picks of a sample
    planned = [one for some in run_tasks(plan_file, plan_arguments(plan), memory=400 * rows * each) for one in some]
    task = FilesTask(
        form=form,
        media=media,
        kind=picked.corpus.kind,
        classes=picked.classes,
        plans=plans,
        out=staged.folder,
        done=f"{staged.scratch}/done",
    )
    sizes = [file.bytes for file in media.files("media-")]
    arguments = [(task, number, some) for number, some in enumerate(divide(planned, sizes))]
    return _run(write_files, task.done, arguments, min(2 * FILE_BYTES, 3 * each * sum(sizes)))


def _run(
    function: Callable[..., dict[str, Any]], done: str, arguments: list[tuple[Any, ...]], memory: int
) -> list[dict[str, Any]]:
    """The records of all tasks, whose second argument is the number of the record; those that exist are not done
    again."""
    names = [f"{done}/{name}" for name in list_files(done)]
    with ThreadPoolExecutor(THREADS) as pool:
        known = [json.loads(data) for data in pool.map(read_file, names)]
    numbers = {record["number"] for record in known}
    todo = [some for some in arguments if some[1] not in numbers]
    with PatientProgress("export picks", len(arguments), "files") as progress:
        made = run_tasks(function, todo, lambda share: progress.update(len(known) + round(share * len(todo))), memory)
    return sorted([*known, *made], key=lambda record: record["number"])
