"""Places in the cluster that nobody uses: a placement group outlives the actor that made it, until the job ends.

Ray Train's controller makes one for its training workers. Where it is killed (no memory left, its machine gone, the
process that started it killed) Ray Train has a cleaner in a process of its own, which may be killed with it, and which
works only where there is a dashboard. Each group left behind is that many CPUs or GPUs less for the rest of the job.
"""

import ray
import ray._private.state
from ray._raylet import PlacementGroupID  # pyright: ignore[reportAttributeAccessIssue]
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group


def free_places() -> int:
    """Gives back the placement groups of this job whose makers are dead; how many there were.

    Ray knows who made a group, but its table of them does not tell.
    """
    job = ray.get_runtime_context().get_job_id()
    accessor = ray._private.state.state._connect_and_get_accessor()
    freed = 0
    for row in accessor.get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(row)  # pyright: ignore[reportAttributeAccessIssue]
        made_by_actor = bool(group.creator_actor_id.strip(b"\xff"))
        stands = group.state != gcs_pb2.PlacementGroupTableData.REMOVED  # pyright: ignore[reportAttributeAccessIssue]
        if stands and made_by_actor and group.creator_actor_dead and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed
