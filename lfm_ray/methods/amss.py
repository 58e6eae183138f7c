"""AMSS: in each step a random part of every encoder learns, a smaller one of the modality that knows more.

Yang et al., "Learning to rebalance multi-modal optimization by adaptively masking subnetworks", TPAMI (arXiv
2404.08347, 2024). Code read: njustkmg/TPAMI-AMSS at 3161ecc (AMSS/train_test.py, its published commands). The same
(tests/parity), with `tensors: convolutions` and `label_entropy: softmax`: shares, how many filters learn, and their
gradients, with and without `unbiased`. Different: by default, rows of all weights are drawn, so that transformers are
masked too; there, filters of the convolutions in a ResNet's blocks. For sound and images the program also draws rows of
the fusion head, and does not use them; for text and images it does. It takes the frequencies of the labels for logits
when it computes their entropy (`label_entropy: softmax`), and for text and images it does not.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Method, State
from lfm_ray.models.classifier import Outputs

LOWEST, HIGHEST = 0.1, 0.9  # bounds of a share


class AMSS(Method):
    """Random rows of the encoders' weights keep their gradient, in shares that favour the weaker modality.

    With CE_j the cross-entropy of modality j's own logits, H(y) the entropy of the batch's labels and H_j the mean
    entropy of softmax(z_j), the information of a modality is t_j = (H(y) + 1/2 - CE_j) / H_j, and its share

        r_j = exp(t_i / T) / (exp(t_1 / T) + exp(t_2 / T)),   i the other modality,

    at least 0.1 and at most 0.9; both are 1/2 while one H(y) + 1/2 - CE_j is not above 0. Of a weight with n rows
    (filters), ceil(r_j n) are drawn without replacement, with probabilities in proportion to their squared gradients;
    the gradients of the others are set to zero. `unbiased` divides those drawn by their probability plus 1 / n (AMSS+).
    """

    name: Literal["amss"] = "amss"
    source: ClassVar[str] = "TPAMI, arXiv 2024"
    only_classes: ClassVar[str] = "compares modalities by the entropy of classes"
    exactly_two: ClassVar[bool] = True
    temperature: float = Field(0.2, gt=0, le=100, description="T (authors: 0.2, text and images 0.5)")
    unbiased: bool = Field(False, description="AMSS+: gradients are divided by their probability plus 1 / n")
    share: float | None = Field(None, gt=0, le=1, description="of both modalities, in place of r_j; 1: joint training")
    tensors: Literal["all", "convolutions"] = Field(
        "all", description="which weights of an encoder are masked: all, or those with 4 dimensions (the code)"
    )
    label_entropy: Literal["labels", "softmax"] = Field(
        "labels", description="H(y): of the labels' frequencies, or with their softmax in its logarithm (the code)"
    )

    def shares(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """r_j of both modalities, (2,)."""
        known = torch.stack([-F.cross_entropy(logits, labels) for logits in outputs.unimodal.values()])
        if self.share is not None:
            return torch.full_like(known, self.share)
        frequencies = labels.bincount().to(known) / len(labels)
        logarithm = frequencies.log_softmax(dim=0) if self.label_entropy == "softmax" else frequencies.log()
        information = known - torch.where(frequencies > 0, frequencies * logarithm, 0.0).sum() + 0.5
        if (information <= 0).any():
            return torch.full_like(known, 0.5)
        z = torch.stack(list(outputs.embeddings.values()))
        entropies = -(z.softmax(dim=2) * z.log_softmax(dim=2)).sum(dim=2).mean(dim=1)
        t = information / entropies / self.temperature
        return t.flip(0).softmax(dim=0).clamp(LOWEST, HIGHEST)

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Masks the gradients of the encoders' weights."""
        generator = state.generator(labels.device)
        for encoder, share in zip(state.model.encoders.values(), self.shares(outputs, labels).tolist(), strict=True):
            for parameter in encoder.parameters():
                masked = parameter.dim() == 4 if self.tensors == "convolutions" else parameter.dim() > 1
                if parameter.grad is None or not masked or share == 1:
                    continue
                importance = probabilities(parameter.grad)
                count = min(math.ceil(len(importance) * share), int((importance > 0).sum()))
                if count:
                    drawn = torch.multinomial(importance, count, generator=generator)
                    factors = self.mask(importance, drawn).to(parameter.grad)
                    parameter.grad.mul_(factors.view(-1, *[1] * (parameter.dim() - 1)))

    def mask(self, importance: Tensor, drawn: Tensor) -> Tensor:
        """Factors of the rows, (n,), of which `drawn` holds the numbers of those that learn."""
        factors = 1 / (importance + 1 / len(importance)) if self.unbiased else torch.ones_like(importance)
        return torch.zeros_like(importance).index_copy(0, drawn, factors[drawn])


def probabilities(gradient: Tensor) -> Tensor:
    """The share of each row in the squared gradient (n, ...), (n,); zeros where there is none."""
    squares = gradient.double().flatten(1).square().sum(dim=1)
    return squares / squares.sum().clamp_min(torch.finfo(torch.float64).tiny)
