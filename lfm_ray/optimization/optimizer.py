"""The optimiser of theta and its learning rate over the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim import lr_scheduler

from lfm_ray.models.classifier import modality_of
from lfm_ray.settings import Settings


class OptimizerSettings(Settings):
    """How theta is updated."""

    name: Literal["sgd", "adam", "adamw"] = Field(
        "adamw",
        description="the optimiser of theta; adam adds the weight decay to the gradient, adamw takes it off theta",
    )
    learning_rate: float = Field(3e-3, gt=0, le=10, description="the highest learning rate of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; the others have their own")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="weight decay")
    schedule: Literal["one_cycle", "cosine", "step", "plateau", "constant", "table"] = Field(
        "one_cycle",
        description="learning rate over the run; step divides it by ten at 35 % and 70 % of the epochs, plateau where"
        " the training loss no longer falls; table takes it from `table`",
    )
    step_at: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=1,
        description="epochs, from 1, from whose first step on `step` has divided the rate by ten once more (official"
        " code: 70, 140); null: those after 35 % and 70 % of the epochs",
    )
    patience: int = Field(
        5,
        ge=0,
        description="of plateau: so many epochs in a row may pass whose mean training loss, L_Total, is not 0.01 %"
        " below the lowest before; one more divides the learning rate by ten",
    )
    table: list[Annotated[float, Field(ge=0)]] | None = Field(
        None, min_length=1, description="factors of learning_rate over equal shares of the steps, first to last"
    )
    gradient_clip: float | None = Field(5.0, gt=0, description="highest norm of the gradient; null: not clipped")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="an exponential moving average of the weights, with this share of the old one at every step, is"
        " evaluated and saved beside them; null: none",
    )

    @model_validator(mode="after")
    def _a_table_where_it_is_read(self) -> Self:
        if (self.schedule == "table") != (self.table is not None):
            raise ValueError("schedule: table and a list `table` go together")
        if self.step_at is not None and self.schedule != "step":
            raise ValueError("step_at belongs to schedule: step")
        return self


def build_optimizer(
    settings: OptimizerSettings,
    model: nn.Module,
    steps_an_epoch: int,
    epochs: int,
    factors: Mapping[str, float] | None = None,
) -> tuple[torch.optim.Optimizer, lr_scheduler.LRScheduler]:
    """The optimiser, and the schedule of its learning rates, which `after_step` and `after_epoch` advance.

    factors: modality -> its encoder's learning rate over that of the settings, at every step; the
    first parameter group has the settings' own. An encoder whose layers differ says so in a method
    `learning_rate_factors`, parameter -> a further factor. Frozen parameters are left out. A learned
    temperature (`log_tau`) has no weight decay, which would draw tau to 1. Each group names the
    modality that its parameters serve alone, or none.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    its_own = {
        f"encoders.{modality}.{name}": factor
        for modality, encoder in getattr(model, "encoders", {}).items()
        for name, factor in getattr(encoder, "learning_rate_factors", dict)().items()
    }
    groups: dict[tuple[float, float, str], list[nn.Parameter]] = {(rate, decay, ""): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            modality = name.split(".")[1] if name.startswith("encoders.") else ""
            its_rate = rate * (factors or {}).get(modality, 1.0) * its_own.get(name, 1.0)
            its_decay = 0.0 if name == "log_tau" else decay
            groups.setdefault((its_rate, its_decay, modality_of(name, factors or {})), []).append(parameter)
    parameters: list[dict[str, Any]] = [
        {"params": values, "lr": its_rate, "weight_decay": its_decay, "modality": modality}
        for (its_rate, its_decay, modality), values in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if settings.name == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, fused=True)
    elif settings.name == "adam":
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=rate, fused=True)
    steps = max(2, steps_an_epoch * epochs)
    if settings.schedule == "one_cycle":
        rates = [group["lr"] for group in parameters]
        # One step more than there are: OneCycleLR refuses to be advanced past its last.
        return optimizer, lr_scheduler.OneCycleLR(optimizer, rates, steps + 1, cycle_momentum=False)
    if settings.schedule == "cosine":
        return optimizer, lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if settings.schedule == "step":
        milestones = [max(1, steps * 35 // 100), max(2, steps * 70 // 100)]
        if settings.step_at is not None:
            milestones = [(epoch - 1) * steps_an_epoch for epoch in settings.step_at]
        return optimizer, lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    if settings.schedule == "table":
        table = settings.table or [1.0]
        return optimizer, lr_scheduler.LambdaLR(
            optimizer, lambda step: table[min(step, steps - 1) * len(table) // steps]
        )
    if settings.schedule == "plateau":
        return optimizer, lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=settings.patience)
    return optimizer, lr_scheduler.ConstantLR(optimizer, factor=1.0)


def after_step(scheduler: lr_scheduler.LRScheduler) -> None:
    """Advances a schedule that is a function of the step."""
    if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step()


def after_epoch(scheduler: lr_scheduler.LRScheduler, training_loss: float) -> None:
    """Advances a schedule that follows the mean training loss of the epochs; it must be the same on every rank."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(training_loss)


@contextmanager
def scaled_rates(optimizer: torch.optim.Optimizer, factors: Mapping[str, float]) -> Iterator[None]:
    """A step inside has the learning rate of each modality's own parameters times its factor."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= factors.get(group["modality"], 1.0)
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
