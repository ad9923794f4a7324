"""Copies within a corpus, and samples of it that are in other sets, as parquet or CSV.

- raylabel deduplicate photos --to copies.csv                                            copies within a folder
- raylabel deduplicate s3://bucket/crawl --against s3://bucket/test --to s3://bucket/out  also what is in a test set

A copy has the same bytes as a sample that is kept, or is a near-duplicate of it: the same picture after resizing,
compression, a crop of some percent. No network is needed. Nothing is deleted: the files list the copies, and a page
shows some. The same command resumes what was stopped.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import tyro

from raylabel.cli.exit import readable
from raylabel.cli.launch import check_arguments, check_kept, command_line, connected
from raylabel.cli.main import with_commands
from raylabel.cli.output import guard_output
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.selection.pairs import THRESHOLD
from raylabel.store.artifact import identity_of
from raylabel.store.names import DEDUPLICATION
from raylabel.store.uses import RecordedRoot

Unused = tyro.conf.Suppress[str | None]


@dataclass(frozen=True, kw_only=True)
class Deduplicated(Corpus):
    """The corpus in which copies are searched for."""

    uri: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CORPUS ...")]
    """Local paths or s3://, gs:// URIs: what a recipe's corpus may be, without labels."""
    kind: Annotated[Literal["image", "video"], tyro.conf.arg(aliases=("--kind",))] = "image"
    """The kind of media of the corpus and of all sets. Videos are near-duplicates if their middle frames are."""
    label: Unused = None
    classes: Unused = None


@dataclass(frozen=True, kw_only=True)
class DeduplicateOptions:
    """A corpus, and where the list of its copies goes."""

    corpus: Deduplicated
    to: str
    """One file, if it ends in .parquet or .csv: for up to a million samples. Otherwise a folder with many files.
    Rejects, a summary and a page are written beside it, or in the folder."""
    form: Annotated[Literal["parquet", "csv"] | None, tyro.conf.arg(metavar="{parquet,csv}")] = None
    """Form of the files in a folder: parquet, or csv."""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="URI ...")] = ()
    """Reference sets, such as test sets: samples of the corpus that are in one of them are listed too. Each URI is one
    set, of the same kind as the corpus."""
    near: float = THRESHOLD
    """Similarity from which two pictures are near-duplicates, above 0 and up to 1. The corpus is not read again for
    another value."""
    bytes_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only search for equal bytes, and for segments of the source videos of a reference set."""
    size: int = 64
    """Side of the square, in pixels, at which pictures are decoded to be compared; at least 24."""
    root: str = "runs"
    """Folder of what is computed and resumed, local or s3://, gs://."""
    reject_limit: Annotated[float, tyro.conf.arg(aliases=("--label.reject-limit",))] = 0.05
    """Share of samples that may be unreadable before the command stops, 0 to 1."""
    retry_rejects: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read the samples again that an earlier call rejected, for example after a storage failure."""
    resources: Resources = field(default_factory=Resources)


def main() -> None:
    guard_output()
    with readable():
        check_arguments()
        options = tyro.cli(DeduplicateOptions, description=with_commands(__doc__ or ""))
        check_kept(options.to, "to")
        # Imported now, because PyTorch takes seconds: --help and a wrong option need not wait for it.
        from raylabel.ship.deduplicate import Settings, check, deduplicate
        from raylabel.ship.deduplication import Deduplication
        from raylabel.ship.deduplication_terminal import print_deduplication
        from raylabel.ship.output import Output

        output = Output.of(options.to, options.form, Deduplication)
        settings = Settings(
            near=None if options.bytes_only else options.near,
            size=options.size,
            reject_limit=options.reject_limit,
            retry_rejects=options.retry_rejects,
        )
        corpus = Corpus(**{one.name: getattr(options.corpus, one.name) for one in fields(Corpus)})
        check(corpus, options.against, settings, output)  # now, not once Ray has started
        with connected(options.root, options.resources) as root:
            asked = {"to": output.uri, "corpus": identity_of(corpus), "against": options.against}
            asked |= {"near": settings.near, "size": settings.size}
            name = corpus.uri[0].rstrip("/").rpartition("/")[2]
            recorded = RecordedRoot.of(root, DEDUPLICATION, name, asked, command_line())
            found = deduplicate(recorded, corpus, options.against, settings, output, options.resources)
            recorded.uses.finish()
        print_deduplication(found, output)
