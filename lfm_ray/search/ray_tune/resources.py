"""How a sweep uses a cluster: how many trials fit, and whether every node can run them."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lfm_ray.datasets.shards import read_card
from lfm_ray.errors import UserError
from lfm_ray.search.ray_tune.adapters import DriverOnly
from lfm_ray.storage import exists, in_store, name_of, shown, working_folder
from lfm_ray.training.execution import Workers
from lfm_ray.training.source import DataSource

# CPUs of a trial's driver, which only waits for its workers. Ray refuses an empty request; this is the smallest it
# counts. A worker requests a hundred times this less, which leaves room for a hundred drivers on a node.
DRIVER_CPUS = 0.0001

ROUNDING = 1e-9  # a third of a GPU fits three times


@dataclass(frozen=True)
class Resources:
    """The resources of one trial, and how many trials run at once (None: as many as fit).

    reader_cpus: CPUs on which Ray Data prepares the batches of one worker, in addition to the worker's own.
    """

    workers: Workers
    concurrency: int | None = None
    reader_cpus: int = 0

    def trials_at_once(self, at_least_one: bool = False) -> int:
        """How many trials the cluster can run at the same time without waiting for one another.

        The CPUs that Ray Data's tasks need are kept free, so that no trial waits for its data forever.

        Raises:
            UserError: not even one trial fits; with `at_least_one`, returns 1 instead, which waits for a node.
        """
        nodes = [node["Resources"] for node in alive()]
        fits = max(self.fits(nodes), int(at_least_one))
        if fits < 1:
            workers = self.workers
            each = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:3])
            more = f", and {len(nodes) - 3} more nodes" if len(nodes) > 3 else ""
            raise UserError(
                f"one trial needs {workers.cpus:g} CPUs and {workers.gpus:g} GPUs on one node, {workers.count} times,"
                f" and {workers.count * self.reader_cpus} CPUs to read data; the cluster has {each}{more}; lower"
                " --workers-per-trial, --cpus-per-worker, --gpus-per-worker or data.reader_cpus"
            )
        return min(fits, self.concurrency or fits)

    def fits(self, nodes: list[dict[str, float]]) -> int:
        """How many trials fit on nodes with these resources at the same time, each worker within one node.

        All workers request the same, so the order in which nodes are filled does not matter.
        """
        workers = self.workers
        places = sum(
            min(int(node.get("CPU", 0) / workers.cpus + ROUNDING), _gpu_shares(node.get("GPU", 0), workers.gpus))
            for node in nodes
        )
        cpus = sum(node.get("CPU", 0) for node in nodes)
        return min(places // workers.count, int(cpus / (workers.count * (workers.cpus + self.reader_cpus)) + ROUNDING))

    def request(self) -> dict[str, float]:
        """What Tune reserves for a trial: its only worker, or the driver of several."""
        if self.workers.count > 1:
            return {"CPU": DRIVER_CPUS}
        return {"CPU": self.workers.cpus} | ({"GPU": self.workers.gpus} if self.workers.gpus else {})

    def nested(self) -> Workers:
        """The Ray Train workers of a trial, with the drivers' share taken off their CPUs."""
        return replace(self.workers, cpus=self.workers.cpus - 100 * DRIVER_CPUS)


def _gpu_shares(gpus: float, each: float) -> int:
    """How many requests for `each` GPUs a node with `gpus` can grant; a fraction never spans two GPUs."""
    if not each:
        return sys.maxsize
    return int(gpus) * int(1 / each + ROUNDING) if each < 1 else int(gpus / each + ROUNDING)


def alive() -> list[dict[str, Any]]:
    """The nodes currently in the cluster, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def cluster_hardware() -> str:
    """The cluster in one line: `2 CPUs (Intel Xeon ...), 1 GPU (NVIDIA H100), 16 GB, 1 node`."""
    nodes = [node["Resources"] for node in alive()]
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    kinds = {name.removeprefix("accelerator_type:") for node in nodes for name in node if name.startswith("accel")}
    names = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", names)
    parts = [f"{total['CPU']:g} CPUs" + (f" ({model[1].strip()})" if model else "")]
    if total["GPU"]:
        parts.append(f"{total['GPU']:g} GPUs" + (f" ({', '.join(sorted(kinds))})" if kinds else ""))
    return ", ".join(
        [*parts, f"{total['memory'] / 2**30:.0f} GiB for Ray", f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"]
    )


def check_nodes(source: DataSource, written: Path) -> None:
    """Checks that every node of a cluster can read the data and the file `written`, which this node wrote.

    Shards in an object store are copied to all nodes at the same time; nodes that join later copy them then.

    Raises:
        UserError: a node cannot and is still there; the message names it. No trial has started yet.
    """
    nodes = alive()
    if len(nodes) < 2:
        return
    ask = ray.remote(num_cpus=0)(_missing)
    here = NodeAffinitySchedulingStrategy
    answers = [
        (node, ask.options(scheduling_strategy=here(node["NodeID"], soft=False)).remote(source, name_of(written)))
        for node in nodes
    ]
    for node, answer in answers:
        address = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
        try:
            missing = ray.get(answer)
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in [one["NodeID"] for one in alive()]:
                continue  # it has left since; Ray notices lost nodes late
            lines = str(error).strip().splitlines()
            raise UserError(f"node {address}: cannot run lfm_ray: {lines[-1]}") from None
        if missing:
            raise UserError(f"node {address}: {missing}")


def _missing(source: DataSource, written: str) -> str:
    """What this node lacks to run a trial; empty if it lacks nothing."""
    path = source.shards.path
    try:
        if not source.in_memory and read_card(path).fingerprint != source.shards.card.fingerprint:
            return f"{shown(path)} holds other data; put the shards on storage that all nodes share"
        source.fetch()
    except (UserError, OSError) as error:
        if in_store(path):
            return f"cannot copy the shards: {str(error).splitlines()[0]}"
        return (
            f"cannot read the shards in {path}; put them on storage that all nodes share (NFS) or reach (s3://, gs://),"
            " or give the object store of the nodes the memory to hold them (data.memory_share)"
        )
    try:
        if exists(working_folder(written)):
            return ""
    except OSError as error:
        return f"cannot read {written} ({str(error).splitlines()[0]}); it needs the credentials of this machine"
    return f"cannot find {written}; give a --storage that all nodes share (NFS) or reach (s3://, gs://)"


class Growth(DriverOnly, tune.Callback):
    """Adapts the number of concurrent trials to nodes that join or leave the cluster during a sweep."""

    EVERY = 5.0  # s

    def __init__(self, limiter: ConcurrencyLimiter, resources: Resources) -> None:
        self.limiter, self.resources = limiter, resources
        self._looked = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Recounts every few seconds how many trials fit."""
        if time.monotonic() - self._looked > self.EVERY:
            self._looked = time.monotonic()
            self.limiter.max_concurrent = self.resources.trials_at_once(at_least_one=True)
