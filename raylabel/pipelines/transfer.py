"""The transfer: networks → FEATURES of a labeled set, classifiers on them, and trainings that start from the networks.

Yalniz et al. 2019, Table 8: full fine-tuning, and a logistic regression on frozen features.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

from raylabel.corpus import Shards
from raylabel.evaluate.classified import best_of, classified_metrics, right_of
from raylabel.evaluate.classify import paired_gain
from raylabel.evaluate.knn import Knn
from raylabel.evaluate.multi_label import mean_difference, mean_metrics, mean_precisions
from raylabel.evaluate.on_features import OnFeatures, classify_features
from raylabel.evaluate.on_scores import classify_scores
from raylabel.evaluate.real_labels import real_top1
from raylabel.evaluate.results import Metric, Subject
from raylabel.labels.features import Frozen, feature_width
from raylabel.labels.holdout import hold_out
from raylabel.labels.teacher import TrainedNetwork
from raylabel.models.init import PENULTIMATE, TRUNK, Init
from raylabel.models.start import check_trunk, import_weights
from raylabel.pipelines.steps import Used
from raylabel.pipelines.transfer_inputs import Candidate, Prepared, prepare
from raylabel.recipes.transfer import Protocol, Transfer
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.examples import materialize
from raylabel.training.head import Head
from raylabel.training.media import WritingTask
from raylabel.training.task import TrainingTask
from raylabel.training.train import train

SCRATCH = "random weights"
"""The network of what is trained from random weights."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one protocol gives with one network."""

    candidate: Candidate
    protocol: Protocol
    share: float | None
    """Share of the labels that `few` uses."""
    layer: str
    """The layer of its features; empty if all layers are trained."""
    samples: int
    """Labeled samples that it is fitted to."""
    classified: Artifact
    """CLASSIFIED of the test set; or its mean average precision, if samples have several labels."""
    metrics: tuple[Metric, ...]
    gain: Metric | None = None
    """Top-1, or the mean average precision, of the first network by the same protocol minus this one; None of the first
    one itself."""


