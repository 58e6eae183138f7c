"""Whether a long sweep stays as fast and as small as it began.

    python benchmarks/soak.py                           500 short trials, 2 at a time; about 10 minutes
    python benchmarks/soak.py --trials 50

Compares the first and the last fifth of the trials: seconds per trial, memory of the driver and of all
processes of Ray (each shared page counted once: PSS), their open files; and what the sweep takes on disk.
"""

from __future__ import annotations

import argparse
import os
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
from lfm_ray.ray_session import ray_session
from lfm_ray.search.ray_tune.adapters import DriverOnly
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.ray_tune.tuning import run_sweep
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep
from lfm_ray.settings import build
from lfm_ray.training.execution import Workers
from lfm_ray.training.source import DataSource


def main() -> None:
    """Runs the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=500)
    arguments.add_argument("--at-once", type=int, default=2)
    given = arguments.parse_args()
    begin("about 10 minutes on 2 cores for 500 trials")
    with tempfile.TemporaryDirectory() as temporary:
        shards, folder = Path(temporary) / "shards", Path(temporary) / "sweep"
        prepare_demo(shards)
        say("the data are made")
        run = {"data": {"path": str(shards)}, "epochs": 2, "model": {"width": 4, "embedding_size": 8}}
        search = {"alpha.value": {"uniform": [0, 1]}, "optimizer.learning_rate": {"loguniform": [0.001, 0.03]}}
        space = Space.model_validate({"run": run, "search": search, "trials": given.trials, "pruning": {"by": "none"}})
        with ray_session():
            source = DataSource.open(build(RunConfig, run))
            sweep = Sweep.create(folder, space, seed=0, fingerprint="")
            watch = Watch()
            resources = Resources(Workers(1), concurrency=given.at_once)
            run_sweep(
                sweep,
                source,
                resources,
                None,
                [TensorBoardCallback(folder, space, source.shards.card.modalities), watch],
            )
        size = {name: sum(f.stat().st_size for f in (folder / name).rglob("*") if f.is_file()) for name in PARTS}
        size["study.journal"] = (folder / "study.journal").stat().st_size
    fifth = given.trials // 5
    columns = {"per trial or at its end": 24, f"first {fifth}": 12, f"last {fifth}": 12, "last / first": 12}
    table = RunningTable(columns, f"{given.trials} trials, {given.at_once} at once")
    for name, values in watch.means(fifth).items():
        table.add(name, *(f"{value:.2f}" for value in values), f"{values[1] / values[0]:.2f}")
    each = ", ".join(f"{name} {total / given.trials / 1e3:.1f} kB" for name, total in size.items())
    print(f"on disk, for each trial: {each}")


PARTS = ("trials", "tensorboard", "ray")


class Watch(DriverOnly, tune.Callback):
    """Takes the time and looks at the processes whenever a trial ends."""

    def __init__(self) -> None:
        self.seen = [(time.monotonic(), *usage())]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Looks."""
        self.seen.append((time.monotonic(), *usage()))
        if len(self.seen) % 10 == 1:
            driver, everything, *_ = self.seen[-1][1:]
            say(f"{len(self.seen) - 1} trials have ended; driver {driver:.0f} MB, all processes {everything:.0f} MB")

    on_trial_error = on_trial_complete

    def means(self, count: int) -> dict[str, tuple[float, float]]:
        """What is compared: its value over the first `count` trials but one, and over the last."""
        first, last = self.seen[1 : count + 1], self.seen[-count:]
        names = ("driver, MB", "all processes, MB", "driver's open files", "all open files")
        result = {"seconds": tuple((part[-1][0] - part[0][0]) / (len(part) - 1) for part in (first, last))}
        for i, name in enumerate(names, start=1):
            result[name] = tuple(sum(row[i] for row in part) / len(part) for part in (first, last))
        return result  # type: ignore[return-value]


def usage() -> tuple[float, float, int, int]:
    """MB of this process and of it with its descendants, and the same of open files."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    family = {os.getpid()}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    sizes = {pid: _of(pid) for pid in family}
    own = sizes[os.getpid()]
    return own[0], sum(size for size, _ in sizes.values()), own[1], sum(files for _, files in sizes.values())


def _of(pid: int) -> tuple[float, int]:
    """MB and open files of a process; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return pss / 1e3, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, StopIteration):
        return 0.0, 0


if __name__ == "__main__":
    main()
