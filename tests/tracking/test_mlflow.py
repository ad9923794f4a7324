"""MLflow, with a real server on this machine."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tracked import points, snapshot

from raylabel.evaluate.results import Metric
from raylabel.store.artifact import Built, Draft, Root, write_bytes
from raylabel.tracking.snapshot import Snapshot

mlflow: Any = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

# The server is in the package mlflow, which needs an older pyarrow than raylabel: it is in another environment.
SERVER = os.environ.get("MLFLOW_SERVER", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [SERVER, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "files")]
    if not SERVER:
        pytest.skip("MLFLOW_SERVER does not name the program `mlflow` of an environment with the package mlflow")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail((folder / "log").read_text())
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return mlflow.MlflowClient()


def history(client: Any, run: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run, name)]


def finished(root: Root, one: Snapshot) -> Snapshot:
    def build(draft: Draft) -> Built:
        names = ("report.html", "summary.json")
        return Built([write_bytes(draft.uri, name, f"<p>{name}</p>".encode()) for name in names], {})

    of = {"model": "student", "seed": 0, "dataset": "d", "split": "test", "n": 9}
    metrics = [Metric(metric="top1", value=0.5, low=0.25, high=0.75, **of)]
    return replace(one, state="finished", metrics=metrics, report=root.make("run-digits", {}, build))


@pytest.mark.slow
def test_a_run_continues_with_each_point_once(client: Any, tmp_path: Path) -> None:
    from raylabel.tracking.to_mlflow import RUN_ID, Mlflow

    root = Root.open(str(tmp_path / "root"))
    many = {f"field{number}": "x" * 7000 for number in range(250)}
    first = replace(snapshot(teacher=points(4, 2)), recipe="kept", settings={"select": {"k": 50}, **many})
    Mlflow(str(tmp_path)).send(first)
    (tmp_path / "before").write_bytes((tmp_path / RUN_ID).read_bytes())
    again = Mlflow(str(tmp_path))  # a new process, whose training resumes from an earlier point
    again.send(replace(first, points={"teacher": points(2, 2)}))
    again.send(replace(first, points={"teacher": points(9, 2), "student": points(3)}))
    again.send(replace(first, state="stopped", points={"teacher": points(9, 2), "student": points(3)}))
    run = (tmp_path / RUN_ID).read_text()
    assert client.get_run(run).info.status == "KILLED"
    last = finished(root, replace(first, points={"teacher": points(9, 2), "student": points(5)}))
    for _ in range(2):
        Mlflow(str(tmp_path)).send(last)
    assert (tmp_path / RUN_ID).read_text() == run == (tmp_path / "before").read_text()
    found = client.get_run(run)
    assert found.info.status == "FINISHED" and found.info.run_name == first.run
    assert client.get_experiment(found.info.experiment_id).name == "kept"
    assert found.data.params["select.k"] == "50" and len(found.data.params) == 251
    for training, count, every in (("teacher", 9, 2), ("student", 5, 0)):
        curve, validated = points(count, every)
        for name in ("loss", "accuracy", "lr"):
            assert history(client, run, f"{training}/{name}") == [(p["images"], p[name]) for p in curve]
        assert history(client, run, f"{training}/validation_accuracy") == [
            (p["images"], p["accuracy"]) for p in validated
        ]
    assert history(client, run, "test_top1/student_low") == [(0, 0.25)]
    kept = client.download_artifacts(run, "report.html", str(tmp_path))
    assert Path(kept).read_text() == "<p>report.html</p>"


@pytest.mark.slow
def test_other_values_are_another_run(client: Any, tmp_path: Path) -> None:
    from raylabel.tracking.to_mlflow import RUN_ID, Mlflow

    one = replace(snapshot(teacher=points(4)), recipe="changed")
    Mlflow(str(tmp_path)).send(one)
    before = (tmp_path / RUN_ID).read_text()
    Mlflow(str(tmp_path)).send(replace(one, points={"teacher": points(6, seed=1)}))
    after = (tmp_path / RUN_ID).read_text()
    assert after != before and client.get_run(before).info.status == "KILLED"
    assert history(client, after, "teacher/loss") == [(p["images"], p["loss"]) for p in points(6, seed=1).curve]
