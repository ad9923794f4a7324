"""Requests that an object store refuses are retried, also if the error response is longer than the requested data."""

import os
import pickle
import time

import pytest
from faulty_store import Plan

from raylabel.errors import InputError
from raylabel.store import s3_retry
from raylabel.store.files import filesystem, list_files, read_file, write_file


@pytest.mark.long
@pytest.mark.parametrize("size", [0, 1, 100, 100_000])
@pytest.mark.parametrize("copy", [False, True])
def test_a_file_of_any_size_is_read_after_refusals(
    size: int, copy: bool, bucket: str, faults: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, refused = os.urandom(size), 0
    write_file(f"{bucket}/a b/file", data)
    fs, path = filesystem(f"{bucket}/a b/file")
    if copy:
        fs = pickle.loads(pickle.dumps(fs))  # as it is sent to other processes

    def broken(method: str, path: str) -> str:
        nonlocal refused
        if method == "GET" and path.endswith("/file"):
            refused += 1
            return "503 Slow Down" if refused % 3 else ""
        return ""

    faults.broken = broken
    monkeypatch.setattr(s3_retry, "LONGEST", 0.1)
    with fs.open_input_file(path) as file:
        assert (file.size(), file.read(), file.tell(), file.read()) == (size, data, size, b"")
        file.seek(size // 2)
        assert file.read(10) == data[size // 2 :][:10]
        file.seek(-min(size, 7), 2)
        assert file.read() == data[len(data) - min(size, 7) :]
        assert file.read_at(5, 1) == data[1:6] and file.read_at(5, size + 9) == b""
    with fs.open_input_stream(path) as stream:
        assert stream.read(3) + stream.read() == data
    assert refused >= 6 if size else refused == 0


def test_a_store_that_refuses_every_small_read_is_an_error(
    bucket: str, faults: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_retry, "LONGEST", 0.0)
    write_file(f"{bucket}/file", b"x")
    faults.broken = lambda method, path: "503 Slow Down" if method == "GET" and path.endswith("/file") else ""
    with pytest.raises(
        InputError, match=f"cannot read '{bucket}/file': the store refused a read of a few bytes 10 times"
    ):
        read_file(f"{bucket}/file")


@pytest.mark.parametrize("size", [1, 100, 5_000])
def test_a_file_that_is_deleted_after_it_was_opened_is_missing(size: int, bucket: str) -> None:
    write_file(f"{bucket}/file", bytes(size))
    fs, path = filesystem(f"{bucket}/file")
    with fs.open_input_file(path) as file:
        fs.delete_file(path)
        begin = time.monotonic()
        with pytest.raises(FileNotFoundError, match="'pictures/file' was deleted while it was read"):
            file.read()
    assert time.monotonic() - begin < 5  # it is not retried for a minute


def test_missing_and_listed_files(bucket: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(f"{bucket}/none")
    assert list_files(f"{bucket}/none") == []
    for name in ("b/1", "a", "b/c/2"):
        write_file(f"{bucket}/x/{name}", b"")
    assert list_files(f"{bucket}/x") == ["a", "b/1", "b/c/2"]
