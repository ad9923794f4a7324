"""Every private or undocumented name of Ray that raylabel uses, each in one function.

Ray may change these in any version, so pyproject.toml pins its minor version. `tests/compute/test_ray_internals.py` has
a test for each, which says what to check when Ray is upgraded. Imports are inside the functions, because most processes
need one of them or none.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc


def session_folder() -> str:
    """Ray's session folder on this node. It is removed at the end of the session."""
    return _node().get_session_dir_path()


def logs_folder() -> str | None:
    """The folder of Ray's logs on this node; None if this process is not connected to a Ray node on this machine."""
    node = _node()
    return node.get_logs_dir_path() if node else None


def spill_folder() -> str | None:
    """The folder to which Ray spills objects on this node; None if this process does not know it."""
    return getattr(_node(), "_fallback_directory", None)


def _node() -> Any:
    import ray._private.worker

    return ray._private.worker._global_node  # pyright: ignore[reportAttributeAccessIssue]


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1: those of the machine, or fewer if its cgroup has a quota or a set of
    CPUs, as a container has, or if its affinity has fewer."""
    from ray._private.utils import get_num_cpus  # this is what `ray start` counts; it does not consider the affinity

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(get_num_cpus(override_docker_cpu_warning=True)), affinity))


def draining_nodes() -> set[str]:
    """Ids of the nodes that are draining: about to be shut down (spot notice, SIGTERM to Ray there, scale-down)."""
    import ray._private.state  # Ray Train itself uses this

    return set(ray._private.state.state.get_draining_nodes())


@dataclass(frozen=True)
class Group:
    """A placement group, with fields that Ray's public table of them lacks."""

    id: bytes
    job: str
    """Id of the job that it belongs to, hex."""
    orphaned: bool
    """Whether it was created by an actor that is dead now."""


def placement_groups() -> Iterator[Group]:
    """The placement groups of the cluster that are not removed."""
    import ray._private.state
    from ray.core.generated import gcs_pb2

    table: Any = gcs_pb2.PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
    for row in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = table.FromString(row)
        if group.state != table.REMOVED:
            made_by_actor = bool(group.creator_actor_id.strip(b"\xff"))
            orphaned = made_by_actor and group.creator_actor_dead
            yield Group(group.placement_group_id, group.creator_job_id.hex(), orphaned)


def remove_placement_group(group: Group) -> None:
    """Removes a placement group, also one that another process created."""
    from ray._raylet import PlacementGroupID  # pyright: ignore[reportAttributeAccessIssue]
    from ray.util.placement_group import PlacementGroup
    from ray.util.placement_group import remove_placement_group as remove

    remove(PlacementGroup(PlacementGroupID(group.id)))


def autoscaling_coordinator(requester: str) -> Any:
    """A client of the actor through which Ray Data and Ray Train request resources from the autoscaler, every 20 s.

    It has `request_resources(bundles, seconds)` and `cancel_request()`, for this requester only. The public
    `ray.autoscaler.sdk.request_resources` keeps a single request for all callers, which that actor overwrites.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import DefaultAutoscalingCoordinator

    return DefaultAutoscalingCoordinator(requester)


def pending_requests() -> Counter[tuple[tuple[str, float], ...]]:
    """Resource requests that the cluster cannot satisfy now: sorted (resource, amount) → number of requests."""
    import ray
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(GcsClient(ray.get_runtime_context().gcs_address))
    found: Counter[tuple[tuple[str, float], ...]] = Counter()
    for one in state.pending_resource_requests:
        found[_bundle(one.request)] += one.count
    for gang in state.pending_gang_resource_requests:  # those of a placement group
        for selector in gang.bundle_selectors[:1]:  # the other selectors are alternatives to the first
            found.update(map(_bundle, selector.resource_requests))
    return found


def _bundle(request: Any) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(request.resources_bundle.items()))


def is_start_timeout(error: BaseException) -> bool:
    """Whether Ray Train failed because the cluster had no resources for its workers in time."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def submitted_job_has_working_dir() -> bool:
    """Whether this process is the entry point of a submitted job that runs in a copy of its working directory."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    return "working_dir" in job.get("runtime_env", {})


def token_header() -> Mapping[str, str]:
    """This process's authentication token, as the header of a request to a Ray head; empty if it has none."""
    from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]

    return AuthenticationTokenLoader.instance().get_token_for_http_header()


def ask_cluster_id(head: str, header: Mapping[str, str]) -> grpc.StatusCode:
    """The status of a request for the cluster's id, which changes nothing, to the Ray head at host:port."""
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with grpc.insecure_channel(head) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        metadata = [(name.lower(), value) for name, value in header.items()]
        try:
            request = gcs_service_pb2.GetClusterIdRequest()  # pyright: ignore[reportAttributeAccessIssue]
            stub.GetClusterId(request, timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()  # pyright: ignore[reportAttributeAccessIssue]
    return grpc.StatusCode.OK


def blocks_of(refs: list[Any], rows: int, size: int, schema: Any) -> Any:
    """A dataset of the tables that the references refer to, or will; each has so many rows, about `size` bytes and that
    schema. `ray.data.from_arrow_refs` would start a task for each table."""
    from ray.data._internal.logical.interfaces import LogicalPlan
    from ray.data._internal.logical.operators import FromBlocks
    from ray.data._internal.stats import DatasetStats
    from ray.data.block import BlockMetadata, BlockMetadataWithSchema
    from ray.data.context import DataContext
    from ray.data.dataset import MaterializedDataset

    one = BlockMetadata(num_rows=rows, size_bytes=size, exec_stats=None)
    known = [BlockMetadataWithSchema.from_metadata(one, schema=schema)] * len(refs)
    context = DataContext.get_current().copy()
    stats = DatasetStats(metadata={"FromBlocks": known}, parent=None)  # pyright: ignore[reportArgumentType]
    return MaterializedDataset(LogicalPlan(FromBlocks(refs, known), context), context, stats)
