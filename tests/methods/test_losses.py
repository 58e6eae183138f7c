from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lfm_ray.errors import UserError
from lfm_ray.methods.losses import (
    LossSettings,
    classification_loss,
    infonce,
    js_divergence,
    js_of_probabilities,
    kl_to_mean,
    kl_to_mean_of_probabilities,
    label_probability,
    matching_loss,
    matching_parts,
)
from lfm_ray.models.classifier import Outputs

B, D, C = 5, 4, 3


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def infonce_by_definition(z: np.ndarray, w: np.ndarray, tau: float) -> float:
    """Section 3.2 of the paper, term by term."""

    def s(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    n, total = len(z), 0.0
    for i in range(n):
        match = math.exp(s(z[i], w[i]) / tau)
        total += math.log(match / sum(math.exp(s(z[i], w[k]) / tau) for k in range(n)))
        total += math.log(match / sum(math.exp(s(z[k], w[i]) / tau) for k in range(n)))
    return -total / (2 * n)


def js_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for x, y in zip(a, b, strict=True):
        p, q = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
        m = (p + q) / 2
        total += 0.5 * sum(pi * math.log(pi / mi) for pi, mi in zip(p, m, strict=True))
        total += 0.5 * sum(qi * math.log(qi / mi) for qi, mi in zip(q, m, strict=True))
    return total / len(a)


def kl_to_mean_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for x, y in zip(a, b, strict=True):
        p, q = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
        m = (p + q) / 2
        total += 0.5 * sum(mi * math.log(mi / pi) for pi, mi in zip(p, m, strict=True))
        total += 0.5 * sum(mi * math.log(mi / qi) for qi, mi in zip(q, m, strict=True))
    return total / len(a)


@pytest.mark.parametrize("tau", [0.07, 0.5, 2.0])
def test_infonce_against_its_definition(tau: float) -> None:
    z, w = draw(B, D), draw(B, D, seed=1)
    assert float(infonce(z, w, tau)) == pytest.approx(infonce_by_definition(z.numpy(), w.numpy(), tau), rel=1e-10)


def test_js_against_its_definition() -> None:
    a, b = draw(B, C), draw(B, C, seed=1)
    assert float(js_divergence(a, b)) == pytest.approx(js_by_definition(a.numpy(), b.numpy()), rel=1e-10)


def test_js_is_zero_for_equal_predictions_and_at_most_log_two() -> None:
    a = draw(B, C)
    assert float(js_divergence(a, a + 7.0)) == pytest.approx(0, abs=1e-12)  # softmax ignores a shift
    far = torch.tensor([[60.0, -60.0]], dtype=torch.float64)
    assert float(js_divergence(far, -far)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_kl_to_mean_against_its_definition(scale: float) -> None:
    a, b = scale * draw(B, C), scale * draw(B, C, seed=1)
    assert float(kl_to_mean(a, b)) == pytest.approx(kl_to_mean_by_definition(a.numpy(), b.numpy()), rel=1e-10)


def test_kl_to_mean_is_zero_for_equal_predictions_and_has_no_bound() -> None:
    a = draw(B, C)
    assert float(kl_to_mean(a, a + 7.0)) == pytest.approx(0, abs=1e-12)
    far = torch.tensor([[600.0, -600.0]], requires_grad=True)  # p = (1, 0), q = (0, 1): log p is -1200
    loss = kl_to_mean(far, -far.detach())
    assert loss.item() == pytest.approx(1200 / 2 - math.log(2), rel=1e-6)
    loss.backward()
    assert far.grad is not None
    assert far.grad[0].tolist() == pytest.approx([0.25, -0.25])  # still drawn to the other


def test_kl_to_mean_is_close_to_js_for_small_logits() -> None:
    a, b = 0.01 * draw(B, C), 0.01 * draw(B, C, seed=1)
    assert float(kl_to_mean(a, b)) == pytest.approx(float(js_divergence(a, b)), rel=1e-3)


def test_kl_to_mean_is_convex_in_the_probabilities() -> None:
    both = torch.softmax(2 * draw(2, 3, C), dim=2)
    hessian = torch.autograd.functional.hessian(kl_to_mean_of_probabilities, both).reshape(both.numel(), -1)
    assert torch.linalg.eigvalsh(hessian).min() > -1e-9


def test_cross_entropy_of_even_logits_is_the_log_of_the_number_of_classes() -> None:
    assert float(classification_loss(torch.zeros(B, C), torch.zeros(B, dtype=torch.int64))) == pytest.approx(
        math.log(C)
    )


@pytest.mark.parametrize("loss", [lambda a, b: infonce(a, b, 0.3), js_divergence, kl_to_mean])
def test_matching_is_symmetric_and_ignores_the_order_of_the_batch(loss) -> None:
    a, b = draw(B, C), draw(B, C, seed=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert float(loss(a, b)) == pytest.approx(float(loss(b, a)), rel=1e-12)
    assert float(loss(a[order], b[order])) == pytest.approx(float(loss(a, b)), rel=1e-12)
    assert float(loss(a, b[order])) != pytest.approx(float(loss(a, b)), rel=1e-3)  # pairs matter


@pytest.mark.parametrize("loss", [lambda a, b: infonce(a, b, 0.3), js_divergence, kl_to_mean])
def test_gradients(loss) -> None:
    a, b = draw(B, C).requires_grad_(), draw(B, C, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (a, b))


def test_an_embedding_of_zeros_gives_finite_loss_and_gradient() -> None:
    z = draw(B, D).float()
    z[0] = 0
    z.requires_grad_()
    loss = infonce(z, draw(B, D, seed=1).float(), 0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_half_precision_inputs_are_computed_in_float32() -> None:
    z, w = draw(64, 16).bfloat16(), draw(64, 16, seed=1).bfloat16()
    expected = infonce_by_definition(z.double().numpy(), w.double().numpy(), 0.05)
    assert float(infonce(z, w, 0.05)) == pytest.approx(expected, rel=1e-5)


def test_three_modalities_are_matched_pairwise() -> None:
    z = {name: draw(B, D, seed=i) for i, name in enumerate(("rgb", "depth", "flow"))}
    logits = {name: draw(B, C, seed=10 + i) for i, name in enumerate(z)}
    outputs = Outputs(draw(B, C), logits, z)
    pairs = [("rgb", "depth"), ("rgb", "flow"), ("depth", "flow")]
    expected = np.mean([infonce_by_definition(z[a].numpy(), z[b].numpy(), 0.2) for a, b in pairs])
    assert float(matching_loss(outputs, LossSettings(matching="infonce", tau=0.2))) == pytest.approx(expected)
    expected = np.mean([js_by_definition(logits[a].numpy(), logits[b].numpy()) for a, b in pairs])
    assert float(matching_loss(outputs, LossSettings(matching="js"))) == pytest.approx(expected)
    expected = np.mean([kl_to_mean_by_definition(logits[a].numpy(), logits[b].numpy()) for a, b in pairs])
    assert float(matching_loss(outputs, LossSettings(matching="kl_to_mean"))) == pytest.approx(expected)


def test_a_single_modality_has_nothing_to_match() -> None:
    outputs = Outputs(draw(B, C), {"audio": draw(B, C)}, {"audio": draw(B, D)})
    assert float(matching_loss(outputs, LossSettings())) == 0


@pytest.mark.parametrize("u", [0.0, 0.3, 1.0])
def test_uniform_labels_mix_the_targets(u: float) -> None:
    logits, labels = draw(B, C), torch.tensor([0, 1, 2, 1, 0])
    logs = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True))
    targets = (1 - u) * np.eye(C)[labels.numpy()] + u / C
    expected = -(targets * logs).sum(axis=1).mean()
    assert float(classification_loss(logits, labels, LossSettings(uniform_labels=u))) == pytest.approx(expected)
    assert torch.autograd.gradcheck(
        lambda z: classification_loss(z, labels, LossSettings(uniform_labels=u)), logits.requires_grad_()
    )


@pytest.mark.parametrize("matching", ["infonce", "js", "kl_to_mean"])
def test_the_convex_parts_add_up_to_the_matching_loss_and_its_gradient(matching: str) -> None:
    settings = LossSettings(matching=matching, tau=0.3)
    z = [draw(B, D, seed=i).requires_grad_() for i in range(3)]
    logits = [draw(B, C, seed=10 + i).requires_grad_() for i in range(3)]
    names = ("rgb", "depth", "flow")
    outputs = Outputs(draw(B, C), dict(zip(names, logits, strict=True)), dict(zip(names, z, strict=True)))
    whole = matching_loss(outputs, settings)
    parts = sum(part.weight * part.loss(part.stage) for part in matching_parts(outputs, 1.0, settings))
    assert whole.item() == pytest.approx(parts.item(), rel=1e-12)
    leaves = z if matching == "infonce" else logits
    for one, other in zip(torch.autograd.grad(whole, leaves), torch.autograd.grad(parts, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_projections_are_matched_where_there_are_any_and_a_learned_tau_is_used() -> None:
    z = {name: draw(B, D, seed=i) for i, name in enumerate(("audio", "image"))}
    p = {name: draw(B, 3, seed=5 + i) for i, name in enumerate(z)}
    logits = {name: draw(B, C, seed=10 + i) for i, name in enumerate(z)}
    outputs = Outputs(draw(B, C), logits, z, p, torch.tensor(0.7, dtype=torch.float64))
    expected = infonce_by_definition(p["audio"].numpy(), p["image"].numpy(), 0.7)
    assert float(matching_loss(outputs, LossSettings(tau=0.2))) == pytest.approx(expected)


@pytest.mark.parametrize("matching", ["infonce", "js", "kl_to_mean"])
def test_the_convex_parts_of_three_modalities_are_those_of_the_projections_and_of_alpha(matching: str) -> None:
    settings, alpha = LossSettings(matching=matching, tau=0.2), 0.4
    names = ("rgb", "depth", "flow")
    logits = {name: draw(B, C, seed=10 + i) for i, name in enumerate(names)}
    z, p = ({name: draw(B, D, seed=seed + i) for i, name in enumerate(names)} for seed in (0, 5))
    outputs = Outputs(draw(B, C), logits, z, p, torch.tensor(0.7, dtype=torch.float64))
    parts = matching_parts(outputs, alpha, settings)
    assert len(parts) == 3
    total = matching_loss(outputs, settings).item()
    assert sum(part.weight * part.loss(part.stage) for part in parts).item() == pytest.approx(alpha * total, rel=1e-12)
    assert sum(part.by_alpha * part.loss(part.stage) for part in parts).item() == pytest.approx(total, rel=1e-12)


def test_infonce_of_two_samples_worked_out_by_hand() -> None:
    """Similarities over tau: (0, ln 3), (ln 2, 0). By rows 1/4 and 1/3, by columns 1/3 and 1/4."""
    tau = 0.5
    cosines = torch.tensor([[0.0, math.log(3)], [math.log(2), 0.0]], dtype=torch.float64) * tau
    z = torch.eye(2, 3, dtype=torch.float64)
    w = torch.stack([torch.cat([column, (1 - column.square().sum()).sqrt()[None]]) for column in cosines.T])
    assert infonce(5 * z, 3 * w, tau).item() == pytest.approx((math.log(4) + math.log(3)) / 2)


def test_js_of_two_samples_worked_out_by_hand() -> None:
    """(1, 0) and (1/2, 1/2), whose mean is (3/4, 1/4); the second sample's are equal."""
    both = torch.tensor([[[1.0, 0.0], [0.3, 0.7]], [[0.5, 0.5], [0.3, 0.7]]], dtype=torch.float64)
    one = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert js_of_probabilities(both).item() == pytest.approx(one / 2)
    assert js_divergence(*both.clamp_min(1e-30).log()).item() == pytest.approx(one / 2)


def test_the_probability_of_the_label_of_each_modality() -> None:
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, math.log(4)]]])
    assert label_probability(logits[0], torch.tensor([0, 1])).tolist() == pytest.approx([3 / 4, 1 / 2])
    found = label_probability(logits, torch.tensor([1, 0]))
    assert found.shape == (2, 2)
    assert found.flatten().tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 2, 1 / 5])


