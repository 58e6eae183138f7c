"""Greedy: balances multimodal learning by the conditional learning speed.

Wu et al., "Characterizing and overcoming the greedy nature of learning in multi-modal deep neural
networks", ICML 2022. Code read: nyukat/greedy_multimodal_learning at a190e03. The same (tests/parity):
gates, logits, loss, speeds, decisions, the running mean of the first modality. Different: the authors have
an MMTM after several blocks of the encoders; their code fills the running mean of the second modality with
the scales of the first; and it updates the mean in passes of evaluation too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lfm_ray.methods.base import Method, Row, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Channel


class Greedy(Method):
    """A modality that learns more from the others than from itself is trained without them for a while.

    The fusion is MMTM (`channel`): the channels of modality j are rescaled depending on all modalities,
    and L_CLS is the sum of the cross-entropies of the l_j. The learning speed of parameters is
    |gradient|^2 / |weights|^2, summed over the steps so far. The conditional learning speed of j is
    the base-10 logarithm of the speed of the modules that rescale it (squeeze, excite_j) over that of
    its own (encoder_j, classifier_j). When the highest and the lowest differ by more than `tolerance`,
    the scales of the modality with the highest are replaced with their running mean, this step's
    included, for the next `window` steps, so that it learns from itself alone.

    Defined for two modalities; with more, the highest and the lowest are compared.
    """

    name: Literal["greedy"] = "greedy"
    source: ClassVar[str] = "ICML 2022"
    heads: ClassVar[tuple[str, ...]] = ("channel",)
    tolerance: float | None = Field(0.01, ge=0, description="tolerated difference of speeds; null: no rebalancing")
    window: int = Field(5, ge=1, description="number of steps on a modality alone")
    first_epoch: int = Field(2, ge=1, description="epoch, from 1, in which rebalancing starts")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The sum over modalities, one of which may use its mean scales."""
        logits = dict(outputs.unimodal)
        if alone := state.memory.get("alone"):
            mean = self.means(outputs, state)[alone]
            logits[alone] = _head(state).classifiers[alone](mean * outputs.embeddings[alone])
        return torch.stack([classification_loss(each, labels, state.settings) for each in logits.values()]).sum()

    def means(self, outputs: Outputs, state: State) -> dict[str, Tensor]:
        """Modality -> (d,): its scales, mean over all steps up to this one; constant."""
        with torch.no_grad():
            now = {name: scale.mean(dim=0) for name, scale in _head(state).scales(outputs.embeddings).items()}
        before = {name: state.memory.get(f"scale/{name}", torch.zeros_like(mean)) for name, mean in now.items()}
        return {name: before[name] + (mean - before[name]) / (state.steps + 1) for name, mean in now.items()}

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Measures the speeds and chooses which modality to train alone in the next steps."""
        memory, head = state.memory, _head(state)
        memory.update({f"scale/{name}": mean for name, mean in self.means(outputs, state).items()})
        if memory.get("alone"):
            memory["left"] -= 1
            memory["alone"] = memory["alone"] if memory["left"] else ""
        elif self.tolerance is not None:
            differences = []
            for name, encoder in state.model.encoders.items():
                for key, modules in {
                    f"shared/{name}": (head.squeeze, head.excite[name]),
                    f"own/{name}": (encoder, head.classifiers[name]),
                }.items():
                    memory[key] = memory.get(key, 0.0) + speed(modules)
                differences.append(torch.log10(memory[f"shared/{name}"] / memory[f"own/{name}"]))
            speeds = dict(zip(state.model.encoders, torch.stack(differences).tolist(), strict=True))
            if state.epoch >= self.first_epoch and max(speeds.values()) - min(speeds.values()) > self.tolerance:
                memory["alone"], memory["left"] = max(speeds, key=lambda name: speeds[name]), self.window
            memory |= {f"speed/{name}": value for name, value in speeds.items()}

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """The conditional learning speeds."""
        return {key: value for key, value in state.memory.items() if key.startswith("speed/")}


def speed(modules: Iterable[nn.Module]) -> Tensor:
    """|gradient|^2 / |weights|^2 of all parameters together; a scalar."""
    parameters = [one for module in modules for one in module.parameters() if one.grad is not None]
    gradients = torch.stack([one.grad.square().sum() for one in parameters if one.grad is not None]).sum()
    return gradients / torch.stack([one.square().sum() for one in parameters]).sum()


def _head(state: State) -> Channel:
    head = state.model.head
    assert isinstance(head, Channel)
    return head
