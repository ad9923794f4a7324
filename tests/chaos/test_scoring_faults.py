"""Processes die while a corpus is scored: the result is the golden one, byte for byte, and the counts are exact."""

import random
import time
from collections.abc import Callable

import pytest
from golden import COMMANDS, SLOW_COMMANDS
from harness import Driver, Stage, kill_one

ACTORS = {"cpus": 4, "resources": {"teachers": 3}}
DECODE = ["beside", "cluster"]
CLUSTER = {"cpus": 4, "resources": {"teachers": 2, "decode": "cluster"}}


def rejected(stage: Stage, *commands: str) -> dict[int, str]:
    """Position → reject reason, of the samples that are one of these commands, if the parser executes them."""
    reasons = {one.encode(): reason for one, reason in (COMMANDS | SLOW_COMMANDS).items() if one in commands}
    found = {i: reasons[data] for i, data in enumerate(stage.golden.media) if data in reasons}
    assert len(found) == len(commands)
    return found


def kill_while_scoring(driver: Driver, victims: Callable[[], list[int]], times: int, seconds: float) -> int:
    """Sends SIGKILL to one of the victims every `seconds`, at most `times`, until the run ends; returns how often."""
    chance, killed = random.Random(times), 0
    driver.wait_until(driver.actors)
    while killed < times and driver.process.poll() is None:
        killed += kill_one(victims(), chance)
        time.sleep(seconds)
    return killed


@pytest.mark.slow
def test_a_run_without_faults_gives_the_golden_result(small: Stage):
    with Driver(small.spec(**ACTORS)) as driver:
        driver.must_succeed(120)
    small.check()


@pytest.mark.slow
def test_actors_and_sandbox_processes_are_killed(small_tar: Stage):
    """With the corpus in tars: neither the form of the corpus nor the kills change the result."""
    chance = random.Random(0)
    with Driver(small_tar.spec(**ACTORS, teacher={"seconds": 0.2})) as driver:
        for count in (2, 5):
            driver.wait_until(lambda: len(driver.parts()) >= count)  # noqa: B023
            for victims in (driver.parsers, driver.zygotes, driver.actors):
                driver.wait_until(lambda: kill_one(victims(), chance), 60)  # noqa: B023
        driver.must_succeed(200)
    small_tar.check()


@pytest.mark.slow
def test_only_media_that_kill_the_parser_are_rejected(small: Stage):
    with Driver(small.spec(**ACTORS, teacher={"commands": list(COMMANDS)})) as driver:
        driver.must_succeed(200)
    small.check(reasons=rejected(small, *COMMANDS))


@pytest.mark.slow
@pytest.mark.parametrize("resources", [ACTORS, CLUSTER], ids=DECODE)
def test_only_an_image_that_kills_the_teacher_is_rejected(small: Stage, resources: dict):
    with Driver(small.spec(**resources, teacher={"crashes": True})) as driver:
        driver.must_succeed(250)
    small.check(reasons={small.golden.crashing: "teacher_crash"})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("resources", [ACTORS, CLUSTER], ids=DECODE)
def test_an_actor_is_killed_every_five_seconds(whole: Stage, resources: dict):
    with Driver(whole.spec(**resources, teacher={"seconds": 0.35})) as driver:
        assert kill_while_scoring(driver, driver.actors, 10, 5) == 10
        driver.must_succeed(300)
    whole.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("resources", [ACTORS, CLUSTER], ids=DECODE)
def test_a_sandbox_process_is_killed_twice_a_second(whole: Stage, resources: dict):
    """Both sandbox children and zygotes."""
    with Driver(whole.spec(**resources, teacher={"seconds": 0.3})) as driver:
        assert kill_while_scoring(driver, driver.sandboxed, 1000, 0.5) > 30
        driver.must_succeed(300)
    whole.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_that_decode_are_killed(whole: Stage):
    with Driver(whole.spec(**CLUSTER, teacher={"seconds": 0.1})) as driver:
        assert kill_while_scoring(driver, driver.decoders, 30, 1) >= 10
        driver.must_succeed(300)
    whole.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("actors", "decode", "constants"),
    [
        (1, "beside", {}),
        (2, "cluster", {"raylabel.inference.pool:PIXELS": 1}),
        (7, "beside", {"raylabel.inference.pool:ITEMS": 1}),
        (7, "cluster", {"raylabel.inference.pool:BLOCK": 1 << 10}),
        (2, "beside", {"raylabel.inference.pool:ITEMS": 1000, "raylabel.selection.select:GROUP_CANDIDATES": 1000}),
    ],
)
def test_the_result_does_not_depend_on_how_work_is_divided(
    whole: Stage, actors: int, decode: str, constants: dict[str, int]
):
    settings = {"cpus": actors + 1, "resources": {"teachers": actors, "decode": decode}}
    with Driver(whole.spec(**settings, constants=constants)) as driver:
        driver.must_succeed(400)
    whole.check()


@pytest.mark.slow
@pytest.mark.parametrize("resources", [ACTORS, CLUSTER], ids=DECODE)
def test_media_that_hang_are_rejected(whole: Stage, resources: dict):
    with Driver(whole.spec(**resources, teacher={"commands": [*COMMANDS, *SLOW_COMMANDS]})) as driver:
        driver.must_succeed(250)
    whole.check(reasons=rejected(whole, *COMMANDS, *SLOW_COMMANDS))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pixels_are_twenty_times_larger_than_the_object_store(whole: Stage):
    copies = 20 * 100_000_000 // (len(whole.golden.media) * 16 * 16 * 3) + 1
    with Driver(whole.spec(**CLUSTER, store=100_000_000, teacher={"copies": copies})) as driver:
        driver.must_succeed(500)
    whole.check()
