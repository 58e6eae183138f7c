"""MMCosine: the modalities' logits are cosines, so that none outweighs the others by the length of its embeddings.

Xu et al., "MMCosine: multi-modal cosine loss towards balanced audio-visual fine-grained learning", ICASSP 2023.
Code read: GeWu-Lab/MMCosine_ICASSP23 at 00ba0a9 (main_CD.py). The same (tests/parity): the logits, the loss with
its contrastive term, their gradients. Different: the head has no bias, where theirs keeps one that is never
trained; a batch of which all samples have the same label, for which theirs is not a number, has no negatives.
The published scale is 10 (`model.fusion_settings.scale`); a comparison, GeWu-Lab/BalanceBenchmark, has 15.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Method, State
from lfm_ray.methods.losses import mean_over_pairs
from lfm_ray.models.classifier import Outputs

SMALL = 1e-10  # added inside of the logarithms, as in the code


def label_contrast(first: Tensor, second: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The contrastive loss of two modalities' embeddings, (B, d) each, whose positives have the same label (B,).

    p = softmax over the second modality's samples of the cosines over the temperature; for each sample of the
    first, the mean of -log p over its positives plus the mean of -log(1 - p) over the others; then the mean.
    """
    p = (F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature).softmax(dim=1)
    same = (labels[:, None] == labels).to(p)
    other = 1 - same
    attracted = -((p + SMALL).log() * same).sum(dim=1) / same.sum(dim=1)
    repelled = -((1 - p + SMALL).log() * other).sum(dim=1) / other.sum(dim=1).clamp_min(1)
    return (attracted + repelled).mean()


class MMCosine(Method):
    """Joint training with the head `cosine`, and optionally a contrastive loss of embeddings and labels.

    L_CLS = CE(fused) + contrast N, where fused = s sum_j cos(W_j, z_j), and N is `label_contrast`, the mean over
    the pairs of modalities. The paper's supplement has N, and the code leaves it out by default.
    """

    name: Literal["mmcosine"] = "mmcosine"
    source: ClassVar[str] = "ICASSP 2023"
    only_classes: ClassVar[str] = "scales cosines for a softmax of classes"
    heads: ClassVar[tuple[str, ...]] = ("cosine",)
    contrast: float = Field(0.0, ge=0, le=100, description="weight of the contrastive loss (authors' default: 0)")
    temperature: float = Field(0.1, gt=0, le=10, description="of the contrastive loss (authors: 0.1)")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The cross-entropy of the fused logits, and the contrastive loss if it has a weight."""
        loss = super().classification(outputs, labels, state)
        if not self.contrast:
            return loss

        def of_two(first: Tensor, second: Tensor) -> Tensor:
            return label_contrast(first, second, labels, self.temperature)

        return loss + self.contrast * mean_over_pairs(of_two, outputs.embeddings)
