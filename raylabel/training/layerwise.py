"""MEDIA → a network whose convolutions are learned one after another, without labels.

Each convolution learns its filters from patches of its input, which is what the layers before it make of some samples
(filters_from_patches.py has the methods); then the statistics of BatchNorm are set to those of the same samples. The
convolutions of shortcuts are no exception: all are learned in the order in which they run. The linear layers stay as
they are drawn. One of the training workers does it, since it has a GPU if there is one.

Letters: M clips of a video (1 for pictures), n samples, P patches, G groups of a convolution, D numbers of a patch.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch

from raylabel.compute.autoscaler import ready
from raylabel.compute.gpu import use_full_float32
from raylabel.compute.progress import Progress, make_board, shown
from raylabel.compute.resources import Resources, node_cpus
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.trained import WEIGHTS, describe
from raylabel.schema import ROW_GROUPS
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.training.checkpoint import Checkpoints, Writer
from raylabel.training.decoding import CHUNK, Decoder
from raylabel.training.features import stored_groups
from raylabel.training.filters_from_patches import Method, learn_filters
from raylabel.training.held_group import HeldGroup
from raylabel.training.worker_group import Workers

VERSION = 1
"""Of the numbers."""
SAMPLES = 4_096
"""Samples from which all layers are learned, at most: ten patches of each. Coates & Ng 2012 use about as many patches
as these for some hundred centroids."""
HELD = 512 << 20
"""Bytes of their decoded pixels, at most: the worker keeps them from layer to layer."""
GROUPS = 64
"""Groups of MEDIA that are read, at most. Each has samples from 16 places of the corpus (layout.py)."""
PATCHES = 40_000
"""Of a layer, at most,"""
NUMBERS = 1 << 26
"""and of all its patches: 256 MB."""
MINUTES = 1.0
"""Between two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class LayerwiseTask:
    """What is learned from what: plain data that can be sent to another process."""

    media: Artifact
    """MEDIA of the samples."""
    model: Model
    classes: int
    """Outputs of the head, which stays random."""
    view: View
    """Its evaluation view."""
    seed: int
    """Of the samples, the patches and the random numbers of the method; and of random weights."""
    method: Method
    board: Any = None
    """The actor to which progress is reported; None until it is started."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the network depends on."""
        found = {"media": self.media.digest, "model": identity_of(self.model), "classes": self.classes}
        found |= {"view": self.view.evaluation_identity, "seed": self.seed, "method": self.method}
        return {"layerwise": found | {"version": VERSION}}


def train_layerwise(
    root: Root, name: str, task: LayerwiseTask, resources: Resources, batch: int, group: HeldGroup | None = None
) -> Artifact:
    """The network that is learned layer by layer: its weights, as those of a training.

    `batch`: that of the training whose workers these are. A run that was killed resumes behind the last layer of its
    checkpoint. At most `SAMPLES` samples of `GROUPS` groups are read, of however many. InputError if the network is not
    one of convolutions.
    """
    cluster = ready(resources)
    try:
        order = _order(task.model, task.view)
    except InputError as error:
        raise InputError(f"{name}: {task.model.arch}: {error}") from error

    def build(draft: Draft) -> Built:
        board, checkpoints = make_board(), Checkpoints(draft.scratch("checkpoints"))
        workers = Workers(resources, cluster, batch, None, board, group)
        start = checkpoints.newest()
        ray.get(board.set.remote(start.step, ""))
        with (
            Progress(f"train {name}", len(order), "layers", done=start.step) as progress,
            shown(board, progress, lambda _: None),
        ):
            settings = {"task": replace(task, board=board), "order": order, "checkpoints": checkpoints}
            storage = draft.scratch("ray_train")
            final = workers.run(_run_worker, settings, storage, checkpoints, start, len(order), progress.say)
            ray.get(board.set.remote(len(order), ""))
        ray.kill(board)
        file = write_bytes(draft.uri, WEIGHTS, final.files[WEIGHTS])
        return Built([file], {**describe(task.model, task.classes), "hardware": cluster.name})

    return root.make(name, task.identity, build)


def _order(model: Model, view: View) -> list[str]:
    """The layers that are learned, in order. Nothing is computed: only shapes."""
    import torch

    from raylabel.models.build import build
    from raylabel.models.layers import check_convolutional, layer_order

    *frames, height, width, _ = view.eval_shape
    with torch.device("meta"):
        network = build(model, 2).eval()
        check_convolutional(network)
        return layer_order(network, torch.empty(2, 3, *frames[1:], height, width))


