"""Data is never executed, and URLs in data are never fetched: static checks, and canaries that detect either."""

import ast
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from canary import canary
from paths import DEPLOY, JOBS, REPOSITORY

from raylabel.corpus import Corpus, Shards, index_corpus, read_keys
from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.store.artifact import Root

MODULES = sorted(file for folder in (REPOSITORY / "raylabel", JOBS, DEPLOY) for file in folder.rglob("*.py"))

# Calls that execute what they read, or write to paths that an archive contains.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "input",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "marshal.load",
    "marshal.loads", "shelve.open", "joblib.load", "dill.load", "dill.loads", "pandas.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "torch.jit.load",
    "os.system", "os.popen", ".extractall", ".extract", "shutil.unpack_archive",
    "urllib.request.urlopen", "requests.get",
}  # fmt: skip
# Keywords that a call needs to be safe: (name, keyword, value).
REQUIRED = (("torch.load", "weights_only", True), (".get_state_dict", "weights_only", True))
REFUSED = (("allow_pickle", True), ("shell", True), ("trust_remote_code", True))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its name, in dotted form if possible, with imported names resolved."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            dotted = ast.unparse(node.func)
            first, dot, rest = dotted.partition(".")
            yield names.get(first, first) + dot + rest, node


def is_call(name: str, wanted: str) -> bool:
    """Whether a call has the wanted name. A wanted name with a leading dot matches a method of any object."""
    return name.endswith(wanted) if wanted.startswith(".") else name == wanted


def unsafe_calls(source: str) -> list[str]:
    found = []
    for name, call in calls(ast.parse(source)):
        given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        found += [f"line {call.lineno}: {name}" for forbidden in FORBIDDEN if is_call(name, forbidden)]
        for wanted, keyword, value in REQUIRED:
            if is_call(name, wanted) and given.get(keyword) is not value:
                found.append(f"line {call.lineno}: {name} without {keyword}={value}")
        found += [f"line {call.lineno}: {name} with {k}={v}" for k, v in REFUSED if given.get(k) is v]
    return found


def test_no_module_executes_what_it_reads():
    assert len(MODULES) > 50
    assert {str(path): found for path in MODULES if (found := unsafe_calls(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import load as read\nread(f)",
        "import torch\ntorch.load(f)",
        "import torch as t\nt.load(f, weights_only=False)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "eval(text)",
        "import yaml\nyaml.load(f)",
        "tar.extractall(folder)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "weight.get_state_dict(progress=False)",
    ],
)
def test_the_static_check_finds_each_pattern(source: str):
    assert len(unsafe_calls(source)) == 1
    assert unsafe_calls("import torch\ntorch.load(f, weights_only=True)\nmodule.eval()\nre.compile(x)") == []


class Canary:
    """Pickles as a call that creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def malicious_file(path: Path, canary: Path, kind: str) -> Path:
    """Writes a file that creates the canary folder when it is unpickled."""
    state = {**build(Model(arch="resnet8x1"), 10).state_dict(), "extra": Canary(canary)}
    if kind == "torch":
        torch.save(state, path)
    elif kind == "old torch":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "numpy":
        with path.open("wb") as out:
            np.save(out, np.array([Canary(canary)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(Canary(canary)))
    return path


SLOW = pytest.mark.slow


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("teacher.pt", "torch"),
        pytest.param("teacher.pth", "old torch", marks=SLOW),
        pytest.param("teacher.safetensors", "torch", marks=SLOW),
        pytest.param("teacher.safetensors", "pickle", marks=SLOW),
        pytest.param("teacher.bin", "pickle", marks=SLOW),
        pytest.param("teacher.npy", "numpy", marks=SLOW),
    ],
)
def test_a_pickle_in_place_of_weights_is_refused_by_the_job(
    name: str, kind: str, cluster: dict[str, str], tmp_path: Path
):
    canary = tmp_path / "canary"
    file = malicious_file(tmp_path / name, canary, kind)
    job = REPOSITORY / "jobs" / "semi_supervised.py"
    # Users set this variable for other programs. It must have no effect here.
    environment = os.environ | cluster | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, str(job), "digits", "--teacher.checkpoint", str(file)],
        capture_output=True, text=True, cwd=tmp_path, timeout=200, env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert name in line and ("refused" in line or "is not a complete" in line)
    assert not canary.exists()
    assert not list(tmp_path.glob("runs/teacher-*/manifest.json"))


def test_the_pickle_runs_code_when_it_is_unpickled(tmp_path: Path):
    for number, kind in enumerate(("torch", "old torch", "numpy", "pickle")):
        canary = tmp_path / f"canary{number}"
        file = malicious_file(tmp_path / "file", canary, kind)
        if kind == "numpy":
            np.load(file, allow_pickle=True)
        elif kind == "pickle":
            pickle.loads(file.read_bytes())
        else:
            torch.load(file, weights_only=False)
        assert canary.exists(), kind


# URLs as media --------------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    with canary() as port:
        yield port


def test_a_url_in_place_of_media_is_not_fetched(port: int, ray_local: None, tmp_path: Path):
    address = f"http://127.0.0.1:{port}/a.jpg"
    root = Root.open(str(tmp_path / "root"))
    for uri in (address, f"https://127.0.0.1:{port}/a.tar", f"http://127.0.0.1:{port}/list.txt"):
        with pytest.raises(InputError, match="cannot open 'https?://127.0.0.1.*give a local path"):
            index_corpus(root, "c", Corpus(uri=(uri,)))
    (tmp_path / "list.txt").write_text(f"{address}\n")
    with pytest.raises(InputError, match="line 1 of"):
        index_corpus(root, "c", Corpus(uri=(str(tmp_path / "list.txt"),)))
    pq.write_table(pa.table({"image": [address]}), tmp_path / "text.parquet")
    with pytest.raises(InputError, match="expected encoded bytes"):
        index_corpus(root, "c", Corpus(uri=(str(tmp_path / "text.parquet"),)))
    pair = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # the image type of Hugging Face datasets
    rows = [{"bytes": None, "path": address}, {"bytes": address.encode(), "path": "/etc/passwd"}]
    pq.write_table(pa.table({"image": pa.array(rows, pair)}), tmp_path / "pairs.parquet")
    corpus = Corpus(uri=(str(tmp_path / "pairs.parquet"),))
    samples = read_keys(corpus, Shards(index_corpus(root, "c", corpus)), [0, 1])
    assert [samples[key].error for key in (0, 1)] == ["missing", None]


def test_the_canary_detects_a_connection():
    with pytest.raises(AssertionError, match="connected to the canary"), canary() as port:
        socket.create_connection(("127.0.0.1", port)).close()
