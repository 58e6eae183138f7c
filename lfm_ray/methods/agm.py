"""AGM: adaptive gradient modulation.

Li et al., "Boosting multi-modal model performance with adaptive gradient modulation", ICCV 2023;
lihong2303/AGM_ICCV2023.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import factorial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss, label_probability
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Head

LOWEST_CHANCE = 1e-8  # of the label, in a score


class AGM(Method):
    """Splits the fused logits into a share of each modality, and weighs the gradients of the shares.

    phi_j, (B, C), is the Shapley value of modality j: the mean, over all orders in which modalities
    can join, of what j adds to the fused logits. A modality that has not joined is zeros, and no
    modality at all counts as zero logits, so the phi_j add up to the fused logits. With s_j the
    cross-entropy of phi_j and S_j its mean over all steps before,

        r_j = exp(mean over i != j of (s_i - s_j)),   tau_j = exp(mean over i != j of (S_i - S_j)),
        kappa_j = exp(a (tau_j - r_j)),

    the gradient of L_CLS reaches the model through phi_j multiplied by kappa_j. Any number of
    modalities. The authors put zeros for a modality's input, here they stand for its embedding, so
    no encoder runs twice; their code, unlike the paper, stops the gradient of the parts.
    """

    name: Literal["agm"] = "agm"
    no_hessian: ClassVar[str] = "its gradient has no Hessian"
    modulation: float = Field(1.0, ge=0, le=10, description="a, the paper's alpha; 0: no modulation")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """Its value is that of the cross-entropy of the fused logits, its gradient is modulated."""
        if not self.modulation:
            return super().classification(outputs, labels, state)
        phi = shapley(state.model.head, outputs.embeddings)
        fused = outputs.fused.detach()
        for name, kappa in self.kappa(phi, labels, state).items():
            fused = fused + kappa * (phi[name] - phi[name].detach())
        return classification_loss(fused, labels, state.settings.uniform_labels)

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """As ever; alpha is judged by the loss as it is, not by its modulated gradient."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))

    def kappa(self, phi: dict[str, Tensor], labels: Tensor, state: State) -> dict[str, Tensor]:
        """kappa_j of each modality; scalars."""
        now = scores(phi, labels)
        mean = torch.stack([state.memory.get(f"score/{name}", torch.zeros_like(now[0])) for name in phi])
        kappa = torch.exp(self.modulation * (_ahead(mean) - _ahead(now)))
        return dict(zip(phi, kappa, strict=True))

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Takes the scores of this step into their means."""
        if self.modulation:
            phi = shapley(state.model.head, outputs.embeddings)
            for name, score in zip(phi, scores(phi, labels), strict=True):
                mean = state.memory.get(f"score/{name}", torch.zeros_like(score))
                state.memory[f"score/{name}"] = mean + (score - mean) / (state.steps + 1)


def shapley(head: Head, embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    """phi_j (B, C) of each modality, from one pass of all subsets, one after the other, through the head."""
    names, m = list(embeddings), len(embeddings)
    subsets = [set(subset) for size in range(1, m + 1) for subset in combinations(names, size)]
    padded = {
        name: torch.cat([value if name in subset else torch.zeros_like(value) for subset in subsets])
        for name, value in embeddings.items()
    }
    worth = list(head(padded)[0].chunk(len(subsets)))
    phi = {}
    for name in names:
        phi[name] = torch.zeros_like(worth[0])
        for subset, value in zip(subsets, worth, strict=True):  # of each set, what it is worth to be its last to join
            if name in subset:
                phi[name] = phi[name] + value * factorial(len(subset) - 1) * factorial(m - len(subset)) / factorial(m)
            else:
                phi[name] = phi[name] - value * factorial(len(subset)) * factorial(m - len(subset) - 1) / factorial(m)
    return phi


def scores(phi: dict[str, Tensor], labels: Tensor) -> Tensor:
    """s_j: mean over the batch of minus the logarithm of the probability of the label; (m,)."""
    chances = label_probability(torch.stack(list(phi.values())).detach(), labels)
    return -chances.clamp_min(LOWEST_CHANCE).log().mean(dim=1)


def _ahead(scores: Tensor) -> Tensor:
    """exp(mean over i != j of (s_i - s_j)): above 1 where j is ahead of the others; (m,)."""
    m = len(scores)
    return torch.exp((scores.sum() - m * scores) / max(m - 1, 1))
