"""MLA: modalities take turns through a shared head, whose gradient is projected to protect the others' features.

Zhang et al., "Multimodal representation learning by alternating unimodal adaptation", CVPR 2024. Code read:
Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation at ab6c184. The same (tests/parity): with
`projection: none` the training at that commit, where the name that the code looks for (`module.weight`)
never occurs and so nothing is projected; the weights of a prediction by each sample's own entropy, their
functions being called sample by sample; with `weighting: mean` and `shares` the fixed weights, which are
the code's default. Different: by default the head is protected by the paper's recursion. Where its name is
met, the code divides elementwise by the matrix k r, rescales P to norm 1 at every step, does nothing in the
very first, lets alpha fall from 0.1 to 0.01 within each epoch, and projects with a P that already holds the
modality's own features. With --dynamic it weighs a whole batch at once, by a softmax over the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.errors import UserError
from lfm_ray.methods.base import Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs

PROJECTION, WEIGHT = "projection", "head.classifier.weight"


def updated_projection(projection: Tensor, features: Tensor, alpha: float) -> Tensor:
    """P <- P - k k^T / (alpha + r . k) with k = P r and r the mean of features (B, d); P is (d, d).

    By the matrix inversion lemma, P = (I + sum r r^T / alpha)^-1 over all steps, starting from P = I:
    gradients multiplied by P hardly change the head's output for features near any r.
    """
    r = features.mean(dim=0)
    k = projection @ r
    return projection - torch.outer(k, k) / (alpha + r @ k)


def entropy_weighted(logits: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, C) of each modality -> their sum weighted by certainty, per sample.

    The weight of modality j is exp(max H - H_j) / sum_i exp(max H - H_i), that is, the softmax of the
    negative entropies of the predictions, in nats.
    """
    stacked = torch.stack(list(logits.values()))
    entropies = torch.special.entr(F.softmax(stacked, dim=2)).sum(dim=2, keepdim=True)
    return (F.softmax(-entropies, dim=0) * stacked).sum(dim=0)


class MLA(Method):
    """For each batch, one training step per modality, of its encoder and the shared head."""

    name: Literal["mla"] = "mla"
    source: ClassVar[str] = "CVPR 2024"
    passes: ClassVar[tuple[str, str]] = ("m", "1")
    damping: float = Field(
        0.1,
        gt=0,
        le=100,
        description="alpha of the projection: larger values protect less (authors: 0.01 to 0.1)",
    )
    projection: Literal["recursive", "none"] = Field(
        "recursive", description="of the head's gradient: recursive, the paper; none, what the published code does"
    )
    weighting: Literal["entropy", "mean"] = Field("entropy", description="weights of modalities in the prediction")
    shares: dict[str, NonNegativeFloat] = Field(
        {},
        description="modality -> its weight with `mean`, default 0 if any is given (authors: 0.35 audio, 0.25 visual,"
        " 0.4 text); empty: equal weights",
    )
    heads: ClassVar[tuple[str, ...]] = ("shared",)
    apart: ClassVar[bool] = True

    def phases(self, state: State) -> Sequence[str]:
        """The modalities, in order."""
        return list(state.model.encoders)

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The cross-entropy of the modality whose turn it is."""
        return classification_loss(outputs.unimodal[state.phase], labels, state.settings)

    def gradient(self, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """The gradient of the modality's own parameters and of the head, projected for the head's weight."""
        own = (f"encoders.{state.phase}.", f"projections.{state.phase}.", "head.")
        result = {name: value for name, value in terms[0].items() if name.startswith(own) or name == "log_tau"}
        if PROJECTION in state.memory:
            result[WEIGHT] = result[WEIGHT] @ state.memory[PROJECTION].to(result[WEIGHT])
        return result

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Protects the head's output for this modality from subsequent steps."""
        if self.projection == "none":
            return
        features = outputs.embeddings[state.phase].detach().double()
        size = features.shape[1]
        before = state.memory.get(PROJECTION, torch.eye(size, dtype=torch.float64))
        state.memory[PROJECTION] = updated_projection(before.to(features.device), features, self.damping)

    def predict(self, outputs: Outputs) -> Tensor:
        """The weighted logits, or the mean from the head `shared`."""
        if self.weighting == "entropy":
            return entropy_weighted(outputs.unimodal)
        if not self.shares:
            return outputs.fused
        return torch.stack([self.shares.get(name, 0.0) * z for name, z in outputs.unimodal.items()]).sum(dim=0)

    def check_target(self, kind: TargetKind) -> None:
        """Checks that there are classes where an entropy weighs the modalities."""
        if self.weighting == "entropy" and kind != "classes":
            raise UserError(
                "method: mla weighs predictions by the entropy of classes, and the dataset's targets are"
                f" {kind}; set method.weighting=mean"
            )

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Checks that every share belongs to a modality."""
        self.check_names("shares", self.shares, modalities)
