"""The house keeps its plan: imports point one way, jobs → recipes → pipeline → stages → media, models → artifact."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "raylabel"

# Lower rooms first; a module may import from its own row and those above it in this list, never below.
ROWS = [
    {"errors", "watch"},
    {
        "schema",
        "patient",
        "storage",
        "artifact",
        "lease",
        "resources",
        "machines",
        "places",
        "schedule",
        "topk",
        "ahead",
        "exchange",
        "rng",
        "retry",
        "checkpoint",
        "metrics",
    },
    {
        "media",
        "models",
        "corpus",
        "report.summary",
        "report.terminal",
        "report.board",
        "report.page",
        "report.thumbnails",
    },
    {"report.run", "report.plan", "report.sweep", "datasets", "stream"},
    {"labels", "duplicates", "selection", "examples", "workers", "halts", "train", "evaluate"},
    {"pilot"},
    {"recipe"},
    {"pipeline"},
    {"plan", "recipes", "sweep"},
]


def _row(module: str) -> int:
    for name in (".".join(module.split(".")[:2]), module.split(".")[0]):
        for row, rooms in enumerate(ROWS):
            if name in rooms:
                return row
    raise AssertionError(f"raylabel.{module} stands in no room of this test: say where it belongs")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raylabel."):
            found.add((node.module or "").removeprefix("raylabel."))
        elif isinstance(node, ast.ImportFrom) and node.module == "raylabel":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(a.name.removeprefix("raylabel.") for a in node.names if a.name.startswith("raylabel."))
    return found


def test_imports_point_one_way():
    seen = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__" or path.stat().st_size == 0:
            continue
        for target in _imports(path):
            seen += 1
            assert _row(target) <= _row(module), f"raylabel.{module} imports raylabel.{target}, which stands above it"
    assert seen > 50


def test_tyro_stays_in_the_jobs():
    assert not [p for p in PACKAGE.rglob("*.py") if "import tyro" in p.read_text()]
