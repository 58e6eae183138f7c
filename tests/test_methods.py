from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from synthetic import write_dataset
from test_loop import SMALL, same_weights, train

from lfm_ray.config import LossSettings, RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.losses import infonce, js_divergence
from lfm_ray.methods import METHODS, State, method_of
from lfm_ray.methods.ogm_ge import OGMGE
from lfm_ray.models.classifier import Outputs
from lfm_ray.run import Run
from lfm_ray.settings import load

LABELS = torch.tensor([0, 1, 2, 1])


def outputs() -> Outputs:
    generator = torch.Generator().manual_seed(0)

    def draw(columns: int) -> torch.Tensor:
        return torch.randn(4, columns, dtype=torch.float64, generator=generator).requires_grad_()

    return Outputs(draw(3), {"audio": draw(3), "image": draw(3)}, {"audio": draw(5), "image": draw(5)})


def state(alpha: float = 0.0, model: Any = None, **loss: Any) -> State:
    return State(cast(Any, model), LossSettings(**loss), alpha)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards(write_dataset(tmp_path_factory.mktemp("data") / "shards"))


def test_lfm_weighs_the_losses_by_alpha() -> None:
    made = outputs()
    losses = METHODS["lfm"]().loss(made, LABELS, state(0.3, tau=0.5))
    classification = F.cross_entropy(made.fused, LABELS)
    matching = infonce(made.embeddings["audio"], made.embeddings["image"], 0.5)
    assert losses.total.item() == pytest.approx((0.7 * classification + 0.3 * matching).item(), rel=1e-12)


@pytest.mark.parametrize("matching", ["infonce", "js"])
def test_the_convex_parts_of_lfm_add_up_to_its_total(matching: str) -> None:
    losses = METHODS["lfm"]().loss(outputs(), LABELS, state(0.3, matching=matching, uniform_labels=0.2))
    assert losses.parts is not None
    total = sum(part.weight * part.loss(part.stage) for part in losses.parts())
    assert total.item() == pytest.approx(losses.total.item(), rel=1e-12)
    by_alpha = sum(part.by_alpha * part.loss(part.stage) for part in losses.parts())
    assert by_alpha.item() == pytest.approx((losses.matching - losses.classification).item(), rel=1e-12)


def test_official_is_twice_the_total_of_the_mean_logits_with_js() -> None:
    made = outputs()
    losses = METHODS["official"]().loss(made, LABELS, state(0.3, matching="infonce"))
    mean = (made.unimodal["audio"] + made.unimodal["image"]) / 2
    matching = js_divergence(made.unimodal["audio"], made.unimodal["image"])
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
        (["method=ogm"], ["--set method.name", "'ogm' is not one of", "did you mean ogm_ge"]),
        (["method=ogm_ge", "method.modulatoin=1"], ["--set method.modulatoin", "did you mean modulation"]),
        (["method.modulation=1"], ["method.modulation", "unknown setting"]),
        (["method=ogm_ge", "method.modulation=-1"], ["method.modulation", "greater than or equal to 0"]),
        (["method=3"], ["method"]),
        (["method=unimodal", "alpha.value=0.3"], ["unimodal cannot be combined"]),
    ],
)
def test_a_wrong_method_is_one_line_that_names_it(overrides: list[str], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(RunConfig, None, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(text in message for text in said), message


def test_ogm_ge_worked_out_by_hand() -> None:
    """Probabilities of the label: audio 0.6 and 0.6, image 0.3 and 0.5, so rho = 1.5 and 2 / 3."""
    logits = {
        "audio": torch.tensor([[0.6, 0.4], [0.4, 0.6]]).log(),
        "image": torch.tensor([[0.3, 0.7], [0.5, 0.5]]).log(),
    }
    made = Outputs(torch.zeros(2, 2), logits, {})
    factors = OGMGE(modulation=0.4).gradient_factors(made, torch.tensor([0, 1]), state())
    assert float(factors["audio"]) == pytest.approx(1 - 0.5370496)  # tanh(0.4 * 1.5)
    assert float(factors["image"]) == 1.0


def test_the_noise_of_ogm_ge_has_the_size_of_the_gradient(shards: Shards) -> None:
    run = Run(load(RunConfig, None, [*SMALL, "model.width=32", "method=ogm_ge"]), shards.card)
    weight = max(run.model.encoders["audio"].parameters(), key=torch.numel)
    for parameter in run.parameters:
        parameter.grad = torch.ones_like(parameter)
    before = torch.randn_like(weight) * 3
    weight.grad = before.clone()
    factor = OGMGE().gradient_factors(made := outputs(), LABELS, run.state())["audio"]
    OGMGE().after_backward(made, LABELS, run.state())
    noise = (weight.grad - factor.float() * before).detach()
    assert weight.numel() > 1000
    assert float(noise.std()) == pytest.approx(3, rel=0.1)
    for parameter in run.model.head.parameters():
        assert torch.equal(cast(torch.Tensor, parameter.grad), torch.ones_like(parameter))


def test_ogm_ge_holds_back_the_encoder_that_is_ahead(shards: Shards) -> None:
    plain, held = (
        train(shards, *SMALL, method, "epochs=1") for method in ("method=lfm", "method={name: ogm_ge, noise: false}")
    )
    assert not same_weights(plain, held)


NEUTRAL = {
    "ogm_ge": ["method=ogm_ge", "method.modulation=0"],
    "mslr": ["method=mslr", "method.factors={audio: 1}"],
}


@pytest.mark.parametrize("method", NEUTRAL)
def test_with_its_neutral_setting_a_method_is_joint_training_bit_for_bit(shards: Shards, method: str) -> None:
    common = ["model.fusion=concat", "model.dropout=0.3", "epochs=2"]
    assert same_weights(train(shards, *common, *NEUTRAL[method]), train(shards, *common))


def test_learning_rates_of_modalities_apply_to_all_that_is_theirs_alone(shards: Shards) -> None:
    """Plain gradient descent: one step is as many times as long."""
    sgd = ["optimizer={name: sgd, momentum: 0, weight_decay: 0, schedule: constant, gradient_clip: null}", "epochs=1"]
    sgd += ["data.batch_size=48"]
    start = Run(load(RunConfig, None, [*SMALL, *sgd]), shards.card).model.state_dict()
    plain = train(shards, *sgd).model.state_dict()
    found = train(shards, *sgd, "method=mslr", "method.factors={audio: 3, image: 1e-9}").model.state_dict()
    for name, before in start.items():
        if "audio" in name:
            torch.testing.assert_close(found[name] - before, 3 * (plain[name] - before), rtol=1e-3, atol=1e-7)
        elif "image" in name:
            torch.testing.assert_close(found[name], before)


def test_a_method_of_two_modalities_refuses_others(shards: Shards) -> None:
    config = load(RunConfig, None, ["method=ogm_ge", "data.modalities=[audio]"])
    with pytest.raises(UserError, match="ogm_ge is defined for two modalities, and there are 1"):
        Run(config, shards.card)
    assert method_of(config).exactly_two
