"""L_CLS and the three forms of L_MM (paper sections 3.1 and 3.2, and the official code)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.models.classifier import Outputs
from lfm_ray.settings import Settings


class LossSettings(Settings):
    """The classification loss L_CLS and the modality-matching loss L_MM."""

    matching: Literal["infonce", "js", "kl_to_mean"] = Field(
        "infonce", description="infonce: the paper; kl_to_mean: the official code; js: Jensen-Shannon divergence"
    )
    tau: float = Field(0.2, gt=0, le=10, description="temperature of InfoNCE; the others have none")
    learn_tau: bool = Field(False, description="learn tau with theta, from the given value, within 0.01 ... 10")
    uniform_labels: float = Field(
        0.0, ge=0, le=1, description="u: targets are (1 - u) one-hot + u uniform (paper, Figure 1)"
    )


@dataclass(frozen=True)
class ConvexPart:
    """weight * loss(stage), where `loss` is convex in `stage`, a tensor with a graph back to theta.

    by_alpha: the derivative of the weight with respect to alpha.

    A loss written as a sum of such parts has a Gauss-Newton matrix that is never indefinite: the
    Hessian without the curvature of the stages themselves (Schraudolph, "Fast curvature
    matrix-vector products for second-order gradient descent", Neural Computation 2002).
    """

    weight: float
    by_alpha: float
    stage: Tensor
    loss: Callable[[Tensor], Tensor]


def classification_loss(logits: Tensor, labels: Tensor, uniform_labels: float = 0.0) -> Tensor:
    """L_CLS: cross-entropy, mean over the batch.

    logits: (B, C); labels: (B,) int64. The targets are (1 - u) one-hot + u uniform with u =
    `uniform_labels`: paper Figure 1, where u = 1 is L_U, a loss without labels. Computed in at least
    float32.
    """
    return F.cross_entropy(_at_least_float32(logits), labels, label_smoothing=uniform_labels)


def label_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability that logits (..., B, C) give to labels (B,); (..., B)."""
    probabilities = F.softmax(_at_least_float32(logits), dim=-1)
    return probabilities.gather(-1, labels.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def matching_loss(outputs: Outputs, settings: LossSettings) -> Tensor:
    """L_MM: the mean over all pairs of modalities; 0 for a single modality, which has no pair."""
    if settings.matching in DIVERGENCES:
        return mean_over_pairs(DIVERGENCES[settings.matching][0], outputs.unimodal)
    tau = temperature(outputs, settings)
    return mean_over_pairs(lambda a, b: infonce(a, b, tau), outputs.projections or outputs.embeddings)


def mean_over_pairs(loss: Callable[[Tensor, Tensor], Tensor], values: Mapping[str, Tensor]) -> Tensor:
    """The mean of a pairwise loss over all pairs of modalities; 0 for a single modality."""
    pairs = list(combinations(values.values(), 2))
    if not pairs:
        return next(iter(values.values())).new_zeros(())
    return torch.stack([loss(a, b) for a, b in pairs]).mean()


def matching_parts(outputs: Outputs, alpha: float, settings: LossSettings) -> list[ConvexPart]:
    """alpha times `matching_loss` as convex parts: InfoNCE in the similarities, the others in the probabilities."""
    pairs = list(combinations(outputs.unimodal, 2))
    if settings.matching == "infonce":
        matched, tau = outputs.projections or outputs.embeddings, temperature(outputs, settings)
        stages = [similarities(matched[a], matched[b], tau) for a, b in pairs]
    else:  # float64: a probability that float32 rounds to 0 has no curvature
        chances = {name: F.softmax(logits.double(), dim=1) for name, logits in outputs.unimodal.items()}
        stages = [torch.stack([chances[a], chances[b]]) for a, b in pairs]
    loss = infonce_of_similarities if settings.matching == "infonce" else DIVERGENCES[settings.matching][1]
    return [ConvexPart(alpha / len(pairs), 1 / len(pairs), stage, loss) for stage in stages]


def temperature(outputs: Outputs, settings: LossSettings) -> Tensor | float:
    """tau: the model's if it is learned, else the setting."""
    return settings.tau if outputs.tau is None else outputs.tau


def infonce(first: Tensor, second: Tensor, tau: Tensor | float) -> Tensor:
    """The modality-matching objective of paper section 3.2.

    first, second: (B, d), embeddings of the same samples in two modalities; all other samples of the
    batch are negatives. Uses cosine similarity divided by the temperature tau, and averages both
    directions. A zero embedding has similarity 0 with everything.
    """
    return infonce_of_similarities(similarities(first, second, tau))


def similarities(first: Tensor, second: Tensor, tau: Tensor | float) -> Tensor:
    """(B, d), (B, d) -> (B, B): the cosine of each pair divided by tau, in at least float32."""
    first, second = F.normalize(_at_least_float32(first), dim=1), F.normalize(_at_least_float32(second), dim=1)
    return first @ second.T / tau


def infonce_of_similarities(similarity: Tensor) -> Tensor:
    """InfoNCE in both directions from the (B, B) similarities over tau; convex."""
    match = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, match) + F.cross_entropy(similarity.T, match)) / 2


def js_of_probabilities(both: Tensor) -> Tensor:
    """JS divergence of probabilities (2, B, C), mean over the batch; jointly convex in both."""
    p, q = both.clamp_min(1e-100)
    middle = (p + q) / 2
    return (p * (p / middle).log() + q * (q / middle).log()).sum() / (2 * len(p))


def js_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence between softmaxed logits, in nats, mean over the batch.

    The mean of KL(p || m) and KL(q || m), m the mean of both. first, second: (B, C), logits of two modalities.
    """
    p, q, middle = _with_their_mean(first, second)
    to_middle = [F.kl_div(middle, side, log_target=True, reduction="batchmean") for side in (p, q)]
    return (to_middle[0] + to_middle[1]) / 2


def kl_to_mean_of_probabilities(both: Tensor) -> Tensor:
    """`kl_to_mean` of probabilities (2, B, C); jointly convex in both, as KL is in its two arguments."""
    p, q = both.clamp_min(1e-100)
    middle = (p + q) / 2
    return (middle * (middle.log() - (p.log() + q.log()) / 2)).sum() / len(p)


def kl_to_mean(first: Tensor, second: Tensor) -> Tensor:
    """The mean of KL(m || p) and KL(m || q), in nats, mean over the batch: the official code's alignment loss.

    first, second: (B, C), logits of two modalities; p, q: their softmaxes; m: the mean of both. Unlike the
    Jensen-Shannon divergence it has no bound, and its gradient does not vanish where p and q are far apart.
    Equal to Alignment() of njustkmg/NeurIPS24-LFM at ad44fa0 (tests/parity), except that this is finite
    where a softmax is rounded to 0.
    """
    p, q, middle = _with_their_mean(first, second)
    from_middle = [F.kl_div(side, middle, log_target=True, reduction="batchmean") for side in (p, q)]
    return (from_middle[0] + from_middle[1]) / 2


def _with_their_mean(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithms of both softmaxes, and of their mean."""
    p, q = F.log_softmax(_at_least_float32(first), dim=1), F.log_softmax(_at_least_float32(second), dim=1)
    return p, q, torch.logaddexp(p, q) - math.log(2)


DIVERGENCES = {
    "js": (js_divergence, js_of_probabilities),
    "kl_to_mean": (kl_to_mean, kl_to_mean_of_probabilities),
}
"""Name of an L_MM of predictions -> of two modalities' logits, and of their probabilities, in which it is convex."""


def _at_least_float32(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()
