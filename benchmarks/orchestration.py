"""What the orchestration of a sweep costs beside its training.

    python benchmarks/orchestration.py                  24 trials of about 30 s, 2 at a time; about 7 minutes
    python benchmarks/orchestration.py --trials 8 --seconds 60 --width 48         epochs of more than a second

Prints the wall time of the trials over (the sum of their pure training seconds / 2), and the same
without the time at the end in which one of the two places has no trial left while the other still
trains: that comes from the number of trials, whoever runs them. Beside it stands what is in neither
ratio: the start of Ray and the loading of the shards. Pure training is what the loop itself measures
for each epoch, evaluation included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from progress import begin, say
from ray import tune
from rows import RunningTable

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

AT_ONCE = 2


def main() -> None:
    """Runs the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=24, help="default 24, the length of a sweep by default")
    arguments.add_argument("--seconds", type=float, default=30.0, help="of one trial, about")
    arguments.add_argument("--width", type=int, default=16, help="of the encoders: the wider, the longer an epoch")
    given = arguments.parse_args()
    begin("7 minutes on 2 cores for 24 trials of 30 s")
    with tempfile.TemporaryDirectory() as temporary:
        shards = Path(temporary) / "shards"
        prepare_demo(shards)
        say("the data are made")
        begin_of_ray = time.perf_counter()
        with ray_session():
            started = time.perf_counter()
            config = build(RunConfig, {"data": {"path": str(shards)}, "epochs": 2})
            source = DataSource.open(config)
            loaded = time.perf_counter()
            say(f"Ray took {started - begin_of_ray:.1f} s, loading the shards {loaded - started:.1f} s")
            warm = _sweep(Path(temporary) / "warm", shards, 10, AT_ONCE, given.width)
            _seconds(warm, source)
            epoch = min(row["seconds"] for row in warm.trials()[0].rows)  # the first include the libraries' warming up
            epochs = max(1, round(given.seconds / epoch))
            say(f"an epoch takes {epoch:.2f} s, so a trial has {epochs}")
            sweep = _sweep(Path(temporary) / "sweep", shards, epochs, given.trials, given.width)
            first = time.perf_counter()
            training = _seconds(sweep, source)
            wall = time.perf_counter() - first
            *_, before_last, last = sorted(trial.frozen.datetime_complete for trial in sweep.trials())
            waiting = (last - before_last).total_seconds()
    title = f"{given.trials} trials of {epochs} epochs, {AT_ONCE} at a time"
    table = RunningTable({"what": 34, "value": 10}, title)
    table.add("wall time of the trials", f"{wall:.1f} s")
    table.add("pure training, sum", f"{training:.1f} s")
    table.add(f"wall time / (sum / {AT_ONCE})", f"{wall / (training / AT_ONCE):.3f}")
    table.add("one place had no trial left for", f"{waiting:.1f} s")
    without = (AT_ONCE * wall - waiting) / training
    table.add("the ratio without that", f"{without:.3f}")
    table.add("not in it: start of Ray", f"{started - begin_of_ray:.1f} s")
    table.add("not in it: loading of the shards", f"{loaded - started:.1f} s")


def _sweep(folder: Path, shards: Path, epochs: int, trials: int, width: int) -> Sweep:
    space = Space.model_validate(
        {
            "run": {"data": {"path": str(shards)}, "epochs": epochs, "model": {"width": width}},
            "search": {"alpha.value": {"uniform": [0, 1]}},
            "trials": trials,
            "pruning": {"by": "none"},
        }
    )
    return Sweep.create(folder, space, seed=0, fingerprint="")


def _seconds(sweep: Sweep, source: DataSource) -> float:
    """Runs the sweep; returns the sum of its pure training seconds."""
    run_sweep(sweep, source, Resources(Workers(1), concurrency=AT_ONCE), None, [Ended()])
    return sum(row["seconds"] for trial in sweep.trials() for row in trial.rows)


class Ended(DriverOnly, tune.Callback):
    """Says when a trial has ended."""

    ended = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says it."""
        self.ended += 1
        say(f"{self.ended} trials have ended")


if __name__ == "__main__":
    main()
