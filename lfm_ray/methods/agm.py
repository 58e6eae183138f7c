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

LOWEST_CHANCE = 1e-8  # lower bound of the label's probability in a score


class AGM(Method):
    """Splits the fused logits into one share per modality, and weights the gradients of the shares.

    phi_j, (B, C), is the Shapley value of modality j: what j adds to the fused logits, averaged over all
    orders in which modalities can join. Zeros stand for a modality that has not joined, and no modality
    at all counts as zero logits, so the phi_j add up to the fused logits. With s_j the cross-entropy of
    phi_j and S_j its mean over all previous steps,

        r_j = exp(mean over i != j of (s_i - s_j)),   tau_j = exp(mean over i != j of (S_i - S_j)),
        kappa_j = exp(a (tau_j - r_j)),

    the gradient of L_CLS that reaches the model through phi_j is multiplied by kappa_j. Any number of
    modalities. The authors replace a modality's input with zeros, we its embedding, so that no encoder
    runs twice; their code, unlike the paper, stops the gradient of the parts.
    """

    name: Literal["agm"] = "agm"
    no_hessian: ClassVar[str] = "its gradient has no Hessian"
    modulation: float = Field(1.0, ge=0, le=10, description="a, the paper's alpha; 0: no modulation")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """Has the value of the cross-entropy of the fused logits, but a modulated gradient."""
        if not self.modulation:
            return super().classification(outputs, labels, state)
        phi = shapley(state.model.head, outputs.embeddings)
        fused = outputs.fused.detach()
        for name, kappa in self.kappa(phi, labels, state).items():
            fused = fused + kappa * (phi[name] - phi[name].detach())
        return classification_loss(fused, labels, state.settings.uniform_labels)

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is not modulated."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))

    def kappa(self, phi: dict[str, Tensor], labels: Tensor, state: State) -> dict[str, Tensor]:
        """kappa_j of each modality; scalars."""
        now = scores(phi, labels)
        mean = torch.stack([state.memory.get(f"score/{name}", torch.zeros_like(now[0])) for name in phi])
        kappa = torch.exp(self.modulation * (_ahead(mean) - _ahead(now)))
        return dict(zip(phi, kappa, strict=True))

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Updates the mean scores with those of this step."""
        if self.modulation:
            phi = shapley(state.model.head, outputs.embeddings)
            for name, score in zip(phi, scores(phi, labels), strict=True):
                mean = state.memory.get(f"score/{name}", torch.zeros_like(score))
                state.memory[f"score/{name}"] = mean + (score - mean) / (state.steps + 1)


def shapley(head: Head, embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    """phi_j (B, C) of each modality, from one pass of all subsets, concatenated, through the head."""
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
        for subset, value in zip(subsets, worth, strict=True):  # Shapley weights
            if name in subset:
                phi[name] = phi[name] + value * factorial(len(subset) - 1) * factorial(m - len(subset)) / factorial(m)
            else:
                phi[name] = phi[name] - value * factorial(len(subset)) * factorial(m - len(subset) - 1) / factorial(m)
    return phi


def scores(phi: dict[str, Tensor], labels: Tensor) -> Tensor:
    """s_j: the negative log-probability of the label, mean over the batch; (m,)."""
    chances = label_probability(torch.stack(list(phi.values())).detach(), labels)
    return -chances.clamp_min(LOWEST_CHANCE).log().mean(dim=1)


def _ahead(scores: Tensor) -> Tensor:
    """exp(mean over i != j of (s_i - s_j)): above 1 where j is ahead of the others; (m,)."""
    m = len(scores)
    return torch.exp((scores.sum() - m * scores) / max(m - 1, 1))
