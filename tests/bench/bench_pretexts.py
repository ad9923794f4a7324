"""What features that were learned without labels are worth, layer by layer, on CIFAR-10 (Caron et al. 2018, Table 1,
Figure 2 and §3.3): clusters, rotation, random weights and true labels, three paired seeds.

    python tests/bench/bench_pretexts.py --data DIR --sets starts          # three seeds
    python tests/bench/bench_pretexts.py --data DIR --sets others          # layer by layer, and restored; three seeds
    python tests/bench/bench_pretexts.py --sets digits                     # the same on digits; three seeds
    python tests/bench/bench_pretexts.py --data DIR --sets guards k        # each guard taken out, and k; one seed
    python tests/bench/bench_pretexts.py --data DIR --sets few             # fine-tuned on few labels; three seeds
    python tests/bench/bench_pretexts.py --data DIR --sets starts --quick  # short trainings, one seed

The recipe is `pretexts-cifar10`: 46,000 pictures without labels, 300,000 images in each pre-training, which are six
rounds of clusters; a logistic regression on 4,000 labels, whose strength of 1 or 10 is found in two folds, is
tested on 10,000. The true labels of the 46,000 are read for the arm `true` and for the NMI. Lengths and rates were
fixed before any result was seen.

`others` and `digits`: filters that are learned layer by layer, completion and denoising, beside random weights and
clusters. `digits` is the recipe `pretexts-digits`. What these starts have as constants was fixed without labels, by
errors of reconstruction on CIFAR-10, the factor of the loss of completion and denoising on all digits too.

`few`: all layers are fine-tuned for 40,000 images on 400 labels of CIFAR-10, or on the 100 of flowers at 32 x 32
pixels, from clusters, rotation and random weights.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.results import TOP1, require
from raylabel.pipelines.pretexts import PretextsRun
from raylabel.pipelines.transfer import TransferRun
from raylabel.pipelines.transfer_inputs import Candidate
from raylabel.recipes.clustered import pretexts_cifar10, pretexts_digits
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.recipes.pretexts import LAYERWISE, Pretexts, Start
from raylabel.recipes.transfer import Transfer
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule

BENCH = "pretexts"
SETS = ("starts", "others", "digits", "few", "guards", "k")
ARMS: tuple[Start, ...] = ("none", "clusters", "rotation", "true")
OTHERS: tuple[Start, ...] = ("none", "clusters", *LAYERWISE, "completion", "denoising")
KS = (10, 30, 300, 1_000)
"""Beside the 100 of the recipe."""


def main() -> None:
    arguments = accuracy_arguments(__doc__, sets=SETS)
    with tempfile.TemporaryDirectory(prefix="bench-pretexts-") as folder:
        connect()
        folder = arguments.root or folder
        root, seeds = Root.open(f"{folder}/root"), (0,) if arguments.quick else (0, 1, 2)
        if "digits" in arguments.sets:
            starts(root, "digits, ", digits_of(arguments.quick), seeds)
        if arguments.sets == ["digits"]:
            return
        recipe = recipe_of(arguments.data, Path(folder), arguments.quick)
        recipe = replace(recipe, resources=Resources(workers=arguments.workers))
        if "starts" in arguments.sets:
            starts(root, "", recipe, seeds)
        if "others" in arguments.sets:
            starts(root, "", replace(recipe, starts=OTHERS), seeds)
        if "few" in arguments.sets:
            few(root, recipe, arguments.data, seeds)
        variants = dict[str, DeepCluster]()
        if "guards" in arguments.sets:
            variants |= guards(recipe.clusters)
        if "k" in arguments.sets:
            own = recipe.clusters
            variants |= {f"k = {k}": replace(own, kmeans=replace(own.kmeans, k=k)) for k in KS}
        for name, clusters in variants.items():
            measure(root, name, replace(recipe, starts=("clusters",), clusters=clusters))


def recipe_of(data: str, folder: Path, quick: bool) -> Pretexts:
    """The recipe, with the true labels of its corpus beside the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cifar10-with-truth.parquet"
    if not path.exists():
        tables = [pq.read_table(f"{data}/cifar10/unlabeled-{number}.parquet") for number in range(2)]
        whole = pa.concat_tables(tables)
        truth = pq.read_table(f"{data}/cifar10/unlabeled-truth.parquet")
        of = dict(zip(truth["id"].to_pylist(), truth["label"].to_pylist(), strict=True))
        labels = pa.array([of[one] for one in whole["id"].to_pylist()], pa.int32())
        pq.write_table(whole.append_column("label", labels), path, row_group_size=2_000)
    recipe = pretexts_cifar10(f"{data}/cifar10")
    own = recipe.clusters
    train = replace(own.train, images=2_000) if quick else own.train
    corpus = Corpus(uri=(str(path),))
    head = replace(recipe.head, strengths=(1.0, 10.0), folds=2)
    return replace(recipe, starts=ARMS, head=head, clusters=replace(own, corpus=corpus, labeled=True, train=train))


def digits_of(quick: bool) -> Pretexts:
    """The recipe of digits, which needs one worker."""
    recipe = pretexts_digits()
    own = recipe.clusters
    train = replace(own.train, images=500) if quick else own.train
    return replace(recipe, starts=OTHERS, clusters=replace(own, train=train))


