"""How many concurrent trials one driver is good for: what a report and a trial cost it.

    python benchmarks/scale.py                              16 trials at once on 4 simulated nodes; about 2 minutes
    python benchmarks/scale.py --nodes 8 --at-once 64

The trials only sleep. Everything else is as in a sweep: Tune, the study with TPE and its journal,
TensorBoard; what pruning compares is recorded, but no trial is stopped. Two sweeps of as many trials,
which report seldom and often, give the two costs, in seconds of the driver's CPU time; a small one comes first,
so that a figure is there early, and warms up. The driver is one
thread, so it is busy when trials x cost / (seconds an epoch) reaches 1; the table stops at half of that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from progress import begin, say
from ray import tune
from rows import RunningTable

from lfm_ray.callbacks.tensorboard import TensorBoardCallback
from lfm_ray.config import RunConfig
from lfm_ray.datasets.preparing.demo import prepare_demo
from lfm_ray.ray_private import Cluster
from lfm_ray.ray_session import ray_session
from lfm_ray.search.ray_tune import tuning
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.settings import build
from lfm_ray.training.execution import Workers
from lfm_ray.training.packing import Packed
from lfm_ray.training.source import DataSource

SELDOM, OFTEN = 1, 20  # reports of a trial
PRUNING = {"by": "unimodal_accuracy", "first_rung": 1000}
SEARCH = {
    "alpha.value": {"uniform": [0, 1]},
    "loss.tau": {"loguniform": [0.05, 1]},
    "optimizer.learning_rate": {"loguniform": [0.001, 0.03]},
}


def main() -> None:
    """Runs the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--nodes", type=int, default=4)
    arguments.add_argument("--at-once", type=int, default=16, help="a multiple of --nodes")
    arguments.add_argument("--trials", type=int, help="of each sweep; default: four times as many as at once")
    given = arguments.parse_args()
    begin("about 2 minutes on 2 cores for 64 trials on 4 nodes, twice")
    trials = given.trials or 4 * given.at_once
    tuning.run_trial = sleeping
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        shards = Path(temporary) / "shards"
        prepare_demo(shards)
        say("the data are made")
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": f"{temporary}/ray"}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=given.at_once // given.nodes)
        say("a node runs")
        try:
            with ray_session(cluster.address):
                source = DataSource.open(build(RunConfig, {"data": {"path": str(shards)}}))
                driver_time(Path(temporary) / "first", source, 4, SELDOM, 2)
                for _ in range(given.nodes - 1):
                    cluster.add_node(num_cpus=given.at_once // given.nodes)
                say(f"{given.nodes} nodes run")
                used = {
                    reports: driver_time(Path(temporary) / f"sweep{reports}", source, trials, reports, given.at_once)
                    for reports in (SELDOM, OFTEN)
                }
        finally:
            cluster.shutdown()
    per_report = (used[OFTEN][0] - used[SELDOM][0]) / (trials * (OFTEN - SELDOM))
    per_trial = used[SELDOM][0] / trials - SELDOM * per_report
    table = RunningTable({"what": 55, "value": 14}, f"{trials} trials, {given.at_once} at once, {given.nodes} nodes")
    table.add("driver's CPU time of a report", f"{1e3 * per_report:.2f} ms")
    table.add("driver's CPU time of a trial", f"{1e3 * per_trial:.1f} ms")
    for epoch in (1, 10, 60):
        cost = per_report / epoch + per_trial / (20 * epoch)
        table.add(f"trials at once, epochs of {epoch} s, 20 a trial, half a core", f"{0.5 / cost:.0f}")
    table.add("wall time of the two sweeps", " + ".join(f"{wall:.0f} s" for _, wall in used.values()))


def driver_time(folder: Path, source: DataSource, trials: int, reports: int, at_once: int) -> tuple[float, float]:
    """Runs a sweep, and says what it took: seconds of the driver's CPU time, and of the clock."""
    run = {"data": {"path": str(source.shards.path)}, "epochs": reports}
    space = Space.model_validate({"run": run, "search": SEARCH, "trials": trials, "pruning": PRUNING})
    sweep = Sweep.create(folder, space, seed=0, fingerprint="")
    board = TensorBoardCallback(folder, space, source.shards.card.modalities)
    began, cpu = time.monotonic(), time.process_time()
    tuning.run_sweep(sweep, source, Resources(Workers(1), at_once), None, [board])
    used = time.process_time() - cpu, time.monotonic() - began
    say(f"{trials} trials of {reports} reports, {at_once} at once: {used[0]:.2f} s of the driver's CPU time")
    return used


def sleeping(config: dict[str, Any], sweep: str, packed: Packed) -> None:
    """A trial that reports what one would, and sleeps in between."""
    _, space, _ = packed.open()
    folder = trial_folder(Path(sweep), config["number"])
    folder.mkdir(parents=True, exist_ok=True)
    metrics = ("fused/accuracy", "fused/loss", "fused/macro_f1", "fused/map", "audio/accuracy", "image/accuracy",
               "unimodal_accuracy", "accuracy_gap", "modality_gap")  # fmt: skip
    for epoch in range(1, space.base.epochs + 1):
        time.sleep(0.05)
        value = (config["number"] * 7 + epoch) % 13 / 13
        row = {"epoch": epoch, "alpha": value, "train/loss": value, "learning_rate": 0.01, "seconds": 0.05}
        row |= {f"val/{name}": value for name in metrics}
        with (folder / "epochs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        tune.report(row)


if __name__ == "__main__":
    main()
