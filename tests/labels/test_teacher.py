"""SCORES compared with calling the model directly; the same bytes with any number of actors and after crashes."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from golden import COMMANDS
from harness import actors_among, descendants, kill_one, parsers_among, zygotes_among
from helpers import DIGITS_VIEW, broken_model, contents, digit_images, random_model, write_parquet
from paths import PYTHONPATH
from poison import Fragile
from scoring import score

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus, units
from raylabel.errors import InputError
from raylabel.inference import pool
from raylabel.inference import scores as stage
from raylabel.inference.network import Network
from raylabel.inference.scores import Scoring, make_scores
from raylabel.labels import teacher
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models.trained import load_model
from raylabel.pipelines.edited import check_edited
from raylabel.schema import REJECTS, SCORES
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root

CLASSES = tuple("0123456789")


def run(root: Root, corpus: Corpus, config: Label, actors: int = 1) -> Artifact:
    shards = index_corpus(root, "unlabeled", corpus)
    return score(root, corpus, shards, config, Resources(teachers=actors))


def label(root: Root, corpus: Corpus, config: Label, network: Artifact, resources: Resources) -> Artifact:
    shards = index_corpus(root, "unlabeled", corpus)
    source = TrainedNetwork(network=network, view=DIGITS_VIEW, config=config, resources=resources)
    return source.label(root, corpus, shards)


def test_scores_equal_direct_model_calls_and_every_sample_is_counted(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 70)
    monkeypatch.setattr(stage, "PART", 2)
    media, _ = digit_images()
    some: list[bytes | None] = list(media[:300])
    some[3], some[77], some[299] = b"no picture", b"", None
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", some, row_group_size=90)),))
    root = Root.open(str(tmp_path / "root"))
    scores = label(root, corpus, Label(batch=32, p=3, precision="fp32"), random_model(root), Resources(teachers=1))
    assert len(scores.files("scores-")) == 3  # 5 units of 70 rows, two per part

    table = scores.table("scores-", SCORES)
    good = [row for row in range(300) if row not in (3, 77, 299)]
    assert table.column("key").to_pylist() == good
    digests = [hashlib.blake2b(some[row] or b"", digest_size=16).digest() for row in good]
    assert table.column("digest").to_pylist() == digests
    pixels = torch.from_numpy(np.stack([eval_pixels(some[row] or b"", DIGITS_VIEW) for row in good]))
    module = load_model(random_model(root)).eval()
    with torch.inference_mode():
        logits = module(normalise(pixels, DIGITS_VIEW)).double().numpy()
    order = np.argsort(-logits, axis=1, kind="stable")[:, :3]
    assert (np.array(table.column("classes").to_pylist()) == order).mean() > 0.99  # all except near ties
    odds = np.array([[row[c] - np.log(np.exp(np.delete(row, c)).sum()) for c in range(10)] for row in logits])
    found = np.array(table.column("log_odds").to_pylist())
    np.testing.assert_allclose(found, -np.sort(-odds, axis=1)[:, :3], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table.column("logits").to_pylist(), -np.sort(-logits, axis=1)[:, :3], atol=1e-4)

    rejects = scores.table("rejects-", REJECTS).to_pylist()
    assert [(r["key"], r["stage"], r["reason"]) for r in rejects] == [
        (3, "decode", "unrecognized"),
        (77, "read", "empty"),
        (299, "read", "missing"),
    ]
    assert rejects[0]["uri"].endswith("a.parquet#3")
    assert (scores.info["samples"], scores.info["scored"], scores.info["rejected"]) == (300, 297, 3)


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_actors_or_the_size_of_items(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 100)
    media, _ = digit_images()
    for name, some in (("a", media[:730]), ("b", [*media[730:], *media[:50]])):
        write_parquet(tmp_path / f"{name}.parquet", some, row_group_size=270)
    corpus = Corpus(uri=(str(tmp_path / "*.parquet"),))
    made = []
    for actors, items in ((1, 32), (3, 2)):  # 1 unit and 3 units per item
        monkeypatch.setattr(pool, "ITEMS", items)
        root = Root.open(str(tmp_path / f"root{actors}-{items}"))
        scores = run(root, corpus, Label(batch=64), actors)
        duplicates = find_duplicates(root, scores)
        picks = select(root, scores, duplicates, Select(k=50, p=10), CLASSES)
        made.append((scores.digest, picks.digest, contents(scores), contents(duplicates), contents(picks)))
        assert duplicates.info["duplicates"] == 50
    assert made[0] == made[1]


@pytest.mark.slow
def test_bytes_do_not_depend_on_where_decoding_runs(ray_local, tmp_path):
    media, _ = digit_images()
    some = [b"no picture" if row % 500 == 7 else one for row, one in enumerate(media)]
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", some)),))
    made = []
    for where in ("beside", "cluster"):
        root = Root.open(str(tmp_path / where))
        resources = Resources(decode=where, teachers=1)
        scores = score(root, corpus, index_corpus(root, "unlabeled", corpus), Label(batch=64), resources)
        made.append((scores.digest, contents(scores), scores.info["reasons"]))
    assert made[0] == made[1]
    assert made[0][2] == {"unrecognized": 4}


@pytest.mark.slow
def test_only_the_new_shards_of_a_corpus_are_scored(ray_local, tmp_path, monkeypatch):
    """New shards before, between and after the old ones: all shard numbers change, and parts have old and new units."""
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(stage, "PART", 3)
    media, _ = digit_images()
    some = [b"no picture" if row % 100 == 7 else one for row, one in enumerate(media)]
    folder = tmp_path / "corpus"
    folder.mkdir()
    pieces = {name: some[i * 250 : (i + 1) * 250] for i, name in enumerate(["a0", "a1", "b0", "b1", "c0", "c1"])}
    corpus, config = Corpus(uri=(str(folder),)), Label(batch=32, p=10, reject_limit=0.5)

    grown = Root.open(str(tmp_path / "grown"))
    for name in ("a1", "b1", "c0"):
        write_parquet(folder / f"{name}.parquet", pieces[name])
    first = run(grown, corpus, config)
    assert (first.info["images"], first.info["earlier"]) == (750, 0)
    run(grown, corpus, Label(batch=32, p=9, reject_limit=0.5))  # another source: no scores to reuse
    for name in ("a0", "b0", "c1"):
        write_parquet(folder / f"{name}.parquet", pieces[name])
    second = run(grown, corpus, config)
    assert (second.info["images"], second.info["earlier"]) == (750, 750)
    assert second.info["samples"] == 1500 and second.info["reasons"] == {"unrecognized": 15}

    scratch = Root.open(str(tmp_path / "scratch"))
    whole = run(scratch, corpus, config)
    assert whole.info["earlier"] == 0
    assert contents(second) == contents(whole) and second.digest == whole.digest
    lists = [
        select(r, s, find_duplicates(r, s), Select(k=20, p=10), CLASSES) for r, s in ((grown, second), (scratch, whole))
    ]
    assert contents(lists[0]) == contents(lists[1])

    # A replaced shard is new, whatever its name.
    (folder / "b1.parquet").rename(folder / "d0.parquet")
    third = run(grown, corpus, config)
    assert (third.info["images"], third.info["earlier"]) == (250, 1250)

    # After a shard was changed on purpose its SHARDS are deleted: SCORES without SHARDS are not reused.
    for shards in (tmp_path / "grown").glob("shards-*"):
        shutil.rmtree(shards)
    (folder / "a0.parquet").unlink()
    fourth = run(grown, corpus, config)
    assert (fourth.info["images"], fourth.info["earlier"]) == (1250, 0)


@pytest.mark.slow
def test_rejects_are_retried_on_request(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 32)
    monkeypatch.setattr(stage, "PART", 2)
    media, _ = digit_images()
    folder, away = tmp_path / "corpus", tmp_path / "away"
    folder.mkdir()
    away.mkdir()
    for row, one in enumerate(media[:200]):
        (folder / f"{row:03d}.png").write_bytes(b"no picture" if row == 77 else one)
    corpus, config = Corpus(uri=(str(folder),)), Label(batch=8, reject_limit=0.5)
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", corpus)

    def scores(retry: bool = True, root: Root = root) -> Artifact:
        return score(root, corpus, shards, config, Resources(teachers=1), retry_rejects=retry)

    lost = [f"{row:03d}.png" for row in (0, 5, 64, 130, 131, 199)]
    for name in lost:
        (folder / name).rename(away / name)
    first = scores()
    assert first.info["reasons"] == {"missing": 6, "unrecognized": 1}
    before = contents(first)

    assert scores().uri == first.uri  # no sample was gained, and no file of the retry is left
    assert len(list(Path(root.uri).glob("scores-*"))) == 1

    for name in lost[:4]:
        (away / name).rename(folder / name)
    assert scores(retry=False).uri == first.uri  # not requested
    second = scores()
    assert second.info["reasons"] == {"missing": 2, "unrecognized": 1}
    assert (second.info["images"], second.info["earlier"], second.info["scored"]) == (7, 193, 197)
    assert scores(retry=False).uri == second.uri != first.uri

    for name in lost[4:]:
        (away / name).rename(folder / name)
    third = scores()
    assert third.info["rejected"] == 1 and third.info["images"] == 3
    scratch = scores(root=Root.open(str(tmp_path / "scratch")))
    assert contents(third) == contents(scratch)
    assert contents(first) == before
    keys = third.table("scores-", SCORES, ["key"]).column("key").to_pylist()
    assert keys == [row for row in range(200) if row != 77]

    # A larger corpus reuses the latest SCORES.
    (folder / "200.png").write_bytes(media[200])
    shards = index_corpus(root, "unlabeled", corpus)
    grown = scores(retry=False)
    assert grown.info["rejected"] == 1 and grown.info["samples"] == 201
    index_corpus(root, "unlabeled", corpus, partial(check_edited, root, corpus))
    (folder / "200.png").write_bytes(media[200][::-1])
    with pytest.raises(InputError, match="200.png' was edited after .*/scores-"):
        index_corpus(root, "unlabeled", corpus, partial(check_edited, root, corpus))


def kill_each_once(killed: list[str], over: threading.Event) -> None:
    """Kills one process that parses media, one zygote and one actor of this process's Ray, in that order."""
    chance = random.Random(0)
    for name, among in (("parser", parsers_among), ("zygote", zygotes_among), ("actor", actors_among)):
        while not over.wait(0.05):
            if kill_one(among(descendants(os.getpid())), chance):
                killed.append(name)
                over.wait(0.5)
                break


