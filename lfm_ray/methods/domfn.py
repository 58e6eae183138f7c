"""DOMFN: a divergence-orientated multimodal fusion network.

Yang et al., "DOMFN: a divergence-orientated multi-modal fusion network for resume assessment",
ACM MM 2022. Code read: njustkmg/MM22_DOMFN, branch Paddle at aa030b3; its settings are published in the
branches Torch and MindSpore. The same (tests/parity): probabilities, divergences, which samples are fused,
the loss, the prediction, the gradient by all logits. Different: they train on one sample at a time, with
encoders that were trained alone before; a sample that is not fused gives no gradient through the fused
logits here, while there each modality's loss has one to its own encoder. The branches Torch and MindSpore
have another loss: three modalities, and divergences from the mean of their own predictions.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Method, State
from lfm_ray.models.classifier import Outputs


class DOMFN(Method):
    """Samples on which the modalities diverge from their fusion are learned and predicted by single modalities.

    p_j and p are the sigmoids of the logits of modality j and of the fusion, d_j = max over classes of
    (p_j - p)^2, and c_j, c the cross-entropies of p_j and p, taken as logits. For each sample

        L = sum_j (c_j^2 / 2 - eta d_j)  +  [all d_j < gamma] (c + sum_j c_j),

    and L_CLS is its mean. The prediction is that of the fusion where all d_j < gamma, else that of
    the modality with the highest p_j. Two modalities, as published. Where a sample is fused, d_j has a
    gradient for the modality and for the fusion, else for the modality alone. With `squeeze` false the
    logits go into the cross-entropies as they are, and p_j, p are their softmaxes; the published eta and
    gamma are for sigmoids.

    The code divides d_j by a constant tau, which is absorbed into gamma here: 0.8 x 0.2 for resumes, 0.8 x
    0.5 for MOSI.
    """

    name: Literal["domfn"] = "domfn"
    source: ClassVar[str] = "ACM MM 2022"
    only_classes: ClassVar[str] = "chooses between predictions of classes"
    cannot_weigh: ClassVar[str] = "weighs samples itself, by their losses"
    heads: ClassVar[tuple[str, ...]] = ("multitask",)
    exactly_two: ClassVar[bool] = True
    eta: float = Field(0.5, ge=0, le=10, description="weight of the divergence (authors: 0.5); 0: none")
    gamma: float = Field(
        0.16,
        ge=0,
        le=1,
        description="divergence at which samples are not fused (authors: 0.16, MOSI 0.4); 1: always fused",
    )
    squeeze: bool = Field(True, description="a sigmoid of the logits before everything else, as in the code")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The mean of L over the batch."""
        smoothing = state.settings.uniform_labels
        divergences, (single, together) = self.divergences(outputs), self.logits(outputs)
        alone = torch.stack(
            [F.cross_entropy(z, labels, reduction="none", label_smoothing=smoothing) for z in single]
        )  # (2, B)
        fused = F.cross_entropy(together, labels, reduction="none", label_smoothing=smoothing)
        agree = self.agree(divergences)
        return ((alone.square() / 2 - self.eta * divergences).sum(dim=0) + agree * (fused + alone.sum(dim=0))).mean()

    def divergences(self, outputs: Outputs) -> Tensor:
        """d_j, (2, B)."""
        single, fused = self.logits(outputs)
        if not self.squeeze:
            single, fused = single.softmax(dim=2), fused.softmax(dim=1)
        agree = self.agree((single - fused).square().amax(dim=2))
        return (single - torch.where(agree[:, None], fused, fused.detach())).square().amax(dim=2)

    def logits(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """What the cross-entropies take: those of the modalities, (2, B, C), and of the fusion, (B, C)."""
        alone = torch.stack(list(outputs.unimodal.values()))
        return (alone.sigmoid(), outputs.fused.sigmoid()) if self.squeeze else (alone, outputs.fused)

    def agree(self, divergences: Tensor) -> Tensor:
        """Which samples are fused, (B,); all if gamma is 1."""
        return (divergences.detach() < self.gamma).all(dim=0) | (self.gamma == 1)

    def predict(self, outputs: Outputs) -> Tensor:
        """Those of the fusion, or of the more confident modality, as the cross-entropies take them; (B, C)."""
        alone, fused = self.logits(outputs)
        surer = (alone if self.squeeze else alone.softmax(dim=2)).amax(dim=2).argmax(dim=0)
        chosen = alone[surer, torch.arange(len(surer), device=surer.device)]
        return torch.where(self.agree(self.divergences(outputs))[:, None], fused, chosen)
