"""UMT: encoders learn the task jointly, and also the features of teachers that learned it alone.

Du et al., "On uni-modal feature learning in supervised multi-modal learning", ICML 2023 (and
"Improving multi-modal learning with uni-modal teachers", 2021). Differences: the teachers are trained
in the first epochs of the same run, so that their cost counts, as for every other method; then the
encoders restart from their initial weights, while the optimiser keeps its state. No code of the authors
was found. Read was that of a comparison, GeWu-Lab/BalanceBenchmark at 4c1482f. The same (tests/parity): the
distance, its weight of 10, the loss and its gradient, and with `last_epoch: 81` the end of it. Different:
its teachers are earlier runs of single modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from lfm_ray.methods.base import Method, Row, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs

TEACHER, FIRST = "teacher/", "first/"


def distillation_loss(students: Mapping[str, Tensor], teachers: Mapping[str, Tensor]) -> Tensor:
    """The mean squared difference of embeddings (B, d), summed over modalities; the teachers' are constant."""
    return torch.stack([F.mse_loss(value, teachers[name].detach()) for name, value in students.items()]).sum()


class UMT(Method):
    """First trains teachers, one per modality; then trains jointly while distilling their features."""

    name: Literal["umt"] = "umt"
    source: ClassVar[str] = "ICML 2023"
    passes: ClassVar[tuple[str, str]] = ("2", "1")
    distillation: float = Field(10.0, ge=0, le=1000, description="weight of the distance to the teachers' features")
    teacher_share: float = Field(0.5, ge=0, lt=1, description="share of the epochs in which the teachers are trained")
    last_epoch: int | None = Field(
        None, ge=1, description="last epoch with the distance (BalanceBenchmark: 81); null: that of the run"
    )
    heads: ClassVar[tuple[str, ...]] = ("concat", "sum")

    def teacher_epochs(self, state: State) -> int:
        """How many epochs the teachers are trained for."""
        return round(self.teacher_share * state.epochs)

    def forward(self, network: nn.Module, inputs: Mapping[str, Tensor], state: State) -> Outputs:
        """The outputs, including the teachers' embeddings once there are teachers."""
        outputs = super().forward(network, inputs, state)
        teachers = {key.removeprefix(TEACHER): value for key, value in state.memory.items() if key.startswith(TEACHER)}
        if not teachers:
            return outputs
        training = state.model.training
        state.model.eval()
        with torch.no_grad():
            taught: Outputs = functional_call(state.model, teachers, (inputs,))
        state.model.train(training)
        outputs.extra.update({f"{TEACHER}{name}": value for name, value in taught.embeddings.items()})
        return outputs

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """For the teachers, the sum of the modalities' own losses; then the joint loss and the distillation loss."""
        if state.epoch <= self.teacher_epochs(state):
            return torch.stack(
                [classification_loss(logits, labels, state.settings) for logits in outputs.unimodal.values()]
            ).sum()
        joint = super().classification(outputs, labels, state)
        taught = {key.removeprefix(TEACHER): value for key, value in outputs.extra.items() if key.startswith(TEACHER)}
        if not taught or state.epoch > (self.last_epoch or state.epoch):
            return joint
        return joint + self.distillation * distillation_loss(outputs.embeddings, taught)

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Keeps the initial weights, to restart from them."""
        if state.steps == 0 and self.teacher_epochs(state):
            state.memory.update({f"{FIRST}{key}": value.clone() for key, value in state.model.state_dict().items()})

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Turns the encoders into teachers, and restarts them from their initial weights."""
        if state.epoch == self.teacher_epochs(state):
            learnt = {f"{TEACHER}{key}": value.clone() for key, value in state.model.state_dict().items()}
            first = [key for key in state.memory if key.startswith(FIRST)]
            state.model.load_state_dict({key.removeprefix(FIRST): state.memory.pop(key) for key in first})
            state.memory.update(learnt)
        return {}
