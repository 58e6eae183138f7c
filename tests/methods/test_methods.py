from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_shards
import torch
import torch.nn.functional as F
from method_cases import CASES, LABELS, NEUTRAL, WITHOUT, outputs, state
from tiny_run import SMALL, same_weights
from tiny_run import train_with_outer as train

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Order, ReadBatches, from_memory
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.methods import METHODS
from lfm_ray.methods.losses import infonce, kl_to_mean
from lfm_ray.methods.ogm_ge import OGMGE
from lfm_ray.settings import load
from lfm_ray.training.trainer import Trainer

CG = ["alpha.strategy=learned", "alpha.solver=cg"]


def test_lfm_weighs_the_losses_by_alpha() -> None:
    made = outputs()
    losses = METHODS["lfm"]().loss(made, LABELS, state(0.3, tau=0.5))
    classification = F.cross_entropy(made.fused, LABELS)
    matching = infonce(made.embeddings["audio"], made.embeddings["image"], 0.5)
    assert losses.total.item() == pytest.approx((0.7 * classification + 0.3 * matching).item(), rel=1e-12)


@pytest.mark.parametrize("matching", ["infonce", "js", "kl_to_mean"])
def test_the_convex_parts_of_lfm_add_up_to_its_total(matching: str) -> None:
    losses = METHODS["lfm"]().loss(outputs(), LABELS, state(0.3, matching=matching, uniform_labels=0.2))
    assert losses.parts is not None
    total = sum(part.weight * part.loss(part.stage) for part in losses.parts())
    assert total.item() == pytest.approx(losses.total.item(), rel=1e-12)
    by_alpha = sum(part.by_alpha * part.loss(part.stage) for part in losses.parts())
    assert by_alpha.item() == pytest.approx((losses.matching - losses.classification).item(), rel=1e-12)


def test_official_is_twice_the_total_of_the_mean_logits_with_its_own_matching() -> None:
    made = outputs()
    losses = METHODS["official"]().loss(made, LABELS, state(0.3, matching="infonce"))
    mean = (made.unimodal["audio"] + made.unimodal["image"]) / 2
    matching = kl_to_mean(made.unimodal["audio"], made.unimodal["image"])
    expected = 2 * (0.7 * F.cross_entropy(mean, LABELS) + 0.3 * matching)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.equal(METHODS["official"]().predict(made), mean)


