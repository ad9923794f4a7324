"""What a training changes: the network, the state of its optimizer, the average of its weights, and the best network.

All are restored from the files of a checkpoint to the same bits.
"""

import copy
from collections.abc import Mapping
from typing import Any

from raylabel.errors import InputError
from raylabel.models.start import covered, lr_scales, of_head, read_weights, taken
from raylabel.models.trained import WEIGHTS
from raylabel.models.weights import load_weights
from raylabel.store.artifact import Artifact
from raylabel.training.config import Train
from raylabel.training.noise import drop_features

MOMENTUM, VARIANCE = "momentum.safetensors", "variance.safetensors"  # first and second moments of the gradient
AVERAGE, BEST = "average.safetensors", "best.safetensors"
_ADAM = {"exp_avg": MOMENTUM, "exp_avg_sq": VARIANCE}
MOMENTS = {"sgd": {"momentum_buffer": MOMENTUM}, "adam": _ADAM, "adamw": _ADAM, "lamb": _ADAM}
"""Optimizer → the tensors that it keeps for each parameter → their file in a checkpoint."""
_NAMES = {"adam": "Adam", "adamw": "AdamW"}


def tensor_files(config: Train) -> int:
    """Files of a checkpoint that are about as large as the weights, these among them."""
    return 1 + len(MOMENTS[config.optimizer]) + bool(config.ema) + config.validate.keep_best


def result_file(config: Train) -> str:
    """The file of the last checkpoint with the trained network."""
    return BEST if config.validate.keep_best else AVERAGE if config.ema else WEIGHTS


