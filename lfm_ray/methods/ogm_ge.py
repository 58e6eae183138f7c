"""OGM-GE: on-the-fly gradient modulation with generalisation enhancement.

Peng et al., "Balanced multimodal learning via on-the-fly gradient modulation", CVPR 2022. Code read:
GeWu-Lab/OGM-GE_CVPR2022 at 343dc1d. The same (tests/parity): ratios, k, the size of the noise, the epochs,
and with `tensors: convolutions` which tensors are changed. Different: by default k is for the whole
encoder, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Method, State, scale_encoders
from lfm_ray.methods.losses import label_probability
from lfm_ray.models.classifier import Outputs


class OGMGE(Method):
    """The encoder of a modality that is ahead gets a smaller gradient; noise of the gradient's size is added.

    s_j is the sum over the batch of the probability that modality j's own logits give to the label,
    and rho_j = s_j / s_i where i is the other modality. The gradient of encoder j is multiplied by
    k_j = 1 - tanh(a rho_j) where rho_j > 1, else by 1 (eq. 10; a is `modulation`).

    With `noise`, normal noise is added to the gradient of every encoder tensor with two or more
    dimensions, with the standard deviation of that tensor's gradient before k. So transformers are
    modulated too, and biases have k without noise. The authors' code changes tensors of four dimensions
    only, which is `tensors: convolutions`. The noise is the same on every rank.
    """

    name: Literal["ogm_ge"] = "ogm_ge"
    source: ClassVar[str] = "CVPR 2022"
    only_classes: ClassVar[str] = "compares modalities by the probability of the class"
    exactly_two: ClassVar[bool] = True
    modulation: float = Field(0.8, ge=0, le=10, description="alpha of the paper's eq. 10; 0: no modulation")
    noise: bool = Field(True, description="generalisation enhancement (GE); false: OGM")
    tensors: Literal["all", "convolutions"] = Field(
        "all", description="which of an encoder are modulated: all, the paper; convolutions, 4 dimensions, the code"
    )
    first_epoch: int = Field(1, ge=1, description="epoch, from 1, in which modulation starts")
    last_epoch: int | None = Field(
        51, ge=1, description="last epoch with modulation (authors' default: 51); null: that of the run"
    )

    def active(self, state: State) -> bool:
        """Whether modulation is on in this epoch."""
        return self.modulation > 0 and self.first_epoch <= state.epoch <= (self.last_epoch or state.epoch)

    def gradient_factors(self, outputs: Outputs, labels: Tensor, state: State) -> Mapping[str, Tensor]:
        """k_j of each modality."""
        if not self.active(state):
            return {}
        scores = label_probability(torch.stack(list(outputs.unimodal.values())), labels).sum(dim=1)
        rho = scores / scores.flip(0)
        k = torch.where(rho > 1, 1 - torch.tanh(self.modulation * rho), 1.0)
        return dict(zip(outputs.unimodal, k, strict=True))

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Adds noise after modulation, scaled by the gradient before modulation."""
        convolutions = self.tensors == "convolutions"
        gradients = {
            f"encoders.{name}": parameter.grad
            for name, parameter in state.model.encoders.named_parameters()
            if parameter.grad is not None and (parameter.dim() == 4 or not convolutions)
        }
        layers = [gradient for gradient in gradients.values() if gradient.dim() > 1 and gradient.numel() > 1]
        noisy = self.noise and self.active(state) and bool(layers)
        scales = [deviation(gradient) for gradient in layers] if noisy else []
        scale_encoders(gradients, self.gradient_factors(outputs, labels, state))
        if noisy:
            generator = state.generator(layers[0].device)
            for gradient, scale in zip(layers, scales, strict=True):
                size = gradient.numel()
                drawn = torch.randn(size, generator=generator, device=gradient.device, dtype=gradient.dtype)
                gradient.addcmul_(drawn.as_strided(gradient.shape, gradient.stride()), scale)  # in its memory format


def deviation(gradient: Tensor) -> Tensor:
    """The standard deviation, a scalar, from two sums, at a tenth of the cost of `Tensor.std` on a CPU."""
    size = gradient.numel()
    square = torch.linalg.vector_norm(gradient).square() - gradient.sum().square() / size
    return (square.clamp_min(0) / (size - 1)).sqrt()
