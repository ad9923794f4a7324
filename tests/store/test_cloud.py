"""The stores with which others are measured: what they count and how long they wait."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cloud import Cloud, Limits, SlowFiles, install, uninstall

from raylabel.store.files import filesystem, list_files, read_file, write_file


@pytest.fixture
def cloud(server: Cloud, bucket: str) -> Iterator[Cloud]:
    yield server
    server.limits = Limits(latency=0)


def test_the_server_counts_requests_by_kind_and_place(cloud: Cloud, bucket: str):
    with cloud.counting() as requests:
        write_file(f"{bucket}/a/x", b"12345")
        assert read_file(f"{bucket}/a/x") == b"12345"
        assert list_files(f"{bucket}/a") == ["x"]
        write_file(f"{bucket}/b-1/manifest.json", b"{}")
        read_file(f"{bucket}/a/x")
    assert requests.of("a/x", "GET").kinds == {"GET": 2}
    assert requests.of("a/x", "GET").bytes == 10 and requests.of("a/x", "PUT").bytes == 5
    assert requests.of("", "LIST").kinds == {"LIST": 1}
    stages = requests.stages()
    assert list(stages) == ["b-1", ""]
    assert stages["b-1"].of("a/x", "GET").bytes == 5 and stages[""].of("a/x", "GET").bytes == 5


@pytest.mark.long
def test_the_server_refuses_more_requests_than_a_prefix_gives(cloud: Cloud, bucket: str):
    write_file(f"{bucket}/few/x", b"1")
    cloud.limits = Limits(latency=0.001, gets=4)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: read_file(f"{bucket}/few/x"), range(8))) == {b"1"}
    assert cloud.refused["pictures/few"] > 0


def test_slow_files_wait_and_are_counted(tmp_path: Path):
    store = SlowFiles(str(tmp_path), str(tmp_path / "log"), latency=0.02, rate=1e6, speed=2)
    install(store)
    try:
        write_file("s3://here/a/x", bytes(20_000))
        begin = time.monotonic()
        assert read_file("s3://here/a/x") == (tmp_path / "here/a/x").read_bytes()
        took = time.monotonic() - begin  # two requests of 20 ms and 20 ms of data, at twice the speed
        assert took >= 0.03
        assert filesystem("s3://here/a/x")[0].get_file_info(["here/a/x", "here/a/y"])[1].size is None
        found = store.requests()
    finally:
        uninstall()
    assert found.kinds == {"PUT": 1, "HEAD": 3, "GET": 1}
    assert found.of("a/x", "GET").bytes == 20_000
