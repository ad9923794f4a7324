"""A training in a process of its own, which tests kill: python training_driver.py SETTINGS, as JSON.

{root, corpus, log: folders, workers, steps, every: steps between checkpoints, pause: seconds per batch, fault: what the
hook below does to each worker, nodes: nodes of a cluster (0: this machine only)}. An InputError is printed to stderr,
with exit status 2, as in a job.
"""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path


def hook(settings: dict) -> None:
    """Runs in each of Ray's processes before any work: makes training log its samples, and injects the fault.

    A worker's log is named by start time, size of the group, rank and pid. Each line has an item's position and key.
    Beside the logs, `log.steps` has a byte for each step of each worker.
    """
    from raylabel.training import checkpoint, stream

    items, batches, write_file = stream.Stream.items, stream.Stream.batches, checkpoint.write_file

    def logged(self, start, stop, rank=0, world=1, batch=1):
        name = f"{time.time_ns()}-{world}-{rank}-{os.getpid()}"
        with open(f"{settings['log']}/{name}", "w", buffering=1) as log:
            for item in items(self, start, stop, rank, world, batch):
                log.write(f"{item[0]} {item[1]}\n")
                yield item

    def rank_1_is_first(log: str) -> bool:
        """True once, in the second worker."""
        import ray.train

        if ray.train.get_context().get_world_rank() != 1 or os.path.exists(f"{log}.failed"):
            return False
        open(f"{log}.failed", "w").close()
        return True

    def slow(self, view, batch, first, *more):
        save_by_step()
        for number, each in enumerate(batches(self, view, batch, first, *more), first // batch):
            if number == settings["steps"] // 2 and settings["fault"] == "raise":
                raise ValueError("a bug in the loop")
            if number == settings["steps"] // 2 and settings["fault"] == "gpu" and rank_1_is_first(settings["log"]):
                import torch

                raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
            if number == settings["steps"] // 2 and settings["fault"] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(settings["pause"])
            yield each
            with open(f"{settings['log']}.steps", "a") as done:
                done.write(".")

    def slow_write(uri, data):
        if settings["fault"] == "slow save" and "/checkpoints/" in uri:
            time.sleep(0.5)
        write_file(uri, data)

    def save_by_step():
        from raylabel.training.preemption import Agreement  # only in workers: it imports Ray Train, which takes seconds

        agreed = Agreement.after

        def after(self, step):
            return agreed(self, step)._replace(save=step % settings["every"] == 0)

        Agreement.after = after

    for where, name, put in (stream.Stream, "items", logged), (stream.Stream, "batches", slow):
        setattr(where, name, put)
    checkpoint.write_file = slow_write


def cluster_of(nodes: int, folder: Path) -> str:
    """The address of a Ray cluster of so many nodes with a CPU each. Each SIGUSR1 adds a node.

    For tests that kill nodes, the file `nodes` has a line for each node: its id and the pid of its raylet.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    added = [cluster.add_node(num_cpus=1) for _ in range(nodes)]
    lines = [f"{node.node_id} {node.all_processes['raylet'][0].process.pid}" for node in added]
    address = str(cluster.address)
    (folder / "nodes").write_text("\n".join([address, *lines]))

    signal.signal(signal.SIGUSR1, lambda *_: cluster.add_node(num_cpus=1))  # runs in the main thread, as Ray requires
    return address


def main() -> None:
    import ray
    from trainings import digits_examples, fit

    from raylabel.errors import InputError
    from raylabel.store.artifact import Root
    from raylabel.training import worker_group as workers
    from raylabel.training.config import Train
    from raylabel.training.schedule import Schedule

    settings = json.loads(sys.argv[1])

    def hooked() -> None:
        hook(settings)

    where: dict = {"address": "local", "num_cpus": 4, "include_dashboard": False}
    if settings.get("nodes"):
        where = {"address": cluster_of(settings["nodes"], Path(settings["log"]).parent)}
    ray.init(
        **where,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"worker_process_setup_hook": hooked},
    )
    workers.SETTLED = 5.0
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config = Train(
        images=settings["steps"] * 64,
        batch=64,
        schedule=Schedule(lr=0.05),
        precision="fp32",
    )
    root = Root.open(settings["root"])
    try:
        fit(root, digits_examples(root, Path(settings["corpus"])), config, workers=settings["workers"])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if settings.get("nodes"):  # the shutdown of a fake cluster would end this process too, with status 1
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