def starts(root: Root, prefix: str, recipe: Pretexts, seeds: tuple[int, ...]) -> None:
    """Prints the figures of the recipe's starts; `prefix`: what their names begin with."""
    found: dict[tuple[Start, str], list[float]] = {}
    for seed in seeds:
        run = PretextsRun(root, replace(recipe, clusters=replace(recipe.clusters, seed=seed)))
        for one in run.judged:
            found.setdefault((one.start, one.layer), []).append(100 * one.top1.value)
            print(f"seed {seed}, {one.start} {one.layer}: {one.top1.value:.1%}", file=sys.stderr, flush=True)
        show_rounds(f"{prefix}clusters, seed {seed}", run)
    for (start, layer), values in found.items():
        print_value(BENCH, f"{prefix}top-1 of {layer}, {start}", values, "%")
    for start in recipe.starts[1:] if len(seeds) > 1 else ():
        for layer in recipe.layers:
            figure = f"{prefix}top-1 of {layer}, {start} minus none"
            print_paired(BENCH, figure, found[start, layer], found["none", layer])


def few(root: Root, recipe: Pretexts, data: str, seeds: tuple[int, ...]) -> None:
    flowers = f"{data}/flowers/classes.txt"
    sets = {
        "400 labels of CIFAR-10": (replace(recipe.labeled, share=0.1), recipe.test),
        "100 labels of flowers": (
            Corpus(uri=(f"{data}/flowers/labeled-100.parquet",), classes=flowers),
            Corpus(uri=(f"{data}/flowers/test.parquet",), classes=flowers),
        ),
    }
    found: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        own = replace(recipe, clusters=replace(recipe.clusters, seed=seed))
        networks: dict[Start, Artifact | None] = {one.start: one.network for one in PretextsRun(root, own).judged}
        for name, (labeled, test) in sets.items():
            for start, value in fine_tuned(root, own, networks, labeled, test).items():
                found.setdefault((name, start), []).append(value)
    for (name, start), values in found.items():
        print_value(BENCH, f"top-1 fine-tuned on {name}, {start}", values, "%")
        if start != "none" and len(seeds) > 1:
            print_paired(BENCH, f"top-1 fine-tuned on {name}, {start} minus none", values, found[name, "none"])


def fine_tuned(
    root: Root, recipe: Pretexts, networks: dict[Start, Artifact | None], labeled: Corpus, test: Corpus
) -> dict[str, float]:
    """Start → top-1 in percent, after fine-tuning from clusters and rotation, and of training from random weights."""
    own = recipe.clusters
    steps = Schedule(lr=0.02, warmup=0.05, drops=3, factor=0.1)
    train = Train(images=4_000 if own.train.images < 50_000 else 40_000, batch=64, schedule=steps, weight_decay=5e-4)
    candidates = tuple(
        Candidate(name=start, model=own.model, weights=network.uri, view=own.view)
        for start in ("clusters", "rotation")
        if (network := networks[start])
    )
    transfer = Transfer(
        name="few labels",
        labeled=labeled,
        test=test,
        holdout=0.0,
        view=own.view,
        networks=("clusters", "rotation"),
        protocols=("finetune", "scratch"),
        finetune=train,
        probe=train,
        seed=own.seed,
        resources=recipe.resources,
    )
    outcomes = TransferRun(root, transfer, candidates).outcomes
    return {
        "none" if one.protocol == "scratch" else one.candidate.name: 100 * require(one.metrics, metric=TOP1).value
        for one in outcomes
    }


def guards(own: DeepCluster) -> dict[str, DeepCluster]:
    """The recipe without each guard against trivial clusters."""
    return {
        "empty clusters not filled": replace(own, kmeans=replace(own.kmeans, refill=False)),
        "samples uniform, not clusters": replace(own, uniform=False),
        "head kept": replace(own, new_head=False),
        "not whitened": replace(own, whitened=False),
        "colours, not gradients": replace(own, model=replace(own.model, input="rgb")),
    }


def measure(root: Root, name: str, recipe: Pretexts) -> None:
    run = PretextsRun(root, recipe)
    for one in run.judged:
        print_value(BENCH, f"top-1 of {one.layer}, {name}", [100 * one.top1.value], "%")
    show_rounds(name, run)


def show_rounds(name: str, run: PretextsRun) -> None:
    rounds = run.chosen.rounds
    before = [one.before.nmi for one in rounds if one.before]
    truth = [one.truth.nmi for one in rounds if one.truth]
    for what, values in (("with the round before", before), ("with true labels", truth)):
        if not values:  # no true labels
            continue
        for number, value in ((2 if values is before else 1, values[0]), (len(rounds), values[-1])):
            print_value(BENCH, f"NMI {what}, {name}, round {number}", [value], "")
    print_value(BENCH, f"empty clusters, {name}, last round", [float((rounds[-1].sizes == 0).sum())], "")
    share = float(rounds[-1].sizes.max() / rounds[-1].sizes.sum())
    print_value(BENCH, f"largest cluster, {name}, last round", [100 * share], "% of samples")


if __name__ == "__main__":
    main()
