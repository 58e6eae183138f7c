"""Runs on shards whose rows lack a modality: trained, with alpha learned, resumed, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from synthetic import with_gaps
from tiny_run import (
    LEARNED,
    SMALL,
    same,
    small_config,
    small_splits,
    splits_with_outer,
    train,
    train_until_killed,
    train_with_outer,
    without_time,
)
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from lfm_ray.config import RunConfig
from lfm_ray.datasets.columns import presence
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

CASES = {
    "lfm": ["alpha.value=0.4", "model.projection_size=5", "loss.learn_tau=true"],
    "js": ["alpha.value=0.4", "loss.matching=js", "model.fusion=weight"],
    "joint": ["loss.class_weights=balanced", "model.fusion=concat"],
    "unimodal": ["method=unimodal"],
    "cached": [*LEARNED, "data.micro_batch_size=3"],
    "identity": [*LEARNED],
    "cg": [*LEARNED, "alpha.solver=cg"],
    "nystrom": [*LEARNED, "alpha.solver=nystrom", "loss.matching=kl_to_mean"],
    "official": ["method=official", "alpha.strategy=official"],
}


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return with_gaps(tmp_path_factory.mktemp("data") / "gaps")


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return with_gaps(tmp_path_factory.mktemp("data") / "rare", rare=True)


def test_joint_training_learns_the_classes_of_all_rows(gaps: Shards) -> None:
    run = train(gaps, "epochs=8", "optimizer.learning_rate=0.03", "model.dropout=0")
    row = run.history[-1]
    assert row["val/fused/accuracy"] > 0.7  # chance is 1/3
    assert 0 < row["val/image/missing_accuracy"] <= 1
    assert row["val/audio/preferred"] + row["val/image/preferred"] == pytest.approx(1)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("identity", "nystrom")])
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(rare: Shards, tmp_path: Path, case: str) -> None:
    """Of 48 training rows 4 have an image: most batches have none."""
    config = load(RunConfig, None, [*SMALL, "epochs=3", "data.batch_size=6", "model.dropout=0.3", *CASES[case]])
    counts = [16, 16, 16]
    whole = Trainer(config, rare.card)
    whole.know_classes(counts)
    fit(whole, splits_with_outer(rare, config))
    killed = Trainer(config, rare.card)
    killed.know_classes(counts)
    train_until_killed(killed, splits_with_outer(rare, config), tmp_path / "checkpoint.pt")
    again = Trainer(config, rare.card)
    again.know_classes(counts)
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    fit(again, splits_with_outer(rare, config))
    assert same(again, whole)
    assert all(np.isfinite(value) for row in whole.history for value in row.values())


def test_micro_batches_give_the_gradient_of_the_whole_batch(gaps: Shards, float64: None) -> None:
    common = ["epochs=2", "alpha.value=0.5", "loss.matching=js"]
    whole, parts = (train_with_outer(gaps, *common, f"data.micro_batch_size={size}") for size in ("null", "1"))
    for one, other in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_run_of_one_modality_reads_the_rows_that_have_it(rare: Shards) -> None:
    config = load(RunConfig, None, [*SMALL, "data.modalities=[image]", "epochs=1"])
    source = DataSource(rare, {})
    sizes = {name: [len(batch.labels) for batch in batches.epoch(1)] for name, batches in (
        ("train", source.splits(config).train), ("val", source.splits(config).val),
    )}  # fmt: skip
    assert {name: sum(count) for name, count in sizes.items()} == {
        split: int(rare.present(split, "image").sum()) for split in ("train", "val")
    }
    labels = rare.arrays("train")[1][rare.present("train", "image")]
    assert source.class_counts(["image"]) == np.bincount(labels, minlength=3).tolist()
    fit(Trainer(config, rare.card), source.splits(config))


def test_batches_say_which_samples_have_what(gaps: Shards) -> None:
    config = small_config()
    for batch in small_splits(gaps, config).train.epoch(1):
        assert batch.rows is not None
        for name in ("audio", "image"):
            assert torch.equal(batch.inputs[presence(name)], torch.from_numpy(gaps.present("train", name))[batch.rows])


def test_what_needs_all_modalities_is_refused_before_anything_starts(gaps: Shards) -> None:
    for setting in ("method=ogm_ge", "model.fusion=gated"):
        with pytest.raises(UserError, match="needs every modality of every sample"):
            Trainer(small_config(setting), gaps.card)


def _rank(rank: int, folder: str, result: str) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{result}-meet", rank=rank, world_size=2)
    shards = Shards(folder)
    for name, overrides in CASES.items():
        config = load(RunConfig, None, [*SMALL, "epochs=2", "data.batch_size=6", *overrides])
        run = Trainer(config, shards.card, wrap=DistributedDataParallel)
        run.know_classes([16, 16, 16])
        fit(run, splits_with_outer(shards, config, rank, 2))
        torch.save({"history": run.history, "weights": [p.detach() for p in run.parameters]}, f"{result}-{name}-{rank}")
        del run
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_half_of_each_batch_equal_one_with_the_whole(
    rare: Shards, tmp_path: Path, float64: None
) -> None:
    """Of which one or both have no image in most steps."""
    result = tmp_path / "result"
    multiprocessing.spawn(_rank, args=(str(rare.path), str(result)), nprocs=2)
    for name, overrides in CASES.items():
        config = load(RunConfig, None, [*SMALL, "epochs=2", "data.batch_size=6", *overrides])
        one = Trainer(config, rare.card)
        one.know_classes([16, 16, 16])
        fit(one, splits_with_outer(rare, config))
        ranks = [torch.load(f"{result}-{name}-{rank}", weights_only=True) for rank in range(2)]
        assert without_time(ranks[0]["history"]) == without_time(ranks[1]["history"])
        for found, weights in zip(ranks[0]["weights"], one.parameters, strict=True):
            torch.testing.assert_close(found, weights.detach(), atol=1e-5, rtol=1e-5, msg=name)
