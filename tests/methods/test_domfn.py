from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from method_cases import outputs, state

from lfm_ray.methods.domfn import DOMFN
from lfm_ray.models.classifier import Outputs

# Two samples of two classes. Probabilities of class 0: fused 0.5 and 0.5; audio 0.6 and 0.9; image 0.5 and 0.7.
AUDIO, IMAGE, FUSED = (torch.tensor(p, dtype=torch.float64) for p in ([0.6, 0.9], [0.5, 0.7], [0.5, 0.5]))
LABELS = torch.tensor([0, 1])


def logits(p: torch.Tensor) -> torch.Tensor:
    return torch.stack([p, 1 - p], dim=1).log()


def made() -> Outputs:
    return Outputs(logits(FUSED).requires_grad_(), {"audio": logits(AUDIO), "image": logits(IMAGE)}, {})


def test_the_loss_worked_out_by_hand() -> None:
    """d = (0.01, 0) for the first sample, which is fused, and (0.16, 0.04) for the second, which is not."""
    method = DOMFN(eta=0.3, gamma=0.1, squeeze=False)
    torch.testing.assert_close(
        method.divergences(made()), torch.tensor([[0.01, 0.16], [0.0, 0.04]], dtype=torch.float64)
    )
    c = -torch.tensor([[0.6, 0.5], [0.1, 0.3]], dtype=torch.float64).log()  # of the samples' labels
    fused = -torch.tensor(0.5, dtype=torch.float64).log()
    first = (c[0] ** 2).sum() / 2 - 0.3 * 0.01 + fused + c[0].sum()
    second = (c[1] ** 2).sum() / 2 - 0.3 * (0.16 + 0.04)
    found = method.classification(made(), LABELS, state())
    assert found.item() == pytest.approx(((first + second) / 2).item(), rel=1e-9)


def test_the_loss_of_sigmoids_worked_out_by_hand() -> None:
    """One sample of label 0. Sigmoids: fused (1/2, 1/2), audio (3/4, 1/2), image (1/2, 1/2), so d = (1/16, 0)."""
    third = torch.log(torch.tensor(3.0, dtype=torch.float64))
    zero = torch.zeros(1, 2, dtype=torch.float64)
    audio, fused = torch.stack([third, 0 * third])[None], zero.clone().requires_grad_()
    one = Outputs(fused, {"audio": audio, "image": zero}, {})
    c = torch.log1p(torch.exp(torch.tensor([0.5 - 0.75, 0.0, 0.0], dtype=torch.float64)))  # audio, image, fused
    expected = (c[:2] ** 2).sum() / 2 - 0.5 / 16 + c.sum()
    loss = DOMFN().classification(one, LABELS[:1], state())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()  # by d: - 0.5 * 2 * (1/2 - 3/4) * 1/4, and by c: -1/2 * 1/4, 1/2 * 1/4
    assert fused.grad is not None
    assert fused.grad[0].tolist() == pytest.approx([0.0625 - 0.125, 0.125])


def test_a_sample_on_which_modalities_diverge_is_judged_by_the_surer_one() -> None:
    method, one = DOMFN(gamma=0.1, squeeze=False), made()
    found = method.predict(one)
    assert torch.equal(found[0], one.fused[0])
    assert torch.equal(found[1], one.unimodal["audio"][1])
    assert torch.equal(DOMFN(gamma=1, squeeze=False).predict(one), one.fused)
    assert torch.equal(DOMFN(gamma=1).predict(one), one.fused.sigmoid())


def test_the_fusion_learns_from_samples_that_are_fused_alone() -> None:
    one = made()
    DOMFN(gamma=0.1, squeeze=False).classification(one, LABELS, state()).backward()
    assert one.fused.grad is not None
    assert one.fused.grad[0].abs().sum() > 0
    assert one.fused.grad[1].abs().sum() == 0


def test_the_loss_of_four_samples_by_its_definition() -> None:
    made, labels, method = outputs(), torch.tensor([0, 1, 2, 1]), DOMFN(eta=0.3, gamma=0.1, squeeze=False)
    total, fused = 0.0, made.fused.softmax(dim=1)
    for i in range(4):
        rows = [made.fused[i], *(z[i] for z in made.unimodal.values())]
        c = [F.cross_entropy(row, labels[i], label_smoothing=0.2).item() for row in rows]
        d = [(row.softmax(dim=0) - fused[i]).square().max().item() for row in rows[1:]]
        total += sum(one**2 / 2 for one in c[1:]) - 0.3 * sum(d) + (sum(c) if max(d) < 0.1 else 0)
    assert method.classification(made, labels, state(uniform_labels=0.2)).item() == pytest.approx(total / 4)


def test_a_sample_that_diverges_by_gamma_is_not_fused_but_for_a_gamma_of_one() -> None:
    divergences = torch.tensor([[0.0, 0.25, 0.5, 1.0], [0.0, 0.0, 0.25, 1.0]])
    assert DOMFN(gamma=0.25).agree(divergences).tolist() == [True, False, False, False]
    assert DOMFN(gamma=0).agree(divergences).tolist() == [False] * 4
    assert DOMFN(gamma=1).agree(divergences).tolist() == [True] * 4
