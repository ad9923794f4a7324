"""A trained network as an artifact: its weights in `model.safetensors`, its architecture in the artifact's info."""

from torch import nn

from raylabel.models.build import build
from raylabel.models.config import Model
from raylabel.models.sources import find_source, is_name, load_source
from raylabel.models.weights import load_weights, save_weights, torchvision_weights
from raylabel.store.artifact import MANIFEST, Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.store.files import filesystem, is_local, reading

WEIGHTS = "model.safetensors"
CURVE = "curve.json"  # only if the network was trained here: [{images, loss, accuracy, lr}]


def describe(model: Model, classes: int) -> dict:
    """The description of a network in the info of its artifact."""
    later = {
        name: value
        for name in ("size", "features", "input", "layer")
        if (value := getattr(model, name)) != getattr(Model, name)
    }
    return {"model": {"arch": model.arch, "stem": model.stem, **later}, "classes": classes}


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
    """A network whose weights the user gives: `checkpoint`, a file (safetensors or a state dict) or a folder in the
    hub's layout; or `weights`, a name of torchvision or of the hub.

    InputError if the weights do not fit the architecture and the number of classes.
    """
    if weights and not is_name(weights):
        torchvision_weights(weights)  # the error has the closest names
    source = find_source(checkpoint or weights, model)

    def build_file(draft: Draft) -> Built:
        module = build(model, classes)
        load_source(module, source, model, classes)
        info = describe(model, classes) | source.info
        return Built([write_bytes(draft.uri, WEIGHTS, save_weights(module))], info)

    return root.make(name, {"model": identity_of(model), "classes": classes, "source": source.identity}, build_file)
