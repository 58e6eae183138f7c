"""What a run writes in its folder, and how often its state is among it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy.optimize import minimize_scalar
from synthetic import write_dataset
from tiny_run import small_config, without_time

from lfm_ray.datasets.shards import Shards
from lfm_ray.runtime import checkpoint
from lfm_ray.runtime.checkpoint import CheckpointSettings
from lfm_ray.training import run_folder
from lfm_ray.training.execution import Launch, execute
from lfm_ray.training.ray_train import DIED
from lfm_ray.training.run_folder import CHECKPOINT, add_notice, overcome, read_alpha_updates, read_epochs
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Row


class Killed(Exception):
    """Stands for a kill."""


class Clock:
    """By which an epoch takes 10 s and a save 2 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.saved: list[int] = []
        save = checkpoint.save

        def slow_save(path: Path, state: dict[str, Any], keep_previous: bool = False) -> None:
            self.saved.append(state["epoch"])
            self.now += 2
            save(path, state, keep_previous)

        monkeypatch.setattr(checkpoint, "save", slow_save)
        monkeypatch.setattr(run_folder.time, "monotonic", lambda: self.now)

    def pass_epoch(self, row: Row) -> None:
        self.now += 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return DataSource(Shards(write_dataset(tmp_path / "shards", train=16)), {})


@pytest.mark.parametrize(
    ("hours", "saved_after", "expected"),
    [
        (0, [], list(range(1, 12))),
        (100 / (2 * 2) / 3600, [], list(range(1, 12))),  # an interval of sqrt(2 * 2 s * 25 s) = 10 s
        (101 / (2 * 2) / 3600, [], [1, 3, 5, 7, 9, 11]),
        (1600 / (2 * 2) / 3600, [], [1, 5, 9, 11]),  # 40 s
        (6, [], [1, 11]),
        (6, [3, 6, 9], [1, 3, 6, 9, 11]),
    ],
)
def test_the_state_is_saved_at_the_optimal_interval(
    tmp_path: Path, source: DataSource, clock: Clock, hours: float, saved_after: list[int], expected: list[int]
) -> None:
    config = small_config("epochs=11", f"checkpoint.hours_between_failures={hours}")
    execute(Launch(config, source, tmp_path / "run", saved_after=frozenset(saved_after)), clock.pass_epoch)
    assert clock.saved == expected


@pytest.mark.parametrize("cost", [0.1, 3.0])
def test_the_interval_is_the_one_that_costs_least(cost: float) -> None:
    hours = 1.5

    def lost(interval: float) -> float:
        """Of a second of training: for saves, and to repeat half an interval after each failure."""
        return cost / interval + interval / 2 / (3600 * hours)

    best = minimize_scalar(lost, bounds=(1, 3600), method="bounded").x
    settings = CheckpointSettings(hours_between_failures=hours)
    assert settings.is_due(1.01 * best, cost)
    assert not settings.is_due(0.99 * best, cost)


def test_a_run_that_is_killed_between_two_saves_equals_one_that_never_stopped(
    tmp_path: Path, source: DataSource, clock: Clock
) -> None:
    config = small_config(
        "epochs=11", f"checkpoint.hours_between_failures={1600 / (2 * 2) / 3600}", "alpha.strategy=learned"
    )
    whole = execute(Launch(config, source, tmp_path / "whole"), clock.pass_epoch)

    def die_after_eight(row: Row) -> None:
        clock.pass_epoch(row)
        if row["epoch"] == 8:
            raise Killed

    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        execute(Launch(config, source, folder), die_after_eight)
    assert len(read_epochs(folder)) == 8
    assert checkpoint.load(folder / CHECKPOINT)["epoch"] == 5
    told: list[Row] = []
    assert without_time(execute(Launch(config, source, folder), told.append)) == without_time(whole)
    assert without_time(told) == without_time(whole) == without_time(read_epochs(folder))
    assert read_alpha_updates(folder) == read_alpha_updates(tmp_path / "whole")


def test_what_runs_have_overcome_is_said_once_for_each_cause(tmp_path: Path) -> None:
    folders = {f"trial {n}": tmp_path / str(n) for n in range(12)}
    for folder in folders.values():
        add_notice(folder, DIED)
    full = "No space left on device, for {} s; then it worked again"
    for number, seconds in ((1, 0.4), (2, 12.5)):
        add_notice(folders[f"trial {number}"], f"{folders[f'trial {number}']}: {full.format(seconds)}")
    add_notice(folders["trial 3"], f"{folders['trial 3']}: Stale file handle, for 1.0 s; then it worked again")
    many, two, one = overcome(folders)
    assert many == ", ".join(list(folders)[:10]) + f" and 2 more: {DIED}"
    assert two == "trial 1, trial 2: No space left on device; then it worked again"
    assert one == f"trial 3: {folders['trial 3']}: Stale file handle, for 1.0 s; then it worked again"
