"""`ray job submit`: what it uploads, and how its jobs end. Real clusters, whose nodes do not have raylabel."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
import venv
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from heads import RAY, Head, environment, join, started_head
from paths import REPOSITORY
from prometheus_client.parser import text_string_to_metric_families

from raylabel.errors import InputError

SMALL = (
    *("--student.arch", "resnet8x1", "--teacher.train.images", "3200", "--select.k", "20", "--select.p", "10"),
    *("--pretrain.images", "3200", "--finetune.images", "640", "--pretrain.checkpoint-minutes", "0.001"),
)
TINY_VIDEO = (
    *("--teacher.train.images", "64", "--pretrain.images", "64", "--finetune.images", "32", "--select.p", "8"),
)


def submit(address: str, *arguments: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    """Runs Ray's own `ray job submit` in `folder`."""
    return subprocess.run(
        [sys.executable, str(RAY), "job", "submit", "--address", address, "--working-dir", ".", *arguments],
        env=environment(**more),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
    )


def checkout(folder: Path) -> Path:
    """A copy of this repository, and in it files that must not be uploaded, of 1 MB each."""
    for name in "raylabel", "jobs", "tests", ".ci":
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored, dirs_exist_ok=True)
    for name in "README.md", "LICENSE", "pyproject.toml", ".gitignore", ".rayignore":
        shutil.copy(REPOSITORY / name, folder / name)
    for unwanted in (
        *(".git/objects/x", ".venv/lib/x.py", "venv/lib/x.py", "data/labeled/x.jpg", "runs/scores-1/x.parquet"),
        *("runs/drivers/x.json", "raylabel/__pycache__/x.pyc", ".pytest_cache/x", ".ruff_cache/x", ".hypothesis/x"),
        *("raylabel.egg-info/x", "tests/__pycache__/x.pyc", "shared/data/x.jpg"),
    ):
        (folder / unwanted).parent.mkdir(parents=True, exist_ok=True)
        (folder / unwanted).write_bytes(bytes(1_000_000))
    (folder / "my.py").write_text("from raylabel.recipes.registry import digits as my_digits\n")
    return folder


