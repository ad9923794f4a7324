"""Placement groups whose makers are dead are given back, and no others."""

import time
from typing import Any

import ray
import ray.util
from ray.util.placement_group import placement_group, remove_placement_group

from raylabel.compute.placement_groups import remove_orphaned_placement_groups


class Maker:
    def __init__(self) -> None:
        self._group = placement_group([{"CPU": 0.01}])

    def ready(self) -> str:
        """The id of the group, once it stands."""
        ray.get(self._group.ready())
        return self._group.id.hex()


def standing() -> set[str]:
    return {one for one, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"}


def test_only_placement_groups_of_dead_creators_are_removed(ray_local: None) -> None:
    before, deadline = standing(), time.monotonic() + 60
    make: Any = ray.remote(Maker).options(num_cpus=0)
    makers = [make.remote() for _ in range(3)]
    dead, *alive = ray.get([one.ready.remote() for one in makers])
    mine = placement_group([{"CPU": 0.01}])
    ray.get(mine.ready())
    try:
        assert remove_orphaned_placement_groups() == 0
        ray.kill(makers[0])
        while not (freed := remove_orphaned_placement_groups()):
            assert time.monotonic() < deadline, "Ray did not notice that the maker is dead"
            time.sleep(0.1)
        assert freed == 1
        while dead in standing():
            assert time.monotonic() < deadline, "the group still stands"
            time.sleep(0.1)
        assert standing() - before == {*alive, mine.id.hex()}
        assert remove_orphaned_placement_groups() == 0
    finally:
        remove_placement_group(mine)
        del makers  # with whom their groups would stay until the job ends
        while standing() - before and time.monotonic() < deadline:
            remove_orphaned_placement_groups()
            time.sleep(0.1)