def test_a_method_is_chosen_by_its_name_or_with_its_settings(tmp_path: Path) -> None:
    plain = load(RunConfig, None, ["method=ogm_ge"])
    assert plain.method == OGMGE()
    tuned = load(RunConfig, None, ["method=ogm_ge", "method.modulation=0.3"])
    assert (
        tuned.method
        == OGMGE(modulation=0.3)
        == load(RunConfig, None, ["method.name=ogm_ge", "method.modulation=0.3"]).method
    )
    file = tmp_path / "run.yaml"
    file.write_text(tuned.to_yaml())
    assert load(RunConfig, file) == tuned
    assert load(RunConfig, file, ["method=lfm"]).method.name == "lfm"  # and modulation is gone with ogm_ge
    file.write_text("method: ogm_ge\n")
    assert load(RunConfig, file, ["method.modulation=0.3"]) == tuned


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=ogm_g"], ["--set method.name", "'ogm_g' is not one of", "did you mean ogm_ge"]),
        (["method=ogm_ge", "method.modulatoin=1"], ["--set method.modulatoin", "did you mean modulation"]),
        (["method.modulation=1"], ["method.modulation", "unknown setting"]),
        (["method=ogm_ge", "method.modulation=-1"], ["method.modulation", "greater than or equal to 0"]),
        (["method=3"], ["method"]),
        (["method=unimodal", "alpha.value=0.3"], ["unimodal cannot be combined"]),
        (["method=pmr", *CG], ["pmr has no Gauss-Newton product"]),
        (["method=agm", *CG, "alpha.product=hessian"], ["agm works with alpha.solver identity only"]),
    ],
)
def test_a_wrong_method_is_one_line_that_names_it(overrides: list[str], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(RunConfig, None, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(text in message for text in said), message


def test_every_method_has_a_case_and_a_neutral_setting_or_a_reason_why_not() -> None:
    assert set(CASES) == {*NEUTRAL, *WITHOUT} == set(METHODS)
    assert not set(NEUTRAL) & set(WITHOUT)


@pytest.mark.parametrize("method", NEUTRAL)
def test_with_its_neutral_setting_a_method_is_its_baseline_bit_for_bit(shards: Shards, method: str) -> None:
    neutral, baseline = NEUTRAL[method]
    common = ["model.dropout=0.3", "epochs=2", baseline[0]]
    assert same_weights(train(shards, *common, f"method={method}", *neutral), train(shards, *common, *baseline[1:]))


def test_learning_rates_of_modalities_apply_to_all_that_is_theirs_alone(shards: Shards) -> None:
    """Plain gradient descent: one step is as many times as long."""
    sgd = ["optimizer={name: sgd, momentum: 0, weight_decay: 0, schedule: constant, gradient_clip: null}", "epochs=1"]
    sgd += ["data.batch_size=48"]
    start = Trainer(load(RunConfig, None, [*SMALL, *sgd]), shards.card).model.state_dict()
    plain = train(shards, *sgd).model.state_dict()
    found = train(shards, *sgd, "method=mslr", "method.factors={audio: 3, image: 1e-9}").model.state_dict()
    for name, before in start.items():
        if "audio" in name:
            torch.testing.assert_close(found[name] - before, 3 * (plain[name] - before), rtol=1e-3, atol=1e-7)
        elif "image" in name:
            torch.testing.assert_close(found[name], before)


@pytest.mark.parametrize("method", [name for name in CASES if name != "lfm"])
def test_a_method_trains_otherwise_than_joint_training(shards: Shards, method: str) -> None:
    """With the same head and the same alpha(t), so that nothing else tells them apart."""
    run = train(shards, *CASES[method], "epochs=3")
    alpha = f"alpha.value={run.config.alpha.value}"  # type: ignore[union-attr]
    joint = train(shards, "epochs=3", f"model.fusion={run.config.model.fusion}", alpha)
    assert not same_weights(run, joint)


@pytest.mark.parametrize("method", CASES)
def test_a_method_in_micro_batches_equals_it_without(shards: Shards, float64: None, method: str) -> None:
    if METHODS[method].apart:
        with pytest.raises(UserError, match=r"leave out data\.micro_batch_size"):
            load(RunConfig, None, [*CASES[method], "data.micro_batch_size=5"])
        return
    common = [*CASES[method], "epochs=3", "optimizer.name=sgd"]
    cached, direct = train(shards, *common, "data.micro_batch_size=5"), train(shards, *common)
    for one, other in zip(cached.parameters, direct.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", CASES)
def test_a_method_takes_three_modalities_or_refuses_them(tmp_path: Path, method: str) -> None:
    shards = Shards(small_shards.write(tmp_path))
    config = load(RunConfig, None, [*SMALL, f"method={method}"])
    if config.method.exactly_two:
        with pytest.raises(UserError, match=f"{method} is defined for two modalities, and there are 3"):
            Trainer(config, shards.card)
        return
    run = Trainer(config, shards.card)
    run.prepare(8)
    order = Order(np.arange(8), 8, 0, True)
    (batch,) = ReadBatches(from_memory(*shards.arrays("train")), order, Inputs.of(shards.card)).epoch(1)
    before = [parameter.detach().clone() for parameter in run.parameters]
    losses = [run.training_step(batch).losses.total.item() for _ in range(8)]
    assert np.isfinite(losses).all()
    assert any(not torch.equal(one, other) for one, other in zip(before, run.parameters, strict=True))
