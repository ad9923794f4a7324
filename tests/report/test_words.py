"""What is counted has its name: of videos a stage counts videos, and training clips."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from videos import scene, video

from raylabel.artifact import Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.duplicates import find_duplicates
from raylabel.examples import Materialize, materialize
from raylabel.labels.teacher import Label, label
from raylabel.labels.truth import truth
from raylabel.media.clips import Clip
from raylabel.media.views import View
from raylabel.models import Model
from raylabel.resources import Resources
from raylabel.schedule import Schedule
from raylabel.selection import Select, select
from raylabel.train import Train, train

VIEW = View(size=16, resize=16, clip=Clip(frames=4, count=2))


@pytest.mark.slow
def test_the_stages_of_a_run_over_videos_count_videos_and_clips(
    ray_local, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = [video(scene(8, 32, 32, seed)) for seed in range(4)]
    pq.write_table(pa.table({"video": media, "label": ["a", "b", "a", "b"]}), tmp_path / "videos.parquet")
    root, corpus = Root.open(str(tmp_path / "root")), Corpus(uri=(f"{tmp_path}/videos.parquet",), kind="video")
    shards = index_corpus(root, "labeled", corpus)
    lesson = materialize(root, "labeled", truth(root, shards, corpus), shards, corpus, Materialize(lanes=2), 0.0)
    model = train(
        root,
        "teacher",
        model=Model(arch="r2plus1d8x1"),
        classes=2,
        examples=lesson,
        config=Train(images=4, batch=4, schedule=Schedule(lr=0.01)),
        view=VIEW,
        seed=0,
        resources=Resources(workers=1),
    )
    scores = label(root, model, shards, corpus, VIEW, Label(batch=4), Resources(teachers=1))
    select(root, scores, find_duplicates(root, scores), Select(k=2, p=2), ("a", "b"))
    said = re.findall(r"^(\S.*?): 4 of 4 (\w+),", capsys.readouterr().out, re.MULTILINE)
    assert said == [
        ("materialize labeled", "videos"),
        ("train teacher", "clips"),
        ("label", "videos"),
        ("find duplicates", "samples"),
        ("select", "samples"),
    ]