@pytest.mark.slow
def test_only_the_samples_that_crash_the_teacher_or_the_parser_are_rejected(ray_local, tmp_path, monkeypatch):
    """A sample crashes its process, and another one the GPU, whenever it is tried; processes that are killed from
    outside reject nothing."""
    monkeypatch.setattr(units, "UNIT", 64)
    rng = np.random.default_rng(0)
    media = [bytes([a, b, 0]) for a, b in rng.integers(0, 256, (400, 2))]
    poison_rows = {137: b"K", 331: b"G"}
    commands = dict(zip((20, 21, 150, 200, 399), COMMANDS, strict=True))
    some = [
        data[:2] + poison_rows[row] if row in poison_rows else commands[row].encode() if row in commands else data
        for row, data in enumerate(media)
    ]
    made = []
    for name, files in (("poison", some), ("clean", media)):
        corpus = Corpus(uri=(str(write_parquet(tmp_path / f"{name}.parquet", files)),))
        root = Root.open(str(tmp_path / name))
        shards = index_corpus(root, "unlabeled", corpus)
        scoring = Scoring(
            scorer=Fragile(),
            source={},
            shards=shards,
            corpus=corpus,
            batch=4,
            reject_limit=0.5,
            resources=Resources(teachers=2 if name == "poison" else 1),
        )
        killed, over = list[str](), threading.Event()
        killer = threading.Thread(target=kill_each_once, args=(killed, over))
        if name == "poison":
            killer.start()
        try:
            made.append(make_scores(root, scoring))
        finally:
            over.set()
        if name == "poison":
            killer.join()
            assert killed == ["parser", "zygote", "actor"]
    poison, clean = made
    rejects = {r["key"]: (r["stage"], r["reason"]) for r in poison.table("rejects-", REJECTS).to_pylist()}
    reasons = {row: ("decode", COMMANDS[command]) for row, command in commands.items()}
    assert rejects == reasons | {row: ("score", "teacher_crash") for row in poison_rows}
    expected = clean.table("scores-", SCORES)
    assert poison.table("scores-", SCORES) == expected.filter([row not in rejects for row in range(400)])


