"""InfoReg: while information is taken up fast, the encoder of the modality ahead is held near where its epoch began.

Huang et al., "Adaptive unimodal regulation for balanced multimodal information acquisition", CVPR 2025. Code read:
GeWu-Lab/InfoReg_CVPR2025 at 939b2ed (main.py). The same (tests/parity), with `pull_weights: {audio: 0.95, visual: 0.1}`
and `window_of: audio`: losses, gradients, traces, and when the window closes. Different: the code looks at the
audio's trace alone and has a weight for each modality of CREMA-D; by default the window is that of the modality
ahead, and the weight is that of the audio for all. Its traces are those of convolutions and linear layers; ours are
of all weights with two or more dimensions, which adds recurrent and embedding layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from lfm_ray.methods.base import Method, Row, State
from lfm_ray.methods.losses import classification_loss, label_probability
from lfm_ray.models.classifier import Outputs

START, TRACE, STEPS = "start/", "trace/", "so far/"
WINDOW = 10  # epochs, over which the code takes the mean of the traces


class InfoReg(Method):
    """A pull towards the weights at the start of the epoch slows down the modality that is ahead.

    L_CLS is the cross-entropy of the fused logits plus that of each modality's own. s_j is the sum over the batch of
    the probability that modality j's own logits give to the label. The encoder of the modality with the larger s_j has
    beta_j (theta - theta_0) added to its gradient, where theta_0 are its weights at the start of the epoch and

        beta_j = pull_weight exp(tanh(s_j - s_i)),

    as long as the window is open: (F - F') / F > `threshold`, where F is the mean of its Fisher traces over the last
    ten epochs, and F' that of the ten up to the epoch before the last (epochs before the first count as 0). A trace is
    the sum over an encoder's weights of the mean of the squared gradients, added up over the steps of an epoch.
    """

    name: Literal["info_reg"] = "info_reg"
    source: ClassVar[str] = "CVPR 2025"
    only_classes: ClassVar[str] = "compares modalities by the probability of the class"
    exactly_two: ClassVar[bool] = True
    pull_weight: float = Field(0.95, ge=0, le=100, description="of the pull (authors: 0.95 for audio, 0.1 for images)")
    pull_weights: dict[str, NonNegativeFloat] = Field({}, description="modality -> its weight, where it is another")
    threshold: float = Field(
        0.05, ge=0, le=1, description="least growth of the Fisher trace, below which the window closes (authors: 0.05)"
    )
    window_of: str | None = Field(None, description="the modality whose window counts for both; null: the one ahead")
    unimodal_weight: float = Field(1.0, ge=0, le=100, description="of the modalities' own losses (authors: 1)")

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Also checks the names in `pull_weights` and `window_of`."""
        super().check_modalities(modalities)
        self.check_names("pull_weights", self.pull_weights, modalities)
        self.check_names("window_of", [self.window_of] if self.window_of else [], modalities)

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The cross-entropies of the fused and of the unimodal logits."""
        loss = super().classification(outputs, labels, state)
        if not self.unimodal_weight:
            return loss
        settings = state.settings
        each = [classification_loss(logits, labels, settings) for logits in outputs.unimodal.values()]
        return loss + self.unimodal_weight * torch.stack(each).sum()

    def pulls(self, outputs: Outputs, labels: Tensor, state: State) -> dict[str, Tensor]:
        """Modality -> beta_j, a scalar, of the one that is ahead, if its window is open."""
        names = list(outputs.unimodal)
        s = label_probability(torch.stack(list(outputs.unimodal.values())), labels).sum(dim=1)
        ahead = s > s.flip(0)
        beta = torch.exp(torch.tanh(s - s.flip(0)))
        return {
            name: self.pull_weights.get(name, self.pull_weight) * one
            for name, one, leads in zip(names, beta, ahead.tolist(), strict=True)
            if leads and self.growth(self.window_of or name, state) > self.threshold
        }

    def growth(self, name: str, state: State) -> float:
        """(F - F') / F of a modality; 1 before there is a trace."""
        traces = state.memory.get(f"{TRACE}{name}", torch.zeros(0))
        now, before = traces[-WINDOW:].sum(), traces[-WINDOW - 1 : -1].sum()
        return float((now - before) / now) if now > 0 else 1.0

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Adds the pull to the gradients, and the squares of these to the traces."""
        memory, pulls = state.memory, self.pulls(outputs, labels, state)
        for name, encoder in state.model.encoders.items():
            trace = memory.get(f"{STEPS}{name}", torch.zeros((), dtype=torch.float64))
            for key, parameter in encoder.named_parameters():
                if parameter.grad is None:
                    continue
                if (full := f"{START}{name}.{key}") not in memory:
                    memory[full] = parameter.detach().clone()
                if name in pulls:
                    parameter.grad.add_(pulls[name].to(parameter.grad) * (parameter - memory[full].to(parameter)))
                if parameter.dim() > 1:
                    trace = trace + parameter.grad.double().square().mean().cpu()
            memory[f"{STEPS}{name}"] = trace

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Closes the traces of the epoch, and forgets where it began; returns the traces."""
        memory, row = state.memory, {}
        for key in [key for key in memory if key.startswith(START)]:
            del memory[key]
        for name in state.model.encoders:
            last = memory.pop(f"{STEPS}{name}", torch.zeros((), dtype=torch.float64))
            before = memory.get(f"{TRACE}{name}", last.new_zeros(0))
            memory[f"{TRACE}{name}"] = torch.cat([before, last[None]])[-WINDOW - 1 :]
            row[f"fisher_trace/{name}"] = float(last)
        return row
