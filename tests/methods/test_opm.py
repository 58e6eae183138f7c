from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.methods import State
from lfm_ray.methods.opm import OPM
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Concat

LABEL = torch.tensor([0, 0])
ALWAYS = OPM(probability=1, first_epoch=1)


def unimodal(audio: float, image: float) -> dict[str, torch.Tensor]:
    """Logits of two samples with these probabilities of class 0."""
    return {name: torch.tensor([[p, 1 - p], [p, 1 - p]]).log() for name, p in (("audio", audio), ("image", image))}


def test_rates_worked_out_by_hand() -> None:
    method = OPM(rate=0.4, lead_weight=0.5)
    expected = 0.4 * (1 + 0.5 * math.tanh(0.5))  # 0.6 / 0.4 - 1
    torch.testing.assert_close(method.rates(unimodal(0.6, 0.4), LABEL), torch.tensor([expected, 0.0]))
    torch.testing.assert_close(method.rates(unimodal(0.4, 0.6), LABEL), torch.tensor([0.0, expected]))
    assert method.rates(unimodal(0.5, 0.5), LABEL).tolist() == [0, 0]
    assert OPM(rate=0.9, lead_weight=9).rates(unimodal(0.9, 0.1), LABEL).tolist() == [1, 0]


def test_what_stays_is_scaled_by_the_mean_rate() -> None:
    z = {"audio": torch.ones(2, 3), "image": torch.ones(2, 3)}
    kept, rates = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([0.5, 0.0])
    left = ALWAYS.dropped(z, kept, rates)
    torch.testing.assert_close(left["audio"], torch.tensor([[0.0] * 3, [4 / 3] * 3]))
    torch.testing.assert_close(left["image"], torch.full((2, 3), 4 / 3))


def in_model(samples: int = 4, **at: int) -> tuple[Outputs, torch.Tensor, State]:
    """Outputs of the head `concat`, in which the audio is ahead, their labels, and the state with that head."""
    torch.manual_seed(0)
    head = Concat(["audio", "image"], 5, 3).double()
    labels = torch.arange(samples) % 3
    rows = head.classifier.weight.detach()[:, :5]
    z = {"audio": 9 * rows[labels], "image": torch.randn(samples, 5, dtype=torch.float64)}
    z = {name: value.requires_grad_() for name, value in z.items()}
    return Outputs(*head(z), z), labels, replace(state(model=SimpleNamespace(head=head)), **at)


def share_dropped(method: OPM, steps: int) -> float:
    made, labels, now = in_model(3000, steps=steps)
    loss = method.classification(made, labels, now)
    (slope,) = torch.autograd.grad(loss, [made.embeddings["audio"]])
    return float((slope.abs().sum(dim=1) == 0).double().mean())


def test_the_modality_ahead_is_dropped_at_its_rate() -> None:
    made, labels, _ = in_model(3000)
    audio, image = ALWAYS.rates(made.unimodal, labels).tolist()
    assert audio > 0.5
    assert image == 0
    assert share_dropped(ALWAYS, 0) == pytest.approx(audio, abs=0.04)


def test_batches_are_modulated_with_their_probability() -> None:
    method = OPM(probability=0.3, first_epoch=1)
    modulated = [share_dropped(method, steps) > 0 for steps in range(60)]
    assert sum(modulated) / 60 == pytest.approx(0.3, abs=0.15)


def test_a_step_draws_the_same_again_and_the_next_one_others() -> None:
    made, labels, now = in_model()
    first, again = (ALWAYS.classification(made, labels, replace(now, steps=3)).item() for _ in range(2))
    assert first == again
    assert len({ALWAYS.classification(made, labels, replace(now, steps=k)).item() for k in range(8)}) > 1


@pytest.mark.parametrize("method", [OPM(probability=1), OPM(probability=0, first_epoch=1), OPM(rate=0, first_epoch=1)])
def test_before_the_first_epoch_or_without_a_rate_training_is_joint(method: OPM) -> None:
    made = outputs()
    assert torch.equal(method.classification(made, LABELS, state()), F.cross_entropy(made.fused, LABELS))


def test_dropping_starts_in_the_epoch_given() -> None:
    assert [OPM().active(replace(state(), epoch=epoch)) for epoch in (6, 7)] == [False, True]


def test_alpha_is_judged_without_dropping() -> None:
    made, labels, now = in_model()
    losses = ALWAYS.loss(made, labels, now)
    torch.testing.assert_close(losses.judged, F.cross_entropy(made.fused, labels))
    assert losses.judged.item() != losses.classification.item()


def test_the_gradient_of_the_rates_adds_no_value() -> None:
    made, labels, now = in_model()
    pull = ALWAYS.pull_of_rates(made, labels, now)
    assert pull.item() == 0
    (slope,) = torch.autograd.grad(pull, [made.embeddings["audio"]])
    assert slope.abs().max() > 0
    with_it = OPM(probability=1, first_epoch=1, rate_gradient=True).classification(made, labels, now)
    assert with_it.item() == ALWAYS.classification(made, labels, now).item()
