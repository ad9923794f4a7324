"""Copies of test pictures that are planted in the labeled set and in the corpus of a run."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from copies import COPIES, encoded, photographs
from helpers import write_parquet
from PIL import Image
from scoring import scored_in_this_process

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.results import CLEAN_GAIN, CLEAN_TOP1, TOP1, require
from raylabel.features.thumbnails import thumbnails
from raylabel.inference import scores as stage
from raylabel.labels.tags import Tags
from raylabel.media.image_views import eval_pixels
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.weights import save_weights
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.report import pairs as report_pairs
from raylabel.report.groups import shown_copies
from raylabel.report.pairs import SHOWN, shown_pairs
from raylabel.report.run import write_report
from raylabel.schema import COPIES as COPIED
from raylabel.schema import PAIRS, PICKS, THUMBNAILS
from raylabel.selection.config import Select
from raylabel.store.artifact import Artifact, Root

PLANTED, BYTES, LABELED, WITHIN, LEARNED = 20, 2, 3, 6, 30
VIEW = View(size=32, resize=32, crop="padded", flip=False)
SMALL = replace(VIEW, size=16, resize=16)


@pytest.fixture(scope="module")
def media() -> dict[str, list[bytes]]:
    """Photographs of two places in turn. The first samples of the corpus are copies of the first test samples, the last
    two have their bytes, some before these are copies of others in it, and those before have the bytes of labeled
    samples; the first labeled samples are copies of the last test samples."""
    rng, some = np.random.default_rng(0), photographs(260)
    test, labeled, corpus = some[:60], some[60:120], some[120:260]
    kinds = list(COPIES.values())
    planted = [kinds[i % len(kinds)](test[i], rng) for i in range(PLANTED)]
    shown = {"test": test, "labeled": [COPIES["jpeg"](one, rng) for one in test[-LABELED:]] + labeled}
    found = {name: [encoded(one) for one in pictures] for name, pictures in shown.items()}
    within = [COPIES["jpeg"](one, rng) for one in corpus[:WITHIN]]
    unlabeled = [encoded(one) for one in planted + corpus + labeled[:LEARNED] + within]
    return found | {"unlabeled": unlabeled + found["test"][30 : 30 + BYTES]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return Root.open(str(tmp_path_factory.mktemp("root")))


@pytest.fixture(scope="module")
def here(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Networks score in this process."""
    with scored_in_this_process(tmp_path_factory.mktemp("here")):
        yield


@pytest.fixture
def recipe(media, tmp_path: Path) -> Recipe:
    torch.manual_seed(0)
    (tmp_path / "teacher.safetensors").write_bytes(save_weights(build(Model(arch="resnet8x1"), 2)))
    corpora = {
        name: Corpus(uri=(str(write_parquet(tmp_path / f"{name}.parquet", some, np.arange(len(some)) % 2)),))
        for name, some in media.items()
    }
    checkpoint = str(tmp_path / "teacher.safetensors")
    teacher = Teacher(model=Model(arch="resnet8x1"), checkpoint=checkpoint, unchecked=True)
    small = replace(recipes.digits().pretrain, images=256, batch=64)
    return replace(
        recipes.digits(),
        **corpora,
        teacher=teacher,
        view=VIEW,
        select=Select(k=200, p=2),
        pretrain=small,
        finetune=replace(small, images=128),
    )


