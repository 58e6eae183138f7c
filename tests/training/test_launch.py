from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic import write_dataset
from tiny_run import small_config, small_splits

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import CARD, Shards
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, execute
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer


@pytest.mark.parametrize(
    ("strategy", "held_out", "batch"),
    [
        (["alpha.strategy=learned", "alpha.outer=held_out", "alpha.outer_fraction=0.25"], 12, 20),
        (["alpha.strategy=official"], 16, 8),
    ],
)
def test_what_the_outer_loss_is_measured_on_is_kept_from_theta(
    tmp_path: Path, strategy: list[str], held_out: int, batch: int
) -> None:
    source = DataSource(Shards(write_dataset(tmp_path / "shards", train=48)), {})
    splits = source.splits(load(RunConfig, None, [*strategy, "data.batch_size=20"]))
    outer, train = splits.outer.order, splits.train.order
    kept = set(range(48)) - set(train.rows)
    assert len(kept) == held_out
    assert set(outer.rows) <= kept
    assert len(outer.rows) == min(held_out, batch)
    assert outer.batch_size == batch


def test_a_training_split_that_would_be_held_out_whole_is_refused(tmp_path: Path) -> None:
    source = DataSource(Shards(write_dataset(tmp_path / "shards", train=16)), {})
    with pytest.raises(UserError, match="16 training samples leave none beside 16 held out"):
        source.splits(load(RunConfig, None, ["alpha.strategy=official"]))


def test_the_validation_split_can_be_the_outer_one(tmp_path: Path) -> None:
    source = DataSource(Shards(write_dataset(tmp_path / "shards", train=48, val=10)), {})
    splits = source.splits(load(RunConfig, None, ["alpha.strategy=learned", "alpha.outer=val"]))
    assert (len(splits.outer.order.rows), len(splits.train.order.rows)) == (10, 48)
    labels = torch.cat([batch.labels for batch in splits.outer.epoch(1)])
    assert sorted(labels.tolist()) == sorted(source.shards.arrays("val")[1])


def test_a_run_goes_on_only_with_the_shards_that_it_began_with(tmp_path: Path) -> None:
    card = write_dataset(tmp_path / "shards") / CARD
    launch = Launch(small_config("epochs=1"), DataSource(Shards(card.parent), {}), tmp_path / "run")
    execute(launch, lambda row: None)
    card.write_text(card.read_text().replace('"synthetic"', '"another"'))
    with pytest.raises(UserError, match="holds a run on other shards"):
        execute(replace(launch, source=DataSource(Shards(card.parent), {})), lambda row: None)


def test_weights_that_became_nan_in_the_last_step_stop_the_run(tmp_path: Path) -> None:
    shards = Shards(write_dataset(tmp_path / "shards"))
    run = Trainer(small_config(), shards.card)
    next(iter(run.parameters)).data.fill_(torch.nan)
    with pytest.raises(TrainingFailed, match="outputs became NaN"):
        run.evaluate(small_splits(shards, run.config).val)
