"""Only placement groups whose creators are dead are removed."""

import time
from typing import Any

import ray
import ray.util
from ray.util.placement_group import placement_group, remove_placement_group

from raylabel.compute.placement_groups import remove_orphaned_placement_groups


class Creator:
    def __init__(self) -> None:
        self._group = placement_group([{"CPU": 0.01}])

    def ready(self) -> str:
        """The id of the group, once it is created."""
        ray.get(self._group.ready())
        return self._group.id.hex()


def existing() -> set[str]:
    return {one for one, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"}


def test_only_placement_groups_of_dead_creators_are_removed(ray_local: None) -> None:
    before, deadline = existing(), time.monotonic() + 60
    create: Any = ray.remote(Creator).options(num_cpus=0)
    creators = [create.remote() for _ in range(3)]
    dead, *alive = ray.get([one.ready.remote() for one in creators])
    mine = placement_group([{"CPU": 0.01}])
    ray.get(mine.ready())
    try:
        assert remove_orphaned_placement_groups() == 0
        ray.kill(creators[0])
        while not (freed := remove_orphaned_placement_groups()):
            assert time.monotonic() < deadline, "Ray did not notice that the creator is dead"
            time.sleep(0.1)
        assert freed == 1
        while dead in existing():
            assert time.monotonic() < deadline, "the group still exists"
            time.sleep(0.1)
        assert existing() - before == {*alive, mine.id.hex()}
        assert remove_orphaned_placement_groups() == 0
    finally:
        remove_placement_group(mine)
        del creators  # their groups are orphaned then, and removed here, not at the end of the job
        while existing() - before and time.monotonic() < deadline:
            remove_orphaned_placement_groups()
            time.sleep(0.1)