@pytest.mark.long
def test_copies_of_test_pictures_are_not_selected(here, root, tmp_path, media, recipe, monkeypatch, capsys):
    start = prepare(root, recipe)
    run = Run(root, recipe, start).build("picks")
    table = run.labels.table("thumbnails-", THUMBNAILS)
    pixels = np.stack([eval_pixels(one, VIEW) for one in media["unlabeled"]])
    assert [np.frombuffer(one, np.uint8).tolist() for one in table.column("thumbnail").to_pylist()] == (
        thumbnails(torch.from_numpy(pixels)).tolist()
    )
    assert run.pairs and run.labeled_pairs
    rows = [row for row in run.pairs.table("pairs-", PAIRS).to_pylist() if row["kind"] != "below"]
    of_kind = {kind: {row["key"] for row in rows if row["kind"] == kind} for kind in ("near", "bytes", "video")}
    last = len(media["unlabeled"]) - BYTES
    assert of_kind["bytes"] == {last, last + 1} and not of_kind["video"]
    found = of_kind["near"] & set(range(PLANTED))
    assert len(found) >= PLANTED - 1
    assert {(i, i) for i in found} <= {(row["key"], row["reference"]) for row in rows}
    removed = of_kind["near"] | of_kind["bytes"]
    picked = set(run.picks.table("picks-", PICKS).column("key").to_pylist())
    assert picked == set(range(len(media["unlabeled"]))) - removed

    leaks = run.leaks.leaks
    assert (leaks.near, leaks.copies, leaks.removed) == (len(of_kind["near"]), BYTES, len(removed))
    labeled = run.labeled_pairs.table("pairs-", PAIRS).to_pylist()
    labeled = [row for row in labeled if row["kind"] != "below"]  # windows of a photograph may be at the same place
    assert {(i, 60 - LABELED + i) for i in range(LABELED)} <= {(row["key"], row["reference"]) for row in labeled}
    assert leaks.labeled_near == len({row["key"] for row in labeled}) and not leaks.labeled_copies
    assert run.leaks.keys.tolist() == sorted({row["reference"] for row in rows + labeled})
    assert leaks.test == len(run.leaks.keys) and leaks.threshold == recipe.near
    near = f"{leaks.labeled_near} labeled samples and {leaks.near} samples of the corpus are near-duplicates"
    assert near in leaks.sentence

    warning = capsys.readouterr().out
    share = f"warning: {len(removed)} of {len(media['unlabeled'])} samples of the corpus are also in an evaluation set"
    assert f"{share}, for example {tmp_path}/unlabeled.parquet#0 = {tmp_path}/test.parquet#0 (near " in warning
    assert warning.count(".parquet#") == 10
    shown = shown_pairs(run)
    assert [one.similarity for one in shown] == sorted((one.similarity for one in shown), reverse=True)
    assert all(one.near == (one.similarity >= run.recipe.near) for one in shown)
    most: dict[int, float] = {}  # of each sample, the most similar pair
    for row in rows:
        if row["kind"] == "near":
            most[row["key"]] = max(most.get(row["key"], 0), row["similarity"])
    assert [one.similarity for one in shown if one.near][::-1] == sorted(most.values())[:SHOWN]

    # Nothing is scored again for another policy or threshold.
    monkeypatch.setattr(stage, "score", None)
    report = Run(root, replace(recipe, leaks="report"), start).build("picks")
    assert report.labels.uri == run.labels.uri
    picked = set(report.picks.table("picks-", PICKS).column("key").to_pylist())
    assert picked == set(range(len(media["unlabeled"])))
    within = Run(root, replace(recipe, copies="near"), start).build("picks")
    assert within.copies and within.labels.uri == run.labels.uri
    rows = within.copies.table("copies-", COPIED).to_pylist()
    copied = {row["key"] for row in rows}
    assert all({PLANTED + i, last - WITHIN + i} & copied for i in range(WITHIN))
    picked = set(within.picks.table("picks-", PICKS).column("key").to_pylist())
    assert picked == set(range(len(media["unlabeled"]))) - removed - copied
    copies = shown_copies(within)
    assert copies and copies.count == within.copies.info["groups"]
    shown = [one.similarity for one in copies.pairs]
    assert shown == sorted(row["similarity"] for row in rows)[:SHOWN][::-1]
    assert sum(group.size - 1 for group in copies.groups) == len(copied)
    assert shown_copies(run) is None
    strict = Run(root, replace(recipe, near=1.0), start).build("picks")
    assert strict.pairs and strict.leaks.leaks.near < leaks.near
    with pytest.raises(InputError, match=f"{leaks.labeled_near} labeled samples are near-duplicates of test"):
        Run(root, replace(recipe, leaks="error"), start).build("labels")


