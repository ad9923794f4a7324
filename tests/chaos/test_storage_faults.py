"""Storage that is full, fails or is slow: a full file system, and an S3 server that resets connections."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from corpora import FORMS, Indexed, read_all, rows_of
from faulty_store import FAULTS, Plan
from helpers import digit_images, random_model, write_parquet
from lists import digest, lists, run
from paths import PYTHONPATH, SUPPORT

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.pipelines.inputs import prepare
from raylabel.store.artifact import Root
from raylabel.store.files import ATTEMPTS, filesystem, list_files, read_file, write_file

JOB = SUPPORT / "lists.py"
STAGES = {"scores": "label", "picks": "select", "media-picked": "materialize"}
PAGE = 4096


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labeled set, a teacher, and a corpus of four shards that contains copies and rejects."""
    folder = tmp_path_factory.mktemp("data")
    media, labels = digit_images()
    write_parquet(folder / "labeled.parquet", media[:100], labels[:100])
    (folder / "unlabeled").mkdir()
    some: list[bytes | None] = [*media[100:1700], *media[100:200]]
    some[7], some[77], some[777] = b"no picture", b"", None
    for number in range(4):
        write_parquet(folder / "unlabeled" / f"{number}.parquet", some[number::4])
    weights = random_model(Root.open(str(folder / "teacher"))).read("model.safetensors")
    (folder / "teacher.safetensors").write_bytes(weights)
    return folder


@pytest.fixture(scope="module")
def clean(data: Path, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """The root of a run without faults, and the digests of its PICKS and EXAMPLES."""
    root = tmp_path_factory.mktemp("clean")
    picks, examples = run(Root.open(str(root)), lists(str(data)))
    assert picks.info["picks"] > 300
    return root, (digest(picks), digest(examples))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 50 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=50m", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root, and this test needs a full file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up_to(folder: Path, stage: str, clean: Path) -> None:
    """Copies the artifacts before a stage into a root on the disk, and fills the disk except for a few pages."""
    root = folder / "root"
    names = ["shards", "truth", "teacher", "scores", "duplicates", "picks", "samples", "media-picked"]
    before = names[: names.index(stage)]
    for path in clean.iterdir():
        if path.name.rpartition("-")[0].partition("-")[0] in before:
            shutil.copytree(path, root / path.name)
    space = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - 4 * PAGE))


def left_of(root: Path, stage: str) -> tuple[list[Path], list[Path]]:
    """(manifests of the stage, temporary files)."""
    return list(root.glob(f"{stage}-*/manifest.json")), list(root.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_ends_a_stage_with_an_error_and_more_space_fixes_it(
    stage: str, data: Path, clean: tuple[Path, tuple[str, str]], small_disk: Path
) -> None:
    fill_up_to(small_disk, stage, clean[0])
    root = Root(str(small_disk / "root"))
    with pytest.raises(InputError) as failure:
        run(root, lists(str(data)))
    error = str(failure.value)
    assert f"cannot write '{root.uri}/{stage}-" in error and "No space left on device" in error
    assert "free space there, then the same command resumes from what is committed" in error
    assert left_of(small_disk / "root", stage) == ([], [])
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    picks, examples = run(root, lists(str(data)))
    assert (digest(picks), digest(examples)) == clean[1]


def start_job(data: str, root: str) -> subprocess.Popen:
    command = [sys.executable, str(JOB), f"{JOB}:lists", "--data", data, "--root", root]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def job(data: str, root: str) -> subprocess.CompletedProcess:
    process = start_job(data, root)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_job_on_a_full_disk_exits_and_the_same_command_completes(
    stage: str, data: Path, clean: tuple[Path, tuple[str, str]], small_disk: Path
) -> None:
    fill_up_to(small_disk, stage, clean[0])
    root = small_disk / "root"
    failed = job(str(data), str(root))
    assert failed.returncode == 2, failed.stdout + failed.stderr
    (error,) = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert f"cannot write '{root}/{stage}-" in error and "No space left on device" in error
    assert "Traceback" not in failed.stderr
    assert left_of(root, stage) == ([], []) and not list(root.glob("drivers/*"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    done = job(str(data), str(root))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split() == ["lists", *clean[1]]


@pytest.mark.long
def test_a_disk_without_any_space_is_an_error_before_any_work(small_disk: Path, tmp_path: Path) -> None:
    space = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize))
    failed = job(str(tmp_path), f"{small_disk}/root")
    assert failed.returncode == 2
    assert f"cannot write '{small_disk}/root/drivers/" in failed.stderr and "No space left" in failed.stderr
    assert [path for path in small_disk.rglob("*") if path.is_file()] == [small_disk / "filler"]


def upload(data: Path, bucket: str) -> str:
    fs, path = filesystem(bucket)
    pafs.copy_files(str(data), f"{path}/data", destination_filesystem=fs)
    return f"{bucket}/data"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "webdataset", "files"])
