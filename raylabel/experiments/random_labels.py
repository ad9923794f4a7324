"""Pre-training on random labels as a Comparison: tables 1 and 2, figures 2 and 3 of Pondenkandath et al. 2018."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from raylabel.evaluate.results import CURVE_AREA, EARLY_TOP1, TOP1, Metric, find, metrics, require
from raylabel.experiments.comparison import (
    Column,
    Comparison,
    Curves,
    Finding,
    Row,
    Table,
    Value,
    epochs_of,
    write_comparison,
)
from raylabel.experiments.looks import Looks, look
from raylabel.pipelines.random_labels import Outcome, RandomLabelsRun
from raylabel.recipes.random_labels import Labels
from raylabel.store.artifact import Artifact, identity_of

EXPERIMENT = "random-labels"
OVER = "_over_"
"""In METRICS the gain over none is gain_top1, and that over random labels gain_top1_over_random."""

NAMES = {
    "none": "no pre-training",
    "random": "random labels",
    "shuffled": "shuffled labels",
    "true": "true labels",
}
SOURCE = {
    "random": "UCF101 32.9 to 34.6%, HMDB51 17.4 to 18.2%, Kinetics 35.0 to 40.2% (tables 1 and 2; no intervals)",
    "true": "Kinetics 69.8% after true labels of Sports-1M, 40.2% after random ones (table 2)",
}


def write_random_labels(run: RandomLabelsRun) -> tuple[Artifact, Comparison]:
    """(the artifact of the experiment, its results). Builds what is missing first."""
    recipe, outcomes = run.recipe, run.outcomes
    comparison = Comparison(
        experiment=EXPERIMENT,
        name=recipe.name,
        headline=_headline(outcomes),
        detail=_detail(run),
        findings=list(_findings(run, outcomes)),
        tables=list(_tables(run)),
        curves=list(_curves(run)),
        warnings=run.warnings,
        settings=identity_of(recipe),
    )
    rows = [row for one in outcomes for row in (*one.metrics, *_gains(one))]
    inputs = [*run.shards.values(), *run.truth.values(), *run.test_labels.values(), *run.artifacts]
    inputs.append(metrics(run.root, recipe.name, rows))
    return write_comparison(run.root, comparison, inputs, lambda: list(_looks(run)))


def _looks(run: RandomLabelsRun) -> Iterator[Looks]:
    """What the pre-trained networks look at in pictures that they have learned."""
    for before, after in run.recipe.directions if not run.recipe.view.clip else ():
        networks = {
            NAMES[one.labels]: (one.pretrained, run.picks(before, one.labels))
            for one in run.outcomes
            if one.finetuned_on == after and one.pretrained
        }
        if networks:
            corpus = f"{before}-labeled"
            title = f"Pictures of {run.recipe.set_name(before)}, after pre-training on them"
            yield look(title, run.corpora[corpus], run.shards[corpus], networks, run.recipe.view)


def _gains(outcome: Outcome) -> Iterator[Metric]:
    for over, gain in outcome.gains.items():
        yield gain if over == "none" else replace(gain, metric=f"{gain.metric}{OVER}{over}")


def _headline(outcomes: Sequence[Outcome]) -> str:
    """What random labels gain, or else the first other ones, in one line."""
    compared = [one for one in outcomes if one.gain]
    if not compared:
        return "Accuracy after pre-training"
    labels = "random" if any(one.labels == "random" for one in compared) else compared[0].labels
    found = [one.gain for one in compared if one.labels == labels]
    better = sum(gain.low > 0 for gain in found if gain and gain.low is not None)
    worse = sum(gain.high < 0 for gain in found if gain and gain.high is not None)
    what = f"Pre-training on {NAMES[labels]}"
    if not better and not worse:
        return f"{what}: no measurable gain"
    sets = "" if len(found) == 1 else f" on {better or worse} of {len(found)} sets"
    if better and worse:
        return f"{what}: a gain on one set, a loss on the other"
    return f"{what}: {'a gain' if better else 'a loss'}{sets}"


def _detail(run: RandomLabelsRun) -> str:
    sets = "; ".join(
        f"{run.recipe.set_name(after)}: {run.splits[after][0].info['samples']:,} labeled samples of "
        f"{len(run.classes[after])} classes, {run.test_labels[after].info['samples']:,} to test on"
        for _, after in run.recipe.directions
    )
    return f"{run.recipe.model.arch}, seed {run.recipe.seed}; {sets}"


def _findings(run: RandomLabelsRun, outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    claims: tuple[tuple[Labels, Labels, str], ...] = (
        ("random", "none", "Pre-training on random labels raises the accuracy"),
        ("true", "random", "True labels of another set help more than random ones"),
    )
    for labels, over, claim in claims:
        gains = {
            f"{run.recipe.set_name(one.finetuned_on)} after {run.recipe.set_name(one.pretrained_on)}": one.gains[over]
            for one in outcomes
            if one.labels == labels and over in one.gains
        }
        if gains:
            yield Finding.of_gains(claim, SOURCE[labels], gains)


def _tables(run: RandomLabelsRun) -> Iterator[Table]:
    for before, after in run.recipe.directions:
        own = [one for one in run.outcomes if one.finetuned_on == after]
        names = run.recipe.set_name(before), run.recipe.set_name(after)
        yield Table(
            title=f"Fine-tuned on the true labels of {names[1]}, after {names[0]}",
            columns=[
                Column(title="top-1", form="percent", plotted=True),
                Column(title="points over none", form="points"),
                Column(title="after a tenth", form="percent"),
                Column(title="mean", form="percent"),
            ],
            rows=[_finetuned(run, one) for one in own],
            note=_note(run, after),
        ).without_empty_columns()
        if learned := [_learned(run, one) for one in own if one.learned]:
            targets = run.recipe.pretrain.validate.targets
            yield Table(
                title=f"Pre-training on {names[0]}",
                columns=[
                    Column(title="classes", form="count"),
                    Column(title="learned", form="percent"),
                    *(Column(title=f"epochs to {100 * target:g}%", form="epochs") for target in targets),
                ],
                rows=learned,
                note="Learned: accuracy, in evaluation mode, on the labels that were trained on. A dash: not reached.",
            )


def _finetuned(run: RandomLabelsRun, one: Outcome) -> Row:
    on = run.recipe.finetune.validate.on
    early = find(one.metrics, metric=EARLY_TOP1) if one.curve else None
    area = find(one.metrics, metric=CURVE_AREA, split=on) if one.curve else None
    cells = [require(one.metrics, metric=TOP1, split="test"), one.gain, early, area]
    return Row(name=NAMES[one.labels], cells=[Value.of(cell) if cell else None for cell in cells])


def _learned(run: RandomLabelsRun, one: Outcome) -> Row:
    assert one.learned and one.pretrained
    samples = one.learned.samples
    reached = [images and images / samples for images in one.learned.reached.values()]
    return Row(
        name=NAMES[one.labels],
        cells=[
            Value(value=one.pretrained.info["classes"]),
            Value(value=one.learned.kept.accuracy),
            *(Value(value=epochs) if epochs else None for epochs in reached),
        ],
    )


def _note(run: RandomLabelsRun, after: str) -> str:
    text = (
        f"Top-1 on {run.test_labels[after].info['samples']:,} test samples with 95% Wilson intervals; the differences "
        "are paired over these samples (Bonett and Price 2012). A sample that could not be read counts as wrong."
    )
    validate = run.recipe.finetune.validate
    if not validate.given:
        return text
    held = "held-out samples" if validate.on == "validation" else "samples that are trained on"
    return f"{text} After a tenth of fine-tuning, and the mean over it, are accuracies on {held}."


def _curves(run: RandomLabelsRun) -> Iterator[Curves]:
    recipe = run.recipe
    for before, after in recipe.directions:
        own = [one for one in run.outcomes if one.finetuned_on == after]
        samples = run.splits[after][0].info["samples"]
        what = "held-out samples" if recipe.finetune.validate.on == "validation" else "what is learned"
        if finetuned := {NAMES[one.labels]: epochs_of(one.curve, samples) for one in own if one.curve}:
            yield Curves(title=f"Fine-tuning on {recipe.set_name(after)}: accuracy on {what}", curves=finetuned)
        if learned := {NAMES[one.labels]: epochs_of(one.learned, one.learned.samples) for one in own if one.learned}:
            yield Curves(
                title=f"Pre-training on {recipe.set_name(before)}: accuracy on what is learned", curves=learned
            )
