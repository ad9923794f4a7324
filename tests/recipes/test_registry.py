"""Recipes are complete, those of the paper have the paper's settings, and resources are divided as documented."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ray import cloudpickle

from raylabel.compute.resources import Cluster, Node, Pool, Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.recipes import registry as recipes
from raylabel.recipes.checks import check_recipe
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule, lr_at


def test_the_recipe_of_the_paper_has_its_settings(tmp_path):
    recipe = recipes.make(recipes.find("imagenet-yfcc-resnet50"), str(tmp_path))
    assert (recipe.select.k, recipe.select.p, recipe.select.rank) == (16_000, 10, "softmax")
    assert (recipe.teacher.model.arch, recipe.student.arch) == ("resnext101_32x48d", "resnet50")
    train = recipe.pretrain
    assert (train.images, train.batch, train.weight_decay, train.momentum) == (10**9, 1536, 1e-4, 0.9)
    assert train.steps == 651_042
    assert lr_at(train.schedule, 0, train.images) == pytest.approx(0.1)
    assert lr_at(train.schedule, train.images // 20, train.images) == pytest.approx(0.6)
    assert lr_at(train.schedule, train.images - 1, train.images) == pytest.approx(0.6 / 2**13)
    tuned = recipe.finetune
    assert tuned.images == 30 * 1_281_167 and tuned.schedule.lr == pytest.approx(0.0015)
    assert lr_at(tuned.schedule, tuned.images - 1, tuned.images) == pytest.approx(1.5e-6)
    assert (recipe.view.size, recipe.view.resize, recipe.resources.workers) == (224, 256, 64)


def test_the_video_recipe_of_the_paper_has_its_settings(tmp_path):
    recipe = recipes.make(recipes.find("kinetics-r2plus1d18"), str(tmp_path))
    assert (recipe.select.k, recipe.select.p) == (4_000, 8)
    assert (recipe.teacher.model.arch, recipe.student.arch) == ("r2plus1d_34", "r2plus1d_18")
    clip, longer = recipe.view.clip, recipe.teacher_view.clip
    assert clip and longer and (clip.frames, longer.frames, clip.count, longer.count) == (8, 32, 10, 10)
    assert (recipe.view.size, recipe.view.resize) == (112, 128)
    assert (recipe.pretrain.images, recipe.pretrain.weight_decay) == (490_000_000, 1e-4)
    assert recipe.finetune.images == 72 * 240_436 and recipe.finetune.schedule.warmup == pytest.approx(16 / 72)
    for corpus in (recipe.labeled, recipe.unlabeled, recipe.test):
        recipe.label.check_against(corpus, recipe.view)
        recipe.label.check_against(corpus, recipe.teacher_view)
    other = recipes.make(recipes.find("kinetics-r2plus1d34"), str(tmp_path))
    assert other.student.arch == "r2plus1d_34" and other.view == recipe.view


def test_the_runs_of_hashtags_have_the_settings_of_the_paper(tmp_path):
    made = {
        name: recipes.make(recipes.find(f"imagenet-{name}"), str(tmp_path))
        for name in ("yfcc-resnet50", "ig-resnet50", "ig-weak-resnet50")
    }
    plain, semi_weak, weak = made.values()
    assert semi_weak.select == replace(plain.select, k=64_000) and semi_weak.taught and not weak.taught
    assert semi_weak.tags.filter and weak.tags == replace(semi_weak.tags, filter=False)
    assert (weak.select.k, weak.select.rank, weak.tags.column) == (64_000, "random", "json:tags")
    assert semi_weak.pretrain == weak.pretrain == plain.pretrain and weak.unlabeled == semi_weak.unlabeled
    video, tagged = (
        recipes.make(recipes.find(f"kinetics-{name}"), str(tmp_path)) for name in ("r2plus1d18", "ig-weak-r2plus1d18")
    )
    assert (tagged.labeler, tagged.select.k, tagged.tags.map) == ("tags", 4_000, "")
    assert replace(tagged, name=video.name, labeler="teacher", tags=video.tags, select=video.select) == video


@pytest.mark.parametrize("name", recipes.returning(Recipe))
def test_the_control_has_the_images_and_settings_of_the_student(name, tmp_path):
    function = recipes.find(name)
    recipe = recipes.make(function, str(tmp_path) if recipes.takes_data(function) else "")
    assert recipe.name == name and name in (function.__doc__ or "")
    control = recipe.control_train
    assert control.processed == recipe.pretrain.processed + recipe.finetune.processed
    assert (control.schedule, control.batch) == (recipe.pretrain.schedule, recipe.pretrain.batch)


def test_a_users_own_recipe_is_found(tmp_path):
    path = tmp_path / "my.py"
    path.write_text("from raylabel.recipes.registry import digits\n\ndef mine():\n    return digits()\n\nother = 3\n")
    assert recipes.make(recipes.find(f"{path}:mine"), "").name == "digits"
    for name, message in ((f"{path}:other", "no function 'other'"), (f"{path}x:mine", "no file"), ("x", "no recipe")):
        with pytest.raises(InputError, match=message):
            recipes.find(name)
    with pytest.raises(InputError, match="takes no --data"):
        recipes.make(recipes.find("digits"), "somewhere")


def test_a_recipe_may_import_its_neighbors_and_other_nodes_need_none_of_the_files(tmp_path):
    """A module, a package, an import inside the function, and a process in another folder that unpickles the recipe."""
    folder = tmp_path / "with neighbors"
    (folder / "neighbor_package").mkdir(parents=True)
    (folder / "neighbor_package" / "__init__.py").write_text("from neighbor_package.inner import ROUNDS\n")
    (folder / "neighbor_package" / "inner.py").write_text("ROUNDS = 4\n")
    (folder / "neighbor_config.py").write_text(
        "from dataclasses import dataclass\nfrom raylabel.recipes import Recipe\nimport neighbor_package\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Longer(Recipe):\n"
        "    def extra(self): return neighbor_package.inner.ROUNDS\n"
    )
    (folder / "neighbor_late.py").write_text(
        "import neighbor_config\n\nclass Late(neighbor_config.Longer):\n    def late(self): return 7\n"
    )
    (folder / "mine.py").write_text(
        "from raylabel.recipes.images import digits\nimport neighbor_config\n\n"
        "def mine():\n    from neighbor_late import Late\n    return Late(**vars(digits()))\n"
    )
    recipe = recipes.make(recipes.find(f"{folder}/mine.py:mine"), "")
    elsewhere = "import pickle, sys; recipe = pickle.load(sys.stdin.buffer); print(recipe.extra(), recipe.late())"
    pickled = cloudpickle.dumps(recipe)  # pyright: ignore[reportPrivateImportUsage]
    run = subprocess.run([sys.executable, "-c", elsewhere], input=pickled, cwd=tmp_path, capture_output=True)
    assert run.stdout == b"4 7\n", run.stderr.decode()


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("def f(:\n", 1, "SyntaxError: invalid syntax"),
        ("x = 1\ndef f():\n    return 1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("x = 1\nimport no_such_module\n", 2, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\ndef f():\n    return sys.exit('no more')\n", 3, "SystemExit: no more"),
        ("from dataclasses import replace\ndef f():\n  return replace(3, k=1)\n", 3, "TypeError: replace"),
        ("def f(one, two):\n    return 3\n", None, "TypeError: f.. missing 2 required positional"),
        ("def f():\n  raise KeyError\n", 2, "KeyError: KeyError"),
        (
            "from raylabel.recipes import *\ndef f():\n  s = Schedule(lr=1)\n  Train(schedule=s, checkpoint_every=9)\n",
            4,
            "TypeError: .*'checkpoint_every' .now `checkpoint_minutes`, in minutes instead of steps.",
        ),
    ],
)
def test_an_error_in_a_users_recipe_names_the_file_and_the_line(tmp_path, text, line, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    where = f"{path}, line {line}" if line else str(path)
    with pytest.raises(InputError, match=f"^recipe '.*f' failed in {where}: {message}.*; fix the file$"):
        recipes.make(recipes.find(f"{path}:f"), "")


def test_the_error_of_a_neighbor_names_its_own_file(tmp_path):
    (tmp_path / "neighbor_broken.py").write_text("x = 1\n\ndef f(:\n")
    (tmp_path / "mine.py").write_text("import neighbor_broken\n")
    with pytest.raises(InputError, match=f"failed in {tmp_path}/neighbor_broken.py, line 3: SyntaxError"):
        recipes.find(f"{tmp_path}/mine.py:f")


def test_an_input_error_of_a_users_recipe_is_not_changed(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from raylabel.recipes import Select\ndef f():\n    return Select(k=0, p=1)\n")
    with pytest.raises(InputError, match=r"^select\.k is 0"):
        recipes.make(recipes.find(f"{path}:f"), "")


def test_a_teacher_is_given_in_exactly_one_way():
    model = recipes.digits().teacher.model
    for checkpoint, weights in (("", ""), ("a", "b")):
        with pytest.raises(InputError, match="teacher"):
            Teacher(model=model, checkpoint=checkpoint, weights=weights)


@pytest.mark.parametrize(
    "nodes, decode, pool",
    [
        ([Node(4)], "auto", Pool(4, 0.93, 0, 1)),
        ([Node(2)], "auto", Pool(2, 0.87, 0, 1)),
        ([Node(1)], "auto", Pool(1, 0.75, 0, 1)),
        ([Node(16), Node(8)], "beside", Pool(24, 0.96, 0, 1)),
        ([Node(4), Node(4)], "auto", Pool(8, 0.93, 0, 1)),
        ([Node(4)], "cluster", Pool(3, 1.01, 0, 0)),
        ([Node(1)], "cluster", Pool(1, 0.5, 0, 0, grows=False)),
        ([Node(2), Node(3)], "beside", Pool(5, 0.87, 0, 1)),
        ([Node(2), Node(4)], "cluster", Pool(4, 1.01, 0, 0)),
        ([Node(64, 8)], "auto", Pool(8, 7.0, 1, 7)),
        ([Node(64, 8), Node(32)], "auto", Pool(8, 7.0, 1, 7)),
        ([Node(8, 8), Node(96)], "auto", Pool(8, 0.87, 1, 0)),
        ([Node(8, 1), Node(96), Node(96)], "beside", Pool(1, 7.0, 1, 7)),
    ],
)
def test_teachers_leave_room_for_the_tasks(nodes, decode, pool):
    cluster = Cluster(tuple(nodes))
    assert cluster.teachers(Resources(decode=decode)) == pool
    few = cluster.teachers(Resources(decode=decode, teachers=1))
    assert few.actors == 1 and not few.grows
    with pytest.raises(InputError, match=f"has room for {pool.actors}"):
        cluster.teachers(Resources(decode=decode, teachers=pool.actors + 1))
    # Whichever nodes are lost, the actors that Ray moves to another node leave room there for the tasks.
    if not pool.gpus and (pool.threads or cluster.cpus > len(nodes)):
        free = 0.25 if pool.threads else 0.5
        assert all(node.cpus - int(node.cpus / pool.cpus) * pool.cpus >= free for node in nodes)
    # A node of one of these kinds that joins gets no more actors than it has CPUs.
    for node in nodes:
        fit = node.gpus if pool.gpus else int(node.cpus / pool.cpus)
        assert (fit * pool.cpus if pool.gpus else fit) <= node.cpus or not pool.grows


@pytest.mark.parametrize("node, workers", [(Node(4), 4), (Node(1), 1), (Node(2), 2), (Node(64, 8), 8)])
def test_there_is_one_training_worker_per_device(node, workers):
    cluster = Cluster((node,))
    assert cluster.workers(Resources(), batch=128) == workers
    with pytest.raises(InputError, match="has room for"):
        cluster.workers(Resources(workers=max(node.gpus, node.cpus) + 1), 128)


def test_clips_are_trained_on_in_bf16_only_with_a_gpu():
    cpus, gpus = Cluster((Node(4),)), Cluster((Node(4, 1),))
    assert cpus.precision("auto", trains_clips=True) == cpus.precision("fp32", trains_clips=True) == "fp32"
    assert gpus.precision("auto", trains_clips=True) == gpus.precision("bf16", trains_clips=True) == "bf16"
    assert cpus.precision("bf16") == "bf16"
    with pytest.raises(InputError, match="gradients of clips are wrong on a CPU"):
        cpus.precision("bf16", trains_clips=True)


@pytest.mark.parametrize("name", ["teacher.train", "pretrain", "finetune"])
def test_batchnorm_over_all_workers_needs_gpus(name: str, monkeypatch: pytest.MonkeyPatch):
    recipe = recipes.digits()
    assert recipe.teacher.train
    teacher = replace(recipe.teacher, train=replace(recipe.teacher.train, sync_batchnorm=True))
    synced = {"teacher": teacher} if name == "teacher.train" else {name: bad(sync_batchnorm=True)}
    monkeypatch.setattr(Cluster, "now", lambda: Cluster((Node(4, 1),)))
    check_recipe(replace(recipe, **synced))
    monkeypatch.setattr(Cluster, "now", lambda: Cluster((Node(4),)))
    with pytest.raises(InputError, match=f"^{name}.sync_batchnorm is set, but PyTorch has it for GPUs only"):
        check_recipe(replace(recipe, **synced))


def test_a_small_batch_has_few_workers():
    assert Cluster((Node(16),)).workers(Resources(), batch=64) == 2
    with pytest.raises(InputError, match="resources.workers is -1"):
        Resources(workers=-1)


def test_training_examples_fit_both_views():
    recipe = recipes.digits()
    assert recipe.max_jpeg_pixels == recipe.view.max_jpeg_pixels
    less = replace(recipe.view, max_jpeg_pixels=60_000_000)
    assert replace(recipe, view=less).max_jpeg_pixels == 60_000_000
    assert replace(recipe, teacher=replace(recipe.teacher, view=less)).max_jpeg_pixels == 60_000_000


@pytest.mark.parametrize(
    "name, change",
    [
        ("pretrain.batch", lambda r: replace(r, pretrain=replace(r.pretrain, batch=1))),
        ("finetune.images", lambda r: replace(r, finetune=replace(r.finetune, images=0))),
        ("teacher.train.momentum", lambda r: replace(r, teacher=replace(r.teacher, train=bad(momentum=1.0)))),
        ("pretrain.beta2", lambda r: replace(r, pretrain=bad(beta2=1.0))),
        ("pretrain.label_smoothing", lambda r: replace(r, pretrain=bad(label_smoothing=-0.1))),
        ("pretrain.soft", lambda r: replace(r, pretrain=bad(soft=1.1))),
        ("pretrain.temperature", lambda r: replace(r, pretrain=bad(soft=1.0, temperature=0.0))),
        ("pretrain.temperature", lambda r: replace(r, pretrain=bad(temperature=2.0))),
        ("pretrain.mixup", lambda r: replace(r, pretrain=bad(mixup=-1.0))),
        ("pretrain.cutmix", lambda r: replace(r, pretrain=bad(cutmix=float("nan")))),
        ("pretrain.ema", lambda r: replace(r, pretrain=bad(ema=1.0))),
        ("pretrain.accumulate", lambda r: replace(r, pretrain=bad(accumulate=0))),
        ("pretrain.weight_decay", lambda r: replace(r, pretrain=bad(weight_decay=-1.0))),
        ("finetune.schedule.lr", lambda r: replace(r, finetune=bad(schedule=Schedule(lr=0)))),
        ("view.size", lambda r: replace(r, view=replace(r.view, size=0))),
        ("teacher.view.padding", lambda r: replace(r, teacher=replace(r.teacher, view=replace(r.view, padding=-1)))),
        ("test.uri", lambda r: replace(r, test=Corpus(uri=()))),
        ("unlabeled.format", lambda r: replace(r, unlabeled=replace(r.unlabeled, format="zip"))),
    ],
)
def test_an_error_names_the_field_by_its_place_in_the_recipe(name: str, change: Callable[[Recipe], Recipe]):
    """There are three corpora, two views and three trainings: the reader sees which one it is."""
    with pytest.raises(InputError, match=f"^{name} is "):
        change(recipes.digits())


def bad(**fields: Any) -> Train:
    return replace(recipes.digits().pretrain, **fields)
