"""Private names of Ray. Each test's docstring says what to check when Ray is upgraded."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pyarrow as pa
import pytest
import ray
import ray.data
from ray._private.utils import _get_docker_cpus
from ray.util.placement_group import placement_group

from raylabel.compute import ray_internals as internals
from raylabel.compute import resources


def test_folders(ray_local: None) -> None:
    """`_global_node` and its methods: the session folder holds the logs, and the raylet's log is among them."""
    session, logs = internals.session_folder(), internals.logs_folder()
    assert logs is not None and os.path.realpath(logs).startswith(os.path.realpath(session))
    assert any(name.startswith("raylet") for name in os.listdir(logs))
    spill = internals.spill_folder()
    assert spill is None or isinstance(spill, str)


def test_cpus_of_the_affinity_and_of_the_cgroup_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`get_num_cpus`: int or float, from the cgroup's files if there are any."""
    mine = os.sched_getaffinity(0)
    assert internals.usable_cpus() <= len(mine)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert internals.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, mine)
    files = [tmp_path / name for name in ("no quota", "no period", "no set", "cpu.max")]
    monkeypatch.setattr(_get_docker_cpus, "__defaults__", tuple(map(str, files)))
    files[-1].write_text("50000 100000")  # half a CPU, which is less than one
    assert internals.usable_cpus() == 1
    files[-1].write_text("max 100000")
    assert internals.usable_cpus() == len(mine)


def test_a_node_has_the_cpus_that_ray_counts(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture gives Ray four CPUs: a process that may use more has four, and one that may use fewer has those."""
    assert resources.node_cpus() == min(4, internals.usable_cpus())
    for usable, wanted in ((100, 4), (3, 3), (1, 1)):
        monkeypatch.setattr(resources, "usable_cpus", lambda usable=usable: usable)
        assert resources.node_cpus() == wanted


def test_no_node_is_draining_in_a_quiet_cluster(ray_local: None) -> None:
    """`state.get_draining_nodes`: ids as in `ray.nodes()`. tests/deploy/test_spot_notice.py drains a node."""
    assert internals.draining_nodes() == set()


def test_placement_groups_are_seen_and_removed(ray_local: None) -> None:
    """Fields of gcs_pb2.PlacementGroupTableData: the id, the job, the state and the creator of the group."""
    group = placement_group([{"CPU": 0.01}])
    ray.get(group.ready())
    (found,) = (one for one in internals.placement_groups() if one.id == group.id.binary())
    assert found.job == ray.get_runtime_context().get_job_id() and not found.orphaned
    internals.remove_placement_group(found)
    deadline = time.monotonic() + 30
    while any(one.id == found.id for one in internals.placement_groups()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_pending_requests_are_counted_by_their_resources(ray_local: None) -> None:
    """`get_cluster_resource_state`: a task that no node has room for is in `pending_resource_requests`."""

    @ray.remote(num_cpus=777)
    def never() -> None: ...

    waiting, deadline = [never.remote() for _ in range(2)], time.monotonic() + 30
    try:
        while internals.pending_requests()[(("CPU", 777.0),)] != 2:
            assert time.monotonic() < deadline, internals.pending_requests()
            time.sleep(0.2)
    finally:
        for one in waiting:
            ray.cancel(one, force=True)


def test_requests_to_the_autoscaler_have_their_own_requester(ray_local: None) -> None:
    """The methods of DefaultAutoscalingCoordinator. In tests/compute/test_autoscaler.py machines are started for it."""
    coordinator = internals.autoscaling_coordinator("test")
    coordinator.request_resources([{"CPU": 1.0}], 5.0)
    coordinator.cancel_request()


def test_a_start_that_timed_out_is_distinguished_from_other_errors() -> None:
    """WorkerGroupStartupTimeoutError: Ray Train's controller raises it if workers get no resources in time."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    error = Exception("training failed")
    assert not internals.is_start_timeout(error)
    late = WorkerGroupStartupTimeoutError(2)
    assert internals.is_start_timeout(SimpleNamespace(controller_failure=late))  # pyright: ignore[reportArgumentType]


def test_a_submitted_job_knows_its_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable in which Ray gives a job its configuration. tests/cli/test_jobs.py submits a real job."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert not internals.submitted_job_has_working_dir()
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps({"runtime_env": {"working_dir": "gcs://a.zip"}}))
    assert internals.submitted_job_has_working_dir()
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps({"runtime_env": {"env_vars": {}}}))
    assert not internals.submitted_job_has_working_dir()


def test_the_head_answers_a_request_for_its_cluster_id(ray_local: None) -> None:
    """NodeInfoGcsService.GetClusterId and the token loader. tests/cli/test_connect.py has heads that need a token."""
    head = ray.get_runtime_context().gcs_address
    assert internals.ask_cluster_id(head, internals.token_header()) == grpc.StatusCode.OK
    assert internals.ask_cluster_id("127.0.0.1:9", {}) == grpc.StatusCode.UNAVAILABLE


def test_blocks_of_references_are_given_in_order(ray_local: None, tmp_path: Path) -> None:
    """FromBlocks, BlockMetadata and what a MaterializedDataset is made of: the blocks are those of the references, in
    their order, also if they are made in another one. What is said of them is believed, and starts no task."""
    schema = pa.schema([pa.field("number", pa.list_(pa.int64()))])

    @ray.remote(num_cpus=0.01, num_returns=3)
    def make(first: int) -> list[pa.Table]:
        deadline = time.monotonic() + 60
        while first == 0 and not (tmp_path / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return [pa.table([[[number, number]]], schema=schema) for number in range(first, first + 3)]

    made: list[Any] = [make.remote(first) for first in (0, 3, 6)]
    refs = [ref for some in made for ref in some]
    blocks = internals.blocks_of(refs, 1, 40, schema)
    known = blocks.count(), blocks.size_bytes(), blocks.num_blocks(), blocks.schema().base_schema
    assert known == (9, 360, 9, schema)
    assert not ray.wait(refs[:1], timeout=0)[0], "the first block was waited for"
    (tmp_path / "go").touch()
    assert [entry.ref for bundle in blocks.iter_internal_ref_bundles() for entry in bundle.blocks] == refs

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    with ray.data.DataContext.current(context):
        again = internals.blocks_of(refs, 1, 40, schema).map_batches(
            _batch_rows, batch_size=None, batch_format="pyarrow"
        )
        rows = [row["number"] for row in again.iter_rows()]
    assert rows == [[number, number, 1] for number in range(9)]


def _batch_rows(table: pa.Table) -> pa.Table:
    """Each row with the number of rows of its block."""
    return pa.table({"number": [[*row, table.num_rows] for row in table.column("number").to_pylist()]})
