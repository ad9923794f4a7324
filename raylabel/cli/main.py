"""The console script `raylabel`: finds the module of a command and runs it. It does not import Ray itself."""

import ast
import importlib
import re
import shlex
import sys
from importlib import resources
from pathlib import Path

from raylabel.cli.output import guard_output

COMMANDS = (
    *("semi-supervised", "sweep", "transfer"),
    *("random-labels", "redrawn-labels", "arbitrary-labels", "deep-cluster", "pretexts"),
    *("plan", "predict", "filters", "deduplicate", "export", "list", "clean"),
)
"""Each is a module of this package with a `main()`; its docstring is the help text."""


def main() -> None:
    """`raylabel COMMAND ...`."""
    guard_output()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name in COMMANDS:
        sys.argv = [f"raylabel {name}", *arguments]
        importlib.import_module(f"raylabel.cli.{_module(name)}").main()
    else:
        sys.exit(_unknown(name))


def command(name: str) -> str:
    """How the user would type a command, by how this process was started: `raylabel sweep`, `python jobs/sweep.py`."""
    script = Path(sys.argv[0])
    return f"python {script.with_name(_module(name) + '.py')}" if script.suffix == ".py" else f"raylabel {name}"


def with_commands(description: str) -> str:
    """The description, with its commands written as the user would type them; see `command`."""
    return re.sub(rf"raylabel ({'|'.join(COMMANDS)})\b", lambda found: command(found[1]), description)


def command_line() -> str:
    """The command line of this process, as the user would type it again."""
    program = sys.argv[0]
    return f"{f'python {program}' if program.endswith('.py') else program} {shlex.join(sys.argv[1:])}".rstrip()


def _module(name: str) -> str:
    return name.replace("-", "_")


def _help() -> str:
    lines = [f"  {name:16} {_first_line(name)}" for name in COMMANDS]
    commands = "\n".join(lines)
    return f"usage: raylabel COMMAND ...\n\n{commands}\n\n`raylabel COMMAND --help` describes a command."


def _first_line(name: str) -> str:
    # The source is read, not imported: importing Ray and PyTorch takes seconds.
    source = resources.files("raylabel.cli").joinpath(f"{_module(name)}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _unknown(name: str) -> int:
    from raylabel.text import printable

    known = ", ".join(COMMANDS)
    print(f"error: no command '{printable(name)}': the commands are {known}; see raylabel --help", file=sys.stderr)
    return 2
