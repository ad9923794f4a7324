"""The binary cross-entropy of samples with several labels, against torch's own, and in a whole training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import contents, digit_images, write_parquet
from torch.nn import functional
from trainings import CONFIG, fit, in_this_process

from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.errors import InputError
from raylabel.labels.picks import sorted_picks
from raylabel.schema import SAMPLES
from raylabel.store.artifact import Artifact, Built, Root, write_table
from raylabel.training.config import Train, Validate
from raylabel.training.examples import materialize
from raylabel.training.losses import ABSENT, binary_cross_entropy, make_loss, several_targets, stack_labels
from raylabel.training.media import Materialize, WritingTask
from raylabel.training.schedule import Schedule
from raylabel.training.stream import Stream

CLASSES = 10


def test_targets_are_multi_hot_and_nothing_is_said_of_some():
    labels = torch.from_numpy(stack_labels([np.array([2, 0]), np.array([-1, 1, -3]), np.array([2])]))
    assert labels.tolist() == [[2, 0, ABSENT], [-1, 1, -3], [2, ABSENT, ABSENT]]
    found = several_targets(labels, 3)
    np.testing.assert_array_equal(found, [[1, 0, 1], [np.nan, 1, np.nan], [0, 0, 1]])
    assert found.dtype == torch.float32
    assert stack_labels([3, 1]).tolist() == [3, 1]


def test_the_loss_and_its_gradient_are_those_of_torch():
    labels = torch.from_numpy(stack_labels([np.array([2, 0]), np.array([-1, 1, -3]), np.array([-2])]))
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, right = binary_cross_entropy(logits, several_targets(labels, 3), labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    other = logits.detach().clone().requires_grad_()
    counted = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 0, 1.0]])
    target = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0.0]])
    wanted = functional.binary_cross_entropy_with_logits(other, target, counted, reduction="sum")
    (expected,) = torch.autograd.grad(wanted, other)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, expected)
    best = logits.argmax(1).tolist()
    assert right == sum([best[0] in (2, 0), best[1] == 1])  # of a sample without a class none is right


def test_cross_entropy_is_the_default():
    logits, label = torch.randn(4, 5), torch.tensor([0, 1, 4, 4])
    loss, right = make_loss(CONFIG)(logits, label, label)
    assert loss == functional.cross_entropy(logits, label, reduction="sum")
    assert right == (logits.argmax(1) == label).sum()


@pytest.mark.parametrize(
    "more, message",
    [
        ({"loss": "hinge"}, "train.loss is 'hinge': give 'softmax' or 'bce'"),
        ({"mixup": 0.1}, "train.loss is 'bce', with which train.mixup cannot be used"),
        ({"label_noise": 0.1}, "train.label_noise cannot be used"),
        ({"soft": 0.1}, "train.soft cannot be used"),
        ({"validate": Validate(on="validation")}, "train.validate cannot be used"),
        ({"pretext": "rotation"}, "train.loss is 'bce', but train.pretext is 'rotation'"),
    ],
)
def test_what_it_does_not_go_with_is_named(more: dict, message: str):
    config = Train(**{"images": 10, "schedule": Schedule(lr=0.1), "loss": "bce"} | more)
    with pytest.raises(InputError, match=message):
        config.check("train")


def several(number: int) -> list[int]:
    """The labels of a digit: itself, whether it is odd as class 0, and for 7 nothing is said of class 1."""
    return sorted({number, *([0] if number % 2 else []), *([-2] if number == 7 else [])})


@pytest.fixture
def examples(ray_local: None, tmp_path: Path) -> Artifact:
    """EXAMPLES of 200 digits, of which the first has no label."""
    media, digits = digit_images()
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "digits.parquet", media[:200], digits[:200])),))
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "labeled", corpus)
    pairs = [(row, label) for row in range(1, 200) for label in several(int(digits[row]))]
    key, label = np.array(pairs).T
    info = {"picks": len(pairs), "samples": 199, "per_class": [0] * CLASSES, "classes": list("0123456789")}
    table = sorted_picks(key, label)
    picks = root.make("truth", {}, lambda d: Built([write_table(d.uri, "picks-00000.parquet", table)], info))
    task = WritingTask(shards=Shards(shards), corpus=corpus, config=Materialize(lanes=4))
    return materialize(root, "labeled", picks, task, 0.05)


def test_a_sample_is_an_item_once_with_all_its_labels(examples: Artifact):
    _, digits = digit_images()
    items = list(Stream(examples, 0, several=True).items(0, 199))
    assert sorted(item[1] for item in items) == list(range(1, 200))
    for _, key, _, labels, _ in items:
        assert isinstance(labels, np.ndarray) and sorted(labels.tolist()) == several(int(digits[key]))
    rows = examples.table("examples-", SAMPLES)
    assert sum(map(len, rows["labels"].to_pylist())) > 199
    pairs = len(list(Stream(examples, 0).items(0, 300)))
    assert pairs == 300


def test_a_training_learns_several_labels_and_resumes_to_the_same_bytes(
    examples: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from raylabel.training import loop

    config = Train(
        images=2_000, batch=50, schedule=Schedule(lr=0.02, warmup=0.0, drops=0), loss="bce", checkpoint_minutes=0.0001
    )
    with in_this_process(tmp_path):
        whole = fit(Root.open(str(tmp_path / "a")), examples, config)
        assert whole.info["classes"] == CLASSES
        learned, written = loop.Learner.step, []

        def stopping(self, *args):
            learned(self, *args)
            written.append(1)
            if len(written) == 17:
                raise ValueError("stopped")

        root = Root.open(str(tmp_path / "b"))
        monkeypatch.setattr(loop.Learner, "step", stopping)
        with pytest.raises(Exception, match="stopped"):
            fit(root, examples, config)
        again = fit(root, examples, config)
    assert contents(again) == contents(whole)
    assert len(written) < 17 + 40  # it did not begin anew