class TransferRun(Used):
    """The artifacts of a transfer. Reading a property returns the artifact if the root has it, or else builds it.
    InputError if the user has to fix an input."""

    def __init__(self, root: Root, recipe: Transfer, candidates: tuple[Candidate, ...], start: Prepared | None = None):
        """`candidates`: those that `recipe.networks` name."""
        super().__init__()
        self.root, self.recipe, self.candidates = root, recipe, candidates
        self.start = start or prepare(root, recipe, candidates)

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The result of each protocol with each network, in the order in which `Protocol` lists them."""
        for candidate in self.candidates:
            check_trunk(self.weights(candidate), candidate.model, candidate.weights)
            for layer in self.recipe.layers:
                feature_width(candidate.model, candidate.view, layer)
        found, firsts = list[Outcome](), dict[str, Artifact]()
        protocols = sorted(self.recipe.protocols, key=get_args(Protocol).index)
        for outcome in (one for protocol in protocols for one in self._of_protocol(protocol)):
            key = f"{outcome.protocol} {outcome.share} {outcome.layer}"
            if outcome.candidate is self.candidates[0]:
                firsts[key] = outcome.classified
            # Random weights are compared with fine-tuned ones, whose training is the same.
            first = firsts.get("finetune None " if outcome.protocol == "scratch" else key)
            if first and first is not outcome.classified:
                outcome = replace(outcome, gain=self._gain(outcome, first))
            found.append(outcome)
        return tuple(found)

    @cached_property
    def split(self) -> tuple[Artifact, tuple[str, Artifact] | None]:
        """(PICKS to train on, (corpus, PICKS) for temperatures): the latter is None if there are none."""
        recipe, start = self.recipe, self.start
        if not recipe.holdout or start.validation:
            return start.labels, ("validation", start.validation) if start.validation else None
        labels, held = self._drawn(start.labels, recipe.holdout, "holdout")
        return labels, ("labeled", held)

    @cached_property
    def examples(self) -> Artifact:
        """EXAMPLES of the labels to train on."""
        recipe, start = self.recipe, self.start
        task = WritingTask(
            shards=Shards(start.shards["labeled"]),
            corpus=start.corpora["labeled"],
            config=recipe.materialize,
            max_jpeg_pixels=min(one.view.max_jpeg_pixels for one in self.candidates),
        )
        made = materialize(self.root, "labeled", self.split[0], task, recipe.label.reject_limit, recipe.retry_rejects)
        return self._use(made)

    def weights(self, candidate: Candidate) -> Artifact:
        """The network itself if it was trained here, or else a copy of its weights."""
        return self._use(import_weights(self.root, candidate.weights, candidate.model))

    def features(self, candidate: Candidate, corpus: str, layer: str) -> Artifact:
        """FEATURES of a corpus of the transfer."""
        frozen = Frozen(
            model=candidate.model,
            weights=self.weights(candidate),
            view=candidate.view,
            config=self.recipe.label,
            resources=self.recipe.resources,
            layer=layer,
            retry_rejects=self.recipe.retry_rejects,
        )
        return self._use(frozen.features(self.root, self.start.corpora[corpus], self.start.shards[corpus]))

    def _of_protocol(self, protocol: Protocol) -> Iterator[Outcome]:
        recipe = self.recipe
        if protocol == "scratch":
            kinds = {(one.model, str(one.view.evaluation_identity)): one for one in reversed(self.candidates)}
            for one in reversed(kinds.values()):
                fresh = replace(one, name=f"{SCRATCH} ({one.model.arch}, {one.view.size} px)", weights="")
                yield self._trained(fresh, protocol, recipe.scratch or recipe.finetune)
            return
        if protocol in ("few", "knn", "logistic", "logistic_raw"):
            method = {"few": recipe.few_head, "knn": recipe.knn}.get(protocol, recipe.head)
            for share in recipe.shares if protocol == "few" else (None,):
                for layer in recipe.layers:
                    for candidate in self.candidates:
                        yield self._on_features(candidate, protocol, method, layer, share)
            return
        if protocol == "finetune":
            for candidate in self.candidates:
                yield self._trained(candidate, protocol, recipe.finetune)
            return
        init = recipe.probe.init
        init = replace(init, frozen=init.frozen or (TRUNK,), frozen_until=1.0)
        for layer in recipe.layers:
            for candidate in self.candidates:
                yield self._trained(candidate, protocol, replace(recipe.probe, init=init), layer)

    def _on_features(
        self, candidate: Candidate, protocol: Protocol, method: Head | Knn, layer: str, share: float | None
    ) -> Outcome:
        labels, held = self.split
        if share:
            _, labels = self._drawn(labels, share, "shares")
        task = OnFeatures(
            method=method,
            raw=protocol == "logistic_raw",
            features=self.features(candidate, "labeled", layer),
            labels=labels,
            held=(self.features(candidate, held[0], layer), held[1]) if held else None,
            tested=(self.features(candidate, "test", layer), self.start.test_labels),
            seed=self.recipe.seed,
        )
        made = classify_features(self.root, task)
        return self._outcome(candidate, protocol, made, made.info["samples"], share, layer)

    def _trained(self, candidate: Candidate, protocol: Protocol, config: Train, layer: str = "") -> Outcome:
        labels, held = self.split
        init = replace(config.init, head="new") if candidate.weights else Init(frozen=config.init.frozen)
        task = TrainingTask(
            model=candidate.model if layer in ("", PENULTIMATE) else replace(candidate.model, layer=layer),
            classes=len(self.start.classes),
            examples=self.examples,
            config=replace(config, init=init),
            view=candidate.view,
            seed=self.recipe.seed,
            init=self.weights(candidate) if candidate.weights else None,
        )
        network = self._use(train(self.root, protocol, task, self.recipe.resources))
        known = (self._scores(network, candidate, held[0]), held[1]) if held else None
        tested = self._scores(network, candidate, "test")
        if self.recipe.several:
            made = mean_precisions(self.root, tested, self.start.test_labels)
        else:
            made = classify_scores(self.root, tested, self.start.test_labels, known)
        samples = self.examples.info["samples"] - self.examples.info["rejected"]
        return self._outcome(candidate, protocol, made, samples, layer=layer)

    def _scores(self, network: Artifact, candidate: Candidate, corpus: str) -> Artifact:
        """SCORES of a corpus by a network, with all classes of each sample."""
        recipe = self.recipe
        source = TrainedNetwork(
            network=network,
            view=candidate.view,
            config=replace(recipe.label, p=len(self.start.classes)),
            resources=recipe.resources,
            retry_rejects=recipe.retry_rejects,
        )
        return self._use(source.label(self.root, self.start.corpora[corpus], self.start.shards[corpus]))

    def _drawn(self, labels: Artifact, share: float, name: str) -> tuple[Artifact, Artifact]:
        """PICKS without a share of each class, and of this share."""
        start = self.start
        rest, drawn = hold_out(self.root, labels, start.groups, start.digests, share, self.recipe.seed, name)
        return self._use(rest), self._use(drawn)

    def _outcome(
        self,
        candidate: Candidate,
        protocol: Protocol,
        made: Artifact,
        samples: int,
        share: float | None = None,
        layer: str = "",
    ) -> Outcome:
        found = Outcome(
            candidate=candidate,
            protocol=protocol,
            share=share,
            layer=layer,
            samples=samples,
            classified=self._use(made),
            metrics=(),
        )
        start, subject = self.start, self._subject(found)
        if self.recipe.several:
            return replace(found, metrics=tuple(mean_metrics(subject, made)))
        rows = classified_metrics(subject, made, len(start.classes))
        if start.real:
            rows.append(real_top1(subject, best_of(made), start.corpora["test"], start.shards["test"], start.real))
        return replace(found, metrics=tuple(rows))

    def _gain(self, outcome: Outcome, first: Artifact) -> Metric:
        """That of the first network, `first`, over this one."""
        if self.recipe.several:
            return mean_difference(self._subject(outcome), first, outcome.classified)
        return paired_gain(self._subject(outcome), right_of(first), right_of(outcome.classified))

    def _subject(self, outcome: Outcome) -> Subject:
        share = f" {outcome.share:g}" if outcome.share else ""
        share += f" {outcome.layer}" if outcome.layer not in ("", PENULTIMATE) else ""
        return Subject(
            model=f"{outcome.protocol}{share} of {outcome.candidate.name}",
            seed=self.recipe.seed,
            dataset=", ".join(self.recipe.test.uri),
            split="test",
        )
