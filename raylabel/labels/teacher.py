"""Label source: a trained network ranks every class for every sample of a corpus."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raylabel.compute.autoscaler import ready
from raylabel.compute.resources import Resources
from raylabel.corpus import UNIT, Corpus, unit_rows
from raylabel.errors import InputError
from raylabel.inference.network import Network
from raylabel.inference.scores import Scoring, make_scores
from raylabel.media.view import View
from raylabel.store.artifact import NOT_IDENTITY, Artifact, Root, identity_of

BATCH_BYTES = 1 << 28  # of pixels; 256 images at 224 px are 39 MB. An actor holds one batch, or four if tasks decode


@dataclass(frozen=True, kw_only=True)
class Label:
    """How a model labels a corpus."""

    batch: int = 256
    """Images or videos per forward pass. Smaller batches are padded to this number, so that a score does not depend on
    how many samples are in its batch."""
    p: int = 10
    """Classes stored per sample, at most all: the largest `select.p` that is possible without scoring again."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 if the hardware has it."""
    reject_limit: float = field(default=0.05, metadata=NOT_IDENTITY)
    """Share of samples that may be unreadable before the run stops, 0 to 1."""

    def __post_init__(self):
        if not 2 <= self.batch <= UNIT:
            raise InputError(f"label.batch is {self.batch}: give 2 to {UNIT} samples, since no batch crosses a unit")
        if self.p < 1:
            raise InputError(f"label.p is {self.p}: store at least 1 class per sample")
        if not 0 <= self.reject_limit <= 1:
            raise InputError(f"label.reject_limit is {self.reject_limit}: give a share between 0 and 1")

    def check_against(self, corpus: Corpus, view: View) -> None:
        """InputError if a batch crosses a unit, or if its pixels would take more than BATCH_BYTES: clips are large."""
        if self.batch > (unit := unit_rows(corpus)):
            raise InputError(
                f"label.batch is {self.batch}, but no batch crosses a unit, which is {unit} {corpus.kind}s: "
                f"lower it to {unit}"
            )
        if self.batch * (sample := math.prod(view.eval_shape)) > BATCH_BYTES:
            raise InputError(
                f"label.batch is {self.batch}, but the pixels of that many samples are "
                f"{self.batch * sample / 1e9:.1f} GB: lower it to {max(2, BATCH_BYTES // sample)}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A trained network as a label source. Its labels are the same in every round, because another network is another
    source."""

    network: Artifact
    view: View
    """How a sample becomes the network's input."""
    config: Label
    resources: Resources
    retry_rejects: bool = False
    """Score the samples again that an earlier run rejected."""
    features: Artifact | None = None
    """FEATURES of the corpus by the frozen part of the network, if it is a head on features: the labels are computed
    from them and are the same."""
    names: bool = False
    """Also keep the names of the samples of tars, which SHARDS do not contain."""
    thumbnails: bool = False
    """Also keep THUMBNAILS, from which near-duplicates are found."""
    subset: Artifact | None = None
    """A table with the keys of the samples that are scored; None: all are."""

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._identity(self._precision, float32_head=True)

    def _identity(self, precision: str, float32_head: bool) -> dict[str, Any]:
        arithmetic = {"precision": precision} | ({"head": "fp32"} if precision == "bf16" and float32_head else {})
        return {
            "model": self.network.digest,
            "view": self.view.evaluation_identity,
            "label": identity_of(self.config) | arithmetic,
        }

    @property
    def _precision(self) -> str:
        return ready(self.resources).precision(self.config.precision)

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """SCORES of every sample of the corpus by the network, with REJECTS for those that could not be read.

        Scores are log-odds and not probabilities: near p = 1 a float32 softmax has ties, but a billion samples need an
        order (Yalniz et al. 2019 §3.2 ranks by softmax; the order is the same). Shards that the same network scored as
        part of an earlier, smaller corpus are not scored again. SCORES that an earlier version of raylabel made, or
        began, with a last layer in bf16 or without thumbnails, are used as they are. InputError if too many samples
        are rejected.
        """
        self.config.check_against(corpus, self.view)
        precision = self._precision
        thumbnails = self.thumbnails and (self.features is None or bool(self.features.files("thumbnails-")))
        versions = {(True, thumbnails): None, (True, False): None} | (
            {(False, False): None} if precision == "bf16" else {}
        )
        now, *before = (self._scoring(corpus, shards, precision, *version) for version in versions)
        return make_scores(root, now, before)

    def _scoring(
        self, corpus: Corpus, shards: Artifact, precision: str, float32_head: bool, thumbnails: bool
    ) -> Scoring:
        config, model = self.config, self.network
        p = min(config.p, model.info["classes"])
        return Scoring(
            scorer=Network(model, self.view, precision, p, float32_head, thumbnails),
            source=self._identity(precision, float32_head),
            shards=shards,
            corpus=corpus,
            batch=config.batch,
            reject_limit=config.reject_limit,
            resources=self.resources,
            retry_rejects=self.retry_rejects,
            by=model.name,
            names=self.names,
            features=self.features,
            subset=self.subset,
        )
