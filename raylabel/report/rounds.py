"""The rounds of a run side by side: a table in the terminal, and the artifact `rounds` with the same numbers."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.evaluate.results import PRECISION, STUDENT, TEACHER, TOP1, find, require
from raylabel.pipelines.rounds import overlap, validated
from raylabel.pipelines.semi_supervised import Run
from raylabel.report.summary import Summary
from raylabel.report.terminal import WIDTH
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.store.names import SUMMARY
from raylabel.text import encodable, percent, slug


@dataclass(frozen=True, kw_only=True)
class Round:
    """The numbers of a round; fractions."""

    run: str
    """Folder of the run."""
    teacher: str
    """Architectures."""
    student: str
    teacher_top1: float
    """On the test set."""
    student_top1: float
    validation_top1: float | None
    """Of the student on the validation set; None without one."""
    validation_gain: float | None
    """Over the teacher."""
    picks: int
    precision: float | None
    """Share of the picks with their true label; None if it is not known."""
    overlap: float | None
    """Share of the picks that the round before had too; None in the first one."""


def round_of(run: Run, summary: Summary, page: Artifact, before: Run | None) -> Round:
    """The numbers of a run as a round after another."""
    found = validated(run)
    return Round(
        run=page.uri.rpartition("/")[2],
        teacher=run.recipe.teacher.model.arch,
        student=run.recipe.student.arch,
        teacher_top1=require(summary.metrics, metric=TOP1, model=TEACHER).value,
        student_top1=require(summary.metrics, metric=TOP1, model=STUDENT).value,
        validation_top1=found.top1.value if found else None,
        validation_gain=found.gain.value if found else None,
        picks=summary.picks.total,
        precision=row.value if (row := find(summary.metrics, metric=PRECISION)) else None,
        overlap=overlap(before.picks, run.picks) if before else None,
    )


def write_rounds(root: Root, name: str, rounds: Sequence[Round]) -> Artifact:
    """The artifact `rounds-<name>` with summary.json."""
    text = json.dumps([asdict(one) for one in rounds], indent=2, ensure_ascii=False)
    identity = {"runs": [one.run for one in rounds], "summary": text}

    def build(draft: Draft) -> Built:
        return Built([write_bytes(draft.uri, SUMMARY, text.encode())], {})

    return root.make(f"rounds-{slug(name)}", identity, build)


def print_rounds(rounds: Sequence[Round], folder: str, console: Console | None = None) -> None:
    """Prints the table."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("round", "teacher", "student"):
        table.add_column(name, overflow="fold")
    for name in ("test", "validation", "picks", "right", "as before"):
        table.add_column(name, justify="right")
    for number, one in enumerate(rounds, 1):
        shares = (percent(share) if share is not None else "-" for share in (one.precision, one.overlap))
        validation = "-" if one.validation_top1 is None else percent(one.validation_top1)
        names = (Text(encodable(name, console)) for name in (one.teacher, one.student))
        table.add_row(f"{number}", *names, percent(one.student_top1), validation, f"{one.picks:,}", *shares)
    console.print(Text("rounds", style="bold"))
    console.print(table, width=min(console.width, WIDTH))
    console.print(Text(encodable(f"{folder}/{SUMMARY}", console)), soft_wrap=True)