@pytest.mark.slow
def test_further_evaluation_sets_and_the_held_out_split_are_removed_too(
    here, root, tmp_path, media, recipe, monkeypatch
):
    """The set `v2` has altered copies of some samples of the corpus and of one that is labeled. Of the labeled samples
    that are in the corpus byte for byte, some are held out. Corpora that were scored before are not scored again."""
    rng, corpus = np.random.default_rng(1), media["unlabeled"]
    shown = [Image.open(io.BytesIO(one)).convert("RGB") for one in (*corpus[60:70], media["labeled"][50])]
    others = [encoded(COPIES["jpeg"](one, rng)) for one in shown]
    v2 = write_parquet(tmp_path / "v2.parquet", others, np.zeros(len(others), int))
    given = replace(recipe, against={"v2": str(v2)}, holdout=0.3)
    run = Run(root, given, prepare(root, given)).build("picks")
    assert run.pairs and run.labeled_pairs and run.start.validation

    def shared(pairs: Artifact, name: str) -> set[tuple[int, int]]:
        found = [row for row in pairs.table("pairs-", PAIRS).to_pylist() if row["set"] == name]
        return {(row["key"], row["reference"]) for row in found if row["kind"] != "below"}

    assert {*run.pairs.info["sets"]} == {"test", "v2", "validation"}
    assert {(60 + i, i) for i in range(10)} <= shared(run.pairs, "v2") and (50, 10) in shared(run.labeled_pairs, "v2")
    held = set(run.start.validation[1].table("picks-", PICKS).column("key").to_pylist())
    first = len(corpus) - BYTES - WITHIN - LEARNED
    copied = {(first + i, LABELED + i) for i in range(LEARNED) if LABELED + i in held}
    assert 0 < len(copied) < LEARNED and copied <= shared(run.pairs, "validation")
    assert {reference for _, reference in shared(run.pairs, "validation")} <= held
    picked = set(run.picks.table("picks-", PICKS).column("key").to_pylist())
    removed = {key for name in ("test", "v2", "validation") for key, _ in shared(run.pairs, name)}
    assert picked == set(range(len(corpus))) - removed

    leaks = run.leaks.leaks
    of_v2, of_validation = leaks.others
    assert (of_v2.name, of_validation.name) == ("v2", "validation") and leaks.removed == len(removed)
    assert of_v2.unlabeled == {"near": len({key for key, _ in shared(run.pairs, "v2")})}
    assert of_v2.labeled == {"near": len({key for key, _ in shared(run.labeled_pairs, "v2")})}
    assert of_validation.unlabeled["bytes"] == len(copied) and not of_validation.labeled
    assert f"labeled samples ({of_v2.labeled['near']} near-duplicates) and samples of the corpus (" in leaks.sentence
    monkeypatch.setattr(report_pairs, "SHOWN", 1000)
    assert {one.set for one in shown_pairs(run)} == {"test", "v2", "validation"}
    strict = replace(given, leaks="error")
    with pytest.raises(InputError, match="labeled samples .* are also in v2.*: remove them from the evaluation sets"):
        Run(root, strict, prepare(root, strict)).build("labels")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"view": SMALL, "copies": "near"}, "copies is 'near', but the view has 16 pixels.* at least 24$"),
        ({"view": SMALL, "against": {"v2": "/v2"}}, "against is given, but the view has 16 pixels"),
        ({"leaks": "skip"}, "leaks is 'skip', which saves reading a corpus that tags label: choose 'report'"),
        ({"copies": "all"}, "copies is 'all': choose 'bytes' or 'near'$"),
        ({"against": {"test": "/v2"}}, "against has a set 'test': give a name of .* than labeled, unlabeled, test"),
        ({"against": {"a b": "/v2"}}, "against has a set 'a b': give a name of letters, digits, '_', '.' and '-', "),
    ],
)
def test_what_cannot_be_compared_is_an_error(recipe, fields, message):
    with pytest.raises(InputError, match=f"^{message}"):
        replace(recipe, **fields)


def test_a_further_evaluation_set_is_not_a_part_of_the_corpus(ray_local, tmp_path, recipe):
    root, corpus = Root.open(str(tmp_path / "root")), recipe.unlabeled.uri[0]
    with pytest.raises(InputError, match="^against has '/v2' twice: give each reference set once"):
        prepare(root, replace(recipe, against={"a": "/v2", "b": "/v2/"}))
    with pytest.raises(InputError, match="^the reference set '.*unlabeled.parquet' is the corpus itself"):
        prepare(root, replace(recipe, against={"a": corpus}))


