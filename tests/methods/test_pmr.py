from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.methods.pmr import PMR, distances

# Two samples of classes 0 and 1 in the plane; the prototypes of both modalities are (0, 0) and (3, 4).
PROTOTYPES = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64).expand(2, 2, 2)
AUDIO = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)  # at their prototypes
IMAGE = torch.tensor([[1.5, 2.0], [1.5, 2.0]], dtype=torch.float64)  # half-way


def test_terms_worked_out_by_hand() -> None:
    """Audio: p of the label 1 / (1 + e^-5), image: 1 / 2. So rho > 1, beta = 0, gamma = clip(rho - 1)."""
    made = replace(outputs(), fused=torch.zeros(2, 2, dtype=torch.float64))
    made = replace(made, embeddings={"audio": AUDIO.clone().requires_grad_(), "image": IMAGE.clone().requires_grad_()})
    labels = torch.tensor([0, 1])
    method = PMR(strength="clipped", prototype_weight=0.3, entropy_weight=0.2, entropy_epochs=1)
    loss = method.classification(made, labels, state(memory={"prototypes": PROTOTYPES}))
    p = 1 / (1 + math.exp(-5))
    gamma = 2 * p - 1
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert loss.item() == pytest.approx(math.log(2) + 0.3 * gamma * math.log(2) - 0.2 * gamma * entropy, rel=1e-6)
    later = replace(state(memory={"prototypes": PROTOTYPES}), epoch=2)
    assert method.classification(made, labels, later).item() == pytest.approx(math.log(2) * (1 + 0.3 * gamma), rel=1e-6)
    whole = PMR(prototype_weight=0.3).classification(made, labels, later)  # the authors' code: 0 or 1
    assert whole.item() == pytest.approx(1.3 * math.log(2), rel=1e-6)


def test_modalities_that_are_level_are_not_pulled() -> None:
    level = [torch.zeros(2, 2), torch.zeros(2, 2)]
    for strength in ("binary", "clipped"):
        assert PMR(strength=strength).slow(level, torch.tensor([0, 1])).tolist() == [0, 0]


def test_after_the_last_epoch_there_is_no_pull() -> None:
    made = replace(outputs(), fused=torch.zeros(2, 2, dtype=torch.float64), embeddings={"audio": AUDIO, "image": IMAGE})
    for epoch, pulled in ((3, True), (4, False)):
        at = replace(state(memory={"prototypes": PROTOTYPES}), epoch=epoch)
        loss = PMR(last_epoch=3).classification(made, torch.tensor([0, 1]), at)
        assert (loss.item() > 1.5 * math.log(2)) == pulled


def test_only_the_slower_modality_is_drawn_to_its_prototypes() -> None:
    z = {"audio": (AUDIO + 0.1).requires_grad_(), "image": (IMAGE - 0.5).requires_grad_()}
    made = replace(outputs(), fused=torch.zeros(2, 2, dtype=torch.float64), embeddings=z)
    PMR().classification(made, torch.tensor([0, 1]), state(memory={"prototypes": PROTOTYPES})).backward()
    assert z["image"].grad is not None
    assert z["image"].grad.abs().sum() > 0
    assert z["audio"].grad is None or z["audio"].grad.abs().sum() == 0


def test_prototypes_are_class_means_and_follow_with_momentum() -> None:
    """Class 2 of four has no sample in the second epoch, and keeps its prototype; class 3 never has one."""
    method, at, made = PMR(momentum=0.25), state(), outputs()
    z = torch.stack([made.embeddings["audio"], made.embeddings["image"]]).detach()
    made = replace(made, fused=torch.zeros(4, 4), embeddings={"audio": z[0], "image": z[1]})
    assert method.classification(made, LABELS, at).item() == pytest.approx(math.log(4))  # no prototypes yet
    for rows in ([0, 1], [2, 3]):  # two batches
        some = replace(made, embeddings={"audio": z[0, rows], "image": z[1, rows]})
        method.after_backward(some, LABELS[rows], at)
    method.on_epoch_end(at, {})
    first = torch.stack([z[:, 0], (z[:, 1] + z[:, 3]) / 2, z[:, 2], torch.zeros_like(z[:, 0])], dim=1)
    torch.testing.assert_close(at.memory["prototypes"], first)
    rows = [0, 1]
    method.after_backward(replace(made, embeddings={"audio": z[0, rows], "image": z[1, rows]}), LABELS[rows], at)
    method.on_epoch_end(at, {})
    expected = first.clone()
    expected[:, 1] = 0.75 * z[:, 1] + 0.25 * first[:, 1]
    torch.testing.assert_close(at.memory["prototypes"], expected)
    assert set(at.memory) == {"prototypes"}


def test_distances_are_euclidean_with_a_gradient_everywhere() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    found = distances(z, torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[5.0, 4.0], [0.0, 3.0]]), atol=1e-5, rtol=0)
    found.sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert F.normalize(z.grad[:1]).tolist()[0] == pytest.approx(
        [0.6 / math.hypot(0.6, 1.8), 1.8 / math.hypot(0.6, 1.8)]
    )


def test_the_slower_modality_is_drawn_by_how_far_it_is_behind_up_to_once() -> None:
    """The probabilities of the label are 1/2 and 3/4, half as much again, and then 1/10 and 9/10."""
    for slow, fast, behind in ((1 / 2, 3 / 4, 1 / 2), (1 / 10, 9 / 10, 1)):
        logits = [torch.tensor([[p, 1 - p]], dtype=torch.float64).log() for p in (slow, fast)]
        labels = torch.tensor([0])
        assert PMR(strength="clipped").slow(logits, labels).tolist() == pytest.approx([behind, 0])
        assert PMR(strength="clipped").slow(logits[::-1], labels).tolist() == pytest.approx([0, behind])
