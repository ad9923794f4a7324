"""The artifacts of a run → the artifact `run`: summary.json and report.html, from the same numbers."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raylabel.corpus import Corpus, Shards, read_keys
from raylabel.evaluate.results import Metric
from raylabel.media.rejects import Reject as Unread
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import CLIP_CPU_SECONDS
from raylabel.models import CURVE
from raylabel.report.page import Film, Picture, Point, Strip, write_page
from raylabel.report.summary import Counts, Picks, Reject, Stage, Summary
from raylabel.report.thumbnails import film_parser, thumbnail_parser, unpack
from raylabel.schema import PICKS
from raylabel.selection.leaks import Leaks
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.text import slug

SUMMARY, PAGE = "summary.json", "report.html"
STRIPS = 10  # classes whose pictures are shown


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run made, ready to be told. Stages are in the order of the story."""

    name: str
    settings: dict[str, Any]
    """The recipe as plain JSON."""
    classes: tuple[str, ...]
    corpus: Corpus
    """The unlabeled one."""
    shards: Artifact
    """Its SHARDS."""
    lesson: Artifact
    """The labeled EXAMPLES."""
    scores: Artifact
    duplicates: Artifact
    picks: Artifact
    stages: Mapping[str, tuple[Artifact, ...]]
    """Stage name → the artifacts that it made."""
    curves: Mapping[str, Artifact]
    """Trained networks by the name of their curve."""
    metrics: list[Metric]
    leaks: Leaks | None = None
    more: tuple[Artifact, ...] = field(default=())
    """Artifacts that belong to the run and to no stage."""


def write_run(root: Root, run: Run) -> tuple[Artifact, Summary]:
    """The artifact of the run, and its numbers."""
    summary = summarise(run)
    identity = {"settings": run.settings, "artifacts": summary.artifacts}

    def build(draft: Draft) -> Built:
        curves = {name: [Point(**p) for p in json.loads(a.read(CURVE))] for name, a in run.curves.items()}
        page = write_page(summary, curves, _strips(run))
        text = json.dumps(summary.to_dict(), indent=2, ensure_ascii=False)
        files = [write_bytes(draft.uri, SUMMARY, text.encode()), write_bytes(draft.uri, PAGE, page.encode())]
        return Built(files, {})

    return root.make(f"run-{slug(run.name)}", identity, build), summary


def summarise(run: Run) -> Summary:
    """The numbers of the run, from the manifests of its artifacts."""
    scores, picks, copies = run.scores.info, run.picks.info, run.duplicates.info["duplicates"]
    per_class = picks["per_class"]
    artifacts = [a for some in run.stages.values() for a in some] + list(run.more)
    return Summary(
        run=run.name,
        classes=list(run.classes),
        counts=Counts(
            samples=scores["samples"],
            scored=scores["scored"] - copies,
            rejected=scores["rejected"],
            duplicates=copies,
            labeled=run.lesson.info["samples"],
            labeled_rejected=run.lesson.info["rejected"],
        ),
        rejects=[Reject(reason=reason, count=count) for reason, count in scores["reasons"].items()],
        metrics=run.metrics,
        picks=Picks(
            total=picks["picks"],
            samples=picks["samples"],
            k=picks["k"],
            p=picks["p"],
            rank=picks["rank"],
            per_class=per_class,
            min=min(per_class),
            median=float(np.median(per_class)),
            max=max(per_class),
        ),
        leaks=run.leaks,
        stages=[_stage(name, some) for name, some in run.stages.items()],
        hardware=scores["hardware"],
        settings=run.settings,
        artifacts={f"{a.name}-{a.digest}": a.uri.rpartition("/")[2] for a in artifacts},
    )


def _stage(name: str, artifacts: tuple[Artifact, ...]) -> Stage:
    """What its builds took; `images` are those of the build that completed, as are its seconds."""
    seconds = sum(a.info["seconds"] for a in artifacts)
    images = sum(a.info.get("images", 0) for a in artifacts)
    rate = images / seconds if images and seconds else None
    return Stage(name=name, seconds=seconds, images=images or None, images_per_second=rate)


def _strips(run: Run) -> list[Strip]:
    """The real pictures or videos at ranks 1, 2, 5, 10, ... of classes spread over all."""
    table = run.picks.table("picks", PICKS)
    label, rank, score, key = (table.column(name).to_numpy() for name in ("label", "rank", "score", "key"))
    shown = np.unique(np.linspace(0, len(run.classes) - 1, min(STRIPS, len(run.classes))).round().astype(int))
    wanted = np.concatenate([np.flatnonzero((label == c) & _shown_ranks(rank, label == c)) for c in shown])
    looks = _looks(run.corpus, Shards(run.shards), sorted(set(key[wanted].tolist())))
    logits = run.picks.info["rank"] == "logits"
    pictures: dict[int, list[Picture]] = {int(c): [] for c in shown}
    for i in wanted:
        if look := looks.get(int(key[i])):
            value = float(score[i])
            probability = None if logits else 1 / (1 + math.exp(-max(-700.0, value)))
            jpeg, film = look
            picture = Picture(
                rank=int(rank[i]), score=value, probability=probability, key=int(key[i]), jpeg=jpeg, film=film
            )
            pictures[int(label[i])].append(picture)
    return [Strip(label=run.classes[c], pictures=some) for c, some in pictures.items()]


def _looks(corpus: Corpus, shards: Shards, keys: list[int]) -> dict[int, tuple[bytes, Film | None]]:
    """Key → (JPEG, how it plays if it is a video) of the samples that can be shown."""
    films = corpus.kind == "video"
    looks: dict[int, tuple[bytes, Film | None]] = {}
    parser = Parser.of(film_parser, CLIP_CPU_SECONDS) if films else Parser.of(thumbnail_parser)
    with Sandbox(parser) as sandbox:
        for some in [[key] for key in keys] if films else [keys]:  # a hundred videos may not fit into memory
            samples = [s for s in read_keys(corpus, shards, some).values() if s.media]
            made = sandbox.convert([s.media or b"" for s in samples], [s.part or () for s in samples])
            for sample, look in zip(samples, made, strict=True):
                found = None if isinstance(look, Unread) else unpack(look) if films else (look, None)
                if found:
                    looks[sample.key] = found
    return looks


def _shown_ranks(rank: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """bool [picks]: ranks 1, 2, 5, 10, 20, ... and the last of this class."""
    last = int(rank[mine].max())
    ladder = {m * 10**e for e in range(len(str(last))) for m in (1, 2, 5)} | {last}
    return np.isin(rank, [r for r in ladder if r <= last])