def _run_worker(settings: dict[str, Any]) -> None:
    """The function that each worker runs: all but the first have nothing to do."""
    import torch

    from raylabel.models.build import build, memory_format
    from raylabel.models.weights import load_weights, save_weights

    task, order, checkpoints = (settings[name] for name in ("task", "order", "checkpoints"))
    context = ray.train.get_context()
    if context.get_world_rank() != 0:
        return
    device = ray.train.torch.get_device()
    torch.set_num_threads(1)  # one worker per core; sums are also always computed in the same order
    use_full_float32()
    torch.manual_seed(task.seed)
    network = build(task.model, task.classes)
    start = checkpoints.newest()
    if start.step:
        load_weights(network, start.files[WEIGHTS], checkpoints.folder)
    network = network.to(device, memory_format=memory_format(network)).eval()  # pyright: ignore[reportCallIssue]
    loaders = max(1, node_cpus() // context.get_local_world_size()) if ray.get_gpu_ids() else 1
    pixels = read_sample(task.media, task.view, task.seed, loaders)
    # Raises if the driver has ended: another driver may be writing checkpoints now.
    writer = Writer(checkpoints, MINUTES, lambda: ray.get(task.board.get.remote()))
    for number in range(start.step, len(order)):
        learn_layer(network, order[number], pixels, task, hash((task.seed, number)) % (1 << 31))
        task.board.set.remote(number + 1, order[number])
        stop = ray.get(task.board.is_preempted.remote())
        if stop or number + 1 == len(order) or writer.due():
            weights = save_weights(network)
            writer.write(number + 1, lambda weights=weights: {WEIGHTS: weights})
        writer.check()
        if stop:
            break
    writer.wait()


def read_sample(media: Artifact, view: View, seed: int, threads: int) -> Any:
    """The pixels of some samples of MEDIA, uint8 [n M, ...], each as likely as the others, up to the different numbers
    of samples in groups; a function of the seed."""
    import torch

    table = media.table("row_groups", ROW_GROUPS)
    of = {name: table.column(name).to_numpy() for name in ROW_GROUPS.names}
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(table))[:GROUPS])
    rows = of["rows"][chosen]
    count = max(1, min(SAMPLES, HELD // math.prod(view.eval_shape)))
    wanted = np.sort(random.permutation(int(rows.sum()))[:count])
    ends = np.cumsum(rows)
    decoder, found = Decoder(media, view, threads), list[np.ndarray]()
    try:
        groups = (
            group._replace(sample=own, label=own)
            for group, end, size in zip(stored_groups(media, of, chosen), ends, rows, strict=True)
            if len(own := wanted[(wanted >= end - size) & (wanted < end)] - (end - size))
        )
        for _, _, pixels in decoder.chunks(groups):
            heartbeat()
            found.append(pixels.reshape(-1, *pixels.shape[2:]) if view.clip else pixels)
    finally:
        decoder.close()
    return torch.from_numpy(np.concatenate(found))


def learn_layer(network: Any, layer: str, pixels: Any, task: LayerwiseTask, seed: int) -> None:
    """Sets the filters of a convolution, and its biases to 0; or the statistics of a BatchNorm. `network`: in
    evaluation mode, with its earlier layers learned. `pixels` uint8 [n M, ...]."""
    import torch

    from raylabel.models.start import CONVOLUTION

    module = network.get_submodule(layer)
    with torch.no_grad():
        if not isinstance(module, CONVOLUTION):
            _set_statistics(module, network, layer, pixels, task.view)
            return
        patches = _patches(module, network, layer, pixels, task.view, seed)  # [P, G, D]
        drawn = module.weight.flatten(1).unflatten(0, (module.groups, -1))  # [G, filters of a group, D]
    found = [learn_filters(task.method, patches[:, group], drawn[group], seed) for group in range(module.groups)]
    with torch.no_grad():
        module.weight.copy_(torch.cat(found).reshape(module.weight.shape))
        if module.bias is not None:
            module.bias.zero_()


def _inputs(network: Any, layer: str, pixels: Any, view: View) -> Any:
    """What the layer takes of all samples, in batches."""
    from raylabel.media.image_views import normalise
    from raylabel.models.layers import input_of

    device = next(network.parameters()).device
    for some in pixels.split(CHUNK[view.inputs]):
        heartbeat()
        yield input_of(network, layer, normalise(some.to(device), view))


def _patches(module: Any, network: Any, layer: str, pixels: Any, view: View, seed: int) -> Any:
    """Random patches [P, G, D] of the input of a convolution, equally many of each sample."""
    import torch

    from raylabel.models.layers import patches_of, positions_of

    size = module.groups * module.weight[0].numel()
    each = -(-min(PATCHES, NUMBERS // size) // len(pixels))
    generator, found = torch.Generator().manual_seed(seed), []
    for x in _inputs(network, layer, pixels, view):
        position = torch.randint(positions_of(module, x), (len(x), each), generator=generator)
        found.append(patches_of(module, x, position).flatten(0, 1))
    return torch.cat(found)


def _set_statistics(module: Any, network: Any, layer: str, pixels: Any, view: View) -> None:
    """Gives a BatchNorm the mean and the variance of its input over all samples and positions."""
    import torch

    if module.running_mean is None:  # it always uses those of the batch
        return
    count, total, squares = 0, torch.zeros_like(module.running_mean, dtype=torch.float64), 0
    for x in _inputs(network, layer, pixels, view):
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count += x.numel() // x.shape[1]
        total += x.sum(axes, dtype=torch.float64)
        squares = squares + x.double().square().sum(axes)
    mean = total / count
    module.running_mean.copy_(mean)
    module.running_var.copy_((squares / count - mean**2).clamp(min=0))
