"""What the work may use. Never part of an identity: one laptop or a thousand GPUs make the same lists."""

from dataclasses import dataclass

from raylabel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """How many processes do the work; 0 means: choose from what the cluster has."""

    teachers: int = 0
    """Teacher actors. 0: one per GPU, or one per CPU but one where there is no GPU."""
    workers: int = 0
    """Training workers (DDP). 0: one per GPU; without a GPU one per CPU, each with at least 32 images of a batch."""

    def __post_init__(self):
        for name in ("teachers", "workers"):
            if getattr(self, name) < 0:
                raise InputError(f"resources.{name} is {getattr(self, name)}: give 0 (choose) or a positive number")


@dataclass(frozen=True)
class Cluster:
    """What Ray offers at this moment."""

    cpus: int
    gpus: int

    @classmethod
    def now(cls) -> "Cluster":
        import ray

        total = ray.cluster_resources()
        return cls(int(total.get("CPU", 0)), int(total.get("GPU", 0)))

    @property
    def name(self) -> str:
        """For the report: what this ran on."""
        return f"{self.cpus} CPUs, {self.gpus} GPUs" if self.gpus else f"{self.cpus} CPUs, no GPU"

    def teachers(self, resources: Resources) -> int:
        """Number of teacher actors. Reading and decoding keep a CPU: a pool that takes them all hangs Ray silently."""
        limit = self.gpus or max(1, self.cpus - 1)
        if resources.teachers > limit:
            raise InputError(
                f"resources.teachers is {resources.teachers}, but this cluster ({self.name}) has room for {limit} with "
                "a CPU left to read and decode: lower it, or 0 to choose"
            )
        return resources.teachers or limit

    def workers(self, resources: Resources, batch: int) -> int:
        """Number of training workers. BatchNorm is per worker and wants some 32 images."""
        limit = self.gpus or self.cpus
        if resources.workers > limit:
            raise InputError(
                f"resources.workers is {resources.workers}, but this cluster ({self.name}) has room for {limit}: "
                "lower it, or 0 to choose"
            )
        return resources.workers or (self.gpus or max(1, min(self.cpus, batch // 32)))

    def precision(self, wanted: str) -> str:
        """'bf16' or 'fp32' for 'auto': bf16 where the hardware multiplies in it, twice as fast or more."""
        if wanted != "auto":
            return wanted
        import torch

        # The driver's processor stands for the cluster's: where they differ, say the precision in the recipe.
        return "bf16" if self.gpus or torch.cpu._is_avx512_bf16_supported() else "fp32"  # pyright: ignore
