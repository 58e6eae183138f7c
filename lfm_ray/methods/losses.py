"""L_CLS and the three forms of L_MM (paper sections 3.1 and 3.2, and the official code)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.errors import UserError
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.targets import target_of
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
    class_weights: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="weight of each class in L_CLS: balanced, the rows of the training split over C times those of the"
        " class; or a list in the order of the classes; null: none",
    )
    focal: float = Field(
        0.0, ge=0, le=10, description="gamma of the focal loss, which weighs each sample by (1 - p of its label)^gamma"
    )
    label_smoothing: list[Annotated[float, Field(ge=0, lt=1)]] | None = Field(
        None, description="u of the samples of each class, in the order of the classes; null: uniform_labels for all"
    )
    regression: Literal["mse", "l1"] = Field(
        "mse", description="L_CLS of targets that are numbers: squared or absolute error, of standardised numbers"
    )

    @model_validator(mode="after")
    def _one_smoothing(self) -> Self:
        if self.label_smoothing and self.uniform_labels:
            raise ValueError("label_smoothing and uniform_labels are the same for all classes and for each; give one")
        return self

    @property
    def weighs(self) -> bool:
        """Whether classes or samples count differently in L_CLS."""
        return bool(self.class_weights or self.focal or self.label_smoothing)

    def check_target(self, kind: TargetKind, classes: int) -> None:
        """Checks that the losses are defined for these targets, and that there is one number for each class.

        Raises:
            UserError: one is not, or there are more or fewer numbers.
        """
        if kind == "classes" and self.regression != "mse":
            raise UserError(f"loss.regression: {self.regression} is for numbers, and the dataset has classes")
        if kind != "classes":
            if self.matching in DIVERGENCES:
                raise UserError(
                    f"loss.matching: {self.matching} compares predictions of classes, and the dataset's targets are"
                    f" {kind}; use infonce"
                )
            for name in ("class_weights", "focal", "label_smoothing", "uniform_labels"):
                if getattr(self, name):
                    raise UserError(f"loss.{name}: is for classes, and the dataset's targets are {kind}; leave it out")
        for name in ("class_weights", "label_smoothing"):
            given = getattr(self, name)
            if isinstance(given, list) and len(given) != classes:
                raise UserError(f"loss.{name}: has {len(given)} numbers, and the dataset has {classes} classes")

    def balanced(self, counts: Sequence[int]) -> Self:
        """The settings with `class_weights: balanced` as numbers; counts: rows of each class in the training split.

        N / (C N_c), as in scikit-learn: the mean weight of a row is 1. A class without rows has weight 1 and is not
        one of the C.
        """
        if self.class_weights != "balanced":
            return self
        mean = sum(counts) / sum(count > 0 for count in counts)
        weights = [mean / count if count else 1.0 for count in counts]
        return self.model_copy(update={"class_weights": weights})


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


def classification_loss(logits: Tensor, labels: Tensor, settings: LossSettings | None = None) -> Tensor:
    """L_CLS, mean over the batch: of classes the cross-entropy, of several labels BCE, of numbers MSE or L1.

    logits: (B, C); labels: (B,) int64, (B, C) uint8, or (B,) float (`lfm_ray.models.targets`); settings: the section
    `loss`, None: its defaults. Of classes, the
    targets are (1 - u) one-hot + u uniform with u = `uniform_labels`: paper Figure 1, where u = 1 is L_U, a
    loss without labels. `class_weights` w: the mean is sum_i w_y(i) l_i / sum_i w_y(i). `focal` gamma: each l_i
    is multiplied by (1 - p_i)^gamma, p_i being the probability of its label (Lin et al., "Focal loss for dense
    object detection", ICCV 2017). Computed in at least float32.
    """
    return target_of(labels).loss(_at_least_float32(logits), labels, settings or LossSettings())


def label_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability that logits (..., B, C) give to labels (B,); (..., B)."""
    probabilities = F.softmax(_at_least_float32(logits), dim=-1)
    return probabilities.gather(-1, labels.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def matching_loss(outputs: Outputs, settings: LossSettings) -> Tensor:
    """L_MM: the mean over all pairs of modalities; 0 for a single modality, which has no pair.

    Of a pair count the samples that have both (`pairs_of`), as negatives of InfoNCE too.
    """
    if settings.matching in DIVERGENCES:
        return mean_over_pairs(DIVERGENCES[settings.matching][0], outputs.unimodal, outputs)
    tau = temperature(outputs, settings)
    loss = mean_over_pairs(lambda a, b: infonce(a, b, tau), outputs.projections or outputs.embeddings, outputs)
    if isinstance(tau, Tensor) and outputs.present:
        return loss + 0 * tau  # where no sample has two modalities, DDP waits for tau's gradient all the same
    return loss


def mean_over_pairs(
    loss: Callable[[Tensor, Tensor], Tensor], values: Mapping[str, Tensor], outputs: Outputs | None = None
) -> Tensor:
    """The mean of a pairwise loss over the pairs of `pairs_of`; 0 where there is none, as for a single modality."""
    pairs = pairs_of(values, outputs)
    if not pairs:
        return next(iter(values.values())).new_zeros(())
    return torch.stack([loss(a, b) for a, b in pairs]).mean()


def pairs_of(values: Mapping[str, Tensor], outputs: Outputs | None = None) -> list[tuple[Tensor, Tensor]]:
    """All pairs of modalities; values: modality -> (B, any).

    outputs: say which samples have which modality; of a pair, only those that have both are returned, and a pair
    that no sample has is left out. None: all have all.
    """
    found = []
    for a, b in combinations(values, 2):
        rows = None if outputs is None else outputs.rows_with(a, b)
        if rows is None:
            found.append((values[a], values[b]))
        elif rows.any():
            found.append((values[a][rows], values[b][rows]))
    return found


def matching_parts(outputs: Outputs, alpha: float, settings: LossSettings) -> list[ConvexPart]:
    """alpha times `matching_loss` as convex parts: InfoNCE in the similarities, the others in the probabilities."""
    if settings.matching == "infonce":
        matched, tau = outputs.projections or outputs.embeddings, temperature(outputs, settings)
        stages = [similarities(first, second, tau) for first, second in pairs_of(matched, outputs)]
    else:  # float64: a probability that float32 rounds to 0 has no curvature
        chances = {name: F.softmax(logits.double(), dim=1) for name, logits in outputs.unimodal.items()}
        stages = [torch.stack([first, second]) for first, second in pairs_of(chances, outputs)]
    loss = infonce_of_similarities if settings.matching == "infonce" else DIVERGENCES[settings.matching][1]
    return [ConvexPart(alpha / len(stages), 1 / len(stages), stage, loss) for stage in stages]


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
