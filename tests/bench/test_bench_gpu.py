"""The bench of the GPU runs, tiny and on the CPU, so that it does not break unnoticed."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_bench_of_the_gpu_prints_its_figures(ray_local, capsys, monkeypatch, tmp_path):
    import bench_gpu

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    figures = ["label-resnet50", "train", "nvjpeg"]  # the others run the same functions
    bench_gpu.main(["--dry-run", *figures])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["cores"] >= 1 and lines[0]["torch"]
    assert all("dry run" in line["figure"] for line in lines[1:])
    found = {line["figure"].partition(" (dry")[0]: line.get("value", line.get("ratio")) for line in lines[1:]}
    assert len(found) >= 15 and all(value is not None for value in found.values())
    for some in ("labeling", "decoding alone", "last layer in float32", "from the stream", "top-1"):
        assert any(some in figure for figure in found), some
