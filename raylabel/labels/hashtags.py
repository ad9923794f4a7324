"""Label source: the tags of a corpus, such as hashtags, instead of a teacher (Yalniz et al. 2019 §3.3, §4.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylabel.corpus import Corpus
from raylabel.labels.tag_table import make_tags
from raylabel.labels.tags import Tags
from raylabel.selection.select import TAGS_NAME
from raylabel.store.artifact import Artifact, Root, identity_of


@dataclass(frozen=True, kw_only=True)
class Hashtags:
    """Tags as a label source."""

    tags: Tags
    classes: tuple[str, ...]
    """Names of the classes, in the order of their indices."""

    @property
    def name(self) -> str:
        return TAGS_NAME

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"tags": identity_of(self.tags), "classes": list(self.classes)}

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """TAGS of the corpus, to select from, the same in every round."""
        return make_tags(root, self.tags, corpus, shards, self.classes)
