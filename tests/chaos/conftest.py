"""Fixtures: golden corpora on disk, each with a new root."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("golden", "harness")

import golden_media  # noqa: E402
from golden import Golden  # noqa: E402
from harness import Stage  # noqa: E402


def _made(factory: pytest.TempPathFactory, images: int, clips: int, form: str) -> tuple[Golden, list[str]]:
    made, folder = golden_media.make(images, clips), factory.mktemp("golden")
    return made, made.write_tar(folder) if form == "tar" else made.write_parquet(folder)


@pytest.fixture(scope="session")
def _small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Golden, list[str]]:
    return _made(tmp_path_factory, 2_000, 20, "parquet")


@pytest.fixture(scope="session")
def _small_tar(tmp_path_factory: pytest.TempPathFactory) -> tuple[Golden, list[str]]:
    return _made(tmp_path_factory, 2_000, 20, "tar")


@pytest.fixture(scope="session")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Golden, list[str]]:
    return _made(tmp_path_factory, 20_000, 200, "parquet")


@pytest.fixture
def small(ray_local: None, _small: tuple[Golden, list[str]], tmp_path: Path) -> Stage:
    """2,000 images and 20 clips in parquet files."""
    return Stage(*_small, tmp_path / "root")


@pytest.fixture
def small_tar(ray_local: None, _small_tar: tuple[Golden, list[str]], tmp_path: Path) -> Stage:
    """The same samples in tars."""
    return Stage(*_small_tar, tmp_path / "root")


@pytest.fixture
def whole(ray_local: None, _whole: tuple[Golden, list[str]], tmp_path: Path) -> Stage:
    """20,000 images and 200 clips in parquet files."""
    return Stage(*_whole, tmp_path / "root")
