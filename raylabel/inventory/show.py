"""Prints what a root holds, and what is to be deleted from it."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.inventory.clean import Cleaning, Deletion, plan_cleaning
from raylabel.inventory.contents import Contents
from raylabel.inventory.needs import Needs, total
from raylabel.text import encodable, listed, size

WIDTH = 100
"""Columns of the terminal that tables use at most. Where the output is no terminal, no name is folded."""
PIPED = 400


def print_contents(root: str, contents: Contents, artifacts: bool, console: Console | None = None) -> None:
    """Prints the runs, the artifacts by their kind, or with `artifacts` one by one, and what no run needs."""
    console, needs = console or _console(), Needs(contents)
    _say(console, f"root {root}", "bold")
    if needs.runs:
        _print(console, _run_table(needs, console))
    if artifacts:
        _print_artifacts(needs, console)
    elif contents.folders:
        _print(console, _kind_table(needs, console))
    ours = {name for name, folder in contents.folders.items() if folder.owned}
    _say(console, f"total: {_count(ours, 'folder')}, {size(total(contents.folders, ours))}")
    loose = needs.unrecorded & ours
    if free := [one.name for one in plan_cleaning(contents).folders]:
        _say(console, f"needed by no run: {_amount(contents, free)}; `raylabel clean` deletes them")
    if loose:
        _say(
            console,
            f"in no record: {_amount(contents, loose)}. An earlier version of raylabel made them, or a program without "
            "its commands, maybe for a run that was stopped. The command of that run, once more, records what it needs",
        )
    if contents.left:
        _say(
            console,
            f"left by killed processes: {_count(contents.left, 'entry', 'entries')}, "
            f"{size(sum(contents.left.values()))}; `raylabel clean` deletes them",
        )
    foreign = [*contents.others, *(contents.folders.keys() - ours)]
    if foreign:
        _say(console, f"not made by raylabel, and never deleted: {listed(sorted(foreign))}")


def print_cleaning(contents: Contents, cleaning: Cleaning, console: Console | None = None) -> None:
    """Prints what is to be deleted, and why."""
    console = console or _console()
    for run in cleaning.drops:
        _say(console, f"drops {run.name} ({run.state}, {run.time[:16]})", "bold")
    if cleaning.drops and cleaning.shared:
        _say(console, f"keeps {_amount(contents, cleaning.shared)} of that, which other runs need")
    if cleaning.folders or cleaning.left:
        every = [*cleaning.folders, *cleaning.left]
        _say(console, f"deletes {_count(every, 'entry', 'entries')}, {size(cleaning.bytes)}:")
        _print(console, _deletion_table(every, console))
    if some := [name for name in cleaning.unrecorded if contents.folders[name].owned]:
        _say(
            console,
            f"keeps {_amount(contents, some)} in no record, which a run of an earlier version of raylabel may need: "
            "its command, once more, records what it needs; or give --unrecorded to delete them",
        )


def _run_table(needs: Needs, console: Console) -> Table:
    table = _table()
    table.add_column("run", overflow="fold")
    for name in ("state", "when"):
        table.add_column(name, no_wrap=True)
    for name in ("gain", "bytes", "its own"):
        table.add_column(name, justify="right", no_wrap=True)
    folders, loose = needs.contents.folders, needs.closure(needs.unrecorded)
    for run in needs.runs:
        others = loose.union(*(other.needs for other in needs.runs if other is not run))
        alone = size(total(folders, run.needs - others))
        sizes = size(total(folders, run.needs)), alone
        table.add_row(Text(encodable(run.name, console)), run.state, run.time[:10] or "-", run.gain or "-", *sizes)
    return table


def _kind_table(needs: Needs, console: Console) -> Table:
    table = _table()
    table.add_column("kind", overflow="fold")
    for name in ("folders", "bytes", "runs", "not needed"):
        table.add_column(name, justify="right", no_wrap=True)
    folders = {name: folder for name, folder in needs.contents.folders.items() if folder.owned}
    for kind in sorted({folder.kind for folder in folders.values()}):
        some = {name for name, folder in folders.items() if folder.kind == kind}
        runs = sum(bool(run.needs & some) for run in needs.runs)
        idle = total(folders, some - needs.needed)
        table.add_row(
            Text(encodable(kind, console)),
            f"{len(some):,}",
            size(total(folders, some)),
            f"{runs:,}",
            size(idle) if some - needs.needed else "-",
        )
    return table


def _print_artifacts(needs: Needs, console: Console) -> None:
    for name, folder in needs.contents.folders.items():
        if not folder.owned:
            continue
        state = ("sweep" if folder.sweep else "complete") if folder.complete else "begun"
        _line(console, f"{name}  {size(folder.bytes)}  {state}")
        made_of = ", ".join(needs.made_of(name))
        if made_of and not folder.sweep:
            _line(console, f"  made of: {made_of}")
        users = [run.name for run in needs.runs if name in run.needs]
        nobody = "in no record" if name in needs.unrecorded else "no run"
        _line(console, f"  needed by: {', '.join(users) or nobody}")


def _deletion_table(deletions: Sequence[Deletion], console: Console) -> Table:
    table = _table()
    table.add_column("folder", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("why")
    for one in deletions:
        table.add_row(Text(encodable(one.name, console)), size(one.bytes), Text(encodable(one.why, console)))
    return table


def _amount(contents: Contents, names: Iterable[str]) -> str:
    some = [*names]
    return f"{_count(some, 'folder')}, {size(total(contents.folders, some))}"


def _count(some: Iterable[object], one: str, more: str = "") -> str:
    count = len([*some])
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPED)


def _print(console: Console, table: Table) -> None:
    console.print(table, width=min(console.width, WIDTH if console.is_terminal else PIPED))


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(encodable(text, console), style=style), soft_wrap=not console.is_terminal)


def _line(console: Console, text: str) -> None:
    console.print(Text(encodable(text, console)), soft_wrap=True)
