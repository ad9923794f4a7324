"""The resources that a run may use. They are never part of an identity, because they do not change the results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from raylabel.compute.ray_internals import draining_nodes, usable_cpus
from raylabel.errors import InputError

Decode = Literal["auto", "beside", "cluster"]

WRITERS = 0.25  # CPUs of each node that teacher actors leave free for the tasks that commit their scores


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The processes of a run; 0 means: choose from the resources of the cluster."""

    teachers: int = 0
    """Teacher actors. 0: one per GPU, or one per CPU if there is no GPU, also on machines that join during the run."""
    decode: Decode = "auto"
    """Where the corpus is decoded for the teacher: 'beside' it, on the CPUs of its own machine, so that only encoded
    bytes are sent; or in tasks on the whole 'cluster', which send it pixels. 'auto': 'beside', unless there are GPUs
    and the machines without a GPU have more CPUs than those with one."""
    workers: int = 0
    """Training workers (DDP). 0: one per GPU; without GPUs one per CPU, but at least 32 images of a batch for each."""
    cpus: int = 0
    """CPUs that scoring and training wait for, and request if the cluster starts machines on demand. 0: those that the
    cluster has, or one if it has none."""
    gpus: int = 0
    """GPUs that scoring and training wait for, in the same way. 0: those that the cluster has, possibly none, because a
    cluster does not say what it could start."""
    patience: float = 300
    """Seconds without progress in any process after which a run ends with an error that says what it waits for. If the
    cluster starts machines on demand, give more than a machine takes to start."""

    def __post_init__(self):
        for name in ("teachers", "workers", "cpus", "gpus"):
            if getattr(self, name) < 0:
                raise InputError(f"resources.{name} is {getattr(self, name)}: give 0 (choose) or a positive number")
        if not self.patience > 0:
            raise InputError(f"resources.patience is {self.patience}: give a positive number of seconds")
        if self.decode not in get_args(Decode):
            raise InputError(f"resources.decode is '{self.decode}': choose {', '.join(get_args(Decode))}")


@dataclass(frozen=True)
class Node:
    """One node of the cluster, with the resources that Ray counts for it."""

    cpus: int
    gpus: int = 0


def node_cpus() -> int:
    """CPUs of this process's node, at least 1: those that Ray counts there, or fewer if the process may not use all of
    them."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    counted = next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(int(counted), usable_cpus()))


@dataclass(frozen=True)
class Pool:
    """Teacher actors, the resources that each requests, and its decoding threads (0: other tasks decode)."""

    actors: int
    cpus: float
    gpus: float
    threads: int
    grows: bool = True
    """Whether more actors are started on nodes that join. `actors` is then the number at the start."""


@dataclass(frozen=True)
class Cluster:
    """The resources of the Ray cluster at one moment."""

    nodes: tuple[Node, ...]

    @classmethod
    def now(cls) -> "Cluster":
        import ray

        leaving = draining_nodes()
        alive = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in leaving]
        nodes = (Node(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in alive)
        return cls(tuple(node for node in nodes if node.cpus or node.gpus))

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def name(self) -> str:
        """A description of the hardware, for the report."""
        return f"{self.cpus} CPUs, {self.gpus} GPUs" if self.gpus else f"{self.cpus} CPUs, no GPU"

    def teachers(self, resources: Resources) -> Pool:
        """The pool of teacher actors. It leaves a fraction of each node's CPUs free for the tasks that write and those
        that decode: if the actors reserved all CPUs, Ray would hang without an error.

        Without a GPU there are as many actors as CPUs, each with a single thread, and each requests a little less than
        one CPU: so much that a node of the same size that joins gets exactly as many actors as it has CPUs.
        """
        with_gpu = [node for node in self.nodes if node.gpus]
        cpus_beside, sizes = sum(node.cpus for node in with_gpu), [node.cpus for node in self.nodes]
        decode = resources.decode
        if decode == "auto":
            decode = "cluster" if 0 < cpus_beside < self.cpus - cpus_beside else "beside"
        if with_gpu:
            limit, gpus = self.gpus, 1
            threads = min(max(1, (node.cpus - 1) // node.gpus) for node in with_gpu) if decode == "beside" else 0
            cpus = min(max(1.0, threads), *(_share(node.cpus, 1, node.gpus) for node in with_gpu))
        elif decode == "beside":
            limit, threads, gpus = self.cpus, 1, 0
            cpus = min(_share(size, WRITERS, size) for size in sizes)
            cpus = _leaving(WRITERS, sizes, np.arange(cpus, 0.1, -0.01))
        else:
            threads, gpus = 0, 0
            cpus = _leaving(0.5, sizes, np.arange(1, 2, 0.01)) if max(sizes) > 1 else 0.5
            limit = sum(int(size / cpus) for size in sizes) if max(sizes) > 1 else max(1, len(sizes) - 1)
        if resources.teachers > limit:
            raise InputError(
                f"resources.teachers is {resources.teachers}, but this cluster ({self.name}) has room for {limit}: "
                "lower it, or 0 to choose"
            )
        # On nodes with one CPU, more actors that are sent pixels would leave no room for the tasks that decode.
        grows = not resources.teachers and (bool(gpus or threads) or max(sizes) > 1)
        return Pool(resources.teachers or limit, cpus, gpus, threads, grows)

    def workers(self, resources: Resources, batch: int) -> int:
        """Number of training workers. BatchNorm is per worker and needs about 32 images."""
        limit = self.gpus or self.cpus
        if resources.workers > limit:
            raise InputError(
                f"resources.workers is {resources.workers}, but this cluster ({self.name}) has room for {limit}: "
                "lower it, or 0 to choose"
            )
        return resources.workers or (self.gpus or max(1, min(self.cpus, batch // 32)))

    def precision(self, wanted: str, trains_clips: bool = False) -> str:
        """'bf16' or 'fp32'. For 'auto' it is bf16 if the hardware multiplies in bf16, which is at least twice as fast.

        Training on clips of video without a GPU uses fp32, and bf16 is an InputError. Where a clip has two frames left,
        as in the third stage of r2plus1d_18 with clips of 8 frames, oneDNN returns uninitialised memory as the bf16
        gradient of a convolution's weights, without an error (torch 2.11 and 2.15, AVX-512 BF16, 2026-11-21). The
        forward pass is correct.
        """
        if trains_clips and not self.gpus:
            if wanted == "bf16":
                raise InputError("precision is 'bf16', but gradients of clips are wrong on a CPU in bf16: use 'auto'")
            return "fp32"
        if wanted != "auto":
            return wanted
        import torch

        # This checks the driver's CPU, not those of the cluster. If they differ, set the precision in the recipe.
        return "bf16" if self.gpus or torch.cpu._is_avx512_bf16_supported() else "fp32"  # pyright: ignore


def _leaving(free: float, sizes: Sequence[int], tries: np.ndarray) -> float:
    """The first of `tries`, CPUs per actor, for which `free` CPUs stay free on a node that is filled with actors.

    When nodes are lost, their actors restart on the nodes that are left. They would take the CPUs of the tasks that
    read, decode and write for them, and the run would hang.
    """
    fits = (c for c in tries.round(2).tolist() if all(size - int(size / c) * c >= free for size in sizes))
    return next(fits, float(tries[0].round(2)))


def _share(cpus: int, spare: float, actors: int) -> float:
    """CPUs for each of a node's actors, so that `spare` CPUs stay free, or half a CPU if the node has only one."""
    return math.floor(100 * max(cpus - spare, 0.5) / actors) / 100
