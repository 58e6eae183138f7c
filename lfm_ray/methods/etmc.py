"""ETMC: opinions of the modalities and a pseudo-view, fused by Dempster's rule.

Han et al., "Trusted multi-view classification with dynamic evidential fusion", TPAMI 2023. Code read:
hanmenghan/TMC at 08d0ca4. The same (tests/parity): evidence, fusion, losses, gradients, annealing, the
prediction. Different: Dempster's rule is used in closed form, so any number of modalities takes one product.
The authors' pseudo-view and classifiers are those of `model.fusion: multitask`, which is required.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from lfm_ray.methods.base import Method, State
from lfm_ray.models.classifier import Outputs


def evidence(logits: Tensor) -> Tensor:
    """Logits -> evidence, at least 0 for each class; in at least float32, as the special functions require."""
    return F.softplus(logits if logits.dtype == torch.float64 else logits.float())


def fused_evidence(views: Iterable[Tensor]) -> Tensor:
    """Dempster's rule, applied to the opinions given by the evidence e_v (B, C) of each view; returns (B, C).

    An opinion has beliefs b = e / S and uncertainty u = C / S with S = sum_c (e_c + 1). The reduced
    rule of the paper (Definition 4) gives b ~ b_1 b_2 + b_1 u_2 + b_2 u_1 and u ~ u_1 u_2. Since
    e = C b / u, the normalisation by the conflict cancels: e = e_1 + e_2 + e_1 e_2 / C, that is
    1 + e / C = prod_v (1 + e_v / C).
    """
    stacked = torch.stack(list(views))
    classes = stacked.shape[-1]
    return classes * ((1 + stacked / classes).prod(dim=0) - 1)


def evidential_loss(e: Tensor, labels: Tensor, strength: float) -> Tensor:
    """The expected cross-entropy under the Dirichlet with parameters e + 1, and a pull of wrong evidence to 0.

    e: (B, C) evidence; labels: (B,) int64; mean over the batch. The pull is `strength` times the
    divergence from the uniform Dirichlet after removing the evidence for the true class.
    """
    alpha = e + 1
    fit = torch.digamma(alpha.sum(dim=1)) - torch.digamma(alpha.gather(1, labels[:, None])).squeeze(1)
    wrong = alpha.scatter(1, labels[:, None], 1.0)
    return (fit + strength * kl_divergence(Dirichlet(wrong), Dirichlet(torch.ones_like(wrong)))).mean()


class ETMC(Method):
    """Each opinion and their fusion have a loss of their own; alpha weights L_MM as in LFM."""

    name: Literal["etmc"] = "etmc"
    source: ClassVar[str] = "TPAMI 2023"
    only_classes: ClassVar[str] = "learns from evidence of classes"
    cannot_weigh: ClassVar[str] = "learns from evidence, not from a cross-entropy of classes"
    annealing_epochs: int = Field(
        10, ge=1, description="epochs over which the pull of wrong evidence grows from 0 to full strength"
    )
    heads: ClassVar[tuple[str, ...]] = ("multitask",)

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The sum of the evidential losses of the modalities, the pseudo-view, and their fusion."""
        views = self._views(outputs)
        strength = min(1.0, (state.epoch - 1) / self.annealing_epochs)
        losses = [evidential_loss(e, labels, strength) for e in (*views, fused_evidence(views))]
        return torch.stack(losses).sum()

    def predict(self, outputs: Outputs) -> Tensor:
        """The logarithm of the fused Dirichlet's parameters, whose softmax is its mean."""
        return fused_evidence(self._views(outputs)).log1p()

    def _views(self, outputs: Outputs) -> list[Tensor]:
        return [evidence(logits) for logits in (*outputs.unimodal.values(), outputs.fused)]
