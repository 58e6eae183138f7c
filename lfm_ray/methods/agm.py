"""AGM: adaptive gradient modulation.

Li et al., "Boosting multi-modal model performance with adaptive gradient modulation", ICCV 2023. Code
read: lihong2303/AGM_ICCV2023 at 5a65542. The same (tests/parity): shares, scores, coefficients and their
bound, gradients, running means, the end of modulation. Different: where a modality is missing, they put
zeros in place of its input, we in place of its embedding, so that no encoder runs twice; their scripts
clip the head's gradient where one of its entries is above 1 (`head_clip`, off by default).
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from math import factorial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

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
        kappa_j = exp(a min(tau_j - r_j, 10)),

    the gradient of L_CLS that reaches the model through phi_j is multiplied by kappa_j. Any number of
    modalities. The bound of 10 is not in the paper: the authors' scripts have it for CREMA-D, 7 for
    UR-Funny, and none for the other datasets. After `last_epoch` training is joint, as in the scripts; the
    means of the scores go on.
    """

    name: Literal["agm"] = "agm"
    source: ClassVar[str] = "ICCV 2023"
    only_classes: ClassVar[str] = "scores modalities by the probability of the class"
    no_hessian: ClassVar[str] = "its gradient has no Hessian"
    modulation: float = Field(1.0, ge=0, le=10, description="a, the paper's alpha; 0: no modulation")
    highest_exponent: float | None = Field(
        10.0, gt=0, description="upper bound of tau_j - r_j (authors: 10, UR-Funny 7); null: none"
    )
    last_epoch: int | None = Field(
        20, ge=1, description="last epoch with modulation (authors: 20); null: that of the run"
    )
    head_clip: float | None = Field(
        None,
        gt=0,
        description="highest norm of the gradient of the fusion head, where an entry of its weights' gradient is"
        " above 1 (authors: 1, UR-Funny 5, AVE none); null: not clipped",
    )

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """Has the value of the cross-entropy of the fused logits, but a modulated gradient."""
        if not self.active(state):
            return super().classification(outputs, labels, state)
        phi = shapley(state.model.head, outputs.embeddings)
        fused = outputs.fused.detach()
        for name, kappa in self.kappa(phi, labels, state).items():
            fused = fused + kappa * (phi[name] - phi[name].detach())
        return classification_loss(fused, labels, state.settings)

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is not modulated."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))

    def kappa(self, phi: dict[str, Tensor], labels: Tensor, state: State) -> dict[str, Tensor]:
        """kappa_j of each modality; scalars."""
        now = scores(phi, labels)
        mean = torch.stack([state.memory.get(f"score/{name}", torch.zeros_like(now[0])) for name in phi])
        return dict(zip(phi, self.coefficients(mean, now), strict=True))

    def coefficients(self, mean: Tensor, now: Tensor) -> Tensor:
        """kappa_j from the mean scores and those of this step, each (m,); (m,)."""
        return torch.exp(self.modulation * (_ahead(mean) - _ahead(now)).clamp(max=self.highest_exponent or math.inf))

    def active(self, state: State) -> bool:
        """Whether modulation is on in this epoch."""
        return self.modulation > 0 and state.epoch <= (self.last_epoch or state.epoch)

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Updates the mean scores with those of this step, and clips the head's gradient if it is to be."""
        if self.head_clip is not None:
            parameters = [one for one in state.model.head.parameters() if one.grad is not None]
            if any(one.dim() > 1 and one.grad is not None and one.grad.abs().max() > 1 for one in parameters):
                nn.utils.clip_grad_norm_(parameters, self.head_clip)
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
