"""The process that the fault tests start and kill: a run from SHARDS to PICKS over a corpus, or a whole run of
`digits`, with its own Ray.

`python driver.py SPEC` with a JSON object, see `Spec`. Commands on stdin: "add" adds a node to its cluster, "remove"
ends its oldest node. An InputError is printed as one line, with exit status 2, as in a job.
"""

import importlib
import json
import logging
import os
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"

import faults
import ray
from chaos_teacher import CLASSES, GoldenTeacher, P
from golden import K
from ray.cluster_utils import Cluster

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError
from raylabel.inference.scores import Scoring, make_scores
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root

BATCH = 32
SMALL = {
    "raylabel.corpus.units:UNIT": 64,
    "raylabel.inference.scores:PART": 2,
}  # so that there are many parts to lose
NAMES = tuple(map(str, range(CLASSES)))
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The settings of a run."""

    root: str
    corpus: list[str] = field(default_factory=list)
    """Shards. Empty: the recipe `digits`, with just enough images for it to learn."""
    against: list[str] = field(default_factory=list)
    """Shards of a test set, with which the corpus is compared, and with itself, in the place of a run to PICKS."""
    temporary: str = ""
    """Ray's temporary folder; a short path, because it contains sockets."""
    cpus: int = 4
    nodes: list[int] = field(default_factory=list)
    """CPUs of the nodes besides the first, which has `cpus`."""
    store: int = 300_000_000
    """Bytes of each node's object store."""
    resources: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    """'module:NAME' → value: sizes of units of work, which must not change the result."""
    faults: dict[str, Any] = field(default_factory=dict)
    """See faults.py."""
    rounds: bool = False
    """Run repeatedly, each time in a new folder of the root, until the root contains a file `stop`."""


def run(spec: Spec, folder: str) -> Artifact:
    """PICKS of the corpus, or the run of `digits`, on the Ray cluster that this process is connected to."""
    root = Root.open(folder)
    if not spec.corpus:
        from raylabel.pipelines.semi_supervised import Run  # with PyTorch, which a run to PICKS does not need
        from raylabel.report.run import write_report

        return write_report(Run(root, digits(spec)))[0]
    corpus = Corpus(uri=tuple(spec.corpus))
    shards = index_corpus(root, "golden", corpus)
    if spec.against:
        return compare(spec, root, corpus, shards)
    scoring = Scoring(
        scorer=GoldenTeacher(**spec.teacher),
        source={"teacher": "golden"},
        shards=shards,
        corpus=corpus,
        batch=BATCH,
        reject_limit=0.05,
        resources=Resources(**spec.resources),
    )
    scores = make_scores(root, scoring)
    duplicates = find_duplicates(root, scores)
    return select(root, scores, duplicates, Select(k=K, p=P), NAMES)


def compare(spec: Spec, root: Root, corpus: Corpus, shards: Artifact) -> Artifact:
    """PAIRS of the corpus and the test set; with COPIES of the corpus in the root."""
    from raylabel.inference.pictures import make_pictures  # with PyTorch
    from raylabel.media.view import View
    from raylabel.selection.copies import find_copies
    from raylabel.selection.pairs import find_pairs
    from raylabel.selection.references import Reference

    def pictures(corpus: Corpus, shards: Artifact) -> Artifact:
        return make_pictures(root, corpus, shards, View(size=32, resize=32), BATCH, Resources(**spec.resources), 0.0)

    mine, test = pictures(corpus, shards), Corpus(uri=tuple(spec.against))
    find_copies(root, mine, find_duplicates(root, mine))
    return find_pairs(root, mine, {"test": Reference(pictures(test, index_corpus(root, "test", test)))})


def digits(spec: Spec) -> Recipe:
    recipe = recipes.digits()
    assert recipe.teacher.train
    return replace(
        recipe,
        teacher=replace(recipe.teacher, train=replace(recipe.teacher.train, images=3200)),
        label=replace(recipe.label, batch=BATCH),
        pretrain=replace(recipe.pretrain, images=6400, checkpoint_minutes=0.001),
        finetune=replace(recipe.finetune, images=640),
        resources=Resources(**spec.resources),
    )


def _connect(spec: Spec) -> Cluster | None:
    """Starts Ray; returns the cluster, if it has several nodes."""
    hook: dict[str, Any] = {}
    if spec.faults:
        os.environ[faults.VARIABLE] = json.dumps({"driver": os.getpid(), **spec.faults})
        faults.arm()
        hook = {"runtime_env": {"worker_process_setup_hook": "faults.arm"}}
    node: dict[str, Any] = {"object_store_memory": spec.store, "include_dashboard": False}
    cluster = None
    if not spec.nodes:
        os.environ["RAY_health_check_failure_threshold"] = "60"  # 60 checks of 3 s each: its only node may be slow
        ray.init(address="local", num_cpus=spec.cpus, _temp_dir=spec.temporary, **node, **QUIET, **hook)
    else:
        head = {"num_cpus": spec.cpus, "temp_dir": spec.temporary, **node}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=cpus, **node) for cpus in spec.nodes]
        ray.init(address=cluster.address, **QUIET, **hook)
        threading.Thread(
            target=_run_commands, args=(cluster, nodes, {"num_cpus": spec.nodes[0], **node}), daemon=True
        ).start()
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return cluster


def _run_commands(cluster: Cluster, nodes: list[Any], new: dict[str, Any]) -> None:
    cluster._shutdown_at_exit = False  # for new nodes, it sets signal handlers, which only the main thread may do
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(cluster.add_node(**new))
        else:
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print(json.dumps({"done": line.strip()}), flush=True)


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    for name, value in {**SMALL, **spec.constants}.items():
        module, _, constant = name.partition(":")
        setattr(importlib.import_module(module), constant, value)
    cluster = _connect(spec)
    try:
        if not spec.rounds:
            run(spec, spec.root)
        number = 0
        while spec.rounds and not Path(spec.root, "stop").exists():
            run(spec, f"{spec.root}/{number:05d}")
            print(json.dumps({"round": number}), flush=True)
            number += 1
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    ray.shutdown()
    if cluster:
        cluster.shutdown()


if __name__ == "__main__":
    main()
