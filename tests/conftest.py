"""What tests share: Ray, made-up data, and one folder for all files, which goes when the tests have ended."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lfm_ray.datasets.shards import Shards

# Before torch is imported. The networks are tiny, and threads that wait for one another on a busy machine
# take many times as long as one thread does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Ray is imported, as the commands do it.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
# Else trials wait for the tests of the other process, as Ray runs them with a niceness of 15.
os.environ.setdefault("RAY_worker_niceness", "0")

LONGEST = ("test_tune", "test_api", "test_faults", "test_storage", "test_warm_start", "test_kills", "test_loop",
           "test_paper", "test_population", "test_commands", "test_build", "test_stream", "test_compute",
           "test_extending")  # fmt: skip
FOLDER = pytest.StashKey[Path]()
BEFORE = pytest.StashKey[tuple[str | None, str | None]]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder; the processes of xdist and all others inherit it. Paths of Ray's sockets must be short."""
    if hasattr(config, "workerinput"):
        return
    folder = config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="lfm", dir="/tmp"))
    config.stash[BEFORE] = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    config.option.basetemp = config.option.basetemp or folder / "pytest"


def pytest_sessionfinish() -> None:
    """Ends the Ray session of this process."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the folder, into which a process that is ending may still write for a moment."""
    folder = config.stash.get(FOLDER, None)
    if folder is not None:  # mutmut runs pytest again in the same process
        variable, tempfile.tempdir = config.stash[BEFORE]
        os.environ.pop("TMPDIR", None)
        if variable is not None:
            os.environ["TMPDIR"] = variable
    for _ in range(50):
        if folder is None or not folder.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that short ones keep all processes busy to the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    gc.freeze()  # what has been imported stays, and is not looked through each time that garbage is collected


@pytest.fixture(scope="session", autouse=True)
def signals_are_heeded() -> Iterator[None]:
    """A command that a test or a fixture runs in this process ends no process, so signals are heeded also after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lfm_ray.cli.deaf", lambda: None)
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers are float64 by default, so that a difference means more than rounding."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """The dataset of `synthetic.py`; nobody changes it."""
    from synthetic import write_dataset

    from lfm_ray.datasets.shards import Shards

    return Shards(write_dataset(tmp_path_factory.mktemp("data") / "shards"))


@pytest.fixture(scope="session", params=["multilabel", "regression"])
def other_shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """The same with several labels a row, and with a number; nobody changes them."""
    from synthetic import write_dataset

    from lfm_ray.datasets.shards import Shards

    return Shards(write_dataset(tmp_path_factory.mktemp("data") / request.param, kind=request.param))


@pytest.fixture(scope="session")
def ray_session() -> Callable[[], None]:
    """Starts the Ray session of two cores that the tests of a process share, where it is not running."""

    def start() -> None:
        import ray

        if not ray.is_initialized():
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)

    start()
    return start


@pytest.fixture
def ray_local(ray_session: Callable[[], None]) -> None:
    """The Ray session, until one of the tests wants a `cluster`, and again after that."""
    ray_session()


@pytest.fixture
def without_workers(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials and runs take place in this process (`without_workers.py`)."""
    import without_workers

    without_workers.use(monkeypatch)


@pytest.fixture
def cluster() -> Iterator[object]:
    """A cluster of this machine, to which tests add nodes; the first has one CPU.

    It lives in a folder of its own, so that nobody else on this machine takes it for theirs.
    """
    import ray

    from lfm_ray.ray_private import Cluster

    ray.shutdown()  # of `ray_local`: a command would take that for the cluster
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where Ray notes which cluster is the current one
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": folder}
        result = Cluster(initialize_head=True, head_node_args=head)
        yield result
        result.shutdown()
