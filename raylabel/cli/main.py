"""The console script `raylabel`: finds the module of a command and runs it. It does not import Ray itself."""

import ast
import importlib
import sys
from importlib import resources
from pathlib import Path

from raylabel.cli.output import guard_output

COMMANDS = ("semi-supervised", "sweep", "plan", "predict", "export")
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
