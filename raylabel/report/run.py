"""The artifacts of a run → the artifact `run`: summary.json and report.html, from the same numbers."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.corpus import Shards
from raylabel.evaluate.results import metrics
from raylabel.models.trained import CURVE
from raylabel.pipelines.audited import doubts_of
from raylabel.pipelines.curves import curves_of, trainings_of
from raylabel.pipelines.leaks import leak_warnings
from raylabel.pipelines.selected import pick_warnings
from raylabel.pipelines.semi_supervised import Run
from raylabel.report.audit import shown_precision, shown_suspects
from raylabel.report.charts import Point
from raylabel.report.control import control_used
from raylabel.report.groups import shown_copies
from raylabel.report.head import FittedHead, ZeroShotHead
from raylabel.report.page import Picture, Strip, write_page
from raylabel.report.pairs import shown_pairs
from raylabel.report.previews import read_previews
from raylabel.report.summary import Counts, PassedOver, Picks, Reject, Stage, Summary, Validated
from raylabel.schema import PICKS
from raylabel.selection.audit import Audited
from raylabel.selection.shuffle import BATCH_ROWS
from raylabel.store.artifact import Artifact, Built, Draft, identity_of, write_bytes
from raylabel.store.files import filesystem, reading
from raylabel.store.names import PAGE, SUMMARY
from raylabel.text import slug

STRIPS = 10  # classes whose picks are shown
# Rows of the table of stages → stages of the run.
ROWS = {
    "teacher": ("labeled_features", "teacher"),
    "features": ("features",),
    "label": ("tags", "labels"),
    "compare": ("tested", "labeled_pairs", "seen", "pairs"),
    "select": ("duplicates", "copies", "lists", "picks"),
    "audit": ("held", "audit"),
    "materialize": ("labeled_examples", "validation_examples", "pseudo_examples"),
    "pretrain": ("pretrained",),
    "finetune": ("student",),
    "control sweep": ("split", "control_sweep"),
    "control": ("control",),
    "mixed": ("mixed",),
    "evaluate": ("teacher_test", "teacher_check", "tests"),
}


def write_report(run: Run) -> tuple[Artifact, Summary]:
    """(the artifact of the whole run, its numbers). Builds missing stages first. summary.json and report.html contain
    the same numbers."""
    run.build()
    summary = summarise(run)
    identity = {"settings": summary.settings, "artifacts": summary.artifacts}

    def build(draft: Draft) -> Built:
        networks = {name: training.network for name, training in trainings_of(run).items()}
        curves = {name: [Point(**p) for p in json.loads(a.read(CURVE))] for name, a in networks.items()}
        page = write_page(
            summary,
            curves,
            _strips(run),
            shown_pairs(run),
            shown_copies(run),
            shown_precision(run),
            shown_suspects(run),
        )
        text = json.dumps(summary.to_dict(), indent=2, ensure_ascii=False)
        files = [write_bytes(draft.uri, SUMMARY, text.encode()), write_bytes(draft.uri, PAGE, page.encode())]
        return Built(files, {})

    return run.root.make(f"run-{slug(run.recipe.name)}", identity, build), summary


def summarise(run: Run) -> Summary:
    """The numbers of the run, from the manifests of its artifacts."""
    recipe, classes, picks = run.recipe, run.start.classes, run.picks.info
    per_class = picks["per_class"]
    stages, table = _stages(run.artifacts), metrics(run.root, recipe.name, run.metrics)
    inputs = (*run.start.shards.values(), run.start.labels, run.start.test_labels)
    artifacts = [a for some in stages.values() for a in some] + [*inputs, table]
    return Summary(
        run=recipe.name,
        classes=list(classes),
        counts=_counts(run),
        rejects=[Reject(reason=reason, count=count) for reason, count in _labeled_info(run)["reasons"].items()],
        passed_over=_passed_over(run),
        metrics=run.metrics,
        test_per_class=run.start.test_labels.info["per_class"],
        control=control_used(recipe, run.control_sweep),
        head=FittedHead.of(run.teacher.info) if run.labeled_features else None,
        zero_shot=ZeroShotHead.of(run.teacher.info) if recipe.teacher.head.zero_shot and recipe.taught else None,
        picks=Picks(
            total=picks["picks"],
            samples=picks["samples"],
            # A source that gives PICKS keeps all samples, each under one class.
            k=picks.get("k", max(per_class)),
            p=picks.get("p", 1),
            rank=picks.get("rank", run.picks.name),
            policy=recipe.select.words if "k" in picks else "",
            per_class=per_class,
            min=min(per_class),
            median=float(np.median(per_class)),
            max=max(per_class),
        ),
        audit=Audited.of(run.audit.info) if run.audit else None,
        validated=_validated(run),
        leaks=run.leaks.leaks,
        warnings=(*run.start.warnings, *leak_warnings(run), *pick_warnings(run), *doubts_of(run, run.picks)),
        stages=[_stage(name, some) for name, some in stages.items()],
        hardware=run.student.info["hardware"],
        settings=identity_of(recipe),
        artifacts={f"{a.name}-{a.digest}": a.uri.rpartition("/")[2] for a in artifacts},
    )


def _passed_over(run: Run) -> list[PassedOver] | None:
    found = {corpus: shards.info.get("passed_over") for corpus, shards in run.start.shards.items()}
    if None in found.values():
        return None
    return [PassedOver(corpus=corpus, **kind) for corpus, kinds in found.items() for kind in kinds or ()]


def _stages(artifacts: Mapping[str, tuple[Artifact, ...]]) -> dict[str, tuple[Artifact, ...]]:
    """Row of the table of stages → its artifacts. A stage of the run that no row names has a row of its own."""
    rows = {name: tuple(a for stage in stages for a in artifacts.get(stage, ())) for name, stages in ROWS.items()}
    named = {stage for stages in ROWS.values() for stage in stages}
    others = {stage: some for stage, some in artifacts.items() if stage not in named}
    return {name: some for name, some in (rows | others).items() if some}


def _validated(run: Run) -> list[Validated]:
    return [
        Validated(
            training=name,
            split=curve.config.on,
            n=curve.samples,
            points=list(curve.points),
            kept=curve.kept.images,
            area=curve.area,
            reached={f"{target:g}": images for target, images in curve.reached.items()},
        )
        for name, curve in curves_of(run).items()
    ]


def _labeled_info(run: Run) -> dict[str, Any]:
    """samples, scored, rejected and reasons of the corpus. If only the media of picks are read, these are its samples,
    and rejects are found when they are materialized."""
    if run.seen:
        return run.seen.info
    found, samples = run.pseudo_examples.info, run.picks.info["samples"]
    return {"samples": samples, "scored": samples - found["rejected"], **{n: found[n] for n in ("rejected", "reasons")}}


def _counts(run: Run) -> Counts:
    info, examples = _labeled_info(run), run.labeled_examples.info
    copies = run.duplicates.info["duplicates"] if run.duplicates else 0
    near = run.copies.info["copies"] if run.copies else None
    return Counts(
        samples=info["samples"],
        scored=info["scored"] - copies - (near or 0),
        rejected=info["rejected"],
        duplicates=copies,
        near_duplicates=near,
        labeled=examples["samples"],
        labeled_rejected=examples["rejected"],
    )


def _stage(name: str, artifacts: tuple[Artifact, ...]) -> Stage:
    """The cost of a stage: images and seconds of the builds that completed."""
    seconds = sum(a.info["seconds"] for a in artifacts)
    images = sum(a.info.get("images", 0) for a in artifacts)
    rate = images / seconds if images and seconds else None
    return Stage(name=name, seconds=seconds, images=images or None, images_per_second=rate)


def _strips(run: Run) -> list[Strip]:
    """The pictures or videos at ranks 1, 2, 5, 10, ... of classes that are evenly spaced in label order."""
    classes, count = run.start.classes, len(run.start.classes)
    shown = np.unique(np.linspace(0, count - 1, min(STRIPS, count)).round().astype(int))
    label, rank, score, key = shown_picks(run.picks, shown)
    shards, keys = Shards(run.start.shards["unlabeled"]), sorted(set(key.tolist()))
    previews = read_previews(run.start.corpora["unlabeled"], shards, keys, run.recipe.max_jpeg_pixels)
    by_log_odds = run.picks.info.get("rank") == "softmax"
    pictures: dict[int, list[Picture]] = {int(c): [] for c in shown}
    for i in range(len(key)):
        if preview := previews.get(int(key[i])):
            value = float(score[i])
            probability = 1 / (1 + math.exp(-max(-700.0, value))) if by_log_odds else None
            jpeg, film = preview
            picture = Picture(
                rank=int(rank[i]), score=value, probability=probability, key=int(key[i]), jpeg=jpeg, film=film
            )
            pictures[int(label[i])].append(picture)
    return [Strip(label=classes[c], pictures=some) for c, some in pictures.items()]


def shown_picks(picks: Artifact, classes: np.ndarray) -> tuple[np.ndarray, ...]:
    """label, rank, score and key of the picks of these classes at the ranks that are shown.

    PICKS are ordered by (label, rank), so the number of picks of each class says where they are. Of K picks of each of
    C classes only the files that have some of these are read, in batches.
    """
    per_class = np.array(picks.info["per_class"], np.int64)
    first = np.cumsum(per_class) - per_class
    wanted = np.concatenate([first[c] + _shown_ranks(int(per_class[c])) - 1 for c in classes])
    label = np.repeat(classes, [len(_shown_ranks(int(per_class[c]))) for c in classes])
    found, start = [PICKS.empty_table()], 0
    fs, path = filesystem(picks.uri)
    for file in picks.files("picks-"):
        before, start = start, start + file.rows
        mine = wanted[(wanted >= before) & (wanted < start)] - before
        if not len(mine):
            continue
        with reading(f"{picks.uri}/{file.name}"), pq.ParquetFile(f"{path}/{file.name}", filesystem=fs) as opened:
            end = 0
            for batch in opened.iter_batches(BATCH_ROWS, columns=PICKS.names, use_threads=False):
                begin, end = end, end + len(batch)
                here = mine[(mine >= begin) & (mine < end)] - begin
                if len(here):
                    found.append(pa.Table.from_batches([batch.take(pa.array(here))]))
                if end > mine[-1]:
                    break
    columns = tuple(column.to_numpy() for column in pa.concat_tables(found).columns)
    if not np.array_equal(columns[0], label):
        raise AssertionError(f"{picks.uri}: PICKS are not in the order of their labels and ranks")
    return columns


def _shown_ranks(last: int) -> np.ndarray:
    """The ranks 1, 2, 5, 10, 20, ... and the last of a class with so many picks; ascending."""
    ladder = {m * 10**e for e in range(len(str(last))) for m in (1, 2, 5)} | {last}
    return np.array(sorted(r for r in ladder if 1 <= r <= last), np.int64)
