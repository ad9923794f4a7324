"""What the work may use. Never part of an identity: one laptop or a thousand GPUs make the same lists."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from raylabel.compute.ray_internals import draining_nodes
from raylabel.errors import InputError

Decode = Literal["auto", "beside", "cluster"]

WRITERS = 0.25  # CPUs of each machine that teacher actors leave to the tasks that commit what they find


@dataclass(frozen=True, kw_only=True)
class Resources:
    """How many processes do the work; 0 means: choose from what the cluster has."""

    teachers: int = 0
    """Teacher actors. 0: one per GPU, or one per CPU where there is no GPU, also on machines that join meanwhile."""
    decode: Decode = "auto"
    """Where the corpus is decoded for the teacher. 'beside' it, by the CPUs of its own machine, so that only encoded
    bytes travel; or in tasks all over the 'cluster', which hand it pixels. 'auto': beside, unless there are GPUs and
    the machines without one have more CPUs than those with."""
    workers: int = 0
    """Training workers (DDP). 0: one per GPU; without a GPU one per CPU, each with at least 32 images of a batch."""
    cpus: int = 0
    """CPUs that scoring and training wait for, and ask for where the cluster starts machines on demand. 0: those that
    there are, or the first one."""
    gpus: int = 0
    """GPUs, in the same way. 0: those that there are, or none: a cluster does not say what it could start."""
    patience: float = 300
    """Seconds in which nothing at all was done, in any process, after which a run ends in an error that says what it
    waits for. Where the cluster starts machines on demand: more than that takes."""

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
    """One machine of the cluster, in Ray's books."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True)
class Pool:
    """Teacher actors, what each asks of Ray, and how many threads of it decode (0: other tasks do)."""

    actors: int
    cpus: float
    gpus: int
    threads: int
    grows: bool = True
    """Whether more are started on machines that join; their number is then what the pool begins with."""


@dataclass(frozen=True)
class Cluster:
    """What Ray offers at this moment."""

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
        """For the report: what this ran on."""
        return f"{self.cpus} CPUs, {self.gpus} GPUs" if self.gpus else f"{self.cpus} CPUs, no GPU"

    def teachers(self, resources: Resources) -> Pool:
        """The pool of teacher actors. Some of each machine's CPUs stay free in Ray's books, for the tasks that write
        and those that decode: a pool that takes them all hangs Ray silently.

        Without a GPU the actors are as many as the CPUs, of a single thread each, and ask for a little less than one:
        for so much that a machine like these, which joins, is given as many as it has CPUs, and no more.
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
        # On machines of one CPU, actors that have pixels handed to them would take the place of those who decode.
        grows = not resources.teachers and (bool(gpus or threads) or max(sizes) > 1)
        return Pool(resources.teachers or limit, cpus, gpus, threads, grows)

    def workers(self, resources: Resources, batch: int) -> int:
        """Number of training workers. BatchNorm is per worker and wants some 32 images."""
        limit = self.gpus or self.cpus
        if resources.workers > limit:
            raise InputError(
                f"resources.workers is {resources.workers}, but this cluster ({self.name}) has room for {limit}: "
                "lower it, or 0 to choose"
            )
        return resources.workers or (self.gpus or max(1, min(self.cpus, batch // 32)))

    def precision(self, wanted: str, trains_clips: bool = False) -> str:
        """'bf16' or 'fp32' for 'auto': bf16 where the hardware multiplies in it, twice as fast or more.

        To train on clips of video it is fp32 without a GPU, and bf16 an InputError: where a clip has two frames left,
        as in the third stage of r2plus1d_18 of 8, oneDNN's bf16 gradient of a convolution's weights is uninitialised
        memory, in silence (torch 2.11 and 2.15, AVX-512 BF16, 2026-11-21). Forward it is right.
        """
        if trains_clips and not self.gpus:
            if wanted == "bf16":
                raise InputError("precision is 'bf16', whose gradients of clips are wrong on a CPU: leave it at 'auto'")
            return "fp32"
        if wanted != "auto":
            return wanted
        import torch

        # The driver's processor stands for the cluster's: where they differ, say the precision in the recipe.
        return "bf16" if self.gpus or torch.cpu._is_avx512_bf16_supported() else "fp32"  # pyright: ignore


def _leaving(free: float, sizes: Sequence[int], tries: np.ndarray) -> float:
    """The first of `tries` CPUs of which, however many actors find room on a machine, `free` CPUs of it stay free.

    Where machines vanish their actors crowd on those that are left, and would leave no room for those who read, decode
    and write for them: the run would stand still.
    """
    fits = (c for c in tries.round(2).tolist() if all(size - int(size / c) * c >= free for size in sizes))
    return next(fits, float(tries[0].round(2)))


def _share(cpus: int, spare: float, actors: int) -> float:
    """What each of a machine's actors may ask for, so that `spare` CPUs stay free, or half of the only one."""
    return math.floor(100 * max(cpus - spare, 0.5) / actors) / 100
