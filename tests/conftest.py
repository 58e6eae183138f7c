from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

# Before torch is imported. The networks are tiny, and threads that wait for one another on a busy machine
# take many times as long as one thread does.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers are float64 by default, so that a difference means more than rounding."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def ray_local() -> None:
    """A Ray session of two cores that the tests of a process share, until one of them wants a `cluster`."""
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


@pytest.fixture
def cluster() -> Iterator[object]:
    """A cluster of this machine, to which tests add nodes; the first has one CPU.

    It lives in a folder of its own, so that nobody else on this machine takes it for theirs.
    """
    import ray

    from lfm_ray.ray_private import Cluster

    ray.shutdown()  # of `ray_local`: a command would take that for the cluster
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": folder}
        result = Cluster(initialize_head=True, head_node_args=head)
        yield result
        result.shutdown()
