"""The model card of an exported network: README.md, in the layout of Hugging Face's model cards.

The YAML at its top, then what the network is, how its input is made, how to load it, its accuracy, the gain over the
control, data, training, lineage, licences and limits. Every number is from the root; what is not known is said to be.
"""

from raylabel.evaluate.results import CLIP_TOP1, CONTROL, GAIN, STUDENT, TOP1, TOP5, Metric
from raylabel.models import Model
from raylabel.models.config import takes_clips
from raylabel.report.summary import MODELS, interval, verdict
from raylabel.selection.leaks import Leaks
from raylabel.ship.card_history import licence_section, lineage_section, training, training_section
from raylabel.ship.card_usage import Parity, Written, files_section, input_section, loading_section
from raylabel.ship.lineage import Step
from raylabel.ship.markdown import code, codes, table, yaml_value
from raylabel.ship.other_programs import timm_network
from raylabel.ship.shipped import Shipped
from raylabel.store.artifact import Artifact
from raylabel.text import percent, percent_range

CARD = "README.md"
_WHAT = {TOP1: "top-1", TOP5: "top-5", CLIP_TOP1: "top-1 of single clips"}


def write_card(shipped: Shipped, files: list[Written], parity: Parity, steps: list[Step]) -> str:
    """The text of the model card."""
    model = Model(**shipped.network.info["model"])
    sections = {
        "Input": input_section(shipped),
        "Load it": loading_section(model, shipped),
        "Accuracy": _accuracy(shipped),
        "Data": _data(shipped, steps),
        "Training": training_section(steps),
        "Lineage": lineage_section(steps),
        "Licences of the weights that went in": licence_section(shipped.run["settings"], steps),
        "Limits": _limits(shipped, steps),
        "Files": files_section(files, parity),
    }
    title = f"# {shipped.network.name}-{shipped.network.digest}"
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    return f"{_front_matter(shipped, model)}\n{title}\n\n{_summary(shipped, model)}\n\n{body}\n"


def measured(shipped: Shipped) -> list[Metric]:
    """METRICS rows of the network on the test set, those with an interval."""
    if shipped.sweep:
        return [Metric(**shipped.sweep["soup"]["test"])]
    rows = (Metric(**row) for row in shipped.run["metrics"] if row["model"] == shipped.network.name)
    return [row for row in rows if row.metric in _WHAT and row.split == "test"]


def _front_matter(shipped: Shipped, model: Model) -> str:
    task = "video-classification" if shipped.view.clip else "image-classification"
    results = [
        {"type": "accuracy", "name": _WHAT[row.metric], "value": row.value, "args": {"n": row.n}}
        for row in measured(shipped)
    ]
    dataset = {"name": ", ".join(shipped.run["settings"]["test"]["uri"]), "type": "custom", "split": "test"}
    result = {"task": {"type": task}, "dataset": dataset, "metrics": results}
    values = {
        "license": "unknown",
        **({"library_name": "timm"} if timm_network(model) else {}),
        "pipeline_tag": task,
        "tags": [task, "semi-supervised", "raylabel", "safetensors", "onnx"],
        "metrics": ["accuracy"],
        "model-index": [{"name": f"{shipped.network.name}-{shipped.network.digest}", "results": [result]}],
    }
    return "\n".join(["---", *(f"{name}: {yaml_value(value)}" for name, value in values.items()), "---"])


def _summary(shipped: Shipped, model: Model) -> str:
    classes, what = shipped.classes, "videos" if takes_clips(model) else "images"
    stem = "" if model.stem == "imagenet" else ", with a 3x3 stem without max-pool"
    stem += "" if model.input == "rgb" else ", on the gradients of the grey picture"
    kind = "the soup of a sweep (a mean of weights)" if shipped.sweep else MODELS.get(shipped.network.name, "network")
    return (
        f"A classifier of {what}: {code(model.arch)}{stem}, {len(classes):,} classes ({codes(classes)}). It is the "
        f"{kind} of the run {code(shipped.run['run'])} of raylabel, which trains students on the best-ranked picks of "
        "an unlabeled corpus (Yalniz et al. 2019, arXiv 1905.00546). Its licence is not known: state it before you "
        "pass it on."
    )