def test_losses_of_half_precision_are_float32_and_those_of_float64_stay() -> None:
    labels = torch.tensor([0, 1, 2, 1, 0])
    for dtype, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64,) * 2):
        a, b = draw(B, C).to(dtype), draw(B, C, seed=1).to(dtype)
        found = [classification_loss(a, labels), label_probability(a, labels), js_divergence(a, b), infonce(a, b, 0.3)]
        assert [loss.dtype for loss in found] == [expected] * 4


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    settings = LossSettings(class_weights="balanced").balanced([6, 3, 1])
    assert settings.class_weights == pytest.approx(expected.tolist())
    assert LossSettings(class_weights="balanced").balanced([2, 0]).class_weights == [1.0, 1.0]
    assert LossSettings(class_weights=[1.0, 2.0]).balanced([6, 3]).class_weights == [1.0, 2.0]


def test_weighted_losses_are_those_of_pytorch_and_of_their_definitions() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(B, C, dtype=torch.float64), torch.arange(B) % C
    weights = torch.rand(C, dtype=torch.float64) + 0.1
    weighted = classification_loss(logits, labels, LossSettings(class_weights=weights.tolist()))
    torch.testing.assert_close(weighted, torch.nn.functional.cross_entropy(logits, labels, weight=weights))
    p = logits.softmax(dim=1)[torch.arange(B), labels]
    focal = classification_loss(logits, labels, LossSettings(focal=2.0))
    torch.testing.assert_close(focal, ((1 - p) ** 2 * -p.log()).mean())
    u = torch.linspace(0, 0.5, C, dtype=torch.float64)
    targets = (1 - u[labels, None]) * torch.eye(C, dtype=torch.float64)[labels] + u[labels, None] / C
    smooth = classification_loss(logits, labels, LossSettings(label_smoothing=u.tolist()))
    torch.testing.assert_close(smooth, torch.nn.functional.cross_entropy(logits, targets))
    same = classification_loss(logits, labels, LossSettings(uniform_labels=0.2, class_weights=[1.0] * C))
    torch.testing.assert_close(same, classification_loss(logits, labels, LossSettings(uniform_labels=0.2)))
    sure = torch.eye(C)[labels].mul(200).requires_grad_()
    classification_loss(sure, labels, LossSettings(focal=0.5)).backward()
    assert sure.grad is not None and sure.grad.isfinite().all()


def test_numbers_of_classes_are_compared_with_the_dataset() -> None:
    for name in ("class_weights", "label_smoothing"):
        settings = LossSettings.model_validate({name: [0.5, 0.5]})
        settings.check_target("classes", 2)
        with pytest.raises(UserError, match=rf"loss\.{name}: has 2 numbers, and the dataset has 3 classes"):
            settings.check_target("classes", 3)
    with pytest.raises(ValueError, match="give one"):
        LossSettings(uniform_labels=0.1, label_smoothing=[0.1, 0.2])
