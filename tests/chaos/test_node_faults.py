"""Nodes that vanish, with all that runs and lies on them, and nodes that come: the lists are the golden ones."""

import pytest
from harness import Driver, Stage

# Seven CPUs on three nodes; the driver's own cannot be taken from under it.
NODES = {"cpus": 3, "nodes": [2, 2]}
DECODE = ["beside", "cluster"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("decode", DECODE)
def test_a_node_goes_and_another_comes_while_scoring(whole: Stage, decode: str):
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
def test_nodes_go_for_good_while_scoring(whole: Stage, decode: str):
    """Two of three: the rest do what is left."""
    spec = whole.spec(**NODES, resources={"decode": decode}, teacher={"seconds": 0.2})
    with Driver(spec) as driver:
        for parts in (20, 40):
            driver.wait_until(lambda: len(driver.parts()) >= parts)  # noqa: B023
            driver.send("remove")
        driver.must_succeed(400)
    whole.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_goes_and_another_comes_while_selecting(whole: Stage):
    """While the best of some SCORES files are found, and while they are joined."""
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
def test_a_node_that_joins_is_given_teachers_and_one_that_goes_ends_nothing(whole: Stage):
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
