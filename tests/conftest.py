from __future__ import annotations

import os
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


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray session of two cores that all tests share."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
