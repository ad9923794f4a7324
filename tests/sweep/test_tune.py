"""What is set again when a sweep resumes: the limit on concurrent trials, and the reports that ASHA compares with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray.tune
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from raylabel.compute.resources import Cluster, Node, Resources
from raylabel.recipes import registry as recipes
from raylabel.sweep import tune
from raylabel.sweep.config import SweepConfig


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the nodes of the cluster."""
    monkeypatch.setattr(tune, "POLL_SECONDS", 0.0)
    return lambda *nodes: monkeypatch.setattr(Cluster, "now", lambda: Cluster(nodes))


def test_concurrency_limit_follows_the_size_of_the_cluster(cluster):
    recipe = recipes.digits()  # one worker per training
    cluster(Node(4))
    single, pairs, chosen = (
        tune.ConcurrencyLimit(replace(recipe, resources=Resources(workers=workers)), [{"finetune.batch": 256}])
        for workers in (1, 2, 0)
    )
    assert (single(), pairs(), chosen()) == (4, 2, 1)  # a batch of 256 has work for four workers
    cluster(Node(4), Node(8))
    assert (single(), pairs(), chosen()) == (12, 6, 1)
    cluster(Node(1))
    assert (single(), pairs(), chosen()) == (1, 1, 1)
    cluster(Node(8, gpus=4))
    gpus = tune.ConcurrencyLimit(replace(recipe, resources=Resources(workers=2)), [{}])
    assert gpus() == 2
    cluster(Node(8))  # the GPU node is lost: the trials wait for another, and are not started on the CPUs
    assert gpus() == 1


def test_resumed_sweep_starts_trials_up_to_the_current_limit(ray_local, monkeypatch, tmp_path: Path):
    limit = 3
    monkeypatch.setattr(tune, "_state", type("State", (), {"limit": lambda self: limit})())
    ray.tune.register_trainable("idle", lambda config: None)
    numbered = ray.tune.grid_search([{"number": number} for number in range(9)])
    spec = {"sweep": {"run": "idle", "config": {"trial": numbered}, "storage_path": str(tmp_path)}}
    first = tune.InTurn()
    first.add_configurations(spec)
    out = [first.next_trial() for _ in range(4)]
    assert [trial.config["trial"]["number"] for trial in out if trial] == [0, 1, 2] and out[3] is None
    first.save_to_dir(str(tmp_path), session_str="x")
    again = tune.InTurn()
    again.add_configurations(spec)
    again.restore_from_dir(str(tmp_path))
    limit = 1  # the three trials that were running run again
    again.on_trial_complete(out[0].trial_id)
    assert again.next_trial() is None
    again.on_trial_complete(out[1].trial_id)
    again.on_trial_complete(out[2].trial_id)
    assert again.next_trial().config["trial"]["number"] == 3 and again.next_trial() is None
    limit = 3
    assert [again.next_trial().config["trial"]["number"] for _ in range(2)] == [4, 5] and again.next_trial() is None


accuracies = st.lists(st.integers(0, 20).map(lambda tenths: tenths / 20), min_size=1, max_size=12)


@given(accuracies, st.floats(0, 1))
def test_asha_decides_in_a_resumed_sweep_as_in_an_uninterrupted_one(before: list[float], last: float):
    whole, first = scheduler(), True
    ended = []
    for accuracy in before:
        trial = Trial("idle", stub=True)
        whole.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        result = {"stage": 1, "accuracy": accuracy, "pretrained": accuracy}
        continues = whole.on_trial_result(None, trial, result) == ASHAScheduler.CONTINUE  # pyright: ignore
        assert continues or not first
        first = False
        if continues:  # fine-tuned: better, or worse
            result = {"stage": 2, "accuracy": 1 - accuracy, "pretrained": accuracy}
            assert whole.on_trial_result(None, trial, result) == ASHAScheduler.STOP  # pyright: ignore
        whole.on_trial_complete(None, trial, result)  # pyright: ignore[reportArgumentType]
        trial.set_status(Trial.TERMINATED)
        trial.run_metadata.last_result = result
        ended.append(trial)
    restored = scheduler()
    for trial in reversed(ended):
        restored.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
    for one in (whole, restored):
        trial = Trial("idle", stub=True)
        one.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        ended.append(one.on_trial_result(None, trial, {"stage": 1, "pretrained": last}))  # pyright: ignore
    assert ended[-1] == ended[-2]


def scheduler() -> ASHAScheduler:
    return tune.scheduler(SweepConfig(scheduler="asha"))
