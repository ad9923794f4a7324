"""A run in MLflow: metrics with the images as their step, the settings as parameters, and the report as artifacts.

MLflow only adds to a run. So the server is asked which points it has, and gets the others. Where a training that
resumed with another number of workers gave other values than before, a new run of MLflow begins.
"""

import time

import mlflow  # pyright: ignore[reportMissingImports]
import mlflow.exceptions  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH  # pyright: ignore[reportMissingImports]

from raylabel.store.files import read_file, write_file
from raylabel.store.names import PAGE, SUMMARY
from raylabel.tracking.snapshot import Snapshot, flat

RUN_ID = "mlflow.txt"  # in the folder of the run, with the id of the run in MLflow
STATUS = {"running": "RUNNING", "stopped": "KILLED", "finished": "FINISHED"}


class Mlflow:
    """A run in MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(self, folder: str):
        self._file, self._client = f"{folder}/{RUN_ID}", mlflow.MlflowClient()
        self._id, self._status = "", ""
        self._sent: dict[str, dict[int, float]] = {}  # name of a metric → step → value

    def send(self, snapshot: Snapshot) -> None:
        values = snapshot.values
        self._id = self._id or self._earlier() or self._new(snapshot)
        for name in values.keys() - self._sent.keys():
            history = self._client.get_metric_history(self._id, name)
            self._sent[name] = {metric.step: metric.value for metric in history}
        if any(self._sent[name].get(step, value) != value for name in values for step, value in values[name].items()):
            self._client.set_terminated(self._id, STATUS["stopped"])
            self._id, self._status, self._sent = self._new(snapshot), "", {name: {} for name in values}
        now = round(1000 * time.time())
        added = [
            Metric(name, value, now, step)
            for name, some in values.items()
            for step, value in some.items()
            if step not in self._sent[name]
        ]
        for first in range(0, len(added), MAX_METRICS_PER_BATCH):
            self._client.log_batch(self._id, added[first : first + MAX_METRICS_PER_BATCH])
        for metric in added:
            self._sent[metric.key][metric.step] = metric.value
        if snapshot.state != self._status:
            if snapshot.report:
                for file in (PAGE, SUMMARY):
                    self._client.log_text(self._id, snapshot.report.read(file).decode(), file)
            self._client.update_run(self._id, STATUS[snapshot.state])
            self._status = snapshot.state

    def _earlier(self) -> str:
        """The id of the run that an earlier process began; '' if there is none, or the server does not have it."""
        try:
            found = read_file(self._file).decode()
            self._client.get_run(found)
        except FileNotFoundError:
            return ""
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        return found

    def _new(self, snapshot: Snapshot) -> str:
        experiment = self._client.get_experiment_by_name(snapshot.recipe)
        made = experiment.experiment_id if experiment else self._client.create_experiment(snapshot.recipe)
        run = self._client.create_run(made, run_name=snapshot.run).info.run_id
        write_file(self._file, run.encode())
        params = [Param(key, value[:MAX_PARAM_VAL_LENGTH]) for key, value in flat(snapshot.settings).items()]
        for first in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run, params=params[first : first + MAX_PARAMS_TAGS_PER_BATCH])
        return run


def open_backend(folder: str) -> Mlflow:
    return Mlflow(folder)
