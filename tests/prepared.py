"""Shards as `lfm_ray.prepare` makes them, in this process instead of Ray's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lfm_ray.datasets.preparing import build as job
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Manifest
from lfm_ray.datasets.shards import Shards


def prepared(manifest: Manifest, config: PrepareConfig, out: Path) -> Shards:
    """Makes the shards of a manifest in `out`."""

    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        job.build(manifest, config, out)
    return Shards(out)


def in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Lets no Ray task decode."""

    def run(plan: dict[str, Any], folder: Path, work: job.Job, address: str | None) -> Iterator[dict[str, Any]]:
        return (job.make_shard(folder / name, rows, work.cards, work.config) for name, rows in plan.items())

    patch.setattr(job, "_run", run)
