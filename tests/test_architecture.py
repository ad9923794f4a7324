"""The layers of the package: imports point down, no two modules import each other, and files stay small."""

import ast
import functools
import re
from pathlib import Path

from paths import DEPLOY, JOBS, REPOSITORY

PACKAGE = REPOSITORY / "raylabel"

# Lower layers first. A module may import from its own layer and from those before it.
LAYERS = (
    ("schema", "errors", "rng", "prefetch", "text"),
    ("compute",),
    ("store",),
    ("media",),
    ("corpus",),
    ("datasets",),
    ("models",),
    ("features",),
    ("inference",),
    ("training",),
    ("selection",),
    ("labels",),
    ("evaluate",),
    ("recipes",),
    ("pipelines",),
    ("report",),
    ("tracking",),
    ("ship",),
    ("plan",),
    ("sweep",),
    ("transfer",),
    ("experiments",),
    ("inventory",),
    ("cli",),
)
LINES = 300
"""At most, of a file of the package: a longer file should be two."""
JOB_LINES = 45


def _layer(module: str) -> int:
    name = module.split(".")[0]
    found = [number for number, names in enumerate(LAYERS) if name in names]
    assert found, f"raylabel.{module} is in no layer of this test: add its folder to LAYERS"
    return found[0]


@functools.cache
def _imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, or names in them, without imports for type checkers only."""
    found = set()
    tree = ast.parse(path.read_text())
    conditions = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_type_checking(node)]
    skipped = {id(node) for condition in conditions for node in condition.body}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raylabel."):
            found.add((node.module or "").removeprefix("raylabel."))
        elif isinstance(node, ast.ImportFrom) and node.module == "raylabel":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(a.name.removeprefix("raylabel.") for a in node.names if a.name.startswith("raylabel."))
    return found


def _is_type_checking(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@functools.cache
def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name != "__init__":
            found[name.removesuffix(".__init__")] = path
    return found


def test_imports_point_down():
    seen = 0
    for module, path in _modules().items():
        for target in _imports(path):
            seen += 1
            assert _layer(target) <= _layer(module), f"raylabel.{module} imports raylabel.{target}, a layer above it"
    assert seen > 300


def test_no_import_cycle():
    graph = {name: {t for t in _imports(path) if t in _modules()} for name, path in _modules().items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join((*trail[trail.index(module) :], module))}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert len(done) > 100


def test_no_stage_imports_the_report():
    stages = [module for module in _modules() if _layer(module) < _layer("report")]
    assert len(stages) > 80
    for module in stages:
        assert not any(target.startswith("report") for target in _imports(_modules()[module])), module


def test_files_are_short():
    long = {str(p): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > LINES}
    long |= {str(p): n for p in JOBS.glob("*.py") if (n := len(p.read_text().splitlines())) > JOB_LINES}
    assert not long


def test_only_the_command_line_imports_tyro():
    users = [p for p in PACKAGE.rglob("*.py") if "import tyro" in p.read_text()]
    assert users and all(p.parent == PACKAGE / "cli" for p in users)


def test_private_names_of_ray_are_in_one_file():
    private = re.compile(r"^\s*(?:from|import) ray(?:\.\w+)*\.(?:_\w+|core\.generated|autoscaler)\b", re.MULTILINE)
    files = [path for folder in (PACKAGE, JOBS, DEPLOY) for path in folder.rglob("*.py")]
    users = {path.name for path in files if private.search(path.read_text()) or "ray._private" in path.read_text()}
    assert users == {"ray_internals.py"}