@pytest.mark.long
def test_samples_with_scores_that_are_not_finite_are_rejects(ray_local, tmp_path):
    media, _ = digit_images()
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", list(media[:40]))),))
    root = Root.open(str(tmp_path / "root"))
    with pytest.raises(InputError, match="40 of 40 samples could not be read.*not_finite 40"):
        label(root, corpus, Label(batch=8, reject_limit=1.0), broken_model(root), Resources(teachers=1))


def test_too_many_rejects_stop_the_run_with_the_reasons(ray_local, tmp_path):
    media, _ = digit_images()
    some = [b"no picture" if row % 10 == 0 else one for row, one in enumerate(media[:200])]
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", some)),))
    root = Root.open(str(tmp_path / "root"))
    with pytest.raises(InputError, match=r"20 of 200 samples.*limit is 5%.*unrecognized 20.*reject-limit"):
        run(root, corpus, Label(batch=32))
    assert root.named("scores") == []
    # The limit does not affect the bytes: with a higher one the same build is resumed.
    assert run(root, corpus, Label(batch=32, reject_limit=0.2)).info["rejected"] == 20


SCRIPT = """
import logging, ray
from scoring import score
from raylabel.store.artifact import Root
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus, units
from raylabel.inference import scores
from raylabel.labels.teacher import Label
units.UNIT, scores.PART = 256, 2
ray.init(address={address!r}, log_to_driver=False, logging_level=logging.ERROR)
root, corpus = Root.open({root!r}), Corpus(uri=({corpus!r},))
score(root, corpus, index_corpus(root, "unlabeled", corpus), Label(batch=64), Resources(teachers=1))
"""


