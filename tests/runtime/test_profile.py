"""The parts of a step, by a clock that only moves when a part does something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_run import SMALL, without_time

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.datasets.shards import Shards
from lfm_ray.methods import LFM
from lfm_ray.report.tables import profile_table
from lfm_ray.runtime import profiling as profile
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, execute
from lfm_ray.training.run_folder import PROFILE
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

SHORT = [*SMALL, "epochs=2", "data.batch_size=8", "device=cpu"]
LEARNED = ["alpha.strategy=learned", "alpha.outer=held_out", "alpha.inner_iters=1"]
COSTS = {"data": 5.0, "forward": 3.0, "loss": 2.0, "backward": 11.0, "optimiser": 7.0}


@pytest.fixture
def source(shards: Shards) -> DataSource:
    return DataSource(shards, {})


def run(source: DataSource, folder: Path, *overrides: str, profiled: bool = True) -> list[dict[str, float]]:
    config = load(RunConfig, None, [*SHORT, *overrides])
    return without_time(execute(Launch(config, source, folder, profile=profiled), report=lambda row: None))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only where a part does its work, as much as `COSTS` says."""
    now = [0.0]

    def slowed(owner: Any, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def slow(*arguments: Any, **named: Any) -> Any:
            now[0] += seconds
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, slow)

    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])
    slowed(LFM, "loss", COSTS["loss"])
    slowed(torch.optim.AdamW, "step", COSTS["optimiser"])
    slowed(torch.Tensor, "backward", COSTS["backward"])
    slowed(torch.autograd, "grad", COSTS["backward"])
    slowed(Trainer, "learned_tau", 1000.0)  # once an epoch, after its steps
    forward = Trainer.__init__

    def watched(self: Trainer, *arguments: Any, **named: Any) -> None:
        forward(self, *arguments, **named)
        self.model.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + COSTS["forward"]))

    monkeypatch.setattr(Trainer, "__init__", watched)
    epoch = type(DataSource.batches).__call__ and profile._Watched.epoch

    def slow_data(self: Any, number: int) -> Iterator[Batch]:
        class Slow:
            steps = self.batches.steps

            def epoch(inner, number: int) -> Iterator[Batch]:
                for batch in self.batches.epoch(number):
                    now[0] += COSTS["data"]
                    yield batch
                now[0] += 500.0  # the end of an epoch belongs to no step

        return epoch(profile._Watched(Slow(), self.profile), number)

    monkeypatch.setattr(profile._Watched, "epoch", slow_data)


def test_every_part_of_a_step_has_its_own_time(source: DataSource, tmp_path: Path, clock: None) -> None:
    run(source, tmp_path / "run")
    found = json.loads((tmp_path / "run" / PROFILE).read_text())
    steps = 2 * 6 - profile.WARM_UP
    assert found["steps"] == steps
    assert found["samples"] == 8 * steps
    assert found["parts"] == {name: steps * COSTS.get(name, 0.0) for name in (*profile.PARTS, "other")}
    assert found["seconds"] == sum(found["parts"].values())


def test_what_the_update_of_alpha_does_counts_as_that(source: DataSource, tmp_path: Path, clock: None) -> None:
    run(source, tmp_path / "run", *LEARNED)
    found = json.loads((tmp_path / "run" / PROFILE).read_text())
    parts, steps = found["parts"], found["steps"]
    assert {name: parts[name] / steps for name in COSTS} == COSTS
    # grad (L_MM - L_CLS) of the step's own graph; forward, loss and gradient on the outer batch
    assert parts["alpha update"] / steps == 2 * COSTS["backward"] + COSTS["forward"] + COSTS["loss"]
    assert parts["other"] == 0


def test_micro_batches_pass_forward_twice(source: DataSource, tmp_path: Path, clock: None) -> None:
    run(source, tmp_path / "run", "data.micro_batch_size=4")
    found = json.loads((tmp_path / "run" / PROFILE).read_text())
    per_step = {name: seconds / found["steps"] for name, seconds in found["parts"].items()}
    assert per_step == {
        "data": 5, "forward": 4 * 3, "loss": 2, "backward": 3 * 11, "optimiser": 7, "alpha update": 0, "other": 0,
    }  # fmt: skip


@pytest.mark.parametrize("strategy", [[], LEARNED, ["data.micro_batch_size=3"]])
def test_a_profiled_run_trains_the_same(source: DataSource, tmp_path: Path, strategy: list[str]) -> None:
    extra = [*strategy, "model.dropout=0.3"]
    profiled = run(source, tmp_path / "profiled", *extra)
    assert profiled == run(source, tmp_path / "plain", *extra, profiled=False)
    assert not (tmp_path / "plain" / PROFILE).exists()
    assert profile._current is None


def test_the_table_gives_shares_of_the_whole() -> None:
    parts = {
        "data": 1.0,
        "forward": 2.0,
        "loss": 0.0,
        "backward": 4.0,
        "optimiser": 1.0,
        "alpha update": 0.0,
        "other": 2.0,
    }
    console = Console(width=100)
    with console.capture() as capture:
        console.print(profile_table({"steps": 20, "samples": 640, "seconds": 10.0, "parts": parts}))
    text = capture.get()
    assert "20 steps: 500 ms each, 64 samples/s" in text
    assert [line.split("│")[2:4] for line in text.splitlines() if "backward" in line] == [["         200 ", " 40.0% "]]
    nothing = profile_table({"steps": 0, "samples": 0, "seconds": 0.0, "parts": {}})
    assert nothing.title.startswith("no step was profiled")