class _JobServer(BaseHTTPRequestHandler):
    """The part of a head's HTTP API that `ray job submit --no-wait` uses."""

    uploads: list[bytes] = []

    def do_GET(self) -> None:
        self._answer(404 if "/packages/" in self.path else 200, {"version": "4", "ray_version": ray.__version__})

    def do_PUT(self) -> None:
        self.uploads.append(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {"job_id": "one", "submission_id": "one"})

    def _answer(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def uploads() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a head that accepts jobs without running them, and the packages that were uploaded to it."""
    with HTTPServer(("127.0.0.1", 0), _JobServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _JobServer.uploads.clear()
        yield f"http://127.0.0.1:{server.server_port}", _JobServer.uploads
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("ignore_gitignore", ["0", "1"])
def test_only_the_code_is_uploaded(uploads: tuple[str, list[bytes]], tmp_path: Path, ignore_gitignore: str) -> None:
    address, sent = uploads
    done = submit(
        *(address, "--no-wait", "--", "true"),
        folder=checkout(tmp_path / "work"),
        NO_PROXY="*",
        RAY_RUNTIME_ENV_IGNORE_GITIGNORE=ignore_gitignore,
    )
    assert done.returncode == 0, done.stdout
    (package,) = sent
    (tmp_path / "package.zip").write_bytes(package)
    with zipfile.ZipFile(tmp_path / "package.zip") as file:
        found = {name for name in file.namelist() if not name.endswith("/")}
    code = {path for part in ("raylabel", "jobs") for path in (REPOSITORY / part).rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(REPOSITORY)) for path in code if "__pycache__" not in path.parts}
    more = {"README.md", "LICENSE", "pyproject.toml", ".gitignore", ".rayignore", "my.py"}
    assert found == wanted | more
    assert len(package) < 3_000_000


def test_a_root_in_the_unpacked_working_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raylabel.cli.launch import check_kept

    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    inside = "runs", "a/../b", str(work / "runs")
    for job in {}, {"runtime_env": {"env_vars": {"A": "1"}}}:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
        for root in inside:
            check_kept(root)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://_pkg.zip"}}))
    for root in inside:
        with pytest.raises(InputError, match="is in the job's copy of --working-dir, which Ray deletes"):
            check_kept(root)
    for root in "../runs", str(tmp_path), "s3://bucket/runs", f"{work}2":
        check_kept(root)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that finds all packages of this one except raylabel: a folder that a .pth file names is searched
    for modules, but not for the .pth files of editable installs."""
    folder = tmp_path_factory.mktemp("machine")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(str(Path(ray.__file__).parents[1]))
    path = str(folder / "bin" / "python")
    look = "import ray, torch, importlib.util; print(importlib.util.find_spec('raylabel'))"
    done = subprocess.run([path, "-c", look], env=environment(path), capture_output=True, text=True, cwd="/")
    if done.stdout != "None\n":
        pytest.skip(f"raylabel cannot be hidden from the interpreter here: {done.stdout}{done.stderr}")
    return path


@pytest.fixture(scope="module")
def cluster(python: str) -> Iterator[tuple[Head, list[str]]]:
    """A head without CPUs that two nodes have joined, and the addresses of their metrics."""
    with started_head(cpus=0, python=python) as head:
        yield head, [head.metrics, join(head, 2, python), join(head, 2, python)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("work"))


def run(head: Head, *command: str, folder: Path, flags: tuple[str, ...] = ()) -> tuple[int, str]:
    """(status, output) of a submitted job."""
    done = submit(head.dashboard, *flags, "--", "python", *command, folder=folder, **_token(head))
    return done.returncode, done.stdout


def ask(head: Head, *command: str) -> str:
    """The output of `ray job ...`."""
    done = subprocess.run(
        [sys.executable, str(RAY), "job", command[0], "--address", head.dashboard, *command[1:]],
        env=environment(**_token(head)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def log_of(head: Head, job: str) -> list[str]:
    """The lines that the job itself has printed so far."""
    _, _, text = ask(head, "logs", job).partition("Running entrypoint for job ")
    return text.partition("\n")[2].splitlines()


def _token(head: Head) -> dict[str, str]:
    return {name: value for name, value in head.environment.items() if name != "RAY_ADDRESS"}


def scraped(addresses: list[str]) -> Counter[tuple[str, str]]:
    """(metric, its reason or network) → sum over processes and nodes, of raylabel's metrics."""
    found: Counter[tuple[str, str]] = Counter()
    for address in addresses:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=30) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for one in family.samples:
                    if one.name.startswith("ray_raylabel_"):
                        tag = one.labels.get("reason") or one.labels.get("network", "")
                        found[one.name, tag.partition("-")[0]] += int(one.value)
    return found


def dashboard(head: Head, path: str) -> Any:
    """The JSON that a page of the dashboard shows."""
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{head.dashboard}/api/{path}", headers=token)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(condition: Callable[[], object], seconds: float = 280) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_digits_runs_on_nodes_without_raylabel_and_its_samples_are_counted(
    cluster: tuple[Head, list[str]], work: Path, tmp_path: Path
) -> None:
    head, metrics = cluster
    root, seen = str(tmp_path / "runs"), Counter[tuple[str, str]]()
    over = threading.Event()

    def look() -> None:  # a gauge disappears when its process ends
        while not over.wait(1):
            for key, value in scraped(metrics).items():
                seen[key] = max(seen[key], value)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        status, out = run(head, "jobs/semi_supervised.py", "my.py:my_digits", *SMALL, "--root", root, folder=work)
    finally:
        over.set()
        thread.join()
    assert status == 0, out
    log = out[out.index("Running entrypoint") :]
    assert "hardware: 4 CPUs, no GPU" in log
    assert re.search(r"^train teacher: 3,200 of 3,200 images, .* in .*loss", log, re.M)
    assert "core_worker.cc" not in log and "\r" not in log and "\x1b[2K" not in log
    assert out.index("summary.json") < out.index("succeeded")
    # 1,247 samples of the corpus, and 500 test samples for each of four networks.
    wait_for(lambda: scraped(metrics)["ray_raylabel_samples_scored_total", ""] >= 3247, 30)
    assert scraped(metrics)["ray_raylabel_samples_scored_total", ""] == 3247
    assert {tag for name, tag in seen if name == "ray_raylabel_training_loss"} == {
        *("teacher", "pretrained", "student", "control")
    }
    assert seen["ray_raylabel_training_step", "teacher"] == 3200 // 64
    assert ("ray_raylabel_parts_writing", "") in seen
    (job,) = (one["job_id"] for one in dashboard(head, "jobs/") if root in one["entrypoint"])
    datasets = Counter(one["dataset"].partition("_")[0] for one in dashboard(head, f"data/datasets/{job}")["datasets"])
    assert datasets == {"label-unlabeled": 1, "label-test": 4}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_moving_digits_runs_as_a_job(cluster: tuple[Head, list[str]], work: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    status, out = run(
        cluster[0], "jobs/semi_supervised.py", "moving-digits", *TINY_VIDEO, "--root", str(root), folder=work
    )
    assert status == 0, out
    assert len(list(root.glob("run-moving-digits-*/manifest.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "field, error",
    [
        (("--select.k", "0", "--root", "/nowhere"), "select.k is 0"),
        (("--seed", "1"), "root 'runs' is in the job's copy of --working-dir"),
    ],
)
def test_a_wrong_field_fails_the_job_with_its_message_at_the_end(
    cluster: tuple[Head, list[str]], work: Path, field: tuple[str, ...], error: str
) -> None:
    status, out = run(
        *(cluster[0], "jobs/semi_supervised.py", "digits", *field),
        folder=work,
        flags=("--submission-id", field[0].strip("-")),
    )
    assert status == 1, out
    last = log_of(cluster[0], field[0].strip("-"))[-1]
    assert last.startswith(f"error: {error}")
    assert out.rstrip().endswith(last) and "exit code 2" in out


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("wait, last", [("3", "stopping, which takes up to 25 s"), ("30", "stopped: the same command")])
def test_a_stopped_job_resumes_when_it_is_submitted_again(
    cluster: tuple[Head, list[str]], work: Path, tmp_path: Path, wait: str, last: str
) -> None:
    head, root = cluster[0], tmp_path / "runs"
    long = "jobs/semi_supervised.py", "digits", *SMALL, "--pretrain.images", "64000", "--root", str(root)
    grace = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": wait}})
    flags = "--submission-id", f"stopped-{wait}", "--runtime-env-json", grace, "--no-wait"
    status, out = run(head, *long, folder=work, flags=flags)
    assert status == 0, out
    wait_for(lambda: list(root.glob("pretrained-*/scratch/checkpoints/*/*")))
    ask(head, "stop", f"stopped-{wait}")
    log = log_of(head, f"stopped-{wait}")
    assert "was stopped" in ask(head, "status", f"stopped-{wait}")
    assert [line for line in log if line.startswith(last)], log
    assert wait == "3" or log[-1].startswith(last)
    before = stamps(root)
    assert before and not list(root.glob("pretrained-*/manifest.json"))
    status, out = run(head, *long, folder=work)
    assert status == 0, out
    assert "train teacher" not in out and "materialize labeled" not in out
    (begin,) = re.findall(r"^train pretrained: ([0-9,]+) of", out, re.M)[:1]
    assert int(begin.replace(",", "")) > 0, out
    after = stamps(root)
    assert {path: after[path] for path in before} == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_sweep_resumes_when_it_is_submitted_again(
    cluster: tuple[Head, list[str]], work: Path, tmp_path: Path
) -> None:
    head, root = cluster[0], tmp_path / "runs"
    space = "--space", "select.k=[10,20]", "finetune.images=[640,64000]"  # two trials end long before the others
    sweep = "jobs/sweep.py", "digits", *SMALL, *space, "--root", str(root)
    grace = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}})
    flags = "--submission-id", "sweep", "--runtime-env-json", grace, "--no-wait"
    status, out = run(head, *sweep, folder=work, flags=flags)
    assert status == 0, out
    wait_for(lambda: list(root.glob("student-*/manifest.json")), 500)
    ask(head, "stop", "sweep")
    assert "was stopped" in ask(head, "status", "sweep")
    assert log_of(head, "sweep")[-1].startswith("stopped: the same command resumes")
    before = stamps(root)
    assert before and not list(root.glob("sweep-*/sweep.json"))
    status, out = run(head, *sweep, folder=work)
    assert status == 0, out
    after = stamps(root)
    assert {path: after[path] for path in before} == before
    (summary,) = root.glob("sweep-*/sweep.json")
    assert [one["state"] for one in json.loads(summary.read_text())["trials"]] == ["finished"] * 4
    log = out[out.index("Running entrypoint") : out.index("succeeded")]
    assert re.search("^sweep: 4 of 4 trials", log, re.M) and str(summary.parent) in log


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    """File → (time of its last change in ns, inode), of all files of complete artifacts."""
    done = [path.parent for path in root.glob("*/manifest.json")]
    files = [path for folder in done for path in folder.iterdir() if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}
