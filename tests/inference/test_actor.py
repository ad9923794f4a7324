"""An actor whose scorer cannot start: the run ends with the scorer's own sentence."""

import os
from dataclasses import dataclass

import pytest
from helpers import digit_images, write_parquet
from projection import Projection

from raylabel.compute.gpu import check_compiler
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import find_input_error
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
