"""A network that labels on a GPU: its numbers are those of a CPU, and its bytes depend on the samples alone."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import contents, digit_images, random_model, write_parquet
from on_gpu import GPU, MARKS

from raylabel.compute.resources import Cluster, Pool, Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.inference import scores as stage
from raylabel.inference.network import Network
from raylabel.inference.scorer import Found, Run
from raylabel.inference.scores import Scoring, make_scores
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import Clip, View
from raylabel.models.trained import load_model
from raylabel.schema import SCORES
from raylabel.store.artifact import Artifact, Root

pytestmark = MARKS

C = 10
B = 32
IMAGES = View(size=32, resize=32)
CLIPS = View(size=16, resize=16, clip=Clip(frames=8, count=3))
NETWORKS = {"images": ("resnet8x2", IMAGES), "clips": ("r2plus1d8x1", CLIPS)}

# Largest difference of a logit from float64, over the standard deviation of that class's logits. On a CPU the networks
# here reach 1e-5 in float32; with TF32 in the convolutions (emulated) they would be at 6e-3 or more.
FLOAT32 = 2e-4
# The same in bfloat16: mean 0.05 and largest 0.24 on a CPU.
BFLOAT16_MEAN, BFLOAT16_MAX = 0.12, 0.8


@pytest.fixture(scope="module")
def root(compiled: object, tmp_path_factory: pytest.TempPathFactory) -> Root:
    return Root.open(str(tmp_path_factory.mktemp("networks")))


def network(root: Root, kind: str, precision: str, seed: int = 0) -> Network:
    arch, view = NETWORKS[kind]
    return Network(random_model(root, arch, C, seed), view, precision, C)


def pixels(kind: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (B, *NETWORKS[kind][1].eval_shape), np.uint8)


class Started:
    """Networks that were started on the device, each once: compiling is what takes time here."""

    def __init__(self, root: Root):
        self.root = root
        self.found: dict[tuple[str, str], Run] = {}

    def __call__(self, kind: str, precision: str) -> Run:
        if (kind, precision) not in self.found:
            self.found[kind, precision] = network(self.root, kind, precision).start(GPU)
        return self.found[kind, precision]


@pytest.fixture(scope="module")
def started(root: Root) -> Started:
    return Started(root)


def by_class(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[B, P] in the order of the ranking → [B, C] in the order of the classes; here P = C."""
    found = np.full(values.shape, np.nan)
    np.put_along_axis(found, classes.astype(np.int64), values, axis=1)
    return found


def exact(root: Root, kind: str, some: np.ndarray) -> torch.Tensor:
    """Logits [B, C], or [B, M, C] of clips, in float64 on the CPU."""
    view = NETWORKS[kind][1]
    module = load_model(network(root, kind, "fp32").model).eval().double()
    flat = torch.from_numpy(some).flatten(0, 1) if view.clip else torch.from_numpy(some)
    with torch.inference_mode():
        logits = module(normalise(flat, view).double())
    return logits.unflatten(0, some.shape[:2]) if view.clip else logits


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_are_those_of_a_cpu(kind: str, precision: str, root: Root, started: Started):
    some = pixels(kind)
    (ranked,) = started(kind, precision)([some])
    classes, odds, logits, *clips = ranked
    assert (classes.dtype, odds.dtype, logits.dtype) == (np.int32, np.float32, np.float32)
    true = exact(root, kind, some)
    mean = true.mean(1) if clips else true
    spread = mean.std(0).numpy()
    away = np.abs(by_class(logits, classes) - mean.numpy()) / spread
    p = true.softmax(-1).mean(1) if clips else true.softmax(-1)
    odds_away = np.abs(by_class(odds, classes) - (p / (1 - p)).log().numpy()) / spread
    for found in (away, odds_away):
        if precision == "fp32":
            assert found.max() < FLOAT32
        else:
            assert found.mean() < BFLOAT16_MEAN and found.max() < BFLOAT16_MAX
            assert found.max() > 1e-4  # it was computed in bfloat16
    if clips:
        best = true.argmax(2).numpy()
        sure = (true.topk(2).values.diff().abs()[..., 0] > 0.1 * float(spread.mean())).numpy()
        assert clips[0].dtype == np.int32 and clips[0].shape == (B, 3)
        assert precision == "bf16" or (clips[0] == best)[sure].all()
    # Best first, ties by class; odds and logits in the same order.
    if not clips:
        order = np.lexsort((classes, -logits), axis=1)
        assert (order == np.arange(C)).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_row_does_not_depend_on_the_other_rows(kind: str, started: Started):
    """A ragged last batch is padded with zeros, and a suspect batch is scored in spans with zeros around them."""
    run, some, n = started(kind, "bf16"), pixels(kind), B // 2 + 3
    (whole,) = run([some])
    for first, last in ((0, n), (5, 6), (n, B)):
        part = np.zeros_like(some)
        part[first:last] = some[first:last]
        other = pixels(kind, seed=1)
        other[first:last] = some[first:last]
        for batch in (part, other):
            (ranked,) = run([batch])
            assert all(a[first:last].tobytes() == b[first:last].tobytes() for a, b in zip(ranked, whole, strict=True))


def test_results_come_in_order_though_the_array_is_overwritten(started: Started):
    run, batches = started("images", "bf16"), [pixels("images", seed) for seed in range(7)]
    alone = [next(iter(run([batch]))) for batch in batches]
    array = np.empty_like(batches[0])

    def one_array() -> Iterator[np.ndarray]:
        for batch in batches:
            array[:] = batch
            yield array
            array[:] = 0

    found = list(run(one_array()))
    assert len(found) == len(alone)
    for mine, theirs in zip(found, alone, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(mine, theirs, strict=True))


