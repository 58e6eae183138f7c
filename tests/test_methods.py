from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lfm_ray.config import LossSettings
from lfm_ray.losses import infonce, js_divergence
from lfm_ray.methods import METHODS
from lfm_ray.models.classifier import Outputs

LABELS = torch.tensor([0, 1, 2, 1])


def outputs() -> Outputs:
    generator = torch.Generator().manual_seed(0)

    def draw(columns: int) -> torch.Tensor:
        return torch.randn(4, columns, dtype=torch.float64, generator=generator).requires_grad_()

    return Outputs(draw(3), {"audio": draw(3), "image": draw(3)}, {"audio": draw(5), "image": draw(5)})


def test_lfm_weighs_the_losses_by_alpha() -> None:
    made = outputs()
    losses = METHODS["lfm"].loss(made, LABELS, 0.3, LossSettings(tau=0.5))
    classification = F.cross_entropy(made.fused, LABELS)
    matching = infonce(made.embeddings["audio"], made.embeddings["image"], 0.5)
    assert losses.total.item() == pytest.approx((0.7 * classification + 0.3 * matching).item(), rel=1e-12)


@pytest.mark.parametrize("matching", ["infonce", "js"])
def test_the_convex_parts_of_lfm_add_up_to_its_total(matching: str) -> None:
    losses = METHODS["lfm"].loss(outputs(), LABELS, 0.3, LossSettings(matching=matching, uniform_labels=0.2))
    assert losses.parts is not None
    total = sum(part.weight * part.loss(part.stage) for part in losses.parts())
    assert total.item() == pytest.approx(losses.total.item(), rel=1e-12)
    by_alpha = sum(part.by_alpha * part.loss(part.stage) for part in losses.parts())
    assert by_alpha.item() == pytest.approx((losses.matching - losses.classification).item(), rel=1e-12)


def test_official_is_twice_the_total_of_the_mean_logits_with_js() -> None:
    made = outputs()
    losses = METHODS["official"].loss(made, LABELS, 0.3, LossSettings(matching="infonce"))
    mean = (made.unimodal["audio"] + made.unimodal["image"]) / 2
    matching = js_divergence(made.unimodal["audio"], made.unimodal["image"])
    expected = 2 * (0.7 * F.cross_entropy(mean, LABELS) + 0.3 * matching)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.equal(METHODS["official"].predict(made), mean)
