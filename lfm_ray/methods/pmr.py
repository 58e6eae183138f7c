"""PMR: prototypical modal rebalance.

Fan et al., "PMR: prototypical modal rebalance for multimodal learning", CVPR 2023. Code read:
fanyunfeng-bit/Modal-Imbalance-PMR at 3615e48. The same (tests/parity): distances, rho, the losses of the
prototypes, prototypes from the same samples, the end of modulation. Different: the authors compute
prototypes in a separate pass over a tenth of the batches in evaluation mode, before training too; here
they are means over the epoch's training batches, at no cost, so that the first epoch has none. A class
without a sample keeps its prototype; theirs becomes NaN. Their published commands use momentum 0,
`prototype_weight` 2 (also 0.1 to 3) and stop the pull after 60 or 70 epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Method, Row, State
from lfm_ray.methods.losses import label_probability
from lfm_ray.models.classifier import Outputs


class PMR(Method):
    """The slower modality is drawn to its class prototypes; the faster one is kept uncertain at first.

    The prototypes of a modality are its mean embeddings per class, p_j = softmax(- distance of z_j from
    each prototype), and rho is the sum over the batch of p_0 of the label, divided by that of p_1.

        L_CLS = CE(fused) + a [beta CE(p_0) + gamma CE(p_1)] - mu [gamma H(p_0) + beta H(p_1)],
        beta = [rho < 1],   gamma = [rho > 1],

    where H is the entropy, mean over the batch, used in the first epochs only. That is `strength: binary`,
    the authors' code, which gave the published figures and is therefore the default; it has no entropies.
    The paper prints `clipped`, beta = clip(1 / rho - 1, 0, 1) and gamma = clip(rho - 1, 0, 1), which pulls
    less the nearer the modalities are to each other. The first epoch, which has no prototypes yet, is
    joint training, and so are those after `last_epoch`.
    """

    name: Literal["pmr"] = "pmr"
    source: ClassVar[str] = "CVPR 2023"
    only_classes: ClassVar[str] = "has a prototype for each class"
    exactly_two: ClassVar[bool] = True
    prototype_weight: float = Field(1.0, ge=0, le=100, description="a, the paper's alpha; 0: no pull")
    strength: Literal["binary", "clipped"] = Field(
        "binary", description="of the pull: binary, beta and gamma are 0 or 1 (the code); clipped, the paper"
    )
    last_epoch: int | None = Field(
        101, ge=1, description="last epoch with a pull (authors' default: 101); null: that of the run"
    )
    entropy_weight: float = Field(0.0, ge=0, le=100, description="mu, weight of the entropies; 0: none, as in the code")
    entropy_epochs: int = Field(10, ge=0, description="epochs with entropies (our default)")
    momentum: float = Field(0.2, ge=0, lt=1, description="share of the old prototypes in the new ones")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """Cross-entropies of the fused logits and of the prototype classifiers, minus the entropies."""
        loss = super().classification(outputs, labels, state)
        entropic = self.entropy_weight > 0 and state.epoch <= self.entropy_epochs
        over = state.epoch > (self.last_epoch or state.epoch)
        if "prototypes" not in state.memory or over or not (self.prototype_weight or entropic):
            return loss
        logits = [
            -distances(z, prototypes)
            for z, prototypes in zip(outputs.embeddings.values(), state.memory["prototypes"], strict=True)
        ]
        slow = self.slow(logits, labels)
        for z, its, other in zip(logits, slow, slow.flip(0), strict=True):
            log_p = F.log_softmax(z, dim=1)
            loss = loss + self.prototype_weight * its * F.nll_loss(log_p, labels)
            if entropic:
                loss = loss + self.entropy_weight * other * (log_p.exp() * log_p).sum(dim=1).mean()
        return loss

    def slow(self, logits: list[Tensor], labels: Tensor) -> Tensor:
        """(beta, gamma): how far each modality is behind; at least one is 0."""
        chances = label_probability(torch.stack(logits).detach(), labels).sum(dim=1)
        behind = (chances.flip(0) / chances - 1).clamp(0, 1)
        return (behind > 0).to(behind) if self.strength == "binary" else behind

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Adds the embeddings to the sums of their classes."""
        z = torch.stack(list(outputs.embeddings.values()))  # (2, B, d)
        of_class = F.one_hot(labels, outputs.fused.shape[1]).T.to(z.dtype)  # (C, B)
        memory = state.memory
        memory["sums"] = memory.get("sums", 0.0) + of_class @ z
        memory["counts"] = memory.get("counts", 0.0) + of_class.sum(dim=1, keepdim=True)

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Updates the prototypes, (2, C, d); a class without samples keeps its old one."""
        sums, counts = state.memory.pop("sums"), state.memory.pop("counts")
        old = state.memory.get("prototypes")
        means = sums / counts.clamp_min(1)
        if old is not None:
            means = torch.where(counts > 0, (1 - self.momentum) * means + self.momentum * old, old)
        state.memory["prototypes"] = means
        return {}


def distances(z: Tensor, prototypes: Tensor) -> Tensor:
    """Euclidean distances, (B, d) and (C, d) -> (B, C); where one is 0, its gradient is 0."""
    return (z[:, None] - prototypes).square().sum(dim=2).clamp_min(1e-12).sqrt()
