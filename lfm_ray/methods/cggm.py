"""CGGM: the less a modality's own classifier improves, the larger the gradient of its encoder.

Guo et al., "Classifier-guided gradient modulation for enhanced multimodal learning", NeurIPS 2024. Code read:
zrguo/CGGM at 21e428c (src/foodtrain.py, src/eval_metrics.py). The same (tests/parity): accuracies, coefficients,
cosines, losses, gradients of two steps. Different: their classifiers are transformers with an optimiser of their own
(learning rate 5e-4), ours the linear ones of the head `multitask`, which learn with the rest. The paper compares the
directions of gradients; in the code the lists that are called gradients hold the weights themselves, and so do ours. It
differentiates the cosines at the weights of the step before, we at those of this one. A fused classifier has one
weight for all modalities there; here each modality's classifier is compared with its own part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Multitask

ACCURACY, COEFFICIENT = "accuracy/", "coefficient/"


class CGGM(Method):
    """Gradients of the encoders follow how their own classifiers improve from batch to batch.

    Each modality has a classifier that learns from its embedding without a gradient to the encoder. With d_j the
    growth of its accuracy since the last batch (since 0 at first) and D = sum_j d_j + 1e-8,

        c_j = (D - d_j) / D,

    the gradient of encoder j is multiplied by rho c_j. To L_CLS = CE(fused) are added the classifiers' losses and, with
    the c_j of the step before,

        lambda / m sum_j (|c_j| - c_j cos(V_j, W_j)),

    where V_j, constant, are the weights of the classifier and W_j those that the fused one has for modality j. The
    accuracies of small batches fluctuate: where they rise and fall by the same amount, D is near 0 and the c_j are
    huge, and a negative c_j turns a gradient round. `highest` bounds them; the authors rely on batches of 64 and 128,
    and on clipping gradients to norm 0.8 (`optimizer.gradient_clip`).
    """

    name: Literal["cggm"] = "cggm"
    source: ClassVar[str] = "NeurIPS 2024"
    only_classes: ClassVar[str] = "follows accuracies"
    heads: ClassVar[tuple[str, ...]] = ("multitask",)
    magnitude: float = Field(1.3, gt=0, le=100, description="rho (authors: 1.3)")
    direction_weight: float = Field(0.05, ge=0, le=100, description="lambda (authors: 0.2, Food-101 0.05)")
    highest: float | None = Field(None, gt=0, description="upper bound of |c_j|; null: none, as the authors")

    def of_classifiers(self, outputs: Outputs, state: State) -> dict[str, Tensor]:
        """The classifiers' logits (B, C) of each modality, without a gradient to the encoders."""
        head = cast(Multitask, state.model.head)
        return {name: head.classifiers[name](z.detach()) for name, z in outputs.embeddings.items()}

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The cross-entropies of the fused logits and of the classifiers, and the term of the directions."""
        settings = state.settings
        logits = [outputs.fused, *self.of_classifiers(outputs, state).values()]
        loss = torch.stack([classification_loss(one, labels, settings) for one in logits]).sum()
        c = [state.memory.get(f"{COEFFICIENT}{name}") for name in outputs.embeddings]
        if not self.direction_weight or any(one is None for one in c):
            return loss
        coefficients = torch.stack(cast(list[Tensor], c)).to(loss)
        apart = (coefficients.abs() - coefficients * self.cosines(state)).mean()
        return loss + self.direction_weight * apart

    def cosines(self, state: State) -> Tensor:
        """cos(V_j, W_j) of each modality, (m,)."""
        head = cast(Multitask, state.model.head)
        parts = head.classifier.weight.chunk(len(head.modalities), dim=1)
        own = [head.get_parameter(f"classifiers.{name}.weight").detach() for name in head.modalities]
        cosines = [F.cosine_similarity(v.flatten(), w.flatten(), dim=0) for v, w in zip(own, parts, strict=True)]
        return torch.stack(cosines)

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is that of the fused logits."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))

    def accuracies(self, outputs: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """Of the classifiers in this batch, scalars."""
        return {name: (z.argmax(dim=1) == labels).double().mean() for name, z in outputs.unimodal.items()}

    def coefficients(self, outputs: Outputs, labels: Tensor, state: State) -> dict[str, Tensor]:
        """c_j of each modality; scalars."""
        now = self.accuracies(outputs, labels)
        growth = {name: one - state.memory.get(f"{ACCURACY}{name}", 0.0) for name, one in now.items()}
        total = torch.stack(list(growth.values())).sum() + 1e-8
        c = {name: (total - one) / total for name, one in growth.items()}
        return c if self.highest is None else {name: one.clamp(-self.highest, self.highest) for name, one in c.items()}

    def gradient_factors(self, outputs: Outputs, labels: Tensor, state: State) -> Mapping[str, Tensor]:
        """rho c_j of each modality."""
        return {name: self.magnitude * one for name, one in self.coefficients(outputs, labels, state).items()}

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Modulates the gradients, then remembers the accuracies and coefficients."""
        super().after_backward(outputs, labels, state)
        c = self.coefficients(outputs, labels, state)
        state.memory.update({f"{COEFFICIENT}{name}": one for name, one in c.items()})
        state.memory.update({f"{ACCURACY}{name}": one for name, one in self.accuracies(outputs, labels).items()})
