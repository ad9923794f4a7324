"""The command `raylabel`: in any folder, what `python jobs/....py` does in this one."""

import sys
from importlib import import_module

COMMANDS = {
    "semi-supervised": "run a recipe: teacher, picks, student, and whether it was worth it",
    "sweep": "run trials over fields of a recipe",
    "plan": "estimate time, bytes and memory of a run before it is started",
}
HELP = "usage: raylabel COMMAND [RECIPE] [--data DIR] [--root DIR] [--field value ...]\n\nCommands:\n" + "\n".join(
    f"  {name:16} {text}" for name, text in COMMANDS.items()
)


def main() -> None:
    """Runs the command that the first argument names. Status 2 if there is none such."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"{HELP}\n\n`raylabel COMMAND --help` explains each field.")
        return
    if name not in COMMANDS:
        print(f"error: no command {name!r}: there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    # What a command prints of itself is how it was called.
    sys.argv[:2] = [f"raylabel {name}"]
    import_module(f"raylabel.cli.{name.replace('-', '_')}").main()
