"""The soup of a sweep: the mean of weights, which students are added, and when a soup is possible."""

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_artifact, random_model
from hypothesis import given
from hypothesis import strategies as st
from sweeps import no_placement_group_is_left, short
from torch.optim.swa_utils import AveragedModel

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import WEIGHTS, load_model
from raylabel.recipes.space import apply
from raylabel.store.artifact import Artifact, Root
from raylabel.sweep.config import SweepConfig
from raylabel.sweep.result import flags, print_sweep
from raylabel.sweep.run import sweep
from raylabel.sweep.soup import average, check_soup, greedy


def trained(root: Root, count: int) -> list[Artifact]:
    """Networks whose weights, BatchNorm statistics and counts of batches differ."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        module = build(Model(arch="resnet8x1"), 10).train()
        for _ in range(seed + 1):
            module(torch.rand(16, 3, 8, 8))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn_like(parameter)
        found.append(as_artifact(root, Model(arch="resnet8x1"), 10, module))
    return found


def logits(artifact: Artifact) -> torch.Tensor:
    torch.manual_seed(9)
    with torch.inference_mode():
        return load_model(artifact).eval()(torch.rand(64, 3, 8, 8))


def test_mean_equals_that_of_torch(tmp_path):
    root = Root.open(str(tmp_path))
    models = trained(root, 5)
    oracle = AveragedModel(load_model(models[0]), use_buffers=True)
    for model in models:
        oracle.update_parameters(load_model(model))
    state = load_model(average(root, models)).state_dict()
    expected = oracle.module.state_dict()  # pyright: ignore
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
        each = torch.stack([load_model(model).state_dict()[name].double() for model in models])
        assert torch.equal(tensor, each.mean(0).float())  # rounded once
        assert float(each.std(0).min()) > 0  # all values differ between the networks


def test_mean_does_not_depend_on_the_order_of_the_networks(tmp_path):
    root = Root.open(str(tmp_path))
    models = trained(root, 3)
    mean = average(root, models)
    assert mean == average(root, models[::-1]) and mean.info == models[0].info | {"seconds": mean.info["seconds"]}
    counts = {
        int(model_state)
        for name, model_state in load_model(mean).state_dict().items()
        if name.endswith("num_batches_tracked")
    }
    assert counts == {1 + models.index(min(models, key=lambda model: model.digest))}


def test_mean_of_equal_networks_is_bitwise_equal_to_them(tmp_path):
    root = Root.open(str(tmp_path))
    model, others = random_model(root), [random_model(Root.open(str(tmp_path / str(i)))) for i in range(2)]
    assert average(root, [model]) == model
    mean = average(root, [model, *others])
    assert mean.name == "soup" and mean.read(WEIGHTS) == model.read(WEIGHTS)
    assert torch.equal(logits(mean), logits(model))


@given(count=st.integers(1, 6), data=st.data())
def test_greedy_rule_is_that_of_the_paper(count, data):
    # Every set has an arbitrary accuracy; few distinct values, so that ties are frequent.
    known: dict[frozenset, int] = {}

    def validated(some: Sequence[int]) -> int:
        return known.setdefault(frozenset(some), data.draw(st.integers(0, 3)))

    found = greedy(list(range(count)), validated)
    ingredients: set[int] = set()  # Recipe 1 of the paper; without ingredients, the accuracy is below all others
    for i in range(count):
        if not ingredients or validated([*ingredients, i]) >= validated([*ingredients]):
            ingredients |= {i}
    assert found == tuple(sorted(ingredients))
    assert validated(found) >= validated([0])


def test_impossible_soup_is_an_error():
    rate = "finetune.schedule.lr"
    check_soup([{"select.k": 1, rate: 0.1}, {"select.k": 1, rate: 0.2}, {"select.k": 2, rate: 0.1}])
    for trials in (
        [{"select.k": 1}, {"select.k": 2}],
        [{"select.k": 1, rate: 0.1}, {"select.k": 2, rate: 0.2}],
        [{rate: 0.1}],
        [{rate: 0.1}, {rate: 0.1}],
    ):
        with pytest.raises(InputError, match=r"^soup .* only in finetune\.schedule\.lr, .* 'finetune\.schedule\.lr="):
            check_soup(trials)


def test_sweep_with_an_impossible_soup_ends_before_any_work(tmp_path):
    root = Root.open(str(tmp_path / "root"))
    with pytest.raises(InputError, match="soup averages students"):
        sweep(root, short(), SweepConfig(space=("select.k=[20,40]",), soup=True))
    assert not list((tmp_path / "root").iterdir())


def test_command_line_of_a_trial_gives_its_recipe(monkeypatch):
    from raylabel.cli.launch import Options, _options
    from raylabel.cli.sweep import recipe_arguments
    from raylabel.recipes import Recipe

    given = ["digits", "--root", "r", "--space", "select.k=[1,2]", "a=[3]", "--seed", "3", "--samples=4", "--soup"]
    given += ["--validation", "0.3", "--select.p", "2", "--no-soup", "--scheduler", "asha"]
    kept = recipe_arguments(given)
    assert kept == ["digits", "--root", "r", "--seed", "3", "--select.p", "2"]
    assert recipe_arguments(["--space", "a=[1]", "--seed", "3"]) == ["digits", "--seed", "3"]
    settings = {
        "select.p": 3, "select.repeat_videos": True, "view.flip": False, "finetune.schedule.lr": 1e-05,
        "student.arch": "resnet8x2", "teacher.train.images": 1234, "seed": 8,
    }  # fmt: skip
    monkeypatch.setattr("sys.argv", ["job", *kept])
    base = _options("", Options[Recipe]).recipe
    monkeypatch.setattr("sys.argv", ["job", *kept, *flags(settings)])
    assert _options("", Options[Recipe]).recipe == apply(base, settings) != base


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_soup_of_digits_has_no_lower_validation_accuracy_and_is_reported_everywhere(ray_local, tmp_path, capsys):
    root = Root.open(str(tmp_path / "root"))
    rates = "finetune.schedule.lr=[0.002,0.01]"
    result, folder = sweep(root, short(), SweepConfig(space=("select.k=[20,40]", rates), soup=True))
    soup, best = result.soup, result.best
    assert soup and soup.trials[0] == best.number and soup.validation.value >= (best.accuracy or 0)
    same_k = {t.number for t in result.trials if t.settings["select.k"] == best.settings["select.k"]}
    assert {*soup.trials, *soup.left_out} == same_k and len(same_k) == 2
    assert soup.gain.n == result.test.n and soup.gain.value == pytest.approx(soup.test.value - result.test.value)
    students = {t.number: a for t in result.trials for a in (*t.built, *t.reused) if a.startswith("student-")}
    models = [Artifact(f"{root.uri}/{students[n]}", *students[n].rsplit("-", 1)) for n in soup.trials]
    made = Artifact(f"{root.uri}/{soup.artifact}", *soup.artifact.rsplit("-", 1))
    states = [load_model(model).state_dict() for model in models]
    for name, tensor in load_model(made).state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, torch.stack([state[name].double() for state in states]).mean(0).float())
    written = json.loads(Path(folder, "sweep.json").read_text())
    assert written["soup"]["verdict"] == soup.verdict and written["soup"]["trials"] == list(soup.trials)
    page = Path(folder, "sweep.html").read_text()
    assert re.search(rf'data-key="soup.test.value" data-value="{soup.test.value}"', page)
    capsys.readouterr()
    print_sweep(result, folder)
    assert f"soup minus chosen trial: {soup.verdict}" in " ".join(capsys.readouterr().out.split())
    assert soup.test.high and np.isfinite(soup.test.high)
    for trial in result.trials:
        scalars, plugins = tensorboard(Path(folder, "tune", f"trial_{trial.number:05d}"))
        steps, values = zip(*scalars["ray/tune/accuracy"], strict=True)
        assert steps == (1, 2) and values[-1] == pytest.approx(trial.accuracy)
        assert "hparams" in plugins
    # The same sweep again does no work. Without `soup`, it is the same sweep without a soup.
    before = {path: path.stat().st_mtime_ns for path in Path(root.uri).glob("*/manifest.json")}
    assert sweep(root, short(), SweepConfig(space=("select.k=[20,40]", rates), soup=True))[0].soup == soup
    plain, same = sweep(root, short(), SweepConfig(space=("select.k=[20,40]", rates)))
    assert plain.soup is None and same == folder and plain.trials == result.trials
    assert {path: path.stat().st_mtime_ns for path in Path(root.uri).glob("*/manifest.json")} == before
    no_placement_group_is_left()


def tensorboard(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], set[str]]:
    """(tag → (step, value), plugins) of the events that TensorBoard finds in a folder."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    scalars, plugins = {}, set()
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):  # record: length, checksum of the length, event, checksum of the event
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                plugins.add(value.metadata.plugin_data.plugin_name)
                if value.WhichOneof("value") == "simple_value":
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars, plugins
