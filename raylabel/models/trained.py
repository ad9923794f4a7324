"""A trained network as an artifact: its weights in `model.safetensors`, its architecture in the artifact's info."""

from torch import nn

from raylabel.errors import InputError
from raylabel.models.build import build
from raylabel.models.config import Model
from raylabel.models.weights import checkpoint_digest, load_checkpoint, load_weights, save_weights, torchvision_weights
from raylabel.store.artifact import MANIFEST, Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.store.files import filesystem, is_local, reading

WEIGHTS = "model.safetensors"
CURVE = "curve.json"  # only if the network was trained here: [{images, loss, accuracy, lr}]


def describe(model: Model, classes: int) -> dict:
    """The description of a network in the info of its artifact."""
    return {"model": {"arch": model.arch, "stem": model.stem}, "classes": classes}


def load_model(artifact: Artifact) -> nn.Module:
    """The network with its weights, on the CPU, in training mode; logits float32 [B, C] from images [B, 3, H, W]
    or clips [B, 3, T, H, W].
    """
    module = build(Model(**artifact.info["model"]), artifact.info["classes"])
    load_weights(module, artifact.read(WEIGHTS), artifact.uri)
    return module


def open_network(uri: str) -> Artifact | None:
    """The trained network in a folder such as 'runs/student-0a1b2c3d4e5f'; None if it is not one, or not complete."""
    fs, path = filesystem(uri)
    name, _, digest = path.rpartition("/")[2].rpartition("-")
    with reading(uri):
        if not all(info.is_file for info in fs.get_file_info([f"{path}/{MANIFEST}", f"{path}/{WEIGHTS}"])):
            return None
    return Artifact(path if is_local(uri) else uri.rstrip("/"), name, digest) if name else None


def import_model(root: Root, name: str, model: Model, classes: int, *, checkpoint: str, weights: str) -> Artifact:
    """A network whose weights the user gives: a checkpoint file (safetensors or a state dict), or a torchvision weight.

    InputError if the weights do not fit the architecture and the number of classes.
    """

    def build_file(draft: Draft) -> Built:
        if checkpoint:
            module = build(model, classes)
            load_checkpoint(module, checkpoint, model, classes)
        else:
            known, count, state = torchvision_weights(weights)
            if known != model or classes != count:
                raise InputError(
                    f"weights {weights} are for {known.arch} with {count} classes, not for {model.arch} with "
                    f"{classes}: give a checkpoint, or train the teacher"
                )
            module = build(model, classes)
            module.load_state_dict(state)
        return Built([write_bytes(draft.uri, WEIGHTS, save_weights(module))], describe(model, classes))

    source = checkpoint_digest(checkpoint) if checkpoint else weights
    return root.make(name, {"model": identity_of(model), "classes": classes, "source": source}, build_file)
