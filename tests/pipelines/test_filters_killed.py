"""What excites filters most, by a process that is killed while it computes features: the same as brute force."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from heads import end_ray, environment
from helpers import DIGITS_VIEW, as_artifact, digit_images, write_parquet

from raylabel.cli.launch import connected
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.features.strongest import STRONGEST
from raylabel.labels.teacher import Label
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trunk import trunk
from raylabel.pipelines.filters import FiltersRun, Wanted
from raylabel.schema import make_key
from raylabel.store.artifact import Artifact, Root

SHARDS, EACH, LAYERS = 6, 200, ("layer2", "conv1")


def main(network: str, corpus: str) -> None:
    """What the process runs."""
    folder, _, name = network.rpartition("/")
    wanted = Wanted(
        network=Artifact(network, *name.rsplit("-", 1)),
        view=DIGITS_VIEW,
        corpus=Corpus(uri=(corpus,)),
        layers=LAYERS,
        label=Label(batch=8, precision="fp32"),
    )
    with connected(folder, Resources()) as root:
        FiltersRun(root, wanted, Resources()).layers()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_ends_with_the_samples_of_brute_force(ray_folder, tmp_path: Path):
    media = digit_images()[0][: SHARDS * EACH]
    for shard in range(SHARDS):
        write_parquet(tmp_path / f"corpus-{shard}.parquet", media[shard * EACH : (shard + 1) * EACH])
    torch.manual_seed(0)
    module = build(Model(arch="resnet8x1"), 10)
    root = Root.open(str(tmp_path / "root"))
    network = as_artifact(root, Model(arch="resnet8x1"), 10, module)
    command = [sys.executable, __file__, network.uri, str(tmp_path / "corpus-*.parquet")]

    def start() -> subprocess.Popen:
        env = environment(RAY_TMPDIR=ray_folder)
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    first, deadline, folder = start(), time.monotonic() + 300, Path(root.uri)
    while not (parts := list(folder.glob("features-*/features-*.parquet"))):
        assert first.poll() is None and time.monotonic() < deadline, "no features were found to kill"
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    end_ray(ray_folder)
    assert not list(folder.glob("features-*/manifest.json")), "it was killed too late"
    written = {path: path.stat().st_mtime_ns for path in parts}
    second = start()
    out, _ = second.communicate(timeout=600)
    assert second.returncode == 0, out
    assert {path: path.stat().st_mtime_ns for path in written} == written  # what was complete was not computed again

    pixels = torch.from_numpy(np.stack([eval_pixels(one, DIGITS_VIEW) for one in media]))
    with torch.no_grad():
        values = trunk(module.eval(), "+".join(LAYERS))(normalise(pixels, DIGITS_VIEW, torch.float32)).numpy()
    keys = np.array([make_key(n // EACH, n % EACH) for n in range(len(media))])
    (ranked,) = folder.glob("strongest-*")
    table = Artifact(str(ranked), *ranked.name.rsplit("-", 1)).table("strongest", STRONGEST)
    assert json.loads((ranked / "manifest.json").read_text())["info"]["numbers"] == values.shape[1]
    at = {key: n for n, key in enumerate(keys.tolist())}
    for channel in range(values.shape[1]):
        rows = table.filter(np.equal(table["number"].to_numpy(), channel))
        best = np.sort(values[:, channel])[::-1][:9]
        found = values[[at[key] for key in rows["key"].to_pylist()], channel]
        # Features are rounded to float16, which may exchange samples whose values are equal within that.
        np.testing.assert_allclose(found, best, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(rows["value"].to_numpy(), best, rtol=2e-3, atol=1e-4)


if __name__ == "__main__":
    main(*sys.argv[1:])
