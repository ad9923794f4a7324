"""A run whose corpus is labeled by its tags: no teacher, and lists of random samples of each tag."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers import digit_images
from scoring import scored_in_this_process
from trainings import in_this_process

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.labels.tags import Tags
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.plan.estimate import plan
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe
from raylabel.report.run import write_report
from raylabel.schema import PICKS, SCORES, TAGS
from raylabel.selection.config import Select
from raylabel.selection.lengths import share_out
from raylabel.ship.picked import find_picks
from raylabel.store.artifact import Root

WORDS = "zero one two three four five six seven eight nine".split()


def weak(folder: Path) -> tuple[Recipe, np.ndarray]:
    """(recipe, the true classes of the corpus): half of the samples have a tag, of which 30% are of another class."""
    media, labels = digit_images()
    rng = np.random.default_rng(0)
    said = np.where(rng.random(600) < 0.3, rng.integers(0, 10, 600), labels[:600])
    tags = [[f"#{WORDS[c]}", "fun"] if rng.random() < 0.5 else ["fun"] for c in said]
    pq.write_table(pa.table({"image": media[:600], "tags": tags}), folder / "unlabeled.parquet", row_group_size=100)
    (folder / "map.csv").write_text("class,tag\n" + "".join(f"{c},{word}\n" for c, word in enumerate(WORDS)))
    recipe = recipes.digits()
    short = replace(recipe.pretrain, images=128)
    return replace(
        recipe,
        name="weak",
        unlabeled=Corpus(uri=(str(folder / "unlabeled.parquet"),)),
        labeler="tags",
        tags=Tags(column="tags", map=str(folder / "map.csv")),
        select=Select(k=20, p=1, rank="random"),
        pretrain=short,
        finetune=short,
    ), labels


@pytest.mark.long
def test_a_student_learns_from_tags_without_a_teacher(ray_local, tmp_path):
    recipe, truth = weak(tmp_path)
    root = Root.open(str(tmp_path / "root"))
    with in_this_process(tmp_path), scored_in_this_process(tmp_path):
        run = Run(root, recipe)
        artifact, summary = write_report(run)
    assert run.teacher_test is run.audit is None and run.tested and run.seen and run.seen.name == "pictures"
    assert summary.counts.samples == 600 == summary.counts.scored + summary.counts.duplicates
    assert not any(one.name == "teacher" for some in run.artifacts.values() for one in some)
    picks = run.picks.table("picks-", PICKS)
    right = truth[picks["key"].to_numpy()] == picks["label"].to_numpy()
    assert 0.55 < right.mean() < 0.9 and summary.picks.rank == "random" and max(summary.picks.per_class) == 20
    assert run.labels.info["tagged"] == run.labels.info["pairs"] and run.labels.info["without_sample"] == []
    assert {row.model for row in summary.metrics} >= {"student", "control"}
    assert "teacher" not in {row.model for row in summary.metrics}
    assert find_picks(run.picks.uri).corpus == run.start.corpora["unlabeled"]
    with pytest.raises(InputError, match="a plan is of a run whose teacher labels the corpus"):
        plan(root, recipe)


def test_the_teacher_of_a_run_that_tags_label_is_not_read(ray_local, tmp_path):
    recipe, _ = weak(tmp_path)
    teacher = replace(recipe.teacher, train=None, checkpoint=str(tmp_path / "missing.safetensors"))
    assert prepare(Root.open(str(tmp_path / "root")), replace(recipe, teacher=teacher)).teacher is None


def test_lists_are_as_long_as_the_tags_say(ray_local, tmp_path):
    recipe, _ = weak(tmp_path)
    root, short = Root.open(str(tmp_path / "root")), replace(recipe.pretrain, images=128)
    taught = replace(
        recipe,
        labeler="teacher",
        teacher=replace(recipe.teacher, train=short),
        select=Select(k=20, p=10, counts="tags"),
    )
    with in_this_process(tmp_path), scored_in_this_process(tmp_path):
        run = Run(root, taught).build("lists")
    (tags,) = root.named("tags")
    assert run.tags == tags and not run.subset
    lengths = share_out(np.array(tags.info["per_class"], float), 200)
    assert run.lists.info["lengths"] == run.lists.info["per_class"] == lengths.tolist() and len(set(lengths)) > 3
    with pytest.raises(InputError, match="select.counts is 'tags', but there are none"):
        replace(taught, tags=Tags())

    filtered = replace(taught, tags=replace(recipe.tags, filter=True), select=Select(k=20, p=10, allow_empty=True))
    with in_this_process(tmp_path), scored_in_this_process(tmp_path):
        some = Run(root, filtered).build("lists")
    assert some.subset == tags and some.teacher == run.teacher
    keys = tags.table("tags-", TAGS, ["key"])["key"]
    whole = run.labels.table("scores-", SCORES)
    assert some.labels.table("scores-", SCORES).equals(whole.filter(pc.is_in(whole["key"], value_set=keys)))  # pyright: ignore
    assert set(some.lists.table("picks-", PICKS)["key"].to_pylist()) <= set(keys.to_pylist())
    with pytest.raises(InputError, match="a plan does not read tags: leave out tags.filter"):
        plan(root, filtered)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"labeler": "people"}, "labeler is 'people': choose 'teacher' or 'tags'"),
        ({"tags": Tags()}, "labeler is 'tags', but there are none"),
        ({"select": Select(k=20, p=1)}, "select.rank is 'softmax': give --select.rank random"),
        ({"select": Select(k=20, p=1, rank="random", minimum=0.0)}, "which have no scores, but select.minimum is 0.0"),
        ({"copies": "near"}, "near"),
        ({"tags": Tags(column="tags", filter=True)}, "tags.filter is set, but no teacher scores the corpus"),
    ],
)
def test_what_tags_do_not_have_is_an_error(tmp_path, fields, message):
    recipe, _ = weak(tmp_path)
    with pytest.raises(InputError, match=message):
        replace(recipe, **fields)