class Learner:
    """A network that is trained, on one worker. `module` is on the worker's device, and has the same weights on all."""

    def __init__(self, module: Any, config: Train, rank: int, start: Artifact | None = None):
        """`start`: a network whose momentum of SGD goes on; all ranks must then call this together."""
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        self.module, self._rank = module, rank
        drop_features(module, config.dropout)
        self._config, self._moments = config, MOMENTS[config.optimizer]
        self._optimizer = make_optimizer(module, config)
        # The first rank alone needs it: the weights of all are the same.
        self._average = None
        if config.ema and rank == 0:
            self._average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        self._evaluated: Any = self._average.module if self._average else None
        self._best: dict[str, Any] = {}
        if start:
            self.restore(_continued(module, config, start) if rank == 0 else {}, 0)

    def step(self, lr: float, seed: int = 0) -> None:
        """Changes the weights by their gradients, and clears these. `seed`: of a random direction, the same on all
        workers."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        if self._config.direction == "random":
            _turn([p.grad for p in self.module.parameters() if p.grad is not None], seed)
        for _ in range(self._config.steps_per_gradient):
            self._optimizer.step()
            if self._average:
                self._average.update_parameters(self.module)
        self._optimizer.zero_grad()

    def evaluated(self) -> Any:
        """The network that would be the result now, the same on all ranks, which must call this together."""
        import torch.distributed

        if not self._config.ema:
            # As at the beginning of DDP's next step: each rank has had its own statistics of BatchNorm since the last.
            for buffer in self.module.buffers():
                torch.distributed.broadcast(buffer, 0)
            return self.module
        self._evaluated = self._evaluated or copy.deepcopy(self.module)
        for tensor in self._evaluated.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
        return self._evaluated

    def keep_best(self) -> None:
        """Keeps a copy of `evaluated` as the most accurate network so far, on the first rank."""
        if self._rank == 0:
            state = self._evaluated.state_dict() if self._config.ema else self.module.state_dict()
            self._best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def tensors(self) -> dict[str, dict[str, Any]]:
        """The tensors of each file of a checkpoint, on the first rank. They change with the next step."""
        found: dict[str, dict[str, Any]] = {WEIGHTS: self.module.state_dict()}
        for key, file in self._moments.items():
            found[file] = {}
            for name, parameter in self.module.named_parameters():
                if (tensor := self._optimizer.state[parameter].get(key)) is not None:
                    found[file][name] = tensor
        if self._average:
            found[AVERAGE] = self._average.module.state_dict()
        if self._best:
            found[BEST] = self._best
        return found

    def load(self, files: Mapping[str, bytes], where: str, step: int) -> dict[str, dict[str, Any]]:
        """Loads the network and the average after `step` batches, on the first rank. Returns the moments for `restore`.
        InputError naming `where` if the files are of another network."""
        import safetensors.torch

        load_weights(self.module, files[WEIGHTS], where)
        if self._average:
            load_weights(self._average.module, files[AVERAGE], where)
            self._average.n_averaged.fill_(step)
        if BEST in files:
            self._best = safetensors.torch.load(files[BEST])
        return {file: safetensors.torch.load(files[file]) for file in self._moments.values()}

    def restore(self, moments: Mapping[str, Mapping[str, Any]], step: int) -> None:
        """Sets the state of the optimizer after `step` batches, on all ranks: that of the first rank's `moments`. The
        other ranks have the weights from DDP."""
        import torch
        import torch.distributed

        init, each = self._config.init, self._config.steps_per_gradient
        thaw = init.thaws_at(self._config.steps)
        late = set(covered(self.module, init.frozen, dict(self.module.named_parameters())))
        for group in self._optimizer.param_groups:
            if self._config.optimizer == "lamb":
                group["step"] = torch.tensor(float(each * step))  # for all parameters of the group
        for name, parameter in self.module.named_parameters():
            state = self._optimizer.state[parameter]
            for key, file in self._moments.items():
                loaded = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                if self._rank == 0 and name in moments[file]:
                    loaded.copy_(moments[file][name])
                torch.distributed.broadcast(loaded, 0)
                # In the memory format that the optimizer uses. A buffer of zeros has the same effect as no buffer.
                state[key] = torch.empty_like(parameter).copy_(loaded)
            if self._config.optimizer in ("adam", "adamw"):
                state["step"] = torch.tensor(float(each * (max(0, step - thaw) if name in late else step)))


def make_optimizer(module: Any, config: Train) -> Any:
    """The optimizer of a network's parameters."""
    import torch

    scales, found = lr_scales(module, config.init.first_lr), dict[tuple[float, float, bool], list[Any]]()
    head = set(of_head(module)) if config.head_momentum is not None else ()
    for name, parameter in module.named_parameters():
        decay = config.weight_decay if config.decay_norms or parameter.ndim > 1 else 0.0
        found.setdefault((scales[name], decay, name in head), []).append(parameter)
    groups = [{"params": some, "scale": scale, "weight_decay": decay} for (scale, decay, _), some in found.items()]
    if config.optimizer == "sgd":
        for group, (*_, last) in zip(groups, found, strict=True):
            group |= {"momentum": config.head_momentum} if last else {}
        return torch.optim.SGD(groups, lr=config.schedule.lr, momentum=config.momentum)
    kind = _lamb() if config.optimizer == "lamb" else getattr(torch.optim, _NAMES[config.optimizer])
    return kind(groups, lr=config.schedule.lr, betas=(config.momentum, config.beta2))


def _continued(module: Any, config: Train, start: Artifact) -> dict[str, dict[str, Any]]:
    """The momentum that a training goes on with: that of the layers that it takes."""
    import safetensors.torch

    layers = taken(module, read_weights(start), config.init, start.uri)
    moments = safetensors.torch.load(start.read(MOMENTUM))
    return {MOMENTUM: {name: tensor for name, tensor in moments.items() if name in layers}}


def _turn(gradients: list[Any], seed: int) -> None:
    """Replaces gradients by a random vector of the same norm."""
    import torch

    generator = torch.Generator(gradients[0].device).manual_seed(seed)
    random = [torch.empty_like(gradient).normal_(generator=generator) for gradient in gradients]
    wanted, found = (
        torch.linalg.vector_norm(torch.stack([one.norm() for one in some])) for some in (gradients, random)
    )
    for gradient, other in zip(gradients, random, strict=True):
        gradient.copy_(other * (wanted / found))


def _lamb() -> Any:
    try:
        from timm.optim.lamb import Lamb
    except ImportError as error:
        raise InputError("optimizer 'lamb' needs timm: pip install 'raylabel[timm]' on all machines") from error
    return Lamb
