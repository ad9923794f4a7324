"""Many runs in one driver, with a fault each minute: each result is the golden one, and no resource use grows.

RAYLABEL_SOAK_MINUTES: duration, 30 by default.
"""

import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from harness import Driver, Stage, command_line, kill_one

MINUTES = float(os.environ.get("RAYLABEL_SOAK_MINUTES", "30"))


@dataclass(frozen=True)
class Usage:
    """The resources that a run uses at one moment."""

    driver: float
    """Anonymous memory of the driver, MB."""
    memory: float
    """Anonymous memory of all processes together, MB."""
    shared: float
    """Shared memory in /dev/shm and in memfd files, MB."""
    descriptors: int
    """File descriptors of the driver, the raylet and the GCS. Not of Ray's log monitor, which opens up to 200 logs."""
    processes: int


def usage(driver: Driver) -> Usage:
    memory, inodes, descriptors, processes = {}, {}, 0, driver.processes()
    for pid in processes:
        folder = Path(f"/proc/{pid}")
        try:
            status = (folder / "status").read_text()
            memory[pid] = int(status.partition("RssAnon:")[2].split()[0]) / 1024
            files = list((folder / "fd").iterdir())
            lasting = pid == driver.process.pid or command_line(pid).split(" ")[0].endswith(("/raylet", "/gcs_server"))
            descriptors += len(files) if lasting else 0
            for file in files:
                if os.readlink(file).startswith(("/dev/shm/", "/memfd:")):
                    stat = file.stat()
                    inodes[stat.st_dev, stat.st_ino] = stat.st_blocks / 2048
        except (OSError, IndexError):  # it has just ended
            continue
    whole = sum(memory.values())
    return Usage(memory.get(driver.process.pid, 0.0), whole, sum(inodes.values()), descriptors, len(processes))


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 600)
def test_resource_use_does_not_grow(whole: Stage, capsys: pytest.CaptureFixture[str]):
    chance, began = random.Random(0), time.monotonic()
    spec = whole.spec(cpus=4, resources={"teachers": 3}, teacher={"seconds": 0.02}, rounds=True)
    rounds, faults, samples = 0, [], []
    with Driver(spec) as driver:
        kinds: dict[str, Callable[[], list[int]]] = {
            "actor": driver.actors,
            "parser": driver.parsers,
            "zygote": driver.zygotes,
            "worker": driver.workers,
        }
        next_fault, stopping = 30.0, False
        while driver.process.poll() is None:
            now = time.monotonic() - began
            if now >= 60 * MINUTES and not stopping:
                (whole.root / "stop").touch()
                stopping = True
            if now >= next_fault and not stopping:
                kind = chance.choice(list(kinds))
                if kill_one(kinds[kind](), chance):
                    faults.append(kind)
                    next_fault += 60
            if (ended := driver.output().count('"round"')) > rounds:
                folder = whole.root / f"{rounds:05d}"
                assert ended == rounds + 1
                whole.golden.check(folder)
                shutil.rmtree(folder)
                rounds += 1
            samples.append((now, usage(driver)))
            assert now < 60 * MINUTES + 300, driver.progress()
            time.sleep(0.5)
        driver.must_succeed(1)
    quarters = [[one for at, one in samples if i <= 4 * at / (60 * MINUTES) < i + 1] for i in range(4)]
    first, last = (
        {name: statistics.median(asdict(one)[name] for one in quarters[i]) for name in Usage.__annotations__}
        for i in (1, 3)
    )
    most = {name: max(asdict(one)[name] for _, one in samples) for name in Usage.__annotations__}
    with capsys.disabled():
        print(json.dumps({"rounds": rounds, "faults": faults, "second quarter": first, "last": last, "most": most}))
    assert len(faults) >= int(MINUTES) - 1 and rounds >= MINUTES
    assert last["driver"] < first["driver"] + 30
    assert last["memory"] < 1.2 * first["memory"] + 100
    assert last["descriptors"] <= first["descriptors"] + 20
    assert last["processes"] <= first["processes"] + 5
    assert last["shared"] < first["shared"] + 50 and most["shared"] < spec.store / 1e6 + 100
