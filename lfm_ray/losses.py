"""L_CLS and the two forms of L_MM (paper sections 3.1 and 3.2, and the official code)."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from lfm_ray.config import LossSettings
from lfm_ray.models.classifier import Outputs


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_CLS: cross-entropy, mean over the batch.

    logits: (B, C); labels: (B,) int64. Computed in float32 at least.
    """
    return F.cross_entropy(_at_least_float32(logits), labels)


def matching_loss(outputs: Outputs, settings: LossSettings) -> Tensor:
    """L_MM: the mean over all pairs of modalities. 0 for a single modality, which has no pair."""
    pairs = list(combinations(outputs.embeddings, 2))
    if not pairs:
        return outputs.fused.new_zeros(())
    if settings.matching == "infonce":
        values = [infonce(outputs.embeddings[a], outputs.embeddings[b], settings.tau) for a, b in pairs]
    else:
        values = [js_divergence(outputs.unimodal[a], outputs.unimodal[b]) for a, b in pairs]
    return torch.stack(values).mean()


def infonce(first: Tensor, second: Tensor, tau: float) -> Tensor:
    """The modality-matching objective of paper section 3.2.

    first, second: (B, d), embeddings of two modalities of the same samples; all other samples of
    the batch are negatives. Cosine similarity over the temperature tau; the mean of the two
    directions. An embedding of zeros has similarity 0 with everything.
    """
    first, second = F.normalize(_at_least_float32(first), dim=1), F.normalize(_at_least_float32(second), dim=1)
    similarity = first @ second.T / tau
    match = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(similarity, match) + F.cross_entropy(similarity.T, match)) / 2


def js_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence between softmaxed logits, in nats, mean over the batch.

    The official code's alignment loss. first, second: (B, C), logits of two modalities.
    """
    p, q = F.log_softmax(_at_least_float32(first), dim=1), F.log_softmax(_at_least_float32(second), dim=1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype))
    to_middle = [F.kl_div(middle, side, log_target=True, reduction="batchmean") for side in (p, q)]
    return (to_middle[0] + to_middle[1]) / 2


def _at_least_float32(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()
