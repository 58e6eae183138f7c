"""OPM: on-the-fly prediction modulation, the embeddings of the modality ahead are dropped at random.

Wei, Hu, Du and Wen, "On-the-fly modulation for balanced multimodal learning", TPAMI 2024. Code read:
GeWu-Lab/BML_TPAMI2024 at 4b3aa4f (code/models/Classifier.py, code/main.py; its line 53 has a bracket too many and was
run without it). The same (tests/parity): q, the masked and scaled embeddings, the logits, the loss, and with
`rate_gradient` its gradient. Different: as published, the code also sends a gradient through q: the share that is
dropped, theta, has theta itself as its gradient, as if theta^2 / 2 were added to the loss. It follows from no formula
and is off by default. In their code a batch without any sample left is skipped; that cannot happen, as at most one
modality is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss, label_probability
from lfm_ray.models.classifier import Outputs


class OPM(Method):
    """While a modality is ahead, samples lose its embedding with a probability that grows with its lead.

    s_j is the sum over the batch of the probability that modality j's own logits give to the label, and
    rho_j = s_j / s_i where i is the other modality. Where rho_j > 1,

        q_j = min(1, q (1 + lambda tanh(rho_j - 1))),

    else q_j = 0. With probability p, a batch is modulated: each sample's z_j is set to zero with probability q_j, all
    embeddings are divided by 1 - theta, where theta is the mean of the q_j, and L_CLS is the cross-entropy of the
    logits of these. Evaluation, and the outer loss of alpha, use all embeddings as they are.
    """

    name: Literal["opm"] = "opm"
    source: ClassVar[str] = "TPAMI 2024"
    only_classes: ClassVar[str] = "compares modalities by the probability of the class"
    exactly_two: ClassVar[bool] = True
    rate: float = Field(0.5, ge=0, le=1, description="q, the lowest rate of dropping (authors: 0.5); 0: joint training")
    lead_weight: float = Field(0.5, ge=0, le=100, description="lambda, weight of the lead in the rate (authors: 0.5)")
    probability: float = Field(0.7, ge=0, le=1, description="p, the share of batches with dropping (authors: 0.7)")
    first_epoch: int = Field(7, ge=1, description="epoch, from 1, in which dropping starts (authors: 7)")
    rate_gradient: bool = Field(False, description="add the gradient of theta^2 / 2, as the published code does")

    def active(self, state: State) -> bool:
        """Whether dropping is on in this epoch."""
        return self.rate > 0 and state.epoch >= self.first_epoch

    def rates(self, unimodal: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """q_j of each modality, (2,), from its own logits (B, C)."""
        s = label_probability(torch.stack(list(unimodal.values())), labels).sum(dim=1)
        lead = torch.tanh((s / s.flip(0) - 1).clamp_min(0))
        return torch.where(lead > 0, self.rate * (1 + self.lead_weight * lead), 0.0).clamp(0, 1)

    def dropped(self, embeddings: Mapping[str, Tensor], kept: Tensor, rates: Tensor) -> dict[str, Tensor]:
        """The embeddings (B, d) of which `kept`, (2, B) of 0 and 1, says which stay, scaled by 1 / (1 - theta)."""
        scale = 1 / (1 - rates.mean()).clamp_min(1e-6)
        return {name: z * mask[:, None] * scale for (name, z), mask in zip(embeddings.items(), kept, strict=True)}

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The cross-entropy of the logits of what is left, in a batch with dropping."""
        generator = state.generator(labels.device)
        drawn = torch.rand(2, len(labels) + 1, generator=generator, device=labels.device, dtype=torch.float64)
        if not self.active(state) or drawn[0, -1] >= self.probability:
            return super().classification(outputs, labels, state)
        rates = self.rates({name: logits.detach() for name, logits in outputs.unimodal.items()}, labels)
        kept = (drawn[:, :-1] >= rates[:, None]).to(outputs.fused)
        fused, _ = state.model.head(self.dropped(outputs.embeddings, kept, rates))
        loss = classification_loss(fused, labels, state.settings)
        return loss + self.pull_of_rates(outputs, labels, state) if self.rate_gradient else loss

    def pull_of_rates(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """A scalar of value 0, whose gradient by the embeddings is that of theta^2 / 2 with a constant head."""
        constant = {name: parameter.detach() for name, parameter in state.model.head.named_parameters()}
        _, unimodal = torch.func.functional_call(state.model.head, constant, (outputs.embeddings,))
        half_square = self.rates(unimodal, labels).mean().square() / 2
        return half_square - half_square.detach()

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is that of all embeddings."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))
