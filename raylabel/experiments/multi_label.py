"""A transfer to a set in which samples have several labels, as a Comparison: VOC07 classification in Table 3 of Caron
et al. 2018."""

from raylabel.evaluate.average_precision import Rule
from raylabel.evaluate.multi_label import IDS
from raylabel.evaluate.results import require
from raylabel.experiments.comparison import Column, Comparison, Row, Table, Value, write_comparison
from raylabel.pipelines.transfer import Outcome, TransferRun
from raylabel.store.artifact import Artifact, identity_of

EXPERIMENT = "transfer"
TITLES: dict[Rule, str] = {"area": "mAP", "eleven": "mAP, 11 points"}
PROTOCOLS = {"finetune": "all layers", "probe": "some layers", "scratch": "from random weights"}
NOTE = (
    "mAP: the area under the precision as a function of recall (VOC 2010 and later). 11 points: the mean of the "
    "precision at recalls 0, 0.1, ..., 1 (VOC2007). Intervals: of the test samples, for one seed."
)


def write_multi_label(run: TransferRun) -> tuple[Artifact, Comparison]:
    """(the artifact of the transfer, its numbers). Builds what is missing first."""
    recipe, start, outcomes = run.recipe, run.start, run.outcomes
    best = max(outcomes, key=lambda one: require(one.metrics, metric=IDS["area"]).value)
    n = start.test_labels.info["samples"]
    unread = n - min(one.classified.info["read"] for one in outcomes)
    lost = [f"{unread:,} of {n:,} test samples could not be read, and rank last"] if unread else []
    value = require(best.metrics, metric=IDS["area"]).value
    comparison = Comparison(
        experiment=EXPERIMENT,
        name=recipe.name,
        headline=f"the best mean average precision is that of {_name(best)}: {value:.1%}",
        detail=f"{start.labels.info['samples']:,} labeled samples of {len(start.classes):,} classes, n = {n:,}, "
        f"seed {recipe.seed}",
        findings=(),
        tables=[_means(outcomes), *_differences(outcomes), _classes(outcomes, start.classes)],
        curves=(),
        warnings=[*start.warnings, *lost],
        settings=identity_of(recipe),
    )
    return write_comparison(run.root, comparison, [*start.shards.values(), start.labels, *run.artifacts])


def _name(outcome: Outcome) -> str:
    return f"{outcome.candidate.name}, {PROTOCOLS[outcome.protocol]}"


def _means(outcomes: tuple[Outcome, ...]) -> Table:
    return Table(
        title="Mean average precision",
        columns=[
            *(Column(title=title, form="percent", plotted=True) for title in TITLES.values()),
            Column(title="labeled samples", form="count"),
        ],
        rows=[
            Row(
                name=_name(one),
                cells=[
                    *(Value.of(require(one.metrics, metric=IDS[rule])) for rule in TITLES),
                    Value(value=one.samples),
                ],
            )
            for one in outcomes
        ],
        note=NOTE,
    )


def _differences(outcomes: tuple[Outcome, ...]) -> list[Table]:
    rows = [Row(name=_name(one), cells=[Value.of(one.gain)]) for one in outcomes if one.gain]
    note = "On the same test samples; random weights are compared with the first network after training all layers."
    columns = [Column(title="mAP", form="points", plotted=True)]
    title = f"{outcomes[0].candidate.name} minus the others"
    return [Table(title=title, columns=columns, rows=rows, note=note)] if rows else []


def _classes(outcomes: tuple[Outcome, ...], classes: tuple[str, ...]) -> Table:
    each = [one.classified.info["area"]["each"] for one in outcomes]
    return Table(
        title="Average precision of each class",
        columns=[Column(title=_name(one), form="percent") for one in outcomes],
        rows=[
            Row(name=name, cells=[None if some[c] is None else Value(value=some[c]) for some in each])
            for c, name in enumerate(classes)
            if any(some[c] is not None for some in each)
        ],
        note="Classes without a sample in the test set have none, and are left out of the mean.",
    )
