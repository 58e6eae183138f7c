from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_shards
import torch
import torch.distributed as dist
from method_cases import CASES, STRATEGIES
from tiny_run import LEARNED, SMALL, same_weights, train_until_killed, without_time
from tiny_run import splits_with_outer as splits
from tiny_run import train_with_outer as train
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch, Order, ReadBatches, from_memory
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.methods import Losses
from lfm_ray.models.evaluation import metric_names
from lfm_ray.optimization.hypergradient import Product, gauss_newton
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.trainer import Trainer

DIVERGING = ["optimizer.name=sgd", "optimizer.learning_rate=10", "optimizer.momentum=0.99"]
DIVERGING += ["optimizer.gradient_clip=null", "optimizer.schedule=constant", "model.fusion=concat"]
MODULATED = ["method=ogm_ge", "method.noise=false"]
SOLVERS = {
    "identity": [],
    "neumann": ["alpha.solver=neumann", "alpha.product=hessian", "alpha.step_size=0.05"],
    "cg": ["alpha.solver=cg"],
    "nystrom": ["alpha.solver=nystrom", "loss.matching=js"],
}


def test_joint_training_learns_the_classes(shards: Shards) -> None:
    run = train(shards, "epochs=12", "optimizer.learning_rate=0.02")
    assert run.history[-1]["val/fused/accuracy"] > 0.8  # chance is 1/3
    assert run.history[-1]["train/loss"] < run.history[0]["train/loss"]


@pytest.mark.parametrize("micro", ["null", "5"])
def test_training_metrics_are_those_of_the_steps_outputs(shards: Shards, micro: str) -> None:
    rate = "optimizer.learning_rate=1e-12"  # the model stays as it is, so an evaluation must give the same
    run = train(shards, "epochs=1", "data.batch_size=14", rate, f"data.micro_batch_size={micro}", *LEARNED)
    everything = Order(np.arange(42), 42, 0, False, 0, 1)
    expected = run.evaluate(ReadBatches(from_memory(*shards.arrays("train")), everything, Inputs.of(shards.card)))
    found = {name.removeprefix("train/"): value for name, value in run.history[0].items() if name.startswith("train/")}
    names = metric_names(["audio", "image"])  # what the modalities contribute is measured of evaluations alone
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names}, abs=1e-5)
    assert 0 < found["fused/accuracy"] < 1


def test_updates_of_alpha_are_kept_for_an_epoch(shards: Shards) -> None:
    run = train(shards, *STRATEGIES["learned"])
    assert [step for step, _ in run.alpha.updates] == [10, 12]  # of steps 10 to 12, an update after every second
    assert run.alpha.updates[-1][1] == run.alpha.value == run.history[-1]["alpha_end"]


@pytest.mark.parametrize("strategy", ["stepwise", "heuristic", "polynomial"])
def test_alpha_follows_its_schedule(shards: Shards, strategy: str) -> None:
    run = train(shards, *STRATEGIES[strategy])
    expected = [run.config.alpha.alpha(t, 4) for t in range(1, 5)]
    assert [row["alpha"] for row in run.history] == pytest.approx(expected)


