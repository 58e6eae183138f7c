from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lfm_ray.errors import UserError
from lfm_ray.models.classifier import ModelSettings
from lfm_ray.models.fusion import FUSION_HEADS, Channel, Head, check_head

B, D, C = 4, 6, 3
NAMES = {1: ["audio"], 2: ["audio", "image"], 3: ["audio", "image", "text"]}
CASES = [(name, m) for name, head in FUSION_HEADS.items() for m in ((2,) if head.exactly_two else (1, 2, 3))]
Weights = dict[str, Tensor]
Both = tuple[Tensor, list[Tensor]]


def head_and_embeddings(name: str, m: int) -> tuple[Head, dict[str, Tensor]]:
    torch.manual_seed(0)
    head = FUSION_HEADS[name](NAMES[m], D, C).double()
    return head, {key: torch.randn(B, D, dtype=torch.float64, requires_grad=True) for key in NAMES[m]}


def linear(w: Weights, name: str, z: Tensor) -> Tensor:
    return torch.einsum("oi,bi->bo", w[f"{name}.weight"], z) + w[f"{name}.bias"]


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


# Each fusion once more, sample by sample or matrix by matrix, from the formula of its docstring.


def by_sum(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    alone = [linear(w, f"classifiers.{name}", value) for name, value in zip(names, z, strict=True)]
    return sum(alone, torch.zeros(B, C)), alone


def by_weight(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    _, alone = by_sum(w, z, names)
    scores = [torch.exp(torch.tanh(linear(w, "attention.0", value)) @ w["attention.2.weight"][0]) for value in z]
    total = sum(scores, torch.zeros(B))
    return sum(((s / total)[:, None] * one for s, one in zip(scores, alone, strict=True)), torch.zeros(B, C)), alone


def by_concat(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    weight, bias = w["classifier.weight"], w["classifier.bias"]
    alone = [value @ weight[:, j * D : (j + 1) * D].T + bias / len(z) for j, value in enumerate(z)]
    return sum(alone, torch.zeros(B, C)), alone


def by_multitask(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    return by_concat(w, z, names)[0], by_sum(w, z, names)[1]


def by_shared(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    alone = [linear(w, "classifier", value) for value in z]
    return linear(w, "classifier", sum(z, torch.zeros(B, D)) / len(z)), alone


def by_affine(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    def fused(first: Tensor, second: Tensor) -> Tensor:
        both = linear(w, "film", first)
        return linear(w, "classifier", both[:, :D] * second + both[:, D:])

    return fused(z[0], z[1]), [fused(z[0], 0 * z[1]), fused(0 * z[0], z[1])]


def by_gated(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    def fused(first: Tensor, second: Tensor) -> Tensor:
        return linear(w, "classifier", sigmoid(linear(w, "gate", first)) * linear(w, "value", second))

    return fused(z[0], z[1]), [fused(z[0], 0 * z[1]), fused(0 * z[0], z[1])]


def by_channel(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    joint = linear(w, "squeeze", torch.cat(z, dim=1))
    joint = torch.where(joint > 0, joint, 0.0)
    assert joint.shape == (B, max(1, D * len(z) // 2))
    alone = [
        linear(w, f"classifiers.{name}", sigmoid(linear(w, f"excite.{name}", joint)) * value)
        for name, value in zip(names, z, strict=True)
    ]
    return sum(alone, torch.zeros(B, C)) / len(z), alone


def by_ml_lstm(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    lstm = torch.nn.LSTM(D, D, num_layers=2).double()
    for layer in range(2):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(lstm, f"{kind}_l{layer}").data.copy_(w[f"cells.{layer}.{kind}"])

    def read(steps: list[Tensor]) -> Tensor:
        return linear(w, "classifier", lstm(torch.stack(steps))[0][-1])

    return read(z), [read([value]) for value in z]


def by_boosted(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    alone = []
    for value in z:
        hidden = linear(w, "classifier.0", value)
        alone.append(linear(w, "classifier.2", torch.where(hidden > 0, hidden, 0.0)))
    return w["rate"] * sum(alone, torch.zeros(B, C)), alone


def test_the_transfer_module_of_its_paper_has_a_gate_of_two_and_a_squeeze_of_a_quarter() -> None:
    code, paper = Channel(["a", "v"], 8, 3), Channel(["a", "v"], 8, 3, gate=2, squeeze=0.25)
    assert (code.squeeze.out_features, paper.squeeze.out_features) == (8, 4)
    half = Channel(["a", "v"], 8, 3, gate=2)
    half.load_state_dict(code.state_dict())
    z = {name: torch.randn(4, 8) for name in "av"}
    for name, scale in half.scales(z).items():
        torch.testing.assert_close(scale, 2 * code.scales(z)[name])
    settings = ModelSettings(fusion="channel", fusion_settings={"gate": 2})
    assert settings.fusion_settings == {"gate": 2, "squeeze": 0.5}


def by_cosine(w: Weights, z: list[Tensor], names: list[str]) -> Both:
    alone = []
    for name, value in zip(names, z, strict=True):
        rows = w[f"classifiers.{name}.weight"]
        lengths = value.square().sum(dim=1).sqrt()[:, None] * rows.square().sum(dim=1).sqrt()
        alone.append(10 * torch.einsum("oi,bi->bo", rows, value) / lengths)
    return sum(alone, torch.zeros(B, C)), alone


INDEPENDENT: dict[str, Callable[[Weights, list[Tensor], list[str]], Both]] = {
    "sum": by_sum,
    "weight": by_weight,
    "concat": by_concat,
    "multitask": by_multitask,
    "cosine": by_cosine,
    "shared": by_shared,
    "boosted": by_boosted,
    "affine": by_affine,
    "gated": by_gated,
    "channel": by_channel,
    "ml_lstm": by_ml_lstm,
}


@pytest.mark.parametrize(("name", "m"), CASES)
def test_logits_are_those_of_the_formula(name: str, m: int) -> None:
    head, embeddings = head_and_embeddings(name, m)
    fused, unimodal = head(embeddings)
    expected, alone = INDEPENDENT[name](dict(head.state_dict()), list(embeddings.values()), NAMES[m])
    assert list(unimodal) == NAMES[m]
    assert fused.shape == (B, C)
    torch.testing.assert_close(fused, expected)
    for found, one in zip(unimodal.values(), alone, strict=True):
        torch.testing.assert_close(found, one)


@pytest.mark.parametrize(("name", "m"), [(name, m) for name, m in CASES if m > 1])
def test_a_gradient_flows_from_the_fused_logits_to_every_modality_and_every_weight_of_the_fusion(
    name: str, m: int
) -> None:
    head, embeddings = head_and_embeddings(name, m)
    fused, _ = head(embeddings)
    weights = {key: value for key, value in head.named_parameters() if name != "multitask" or "classifiers" not in key}
    gradients = torch.autograd.grad(fused.square().sum(), [*embeddings.values(), *weights.values()])
    for key, gradient in zip([*embeddings, *weights], gradients, strict=True):
        assert gradient.abs().max() > 0, key


@pytest.mark.parametrize(("name", "m"), CASES)
def test_a_head_is_differentiable_twice_and_forward(name: str, m: int) -> None:
    head, embeddings = head_and_embeddings(name, m)

    def everything(*values: Tensor) -> Tensor:
        fused, unimodal = head(dict(zip(NAMES[m], values, strict=True)))
        return torch.cat([fused, *unimodal.values()])

    values = tuple(value.detach()[:2].requires_grad_() for value in embeddings.values())
    assert torch.autograd.gradcheck(everything, values, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(everything, values, fast_mode=True)


@pytest.mark.parametrize("name", ["affine", "gated"])
@pytest.mark.parametrize("m", [1, 3])
def test_heads_for_two_modalities_refuse_others(name: str, m: int) -> None:
    with pytest.raises(UserError, match=rf"model\.fusion: {name} is defined for two modalities, and there are {m} "):
        check_head(name, NAMES[m])
    check_head(name, NAMES[2])
    check_head("channel", NAMES[m])
