"""DOMFN: a divergence-orientated multimodal fusion network.

Yang et al., "DOMFN: a divergence-orientated multi-modal fusion network for resume assessment",
ACM MM 2022; njustkmg/MM22_DOMFN, whose settings file is not published: the defaults of eta and gamma are ours.
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

    p_j and p are the probabilities of modality j and of the fusion, d_j = max over classes of
    (p_j - p)^2, and c_j, c the cross-entropies. For each sample

        L = sum_j (c_j^2 / 2 - eta d_j)  +  [all d_j < gamma] (c + sum_j c_j),

    and L_CLS is its mean. The prediction is that of the fusion where all d_j < gamma, else that of
    the modality with the highest probability. Two modalities, as published. The published code applies
    a sigmoid to the logits before the cross-entropy, where we use a softmax; it trains on one sample at
    a time, and divides d_j by a constant, which is absorbed into gamma here. As in the code, d_j has a
    gradient for the modality but not for the fusion.
    """

    name: Literal["domfn"] = "domfn"
    heads: ClassVar[tuple[str, ...]] = ("multitask",)
    exactly_two: ClassVar[bool] = True
    eta: float = Field(0.1, ge=0, le=10, description="weight of the divergence; 0: none")
    gamma: float = Field(0.1, ge=0, le=1, description="divergence at which samples are not fused; 1: always fused")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The mean of L over the batch."""
        smoothing = state.settings.uniform_labels
        divergences = self.divergences(outputs)
        alone = torch.stack(
            [F.cross_entropy(z, labels, reduction="none", label_smoothing=smoothing) for z in outputs.unimodal.values()]
        )  # (2, B)
        fused = F.cross_entropy(outputs.fused, labels, reduction="none", label_smoothing=smoothing)
        agree = self.agree(divergences)
        return ((alone.square() / 2 - self.eta * divergences).sum(dim=0) + agree * (fused + alone.sum(dim=0))).mean()

    def divergences(self, outputs: Outputs) -> Tensor:
        """d_j, (2, B)."""
        fused = outputs.fused.detach().softmax(dim=1)
        return torch.stack([(z.softmax(dim=1) - fused).square().amax(dim=1) for z in outputs.unimodal.values()])

    def agree(self, divergences: Tensor) -> Tensor:
        """Which samples are fused, (B,); all if gamma is 1."""
        return (divergences.detach() < self.gamma).all(dim=0) | (self.gamma == 1)

    def predict(self, outputs: Outputs) -> Tensor:
        """The fused logits, or those of the more confident modality; (B, C)."""
        alone = torch.stack(list(outputs.unimodal.values()))  # (2, B, C)
        surer = alone.softmax(dim=2).amax(dim=2).argmax(dim=0)
        chosen = alone[surer, torch.arange(len(surer), device=surer.device)]
        return torch.where(self.agree(self.divergences(outputs))[:, None], outputs.fused, chosen)