def test_reads_and_writes_are_correct_while_some_requests_fail(
    form: str, tmp_path: Path, bucket: str, faults: Plan, indexed: Indexed
) -> None:
    corpus = FORMS[form](tmp_path / "d", rows_of(30))
    before = read_all(corpus, indexed(corpus))
    fs, _ = filesystem(bucket)
    pafs.copy_files(str(tmp_path), "pictures", destination_filesystem=fs)
    remote = Corpus(uri=tuple(uri.replace(str(tmp_path), bucket) for uri in corpus.uri))
    shards = indexed(remote)
    faults.share = 0.1
    found = read_all(remote, shards, 9)
    assert [(s.key, s.media, s.label) for s in found] == [(s.key, s.media, s.label) for s in before]
    for number in range(8):
        write_file(f"{bucket}/made/{number}", b"%d" % number)
    made = {name: read_file(f"{bucket}/made/{name}") for name in list_files(f"{bucket}/made")}
    assert made == {str(number): b"%d" % number for number in range(8)}
    assert faults.done.total() > 2, f"{faults.done} of {faults.requests}"


@pytest.mark.slow
def test_failed_requests_do_not_change_the_result(
    data: Path, clean: tuple[Path, tuple[str, str]], bucket: str, faults: Plan
) -> None:
    uri = upload(data, bucket)
    faults.share = 0.05
    picks, examples = run(Root.open(f"{bucket}/root"), lists(uri))
    found = digest(picks), digest(examples)
    faults.share = 0.0
    assert found == clean[1]
    assert faults.done.total() > 20 and set(faults.done) == set(FAULTS), f"{faults.done} of {faults.requests}"


@pytest.mark.parametrize(
    "status",
    ["403 Access Denied", pytest.param("500 Internal Error", marks=pytest.mark.slow)],  # retried ten times
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_error_names_an_object_that_always_fails(method: str, status: str, bucket: str, faults: Plan) -> None:
    uri = f"{bucket}/some/object"
    write_file(uri, b"before" * 100)
    requests = 0

    def broken(how: str, path: str) -> str:
        nonlocal requests
        if how == method and path.endswith("/object"):
            requests += 1
            return status
        return ""

    faults.broken = broken
    with pytest.raises(InputError, match=f"'{uri}'.*the same command resumes from what is committed"):
        read_file(uri) if method == "GET" else write_file(uri, b"after")
    assert requests == (ATTEMPTS if status.startswith("5") else 1)
    faults.broken = lambda method, path: ""
    assert read_file(uri) == b"before" * 100 and list_files(bucket) == ["some/object"]


@pytest.mark.long
def test_a_shard_that_always_fails_ends_the_run_with_its_name(
    data: Path, bucket: str, faults: Plan, ray_local: None
) -> None:
    uri = upload(data, bucket)
    root, recipe = Root.open(f"{bucket}/root"), lists(uri)
    prepare(root, recipe)
    faults.broken = lambda method, path: "403 Access Denied" if path.endswith("/unlabeled/2.parquet") else ""
    with pytest.raises(InputError, match=f"'{uri}/unlabeled/2.parquet'"):
        run(root, recipe)
    assert root.named("scores") == []


@pytest.mark.slow
def test_a_job_gives_the_same_result_while_some_requests_fail(
    data: Path, clean: tuple[Path, tuple[str, str]], bucket: str, faults: Plan
) -> None:
    uri = upload(data, bucket)
    faults.share = 0.05
    done = job(uri, f"{bucket}/root")
    again = job(uri, f"{bucket}/root")
    faults.share = 0.0
    for process in (done, again):
        assert process.returncode == 0, process.stdout + process.stderr
        assert process.stdout.splitlines()[-1].split() == ["lists", *clean[1]]
    assert not [name for name in list_files(bucket) if "/drivers/" in name]
    assert faults.done.total() > 20, f"{faults.done} of {faults.requests}"
