from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state
from torch import nn

from lfm_ray.errors import UserError
from lfm_ray.methods import State
from lfm_ray.methods.info_reg import InfoReg
from lfm_ray.models.classifier import Outputs

LABEL = torch.tensor([0, 0])


def ahead(audio: float, image: float) -> Outputs:
    """Two samples to whose label the modalities give these probabilities."""
    unimodal = {name: torch.tensor([[p, 1 - p]] * 2).log() for name, p in (("audio", audio), ("image", image))}
    return Outputs(torch.zeros(2, 2), unimodal, {})


def pulls(method: InfoReg, made: Outputs, **memory: Any) -> dict[str, float]:
    return {name: float(one) for name, one in method.pulls(made, LABEL, state(memory=memory)).items()}


def test_the_pull_worked_out_by_hand() -> None:
    beta = math.exp(math.tanh(2 * (0.7 - 0.4)))
    assert pulls(InfoReg(pull_weight=0.5), ahead(0.7, 0.4)) == pytest.approx({"audio": 0.5 * beta})
    assert pulls(InfoReg(pull_weight=0.5, pull_weights={"image": 0.2}), ahead(0.4, 0.7)) == pytest.approx(
        {"image": 0.2 * beta}
    )
    assert pulls(InfoReg(), ahead(0.5, 0.5)) == {}


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        ([], 1.0),
        ([3.0], 1.0),
        ([3.0, 1.0], 0.25),
        ([1.0] * 10, 0.1),
        ([5.0, *[1.0] * 10], (10 - 14) / 10),
        ([9.0, 9.0, 1.0, *[2.0] * 10], (20 - 19) / 20),
    ],
)
def test_the_growth_is_that_of_the_mean_over_ten_epochs(traces: list[float], expected: float) -> None:
    now = state(memory={"trace/audio": torch.tensor(traces)})
    assert InfoReg().growth("audio", now) == pytest.approx(expected)


def test_the_window_is_that_of_the_modality_ahead_or_of_the_one_named() -> None:
    settled = {"trace/audio": torch.ones(11), "trace/image": torch.tensor([1.0, 1.0])}
    assert pulls(InfoReg(), ahead(0.7, 0.4), **settled) == {}
    assert list(pulls(InfoReg(), ahead(0.4, 0.7), **settled)) == ["image"]
    assert pulls(InfoReg(window_of="audio"), ahead(0.4, 0.7), **settled) == {}
    assert list(pulls(InfoReg(window_of="image"), ahead(0.7, 0.4), **settled)) == ["audio"]
    assert pulls(InfoReg(threshold=0.5), ahead(0.4, 0.7), **settled) == {}


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Module()
    made.encoders = nn.ModuleDict({name: nn.Linear(2, 3) for name in ("audio", "image")})
    made.head = nn.Linear(3, 2)
    return made


def step(method: InfoReg, now: State, made: Outputs) -> None:
    for parameter in now.model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    with torch.no_grad():
        method.after_backward(made, LABEL, now)


def test_only_the_encoder_ahead_is_drawn_to_where_its_epoch_began() -> None:
    method, now, made = InfoReg(pull_weight=0.5), state(model=model()), ahead(0.7, 0.4)
    step(method, now, made)
    gradients = {name: value.grad.clone() for name, value in now.model.named_parameters()}  # type: ignore[union-attr]
    assert all((value == 2).all() for value in gradients.values())
    with torch.no_grad():
        for parameter in now.model.parameters():
            parameter.add_(3.0)
    step(method, now, made)
    pull = pulls(method, made)["audio"] * 3
    for name, parameter in now.model.named_parameters():
        expected = 2 + pull if "audio" in name else 2.0
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, expected))


def test_traces_are_means_of_squared_gradients_of_weights_added_up_over_the_epoch() -> None:
    method, now = InfoReg(pull_weight=0), state(model=model())
    for _ in range(3):
        step(method, now, ahead(0.7, 0.4))
    row = method.on_epoch_end(now, {})
    assert row == {"fisher_trace/audio": 12.0, "fisher_trace/image": 12.0}
    assert set(now.memory) == {"trace/audio", "trace/image"}
    for epoch in range(12):
        step(method, now, ahead(0.7, 0.4))
        method.on_epoch_end(replace(now, epoch=epoch), {})
    assert now.memory["trace/audio"].tolist() == [4.0] * 11


def test_each_modality_has_a_loss_of_its_own() -> None:
    made = outputs()
    own = [F.cross_entropy(logits, LABELS) for logits in made.unimodal.values()]
    joint = F.cross_entropy(made.fused, LABELS)
    found = InfoReg(unimodal_weight=0.3).classification(made, LABELS, state())
    torch.testing.assert_close(found, joint + 0.3 * (own[0] + own[1]))
    assert torch.equal(InfoReg(unimodal_weight=0).classification(made, LABELS, state()), joint)


def test_names_of_modalities_are_checked() -> None:
    InfoReg(pull_weights={"audio": 0.1}, window_of="image").check_modalities(["audio", "image"])
    with pytest.raises(UserError, match=r"method\.pull_weights\.adio: there is no such modality"):
        InfoReg(pull_weights={"adio": 0.1}).check_modalities(["audio", "image"])
    with pytest.raises(UserError, match=r"method\.window_of\.imag: there is no such modality"):
        InfoReg(window_of="imag").check_modalities(["audio", "image"])
    with pytest.raises(UserError, match="defined for two modalities"):
        InfoReg().check_modalities(["audio"])
