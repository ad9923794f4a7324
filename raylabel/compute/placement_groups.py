"""Orphaned placement groups: a placement group exists until the job ends, even if the actor that created it is dead.

Ray Train's controller creates one for its training workers. If the controller is killed (out of memory, its node lost,
the process that started it killed), a cleaner process of Ray Train removes the group. But the cleaner may be killed as
well, and it works only if there is a dashboard. An orphaned group reserves its CPUs or GPUs for the rest of the job.
"""

import ray

from raylabel.compute.ray_internals import placement_groups, remove_placement_group


def remove_orphaned_placement_groups() -> int:
    """Removes the placement groups of this job whose creators are dead; returns their number."""
    job, removed = ray.get_runtime_context().get_job_id(), 0
    for group in placement_groups():
        if group.orphaned and group.job == job:
            remove_placement_group(group)
            removed += 1
    return removed
