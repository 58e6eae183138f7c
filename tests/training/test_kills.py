"""A run that is killed at any step and goes on from its checkpoint equals one that never stopped, bit for bit.

pytest tests/training/test_kills.py             one kill of the constant alpha and of the learned one, on one rank
pytest tests/training/test_kills.py -m slow     one kill of the other strategies, and one on two ranks
pytest tests/training/test_kills.py -m long     20 kills of each, on one rank and on two
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from method_cases import STRATEGIES
from synthetic import write_dataset
from tiny_run import SMALL, without_time
from tiny_run import splits_with_outer as splits
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.loop import fit
from lfm_ray.training.run_folder import read_notices
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

STEPS = 24  # of a whole run: 8 epochs of 3


class Killed(Exception):
    """Stands for a kill: everything but the checkpoint is gone."""


def trained(config: RunConfig, shards: Shards, rank: int, size: int, file: Path | None, kill_at: int = 0) -> Trainer:
    """A run that goes on from the checkpoint `file`, writes one after every epoch, and dies before a step."""
    torch.manual_seed(kill_at + 1)  # the state of another process
    run = Trainer(config, shards.card, wrap=DistributedDataParallel if size > 1 else None)
    if file and (state := checkpoint.load_newest(file)[0]):
        run.load_state_dict(state)
    update = run.training_step

    def update_or_die(*arguments: Any, **named: Any) -> Any:
        if run.steps + 1 == kill_at:
            raise Killed
        return update(*arguments, **named)

    def on_epoch(run: Trainer) -> None:
        if file and rank == 0:
            checkpoint.save(file, run.state_dict(), keep_previous=True)
        if size > 1:
            dist.barrier()

    run.training_step = update_or_die  # type: ignore[method-assign]
    fit(run, splits(shards, config, rank, size), on_epoch)
    return run


def compare(rank: int, size: int, folder: str, overrides: list[str], kills: list[int]) -> None:
    """Trains once as a whole, and once for each kill; fails where a weight or a figure differs."""
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    config, shards = load(RunConfig, None, [*SMALL, *overrides]), Shards(f"{folder}/shards")
    whole = trained(config, shards, rank, size, None)
    assert whole.steps == STEPS
    for kill in kills:
        file = Path(folder) / f"{kill}.pt"
        with pytest.raises(Killed):
            trained(config, shards, rank, size, file, kill)
        again = trained(config, shards, rank, size, file)
        assert without_time(again.history) == without_time(whole.history), kill
        assert all(torch.equal(a, b) for a, b in zip(again.parameters, whole.parameters, strict=True)), kill
    if size > 1:
        dist.destroy_process_group()


def kills_of(strategy: str, count: int) -> list[int]:
    """Steps before which a run is killed, at random."""
    random = np.random.default_rng(sorted(STRATEGIES).index(strategy))
    return [1 + int(step) for step in random.permutation(STEPS)[:count]]


@pytest.mark.parametrize(
    ("kills", "ranks", "strategy"),
    [
        *(
            pytest.param(1, 1, strategy, marks=() if strategy in ("constant", "learned") else pytest.mark.slow)
            for strategy in STRATEGIES
        ),
        pytest.param(1, 2, "learned", marks=pytest.mark.slow),  # has most state
        *(pytest.param(20, 1, strategy, marks=pytest.mark.long) for strategy in STRATEGIES),
        *(pytest.param(20, 2, strategy, marks=pytest.mark.long) for strategy in STRATEGIES),
    ],
)
def test_a_killed_run_equals_one_that_never_stopped(tmp_path: Path, kills: int, ranks: int, strategy: str) -> None:
    write_dataset(tmp_path / "shards")
    overrides = [*STRATEGIES[strategy], "model.dropout=0.3", "optimizer.name=sgd", "epochs=8"]
    arguments = (ranks, str(tmp_path), overrides, kills_of(strategy, kills))
    if ranks == 1:
        compare(0, *arguments)
    else:
        multiprocessing.spawn(compare, args=arguments, nprocs=ranks)


@pytest.fixture
def config() -> RunConfig:
    return load(
        RunConfig,
        None,
        [
            *SMALL,
            "alpha.strategy=learned",
            "alpha.outer=held_out",
            "model.dropout=0.3",
            "checkpoint.hours_between_failures=0",
        ],
    )


@pytest.mark.parametrize(
    ("broken", "begins_with"), [(["checkpoint.pt"], 3), (["checkpoint.pt", "checkpoint.previous.pt"], 1)]
)
@pytest.mark.parametrize("how", ["altered", "truncated", "empty"])
def test_a_broken_checkpoint_costs_an_epoch_and_no_figure(
    tmp_path: Path, config: RunConfig, broken: list[str], begins_with: int, how: str
) -> None:
    source = DataSource(Shards(write_dataset(tmp_path / "shards")), {})
    torch_rows: dict[str, list[Any]] = {}
    for name in ("whole", "broken"):
        rows: list[Any] = []
        run_in_process(Launch(config, source, tmp_path / name), rows.append)
        torch_rows[name] = rows
    folder = tmp_path / "broken"
    for name in broken:
        content = (folder / name).read_bytes()
        middle = len(content) // 2
        (folder / name).write_bytes(
            {"altered": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
             "truncated": content[:-1], "empty": b""}[how]
        )  # fmt: skip
    rows = []
    run_in_process(Launch(config, source, folder), rows.append)
    assert without_time(rows) == without_time(torch_rows["whole"])
    notices = read_notices(folder)
    assert len(notices) == len(broken)
    where = f"epoch {begins_with}" if begins_with > 1 else "the beginning"
    assert all("its checksum differs" in notice and notice.endswith(f"went on from {where}") for notice in notices)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        assert checkpoint.load(folder / name)["epoch"] in (3, 4)