def in_another_process(function: Callable[..., tuple], *arguments: object) -> tuple:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def score_there(networks: list[Network], some: np.ndarray) -> tuple:
    """(results of each network, how many graphs torch compiled, how many it loaded)."""
    from torch._dynamo.utils import counters

    found = [next(iter(one.start(GPU)([some]))) for one in networks]
    return found, counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"]


def test_another_process_compiles_nothing_and_gives_the_same_bytes(root: Root, started: Started):
    """As a restarted actor does, and each test pass: the second network has other weights."""
    some = pixels("images")
    (mine,) = started("images", "bf16")([some])
    (theirs, other), compiled, loaded = in_another_process(
        score_there, [network(root, "images", "bf16"), network(root, "images", "bf16", seed=1)], some
    )
    assert all(a.tobytes() == b.tobytes() for a, b in zip(mine, theirs, strict=True))
    assert mine[2].tobytes() != other[2].tobytes()
    assert compiled == 0 and (loaded >= 1 or not GPU)


# SCORES, through Ray.


@dataclass(frozen=True)
class DiesOnce(Network):
    """Its process ends in the fourth batch, unless another one did before."""

    marker: str = ""

    def start(self, gpu: bool) -> Run:
        run, number = super().start(gpu), itertools.count()

        def dying(batches: Iterable[np.ndarray]) -> Iterator[Found]:
            for ranked in run(batches):
                if next(number) == 3 and not os.path.exists(self.marker):
                    Path(self.marker).touch()
                    os._exit(1)
                yield ranked

        return dying


@pytest.fixture(scope="module")
def corpus(gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    media: list[bytes | None] = list(digit_images()[0][:500])
    media[7], media[499] = b"no picture", None
    folder = tmp_path_factory.mktemp("corpus")
    return Corpus(uri=(str(write_parquet(folder / "a.parquet", media, row_group_size=90)),))


def label(folder: Path, corpus: Corpus, scorer: Network, resources: Resources, pool: Pool | None = None) -> Artifact:
    root = Root.open(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "UNIT", 70)  # batches of 32, 32 and 6
        patch.setattr(stage, "PART", 2)
        if pool:
            patch.setattr(Cluster, "teachers", lambda *_: pool)
        scoring = Scoring(
            scorer=scorer,
            source={"network": scorer.model.digest},
            shards=index_corpus(root, "a", corpus),
            corpus=corpus,
            batch=B,
            reject_limit=0.1,
            resources=resources,
        )
        return make_scores(root, scoring)


@pytest.fixture(scope="module")
def reference(ray_gpu: None, corpus: Corpus, root: Root, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """SCORES by one actor that decodes for itself."""
    scorer = network(root, "images", "bf16")
    return label(tmp_path_factory.mktemp("one"), corpus, scorer, Resources(teachers=1, decode="beside"))


def test_scores_are_those_of_the_network(reference: Artifact, corpus: Corpus, root: Root, started: Started):
    table = reference.table("scores-", SCORES)
    assert table.column("key").to_pylist() == [i for i in range(500) if i not in (7, 499)]
    media, _ = digit_images()
    some = np.stack([eval_pixels(media[i], IMAGES) for i in range(70, 70 + B)])  # the first batch of the second unit
    (ranked,) = started("images", "bf16")([some])
    rows = table.slice(69, B)  # one sample before them is a reject
    assert rows.column("key").to_pylist() == list(range(70, 70 + B))
    for name, values in zip(("classes", "log_odds", "logits"), ranked, strict=True):
        assert np.array(rows.column(name).to_pylist(), values.dtype).tobytes() == values.tobytes(), name


def test_two_actors_on_fractions_of_a_gpu_give_the_same_bytes(
    reference: Artifact, corpus: Corpus, root: Root, tmp_path: Path
):
    pool = Pool(actors=2, cpus=1.0, gpus=0.5 if GPU else 0, threads=3 if GPU else 1, grows=False)
    scores = label(tmp_path, corpus, network(root, "images", "bf16"), Resources(), pool)
    assert contents(scores) == contents(reference)


def test_decoding_in_the_cluster_gives_the_same_bytes(
    reference: Artifact, corpus: Corpus, root: Root, tmp_path: Path, released: Callable[[], None]
):
    resources = Resources(teachers=1, decode="cluster")
    assert contents(label(tmp_path, corpus, network(root, "images", "bf16"), resources)) == contents(reference)
    released()


def test_an_actor_that_is_restarted_gives_the_same_bytes(
    reference: Artifact, corpus: Corpus, root: Root, tmp_path: Path, released: Callable[[], None]
):
    """Its batch is suspect then: it is scored in spans."""
    plain, marker = network(root, "images", "bf16"), tmp_path / "died"
    scorer = DiesOnce(plain.model, plain.view, plain.precision, plain.p, marker=str(marker))
    scores = label(tmp_path / "root", corpus, scorer, Resources(teachers=1, decode="beside"))
    assert marker.exists() and contents(scores) == contents(reference)
    released()


def test_labeling_compiled_each_network_once(reference: Artifact, compiled: Callable[[], set[str]]):
    """Of this module: two networks in two precisions, in this process; all others loaded one of them."""
    assert len(compiled()) <= 4 and (compiled() or not GPU)