@pytest.mark.slow
def test_a_killed_driver_loses_no_committed_part(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 256)
    monkeypatch.setattr(stage, "PART", 2)
    media, _ = digit_images()
    corpus = str(write_parquet(tmp_path / "a.parquet", media * 6))

    def start(root: Path) -> subprocess.Popen:
        address = ray.get_runtime_context().gcs_address  # the driver dies, and not its Ray: its actors end with it
        script = SCRIPT.format(address=address, root=str(root), corpus=corpus)
        return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": PYTHONPATH})

    clean, killed = tmp_path / "clean", tmp_path / "killed"
    run(Root.open(str(clean)), Corpus(uri=(corpus,)), Label(batch=64))

    process = start(killed)
    deadline = time.monotonic() + 200
    while len(committed := list(killed.glob("scores-*/parts/*.json"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    committed = list(killed.glob("scores-*/parts/*.json"))
    assert not list(killed.glob("scores-*/manifest.json")), "the run ended before it was killed"
    stamps = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in committed}

    assert start(killed).wait(200) == 0
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in committed} == stamps  # none scored again
    roots = [Root.open(str(folder)) for folder in (clean, killed)]
    one, two = (root.named("scores")[0] for root in roots)
    lists = []
    for root, scores in zip(roots, (one, two), strict=True):
        picks = select(root, scores, find_duplicates(root, scores), Select(k=30, p=10), CLASSES)
        lists.append((picks.digest, contents(picks)))
    assert lists[0] == lists[1]
    assert contents(one) == contents(two) and one.digest == two.digest
    keys = two.table("scores-", SCORES, ["key"]).column("key").to_pylist()
    assert keys == list(range(len(media) * 6))
    assert two.info["images"] < two.info["samples"]  # the second start scored only the rest


def test_a_batch_larger_than_a_unit_is_an_error():
    with pytest.raises(InputError, match="label.batch is 2048: give 2 to 1024"):
        Label(batch=2048)


def test_a_shard_that_changes_while_it_is_scored_is_an_error(ray_local, tmp_path):
    media, _ = digit_images()
    path = write_parquet(tmp_path / "a.parquet", media[:100])
    corpus, root = Corpus(uri=(str(path),)), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", corpus)
    write_parquet(path, media[100:200])  # the same number of rows, other images
    with pytest.raises(InputError, match=f"'{path}' changed since it was indexed"):
        score(root, corpus, shards, Label(batch=32), Resources(teachers=1))
    # These scores must not count as scores of the corpus once the shard is restored.
    assert root.named("scores") == [] and not list((tmp_path / "root").glob("scores-*/parts/*"))


def test_a_network_is_scored_with_its_settings(ray_local, tmp_path, monkeypatch):
    root, asked = Root.open(str(tmp_path)), []
    monkeypatch.setattr(teacher, "make_scores", lambda root, scoring, former: asked.append(scoring))
    network, resources, corpus = random_model(root), Resources(teachers=3), Corpus(uri=("x",))
    config = Label(batch=64, p=20, precision="bf16", reject_limit=0.1)
    network.info["content"] = "of the shards"
    for retry in (False, True):
        source = TrainedNetwork(
            network=network, view=DIGITS_VIEW, config=config, resources=resources, retry_rejects=retry
        )
        source.label(root, corpus, network)
        scoring = asked.pop()
        assert scoring.scorer == Network(network, DIGITS_VIEW, "bf16", 10)  # no more than there are classes
        assert (scoring.batch, scoring.reject_limit, scoring.by) == (64, 0.1, "teacher")
        assert scoring.resources is resources and scoring.source == source.identity and scoring.retry_rejects is retry
        assert not scoring.names
    before = stage._identity(scoring)
    replace(source, names=True).label(root, corpus, network)
    named = asked.pop()
    assert named.names and stage._identity(named) == before | {"names": True}


@pytest.mark.slow
def test_scores_in_bf16_of_an_earlier_version_are_used_and_never_mixed_with_those_of_this_one(ray_local, tmp_path):
    """Until the last layer computed in float32, identities had no `head`, and logits took few values.

    Complete SCORES of the corpus are found, those that were begun are completed in their arithmetic, and a corpus that
    grew is scored again as a whole, because its identity differs in the arithmetic.
    """
    media, _ = digit_images()
    files = [write_parquet(tmp_path / f"{name}.parquet", media[i * 600 : (i + 1) * 600]) for i, name in enumerate("ab")]
    root, config, resources = (
        Root.open(str(tmp_path / "root")),
        Label(batch=64, precision="bf16"),
        Resources(teachers=1),
    )
    one, both = (Corpus(uri=tuple(map(str, some))) for some in (files[:1], files))
    source = TrainedNetwork(network=random_model(root), view=DIGITS_VIEW, config=config, resources=resources)
    shards = {corpus: index_corpus(root, "unlabeled", corpus) for corpus in (one, both)}

    old = make_scores(root, source._scoring(one, shards[one], "bf16", float32_head=False, thumbnails=False))
    assert old.identity["source"]["label"]["precision"] == "bf16" and "head" not in old.identity["source"]["label"]
    assert source.label(root, one, shards[one]).digest == old.digest
    assert replace(source, thumbnails=True).label(root, one, shards[one]).digest == old.digest  # it had none

    content = contents(old)
    manifest = Path(old.uri, "manifest.json")
    manifest.unlink()  # as if the earlier version had been stopped before its end
    shutil.rmtree(Path(old.uri, "parts"))
    assert source.label(root, one, shards[one]).digest == old.digest and contents(old) == content

    grown = source.label(root, both, shards[both])
    assert grown.identity["source"] == source.identity and source.identity["label"]["head"] == "fp32"
    assert (grown.info["images"], grown.info["earlier"]) == (1200, 0)
    shutil.rmtree(old.uri)
    new = source.label(root, one, shards[one])
    assert new.info["earlier"] == 600 and new.identity["source"] == source.identity


def test_the_identity_covers_exactly_what_affects_evaluation_pixels():
    view = View()
    training = replace(view, crop="padded", min_scale=0.5, padding=0, flip=False)
    assert training.evaluation_identity == view.evaluation_identity
    half = (0.5, 0.5, 0.5)
    for change in ({"size": 223}, {"resize": 257}, {"dct_scale": True}, {"mean": half}, {"std": half}):
        assert replace(view, **change).evaluation_identity != view.evaluation_identity
