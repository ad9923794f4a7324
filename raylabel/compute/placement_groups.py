"""Orphaned placement groups: one outlives the actor that made it, until the job ends.

Ray Train's controller makes one for its training workers. Where it is killed (no memory left, its machine gone, the
process that started it killed) Ray Train has a cleaner in a process of its own, which may be killed with it, and which
works only where there is a dashboard. Each orphaned group holds as many CPUs or GPUs for the rest of the job.
"""

import ray

from raylabel.compute.ray_internals import placement_groups, remove_placement_group


def remove_orphaned_placement_groups() -> int:
    """Removes the placement groups of this job whose makers are dead; how many there were."""
    job, removed = ray.get_runtime_context().get_job_id(), 0
    for group in placement_groups():
        if group.orphaned and group.job == job:
            remove_placement_group(group)
            removed += 1
    return removed
