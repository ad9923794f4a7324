"""What ends a run before its corpus is labeled: a given teacher that guesses, and labeled samples of the test set."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import digit_images, write_parquet

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.weights import save_weights
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.plan.done import Done
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.schema import DIGESTS, SCORES
from raylabel.store.artifact import Root
from raylabel.training.digests import read_digests
from raylabel.training.examples import media_of


def recipe_in(folder: Path) -> Recipe:
    """Digits with an untrained teacher, 40 labeled samples that are also test samples, and no test sample of 9."""
    media, labels = digit_images()
    torch.manual_seed(0)
    (folder / "teacher.safetensors").write_bytes(save_weights(build(Model(arch="resnet8x1"), 10)))
    test = [i for i in range(400) if labels[i] != 9]
    shown = {"labeled": [*range(400, 560), *test[:40]], "unlabeled": range(600, 700), "test": test}
    corpora = {
        name: Corpus(
            uri=(str(write_parquet(folder / f"{name}.parquet", [media[i] for i in rows], labels[list(rows)])),)
        )
        for name, rows in shown.items()
    }
    teacher = Teacher(model=Model(arch="resnet8x1"), checkpoint=str(folder / "teacher.safetensors"))
    return replace(recipes.digits(), teacher=teacher, **corpora)


@pytest.mark.slow
def test_a_run_ends_before_its_corpus_is_labeled(ray_local, tmp_path, capsys):
    root, recipe = Root.open(str(tmp_path / "root")), recipe_in(tmp_path)
    start = prepare(root, recipe)
    assert "warning: the test set has no sample of 1 of 10 classes ('9')" in capsys.readouterr().out
    Done(root, recipe, start)  # a plan of a root without the SCORES of the test set
    for measured in (True, False):
        with pytest.raises(InputError, match="the given teacher has top-1 .*order of its classes.*--teacher.unchecked"):
            Run(root, recipe, start).build("tests")
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("given teacher: top-1 ")]
        assert len(printed) == measured
        assert [artifact.info["samples"] for artifact in root.named("scores")] == [start.test_labels.info["samples"]]
    with pytest.raises(InputError, match="the given teacher has top-1 "):
        Done(root, recipe, start)

    unchecked = replace(recipe, teacher=replace(recipe.teacher, unchecked=True), leaks="error")
    with pytest.raises(InputError, match="^40 of .* test samples leak: 40 labeled samples are byte-identical to test"):
        Run(root, unchecked, start).build("labels")
    assert len(root.named("scores")) == 1

    # The digests are those of SCORES, whether they are written with the EXAMPLES or read from the corpus.
    run = Run(root, replace(unchecked, leaks="report"), start)
    assert run.labeled_leaks.labeled_copies == run.labeled_leaks.test == 40
    written = media_of(run.labeled_examples).table("digests-", DIGESTS)
    read = read_digests(root, start.labels, start.shards["labeled"], start.corpora["labeled"])
    assert written == read and len(read) == 200
    assert run.teacher_test
    scored = run.teacher_test.table("scores-", SCORES, ["key", "digest"])
    assert read.slice(160).column("digest") == scored.slice(0, 40).column("digest")
