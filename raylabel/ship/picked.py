"""PICKS in a root, and what their hand-over needs: the names of the classes, the corpus, and the media if they are
stored.

These are known from the runs that list the PICKS: finished ones by their summary.json, others by their records.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from raylabel.corpus import Corpus, Shards
from raylabel.corpus.config import absolute
from raylabel.errors import InputError
from raylabel.labels.source import SCORES_NAME
from raylabel.selection.select import TAGS_NAME
from raylabel.ship.shipped import corpus_of, summaries
from raylabel.store.artifact import Artifact, Root
from raylabel.store.uses import read_records
from raylabel.text import listed


@dataclass(frozen=True, kw_only=True)
class Picked:
    """PICKS with all that their hand-over needs."""

    picks: Artifact
    classes: tuple[str, ...]
    """Names of the classes, in the order of their indices."""
    corpus: Corpus
    shards: Shards
    examples: Artifact | None
    """EXAMPLES of the picks; None if the run has none yet."""
    recipe: str
    """The name of the run's recipe."""

    @property
    def ranked(self) -> bool:
        """Whether the samples of a class were ranked by a score; a source that gives PICKS does not rank them."""
        return "select" in self.picks.identity


def find_picks(uri: str, run: str = "") -> Picked:
    """The PICKS in the folder `uri`, for example 'runs/picks-0a1b2c3d4e5f', as the run named `run` uses them: the
    folder of a finished run, or the record of another one (`uses/NAME.json` in the root). `run` may be left out if all
    runs of that root which use the picks agree; runs that have EXAMPLES of them come before others.

    InputError if the folder is no PICKS, or no run uses it.
    """
    picks = _open(uri)
    root = Root(picks.uri.rpartition("/")[0])
    found = dict(_runs(root, picks))
    if not found:
        raise InputError(
            f"no run in '{root.uri}' uses {picks.uri}, so its classes and its corpus are not known: run the command "
            "that made it again"
        )
    if run:
        name = run.rstrip("/").rpartition("/")[2]
        if name not in found:
            raise InputError(f"run '{run}' does not use {picks.uri}: give one of {listed(sorted(found))}")
        return found[name]
    stored = {name: one for name, one in found.items() if one.examples}
    first, *others = (stored or found).values()
    if any((one.classes, one.shards, one.examples) != (first.classes, first.shards, first.examples) for one in others):
        raise InputError(
            f"the runs {listed(sorted(stored or found))} use {picks.uri} with different classes, corpora or media: "
            "give one of them as --run"
        )
    return first


def _open(uri: str) -> Artifact:
    folder = absolute(uri.rstrip("/"))
    name, _, digest = folder.rpartition("/")[2].rpartition("-")
    found = Artifact(folder, name, digest)
    try:
        picks = found.files("picks-")
    except FileNotFoundError:
        picks = []
    if not picks:
        raise InputError(
            f"'{uri}' is not complete PICKS: give a folder such as 'runs/picks-0a1b2c3d4e5f', which a run has made"
        )
    return found


def _runs(root: Root, picks: Artifact) -> Iterator[tuple[str, Picked]]:
    """(name, the PICKS as this run uses them) of the finished runs; of the others, if no finished one uses them."""
    folder, finished = picks.uri.rpartition("/")[2], False
    for name, summary in summaries(root).items():
        folders = summary["artifacts"].values()
        if folder in folders and (one := _as_used(root, picks, folders, summary["run"], tuple(summary["classes"]))):
            finished = True
            yield name, one
    for name, record in ({} if finished else read_records(root.uri)).items():
        if folder in record.uses and (one := _as_used(root, picks, record.uses, record.run, ())):
            yield name, one


def _as_used(
    root: Root, picks: Artifact, folders: Collection[str], recipe: str, classes: tuple[str, ...]
) -> Picked | None:
    """The PICKS as a run with these folders uses them; None if these do not tell the classes or the corpus."""

    def named(name: str) -> Iterator[Artifact]:
        for folder in sorted(folders):
            found = Artifact(f"{root.uri}/{folder}", *folder.rpartition("-")[::2])
            if found.name.startswith(name) and _complete(found):
                yield found

    own = picks.info.get("classes")  # of a source that gives PICKS
    known = [tuple(own)] if own else [classes] if classes else [tuple(one.info["classes"]) for one in named("truth")]
    known = [one for one in known if len(one) == len(picks.info["per_class"])]
    content = _content(root, picks)
    shards = next((one for one in named("shards-") if one.info["content"] == content), None)
    if not known or shards is None:
        return None
    examples = next((one for one in named("examples-") if one.identity["picks"] == picks.digest), None)
    corpus = corpus_of(shards.identity["corpus"])
    return Picked(picks=picks, classes=known[0], corpus=corpus, shards=Shards(shards), examples=examples, recipe=recipe)


def _content(root: Root, picks: Artifact) -> str | None:
    """The digest of the contents of the corpus that the picks are of; None if the SCORES or TAGS are gone."""
    identity = picks.identity
    of = next((name for name in (SCORES_NAME, TAGS_NAME) if name in identity), None)
    if of is None:
        return identity.get("shards")
    try:
        return Artifact(f"{root.uri}/{of}-{identity[of]}", of, identity[of]).identity["shards"]
    except FileNotFoundError:
        return None


def _complete(artifact: Artifact) -> bool:
    try:
        return bool(artifact.manifest)
    except FileNotFoundError:
        return False