def test_the_total_loss_is_the_weighted_sum(shards: Shards) -> None:
    row = train(shards, "alpha.value=0.4", "epochs=1").history[0]
    expected = 0.6 * row["train/classification_loss"] + 0.4 * row["train/matching_loss"]
    assert row["train/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("micro", ["null", "7"])
@pytest.mark.parametrize(("matching", "balance"), [("infonce", 0.5), ("js", 0.01)])
def test_a_balanced_start_makes_the_part_of_the_matching_loss_a_stated_share_of_the_first_gradient(
    shards: Shards, float64: None, matching: str, balance: float, micro: str
) -> None:
    settings = [
        f"loss.matching={matching}",
        f"alpha.balance={balance}",
        "alpha.strategy=learned",
        "alpha.outer=held_out",
        "alpha.eta_alpha=0",
    ]
    started = train(shards, *settings, f"data.micro_batch_size={micro}", "epochs=1")
    config = started.config
    model = Trainer(config, shards.card)
    losses = model.losses(next(splits(shards, config).train.epoch(1)))
    norms = [
        torch.cat([one.reshape(-1) for one in torch.autograd.grad(loss, model.parameters, retain_graph=True)]).norm()
        for loss in (losses.matching, losses.classification)
    ]
    alpha = started.history[0]["alpha"]
    assert 0.05 < alpha < 0.94
    assert alpha * float(norms[0]) == pytest.approx(balance * (1 - alpha) * float(norms[1]), rel=1e-6)


def test_learned_alpha_moves_and_stays_within_its_bounds(shards: Shards) -> None:
    run = train(shards, *STRATEGIES["learned"], "alpha.initial=0.95", "alpha.low=0.2", "alpha.eta_alpha=0.05")
    ends = [row["alpha_end"] for row in run.history]
    assert ends[0] not in (0.2, 0.95, 1.0)  # it has left its start, and not for a bound
    pushed = train(shards, *STRATEGIES["learned"], "alpha.low=0.2", "alpha.high=0.97", "alpha.eta_alpha=1000")
    assert {row["alpha_end"] for row in pushed.history} <= {0.2, 0.97}


@pytest.mark.parametrize(("outer", "solver"), [("inner", "identity"), *(("held_out", name) for name in SOLVERS)])
def test_learned_with_eta_alpha_zero_equals_a_constant_bit_for_bit(shards: Shards, outer: str, solver: str) -> None:
    common = ["model.dropout=0.3", "loss.matching=js"]  # dropout, so that random numbers would tell
    learned = train(shards, *LEARNED, *SOLVERS[solver], "alpha.eta_alpha=0", f"alpha.outer={outer}", *common)
    constant = train(shards, "alpha.value=0.6", *common)
    assert same_weights(learned, constant)
    assert without_time(learned.history) == without_time(constant.history)


@pytest.mark.parametrize("case", [*STRATEGIES, *CASES])
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(shards: Shards, tmp_path: Path, case: str) -> None:
    overrides = [*(STRATEGIES | CASES)[case], "model.dropout=0.3", "optimizer.name=sgd"]
    whole = train(shards, *overrides)
    config = whole.config
    train_until_killed(Trainer(config, shards.card), splits(shards, config), tmp_path / "checkpoint.pt")
    torch.manual_seed(12345)
    again = Trainer(config, shards.card)
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    fit(again, splits(shards, config))
    assert same_weights(again, whole)
    assert without_time(again.history) == without_time(whole.history)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_epoch(shards: Shards) -> None:
    with pytest.raises(TrainingFailed, match="NaN or infinite in epoch"):
        train(shards, "epochs=40", *DIVERGING)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_unimodal_training_couples_nothing(shards: Shards, fusion: str) -> None:
    both = train(shards, "method=unimodal", "optimizer.gradient_clip=null", f"model.fusion={fusion}")
    assert {"val/audio/accuracy", "val/image/accuracy"} <= set(both.history[-1])


@pytest.mark.parametrize(
    ("cached", "method"),
    [(False, ["method=lfm"]), (True, ["method=lfm"]), (False, MODULATED), (True, MODULATED), (False, ["method=agm"])],
)
def test_the_gradient_of_alpha_is_the_derivative_through_the_step(
    shards: Shards, float64: None, cached: bool, method: list[str]
) -> None:
    """Identity solver, end to end, sign and scale: by finite differences of alpha."""
    sgd = ["optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "optimizer.gradient_clip=null"]
    eta = 0.01
    sgd += [f"optimizer.learning_rate={eta}", "optimizer.schedule=constant"]
    sgd += ["data.micro_batch_size=5"] if cached else []
    config = load(RunConfig, None, [*SMALL, *LEARNED, *sgd, *method])
    run = Trainer(config, shards.card)
    run.prepare(3)
    batches = splits(shards, config)
    inner, outer = next(batches.train.epoch(1)), next(batches.outer.epoch(1))
    start, h = [p.detach().clone() for p in run.parameters], 1e-5
    step = run.training_step(inner, before_alpha=True)
    found = run.alpha_gradient(inner, iter([outer]), step.d)

    def outer_loss(alpha: float) -> float:
        run.alpha.value, run.steps, run.memory = alpha, 0, {}
        with torch.no_grad():
            for p, before in zip(run.parameters, start, strict=True):
                p.copy_(before)
        run.training_step(inner)
        return float(run.losses(outer).judged.detach())

    slope = (outer_loss(0.6 + h) - outer_loss(0.6 - h)) / (2 * h)
    assert slope / eta == pytest.approx(found.value, rel=1e-6)


def test_products_see_the_same_dropout_masks_whether_forward_or_backward(
    shards: Shards, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else J^T B J would not be symmetric."""
    products: list[Product] = []

    def spied(*arguments: Any) -> tuple[Product, torch.Tensor]:
        product, d = gauss_newton(*arguments)
        products.append(product)
        return product, d

    monkeypatch.setattr("lfm_ray.training.trainer.gauss_newton", spied)
    config = load(RunConfig, None, [*SMALL, *LEARNED, "alpha.solver=cg", "model.dropout=0.5"])
    run = Trainer(config, shards.card)
    run.prepare(3)
    batches = splits(shards, config)
    run.alpha_gradient(next(batches.train.epoch(1)), batches.outer.epoch(1), [])
    n = sum(parameter.numel() for parameter in run.parameters)
    v, w = torch.randn(2, n)
    assert (products[0](v) @ w).item() == pytest.approx((products[0](w) @ v).item(), rel=1e-9)


@pytest.mark.parametrize("solver", ["neumann", "cg"])
def test_every_small_encoder_can_be_differentiated_as_the_solvers_need(tmp_path: Path, solver: str) -> None:
    shards = Shards(small_shards.write(tmp_path))
    config = load(RunConfig, None, [*SMALL, *LEARNED, *SOLVERS[solver]])
    run = Trainer(config, shards.card)
    run.prepare(1)
    whole = ReadBatches(from_memory(*shards.arrays("train")), Order(np.arange(8), 8, 0, True), Inputs.of(shards.card))
    (batch,) = whole.epoch(1)
    step = run.training_step(batch)
    assert np.isfinite(run.alpha_gradient(batch, iter([batch]), step.d)).all()


@pytest.mark.parametrize("extra", [["loss.matching=js"], ["model.projection_size=5", "loss.learn_tau=true"]])
def test_gradient_caching_gives_the_gradient_of_the_whole_batch(
    shards: Shards, float64: None, extra: list[str]
) -> None:
    config = load(RunConfig, None, [*SMALL, *extra])
    run = Trainer(config, shards.card)
    run.alpha.value = 0.5
    batch = next(splits(shards, config).train.epoch(1))
    step, found = run._cached(batch, 5)
    losses = step.losses
    direct = run.losses(batch)
    expected = torch.autograd.grad(direct.total, run.parameters)
    assert losses.total.item() == pytest.approx(direct.total.item(), rel=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_gradient_caching_in_one_piece_equals_training_without_it_dropout_included(
    shards: Shards, float64: None
) -> None:
    overrides = [*LEARNED, "model.dropout=0.3", "optimizer.name=sgd"]
    cached, direct = train(shards, *overrides, "data.micro_batch_size=16"), train(shards, *overrides)
    assert [row["alpha_end"] for row in cached.history] == pytest.approx([row["alpha_end"] for row in direct.history])
    for one, other in zip(cached.parameters, direct.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_products_with_gradient_caching_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.micro_batch_size works with alpha\.solver identity only"):
        load(RunConfig, None, [*LEARNED, "alpha.solver=cg", "data.micro_batch_size=4"])


def test_a_learned_tau_moves_is_kept_in_its_bounds_and_has_no_weight_decay(shards: Shards) -> None:
    run = train(shards, "loss.learn_tau=true", "alpha.value=0.5")
    taus = [row["tau"] for row in run.history]
    assert taus[0] != 0.2
    assert len(set(taus)) == 4
    bounded = train(shards, "loss.learn_tau=true", "alpha.value=1", "optimizer.learning_rate=5", "epochs=2")
    assert all(0.01 - 1e-9 <= row["tau"] <= 10 + 1e-9 for row in bounded.history)
    still = train(shards, "loss.learn_tau=true", "alpha.value=0", "optimizer.weight_decay=1")
    assert still.history[-1]["tau"] == pytest.approx(0.2)
    assert train(shards, "loss.learn_tau=true", "loss.matching=js").model.log_tau is None


def test_a_projection_head_is_built_only_for_what_it_serves(shards: Shards) -> None:
    assert set(train(shards, "model.projection_size=5", "alpha.value=0.5", "epochs=1").model.projections) == {
        "audio",
        "image",
    }
    for other in ("loss.matching=js", "method=unimodal"):
        assert not train(shards, "model.projection_size=5", other, "epochs=1").model.projections


def _rank(rank: int, folder: str, cases: dict[str, list[str]], result: str) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{result}-meet", rank=rank, world_size=2)
    shards = Shards(folder)
    for name, overrides in cases.items():
        config = load(RunConfig, None, [*SMALL, *overrides])
        run = Trainer(config, shards.card, wrap=DistributedDataParallel)
        fit(run, splits(shards, config, rank, 2))
        found = {"history": run.history, "weights": [p.detach() for p in run.parameters], "memory": run.memory}
        torch.save(found, f"{result}-{name}-{rank}")
        del run  # DistributedDataParallel's threads end with it, and before the group
    dist.barrier()
    dist.destroy_process_group()


WITHOUT_STATE = ("lfm", "official", "unimodal", "mslr", "domfn")  # their losses are like those of TOGETHER
# 21 steps, and as many updates of alpha; 9 steps of the methods.
TOGETHER = {
    "constant": ["alpha.value=0.4", "model.projection_size=5", "loss.learn_tau=true", "epochs=7"],
    **{solver: [*LEARNED, *settings, "epochs=7"] for solver, settings in SOLVERS.items()},
    "cached": [*LEARNED, "data.micro_batch_size=3", "epochs=7"],
    "balanced": [*LEARNED, "alpha.initial=balanced", "epochs=2"],
    "official": [*STRATEGIES["official"], "epochs=7"],
    **{
        f"method {name}": [*overrides, "optimizer.learning_rate=0.01", "epochs=3"]
        for name, overrides in CASES.items()
        if name not in WITHOUT_STATE
    },
}


@pytest.fixture(scope="module")
def two_ranks(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have made of all cases, one after the other."""
    result = tmp_path_factory.mktemp("together") / "result"
    multiprocessing.spawn(_rank, args=(str(shards.path), TOGETHER, str(result)), nprocs=2)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("case", TOGETHER)
def test_two_processes_with_half_of_each_batch_equal_one_with_the_whole(
    shards: Shards, two_ranks: Path, float64: None, case: str
) -> None:
    one = train(shards, *TOGETHER[case])
    ranks = [torch.load(f"{two_ranks}-{case}-{rank}", weights_only=True) for rank in range(2)]
    assert without_time(ranks[0]["history"]) == without_time(ranks[1]["history"])
    for row, expected in zip(ranks[0]["history"], one.history, strict=True):
        for key in ("alpha_end", "train/loss", "val/fused/loss"):
            assert row[key] == pytest.approx(expected[key], abs=1e-5), key
    for found, weights in zip(ranks[0]["weights"], one.parameters, strict=True):
        torch.testing.assert_close(found, weights.detach(), atol=1e-5, rtol=1e-5)
    assert ranks[0]["memory"].keys() == ranks[1]["memory"].keys() == one.memory.keys()
    for key, value in one.memory.items():
        for rank in ranks:
            if isinstance(value, str):
                assert rank["memory"][key] == value, key
            else:
                torch.testing.assert_close(rank["memory"][key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "other_shards",
    [pytest.param("regression", marks=pytest.mark.slow), pytest.param("multilabel", marks=pytest.mark.long)],
    indirect=True,
)
def test_two_processes_equal_one_with_several_labels_and_with_numbers(
    other_shards: Shards, tmp_path: Path, float64: None
) -> None:
    overrides = ["alpha.value=0.4", "epochs=3"]
    multiprocessing.spawn(_rank, args=(str(other_shards.path), {"it": overrides}, str(tmp_path / "result")), nprocs=2)
    one = train(other_shards, *overrides)
    ranks = [torch.load(tmp_path / f"result-it-{rank}", weights_only=True) for rank in range(2)]
    assert without_time(ranks[0]["history"]) == without_time(ranks[1]["history"])
    assert without_time(ranks[0]["history"])[-1] == pytest.approx(without_time(one.history)[-1], abs=1e-5)
    for found, weights in zip(ranks[0]["weights"], one.parameters, strict=True):
        torch.testing.assert_close(found, weights.detach(), atol=1e-5, rtol=1e-5)


def test_the_official_update_precedes_every_epoch_and_always_has_the_same_samples(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool, list[int]]] = []
    before = Trainer.losses

    def losses(run: Trainer, batch: Batch, *others: Any) -> Losses:
        assert batch.rows is not None
        seen.append((run.steps, run.model.training, batch.rows.tolist()))
        return before(run, batch, *others)

    monkeypatch.setattr(Trainer, "losses", losses)
    run = train(shards, *STRATEGIES["official"])
    steps = run.steps // 4
    assert [(at, training) for at, training, _ in seen] == [(0, True), *((k * steps, False) for k in (1, 2, 3))]
    assert len({tuple(rows) for _, _, rows in seen}) == 1
    assert run.model.training
    for row in run.history:  # it stays during an epoch
        assert row["alpha"] == pytest.approx(row["alpha_end"], rel=1e-12)
    assert run.history[0]["alpha"] != run.config.alpha.initial  # the first update is that of the untrained model