def _accuracy(shipped: Shipped) -> str:
    run, name = shipped.run, shipped.network.name
    mine = [("soup" if shipped.sweep else MODELS.get(name, name), row) for row in measured(shipped)]
    rows = [Metric(**row) for row in run["metrics"] if row["metric"] == TOP1 and row["split"] == "test"]
    mine += [(MODELS.get(row.model, row.model), row) for row in rows if shipped.sweep or row.model != name]
    cells = [
        [who, _WHAT[row.metric], percent(row.value), percent_range(*interval(row)), f"{row.n:,}"] for who, row in mine
    ]
    where = ", ".join(code(uri) for uri in run["settings"]["test"]["uri"])
    parts = [f"On the test set, {where}:"]
    parts.append(table(["network", "metric", "value", "95% interval", "n"], cells))
    gains = [Metric(**row) for row in run["metrics"] if row["metric"] == GAIN and row["model"] == name]
    for gain in gains:
        parts.append(f"**Gain over the control: {verdict(gain)}, paired over {gain.n:,} samples.** {_COVERS}")
    if soup := shipped.sweep and shipped.sweep["soup"]:
        gain = Metric(**soup["gain"])
        parts.append(f"Top-1 of the soup minus that of the best trial's student: {verdict(gain)}. {_COVERS}")
        parts.append("The gain of the soup over the control was not measured.")
    elif name == CONTROL:
        parts.append("This network is the control that the student is compared with.")
    elif name != STUDENT:
        parts.append("The gain of this network over the control was not measured.")
    control = _of_run(shipped, CONTROL)[0]
    parts.append(
        f"The control, {code(f'{control.name}-{control.digest}')}, is the student's architecture trained on the "
        f"labeled set alone: {training(control)}"
    )
    precision = "".join(f" The accuracies of this network were measured in {one}." for one in _precisions(shipped))
    parts.append(f"A test sample that could not be read counts as wrong.{precision}")
    return "\n\n".join(parts)


_COVERS = (
    "The interval is for the random choice of test samples. It does not cover the seed of the training, nor data of "
    "another kind."
)


def _of_run(shipped: Shipped, name: str) -> list[Artifact]:
    """The artifacts of the run that have this name."""
    folders = shipped.run["artifacts"].values()
    found = [Artifact(f"{shipped.root.uri}/{folder}", *folder.rsplit("-", 1)) for folder in folders]
    return [artifact for artifact in found if artifact.name == name]


def _precisions(shipped: Shipped) -> set[str]:
    """The arithmetic in which the network scored in the run: bf16 or fp32."""
    sources = (scores.identity["source"] for scores in _of_run(shipped, "scores"))
    return {one["label"]["precision"] for one in sources if one.get("model") == shipped.network.digest}


def _data(shipped: Shipped, steps: list[Step]) -> str:
    run, used = shipped.run, {step.artifact.name for step in steps}
    counts, settings = run["counts"], run["settings"]

    def where(name: str) -> str:
        return ", ".join(code(uri) for uri in settings[name]["uri"])

    lines = []
    if "shards-labeled" in used:
        rejected = f", {counts['labeled_rejected']:,} rejected" if counts["labeled_rejected"] else ""
        lines.append(f"- Labeled set: {where('labeled')}; {counts['labeled']:,} samples trained on{rejected}.")
    if "shards-unlabeled" in used:
        reasons = ", ".join(f"{one['reason']} {one['count']:,}" for one in run["rejects"])
        near = f" + {few:,} near-duplicates" if (few := counts.get("near_duplicates")) else ""
        lines.append(
            f"- Unlabeled corpus: {where('unlabeled')}; {counts['samples']:,} samples = {counts['scored']:,} scored + "
            f"{counts['rejected']:,} rejected{f' ({reasons})' if reasons else ''} + {counts['duplicates']:,} exact "
            f"duplicates{near}."
        )
        picks = run["picks"]
        more = f"; {code(text)}" if (text := picks.get("policy")) else ""
        lines.append(
            f"- Picks: {picks['total']:,} pairs of a sample and a class, of {picks['samples']:,} samples, at most "
            f"{picks['k']:,} per class, ranked by {code(picks['rank'])}{more}."
        )
    if not lines:
        lines.append("- Training data: not known, because raylabel did not train this network. State it here.")
    lines.append(f"- Test set: {where('test')}; {sum(run['test_per_class']):,} samples.")
    return "\n".join(lines)


def _limits(shipped: Shipped, steps: list[Step]) -> str:
    run = shipped.run
    lines = [
        "- It gives one of its classes for any input, also for one that shows none of them.",
        "- The accuracy is that of the test set above, with input prepared as above. Of other data it is not known.",
    ]
    if any(step.artifact.name == "picks" for step in steps):
        lines.append("- It has learned from the labels of a teacher, also where these are wrong.")
    if run.get("leaks") and (sentence := Leaks.of(run["leaks"]).sentence):
        lines.append(f"- Test set and training data: {code(sentence)}.")
    lines += [f"- Warning of the run: {code(text)}." for text in run.get("warnings", ())]
    return "\n".join(lines)
