"""What every method has from `Method`, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state
from torch import nn

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.methods import LFM, METHODS, Losses, Method, State, scale_encoders
from lfm_ray.methods.losses import LossSettings, infonce
from lfm_ray.settings import build, load

CG = ["alpha.strategy=learned", "alpha.solver=cg"]


class Apart(Method):
    name: Literal["apart"] = "apart"
    apart: ClassVar[bool] = True


class Halved(Method):
    """Halves the gradient of the audio encoder."""

    name: Literal["halved"] = "halved"

    def gradient_factors(self, *_: object) -> dict[str, torch.Tensor]:
        return {"audio": torch.tensor(0.5)}


def test_the_mean_of_the_losses_of_two_phases_and_of_one() -> None:
    first, second = (Losses(*torch.tensor(values)) for values in ([1.0, 2.0, 3.0], [3.0, 8.0, -1.0]))
    mean = Losses.mean([first, second])
    assert (mean.total, mean.classification, mean.matching) == (2, 5, 1)
    assert Losses.mean([first]) is first


def test_alpha_is_judged_by_the_outer_loss_where_there_is_one() -> None:
    one = Losses(*torch.tensor([1.0, 2.0, 3.0]))
    assert one.judged == 2
    assert replace(one, outer=torch.tensor(5.0)).judged == 5


def test_random_numbers_are_those_of_seed_and_step_alone() -> None:
    def drawn(**at: int) -> float:
        return torch.rand(1, generator=replace(state(), **at).generator(torch.device("cpu"))).item()

    values = [drawn(seed=seed, steps=steps) for seed in range(4) for steps in range(4)]
    assert len(set(values)) == 16
    assert drawn(seed=2, steps=3) == drawn(seed=2, steps=3, epoch=7, epochs=9)


def test_the_state_is_that_of_the_first_step_if_nothing_else_is_said() -> None:
    at = State(nn.Module(), LossSettings())  # type: ignore[arg-type]
    assert (at.alpha, at.epoch, at.epochs, at.steps, at.seed, at.phase, at.memory) == (0, 1, 1, 0, 0, "", {})


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_the_total_and_its_derivative_by_alpha(alpha: float) -> None:
    made = outputs()
    L_CLS = F.cross_entropy(made.fused, LABELS, label_smoothing=0.3).item()
    L_MM = infonce(made.embeddings["audio"], made.embeddings["image"], 0.5).item()
    at = state(alpha, tau=0.5, uniform_labels=0.3)
    losses = LFM().loss(made, LABELS, at)
    assert losses.classification.item() == pytest.approx(L_CLS, rel=1e-12)
    assert losses.matching.item() == pytest.approx(L_MM, rel=1e-12)
    assert losses.total.item() == pytest.approx(L_CLS + alpha * (L_MM - L_CLS), rel=1e-12)
    assert losses.parts is not None
    assert sum(part.by_alpha * part.loss(part.stage) for part in losses.parts()).item() == pytest.approx(L_MM - L_CLS)


def test_a_method_that_does_not_combine_has_no_matching_loss() -> None:
    made = outputs()
    losses = METHODS["unimodal"]().loss(made, LABELS, state(0.0, uniform_labels=0.2))
    each = [F.cross_entropy(z, LABELS, label_smoothing=0.2).item() for z in made.unimodal.values()]
    assert losses.total.item() == losses.classification.item() == pytest.approx(sum(each))
    assert losses.matching.item() == 0
    assert losses.parts is None


def test_without_alpha_no_zeros_go_back_from_the_matching_loss_where_gradients_are_taken_apart() -> None:
    made = outputs()
    leaf = made.embeddings["audio"]
    for alpha, reached in ((0.0, False), (0.5, True)):
        total = Apart().loss(made, LABELS, state(alpha)).total
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True, retain_graph=True)
        assert (found is not None) == reached
        assert total.item() == pytest.approx(LFM().loss(made, LABELS, state(alpha)).total.item(), rel=1e-12)


def test_what_a_method_does_not_say_changes_nothing() -> None:
    made, method = outputs(), Method(name="lfm")  # type: ignore[call-arg]
    terms = [{"a": torch.ones(1)}, {"a": torch.zeros(1)}]
    assert method.gradient(terms, state()) is terms[0]
    assert method.phases(state()) == ("",)
    assert method.gradient_factors(made, LABELS, state()) == method.learning_rate_factors(state()) == {}
    assert method.on_epoch_end(state(), {}) == {}
    assert method.predict(made) is made.fused


def test_encoders_alone_are_scaled_each_by_its_own_factor() -> None:
    names = ["encoders.audio.0.weight", "encoders.image.weight", "encoders.text.bias", "head.audio.weight"]
    names += ["projections.audio.weight", "log_tau", "encoders"]
    gradients = {name: torch.tensor([2.0]) for name in names}
    scale_encoders(gradients, {"audio": torch.tensor(0.5), "image": torch.tensor(3.0)})
    assert [gradients[name].item() for name in names] == [1, 6, 2, 2, 2, 2, 2]


def test_after_a_backward_pass_the_factors_are_applied_to_what_has_a_gradient() -> None:
    model = nn.Module()
    model.encoders = nn.ModuleDict({"audio": nn.Linear(1, 1), "image": nn.Linear(1, 1)})
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 4.0)
    model.encoders["audio"].bias.grad = None
    Halved().after_backward(outputs(), LABELS, state(model=model))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.pop("encoders.audio.bias") is None
    assert {name: float(value) for name, value in gradients.items() if value is not None} == {
        "encoders.audio.weight": 2, "encoders.image.weight": 4, "encoders.image.bias": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=mla", "data.micro_batch_size=4"],
        ["method=mla", "alpha.strategy=learned"],
        ["method=unimodal", "alpha.strategy=learned"],
        ["method=g_blend", *CG],
        ["method=agm", *CG],
        ["method=qmf", "alpha.strategy=learned"],
    ],
)
def test_settings_that_a_method_cannot_work_with_are_refused(overrides: list[str]) -> None:
    with pytest.raises(UserError):
        load(RunConfig, None, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lfm", *CG],
        ["method=lfm", "data.micro_batch_size=4"],
        ["method=mla", "alpha.value=0.3"],
        ["method=mla", "model.fusion=shared"],
        ["method=unimodal"],
        ["method=umt", "model.fusion=sum"],
        ["method=g_blend", *CG, "alpha.product=hessian"],
        ["method=g_blend", "alpha.strategy=learned"],
        ["method=agm", "alpha.strategy=learned"],
        ["method=qmf", "alpha.value=0.3"],
    ],
)
def test_settings_that_a_method_can_work_with_are_not(overrides: list[str]) -> None:
    load(RunConfig, None, overrides)


def test_a_name_that_is_no_modality_is_refused() -> None:
    method = LFM()
    method.check_names("factors", ["audio", "image"], ["image", "audio", "text"])
    method.check_names("factors", [], [])
    with pytest.raises(UserError, match=r"method\.factors\.adio: there is no such modality.*audio"):
        method.check_names("factors", ["image", "adio"], ["image", "audio"])
    with pytest.raises(UserError, match=r"method\.factors\.adio"):
        METHODS["mslr"](factors={"adio": 2.0}).check_modalities(["audio", "image"])
    METHODS["mslr"](factors={"audio": 2.0}).check_modalities(["audio", "image"])
    with pytest.raises(UserError, match=r"method\.weights\.adio"):
        METHODS["g_blend"](weights={"adio": 2.0}).check_modalities(["audio", "image"])
    METHODS["g_blend"](weights={"audio": 2.0, "fused": 1.0}).check_modalities(["audio", "image"])
    METHODS["g_blend"]().check_modalities(["audio", "image"])


@pytest.mark.parametrize("modalities", [["audio"], ["audio", "image", "text"]])
def test_a_method_of_two_modalities_refuses_another_number(modalities: list[str]) -> None:
    with pytest.raises(UserError, match=r"defined for two modalities"):
        METHODS["ogm_ge"]().check_modalities(modalities)
    METHODS["ogm_ge"]().check_modalities(["audio", "image"])
    LFM().check_modalities(modalities)


def test_the_head_that_a_method_needs_is_the_first_that_it_names() -> None:
    assert (METHODS["umt"].heads[0], METHODS["mla"].heads[0]) == ("concat", "shared")
    for umt in ("umt", {"name": "umt"}, METHODS["umt"]()):
        assert RunConfig.model_validate({"method": umt}).model.fusion == "concat"
        assert RunConfig.model_validate({"method": umt, "model": {"fusion": "sum"}}).model.fusion == "sum"
    assert load(RunConfig, None, ["method=mla", "method.damping=1"]).model.fusion == "shared"
    default = RunConfig().model.fusion
    for lfm in ("lfm", {"name": "lfm"}, LFM(), {}):
        assert RunConfig.model_validate({"method": lfm}).model.fusion == default


@pytest.mark.parametrize("value", ["no such method", {"name": 3}, None, 3, ["umt"]])
def test_what_is_no_method_is_refused_in_the_section_method(value: object) -> None:
    with pytest.raises(UserError, match=r"^method"):
        build(RunConfig, {"method": value})


def test_the_scores_of_uniform_logits_are_even() -> None:
    """Cross-entropy is the log of the number of classes, whatever the smoothing."""
    made = replace(outputs(), fused=torch.zeros(4, 3))
    for u in (0.0, 0.5):
        found = LFM().classification(made, LABELS, state(uniform_labels=u))
        assert found.item() == pytest.approx(math.log(3))
