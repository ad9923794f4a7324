"""An actor whose scorer cannot start, which ends the run with the scorer's own sentence; and actors with a GPU."""

import os
from dataclasses import dataclass
from typing import Any

import pytest
from helpers import digit_images, write_parquet
from projection import Projection

from raylabel.compute.gpu import check_compiler
from raylabel.compute.resources import Pool, Resources
from raylabel.corpus import Corpus, Shards, Units, index_corpus
from raylabel.errors import find_input_error
from raylabel.inference.batches import ScoringTask
from raylabel.inference.pool import _pipeline
from raylabel.inference.scorer import Run
from raylabel.inference.scores import Scoring, make_scores
from raylabel.store.artifact import Root


@dataclass(frozen=True)
class NeedsCompiler(Projection):
    """Starts as a network on a GPU does, on a machine without the compiler that it is told to use."""

    def start(self, gpu: bool) -> Run:
        os.environ["CC"] = "no-such-compiler"
        check_compiler()
        return super().start(gpu)


@pytest.mark.slow
def test_an_actor_that_cannot_start_says_why_in_one_sentence(ray_local, tmp_path):
    media, _ = digit_images()
    root = Root.open(str(tmp_path / "root"))
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", media[:40])),))
    scoring = Scoring(
        scorer=NeedsCompiler(8, 3),
        source={"compiled": True},
        shards=index_corpus(root, "a", corpus),
        corpus=corpus,
        batch=32,
        reject_limit=0.0,
        resources=Resources(teachers=1),
    )
    with pytest.raises(Exception) as raised:
        make_scores(root, scoring)
    found = find_input_error(raised.value)
    assert found and str(found).startswith(
        "a network is compiled for the GPU, but this machine lacks the C compiler 'no-such-compiler' of the variable CC"
    )


@pytest.mark.parametrize("threads", [0, 2])
def test_actors_with_a_gpu_take_whole_blocks(ray_local, tmp_path, threads):
    """The data set of a scoring pass is made, which Ray refuses for some settings; it is not executed."""
    media, _ = digit_images()
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", media[:40])),))
    shards = Shards(index_corpus(Root.open(str(tmp_path / "root")), "a", corpus))
    pool = Pool(actors=2, cpus=1, gpus=0.5, threads=threads)
    task = ScoringTask(Projection(8, 3), corpus, shards, 32, pool)
    made: Any = _pipeline(task, [list(Units(shards.rows, 16))])
    scoring = made._logical_plan.dag
    assert scoring.ray_remote_args["num_gpus"] == 0.5 and scoring.min_rows_per_bundled_input is None
