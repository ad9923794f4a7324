"""Fixtures and environment variables of all tests."""

import gc
import logging
import os
import shutil
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cloud import Cloud
    from faulty_store import Plan

os.environ["OMP_NUM_THREADS"] = "1"  # tests share the CPUs with each other and with Ray's processes
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
# The default is one second; the next test would then start new processes, with two seconds of imports each.
os.environ["RAY_idle_worker_killing_time_threshold_ms"] = "60000"
# Ray's workers import the helpers and the test modules, whose names are unique.
_TESTS = Path(__file__).parent
_FOLDERS = [_TESTS / "support", *sorted({path.parent for path in _TESTS.rglob("test_*.py")})]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, _FOLDERS), os.environ.get("PYTHONPATH")]))

from raylabel.corpus import Corpus, Shards, index_corpus  # noqa: E402
from raylabel.store.artifact import Root  # noqa: E402  (Ray and torch read the variables above on import)

# No limit on the time of an example: on a busy machine the first one may take a second.
settings.register_profile("raylabel", deadline=None)
settings.load_profile("raylabel")

# Minutes long. They begin first, so that two processes end at about the same time.
_LONG = ("test_semi_supervised.py", "test_teacher.py", "test_train.py", "test_plan.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and clips, in a folder beside the repository. Only some machines have it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout: it holds the real images of this test")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator["Cloud"]:
    """An S3 server in this process that counts requests, and without a test's wish neither fails nor waits."""
    from cloud import Cloud, Limits

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = Cloud()
    server.limits = Limits(latency=0)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def store(server: "Cloud") -> Iterator[str]:
    """The address of the server. Other processes, also those of Ray, find it in their environment."""
    address = server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield address


@pytest.fixture
def faults(server: "Cloud", bucket: str) -> Iterator["Plan"]:
    """Which requests to the server fail; none after the test."""
    from faulty_store import Plan

    server.plan = Plan()
    yield server.plan
    server.plan = Plan()


@pytest.fixture(scope="session")
def ray_local(store: str) -> Iterator[None]:
    """A local Ray cluster, the same for all tests."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=500_000_000,
    )
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    ray.shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for the processes that it ends
        gc.collect()


@pytest.fixture(scope="session")
def cluster(ray_local: None) -> dict[str, str]:
    """The environment variables with which other processes connect to the Ray of `ray_local`."""
    import ray

    token = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}
    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, **token}


@pytest.fixture(scope="session")
def indexed(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Corpus], Shards]:
    """Indexes a corpus in a new root, which is outside all corpora."""

    def index(corpus: Corpus) -> Shards:
        root = Root.open(str(tmp_path_factory.mktemp("index")))
        return Shards(index_corpus(root, "corpus", corpus))

    return index


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """The folder of the Ray clusters that processes start, which end with the test. Its path is short, because Ray's
    sockets are there too."""
    from heads import end_ray

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    yield folder
    end_ray(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bucket(store: str) -> str:
    """The URI of an empty bucket on a real S3 server."""
    for request in (f"{store}/moto-api/reset", "POST"), (f"{store}/pictures", "PUT"):
        urllib.request.urlopen(urllib.request.Request(request[0], method=request[1])).close()
    return "s3://pictures"
