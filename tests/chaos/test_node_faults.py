"""Nodes are lost, with their processes and objects, and nodes join: the result is the golden one."""

import pytest
from harness import Driver, Stage

# Seven CPUs on three nodes. The driver's node cannot be removed.
NODES = {"cpus": 3, "nodes": [2, 2]}
DECODE = ["beside", "cluster"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("decode", DECODE)
def test_a_node_is_lost_and_another_joins_while_scoring(whole: Stage, decode: str):
    spec = whole.spec(**NODES, resources={"decode": decode}, teacher={"seconds": 0.3})
    with Driver(spec) as driver:
        driver.wait_until(lambda: len(driver.parts()) >= 20)
        driver.send("remove")
        driver.send("add")
        driver.wait_until(lambda: len(driver.parts()) >= 60)
        driver.send("remove")
        driver.send("add")
        driver.must_succeed(400)
    whole.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("decode", DECODE)
def test_two_of_three_nodes_are_lost_while_scoring(whole: Stage, decode: str):
    """The remaining node does the rest of the work."""
    spec = whole.spec(**NODES, resources={"decode": decode}, teacher={"seconds": 0.2})
    with Driver(spec) as driver:
        for parts in (20, 40):
            driver.wait_until(lambda: len(driver.parts()) >= parts)  # noqa: B023
            driver.send("remove")
        driver.must_succeed(400)
    whole.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_is_lost_and_another_joins_while_selecting(whole: Stage):
    """While the best samples of some SCORES files are selected, and while they are merged."""
    spec = whole.spec(
        **NODES,
        constants={"raylabel.selection.select:GROUP_CANDIDATES": 2000},
        faults={"slow": ["/picks-", 3]},
    )
    with Driver(spec) as driver:
        for files in ("scratch/*/*.arrow", "picks-*.parquet"):
            driver.wait_until(lambda: any(whole.root.glob(f"picks-*/{files}")))  # noqa: B023
            driver.send("remove")
            driver.send("add")
        driver.must_succeed(200)
    whole.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_joins_gets_teachers_and_lost_nodes_do_not_end_the_run(whole: Stage):
    spec = whole.spec(cpus=3, nodes=[2], teacher={"seconds": 0.6})
    with Driver(spec) as driver:
        driver.wait_until(lambda: len(driver.parts()) >= 10)
        assert len(driver.actors()) == 5
        driver.send("add")
        driver.wait_until(lambda: len(driver.actors()) == 7)
        joined = len(driver.parts())
        driver.wait_until(lambda: len(driver.parts()) >= joined + 20)
        assert len(driver.actors()) == 7
        for _ in range(2):
            driver.send("remove")
        driver.must_succeed(400)
    whole.check()
