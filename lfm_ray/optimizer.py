"""The optimiser of theta and its learning rate over the run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from lfm_ray.config import OptimizerSettings


def build_optimizer(
    settings: OptimizerSettings, model: nn.Module, steps_an_epoch: int, epochs: int
) -> tuple[torch.optim.Optimizer, lr_scheduler.LRScheduler]:
    """The optimiser, and the schedule of its learning rate, which is advanced at every step.

    A learned temperature (`log_tau`) has no weight decay, which would draw tau to 1.
    """
    decayed = [value for name, value in model.named_parameters() if name != "log_tau"]
    others = [value for name, value in model.named_parameters() if name == "log_tau"]
    parameters: list[dict[str, Any]] = [
        {"params": decayed},
        *([{"params": others, "weight_decay": 0.0}] if others else []),
    ]
    rate, decay = settings.learning_rate, settings.weight_decay
    optimizer: torch.optim.Optimizer
    if settings.name == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    steps = max(2, steps_an_epoch * epochs)
    if settings.schedule == "one_cycle":
        # One step more than there are: OneCycleLR refuses to be advanced past its last.
        return optimizer, lr_scheduler.OneCycleLR(optimizer, rate, steps + 1, cycle_momentum=False)
    if settings.schedule == "cosine":
        return optimizer, lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if settings.schedule == "step":
        milestones = [max(1, steps * 35 // 100), max(2, steps * 70 // 100)]
        return optimizer, lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    return optimizer, lr_scheduler.ConstantLR(optimizer, factor=1.0)