def test_a_corpus_that_tags_label_is_compared_too(here, root, tmp_path, media, recipe):
    """The same samples are removed as in a run with a teacher, and copies within the corpus too."""
    taught = Run(root, replace(recipe, copies="near")).build("picks")
    corpus, count = tmp_path / "tagged.parquet", len(media["unlabeled"])
    tags = [["zero", "one"][i % 2 :] for i in range(count)]
    pq.write_table(pa.table({"image": media["unlabeled"], "tags": tags}), corpus, row_group_size=7)
    (tmp_path / "map.csv").write_text("class,tag\n0,zero\n1,one\n")
    tagged = replace(
        recipe,
        unlabeled=Corpus(uri=(str(corpus),)),
        labeler="tags",
        tags=Tags(column="tags", map=str(tmp_path / "map.csv")),
        select=Select(k=200, p=1, rank="random"),
    )
    run = Run(root, replace(tagged, copies="near")).build("leaks").build("picks")
    assert run.tested and run.seen and run.copies and run.pairs and taught.pairs and taught.copies
    assert run.tested.name == run.seen.name == "pictures"
    of_runs = [{(row["key"], row["reference"], row["kind"]) for row in one.pairs.table("pairs-", PAIRS).to_pylist()}
               for one in (run, taught) if one.pairs]  # fmt: skip
    assert of_runs[0] == of_runs[1]
    copied = set(run.copies.table("copies-", COPIED).column("key").to_pylist())
    removed = {key for key, _, kind in of_runs[0] if kind != "below"}
    picks = run.picks.table("picks-", PICKS)
    pairs = set(zip(picks["key"].to_pylist(), picks["label"].to_pylist(), strict=True))
    left = set(range(count)) - removed - copied
    assert pairs == {(key, label) for key in left for label in range(key % 2, 2)}
    assert run.leaks.leaks == taught.leaks.leaks and run.leaks.keys.tolist() == taught.leaks.keys.tolist()
    assert run.leaks.leaks.removed == len(removed) > PLANTED
    report = Run(root, replace(tagged, leaks="report")).build("picks")
    assert set(report.picks.table("picks-", PICKS)["key"].to_pylist()) == set(range(count))
    skipped = Run(root, replace(tagged, leaks="skip")).build("picks")
    assert skipped.tested is skipped.seen is skipped.pairs is skipped.duplicates is None
    assert set(skipped.picks.table("picks-", PICKS)["key"].to_pylist()) == set(range(count))
    with pytest.raises(InputError, match="copies is 'near', but leaks is 'skip': choose 'remove'"):
        replace(tagged, leaks="skip", copies="near")


@pytest.mark.slow
def test_accuracies_are_also_reported_without_what_leaks(ray_local, tmp_path, recipe):
    root = Root.open(str(tmp_path / "root"))
    recipe = replace(recipe, copies="near")
    run = Run(root, recipe, prepare(root, recipe))
    _, summary = write_report(run)
    assert run.copies and summary.counts.near_duplicates == run.copies.info["copies"] >= WITHIN
    clean = require(run.metrics, model="student", metric=CLEAN_TOP1)
    assert clean.n == 60 - run.leaks.leaks.test == require(run.metrics, model="student", metric=CLEAN_GAIN).n
    names = {row.model for row in run.metrics if row.metric == TOP1}
    assert names == {row.model for row in run.metrics if row.metric == CLEAN_TOP1} == {*run.tests}
    assert summary.leaks == run.leaks.leaks
    assert any(stage.name == "compare" for stage in summary.stages)


@pytest.mark.long
def test_what_is_not_large_enough_has_no_thumbnails(here, tmp_path, media, recipe):
    root = Root.open(str(tmp_path / "root"))
    small = replace(recipe, view=replace(VIEW, size=16, resize=16))
    run = Run(root, small, prepare(root, small)).build("picks")
    assert not run.labels.files("thumbnails-") and run.labeled_pairs is None and run.pairs
    assert run.leaks.leaks.threshold is None and run.leaks.leaks.copies == BYTES
    picked = set(run.picks.table("picks-", PICKS).column("key").to_pylist())
    assert picked == set(range(len(media["unlabeled"]) - BYTES))
