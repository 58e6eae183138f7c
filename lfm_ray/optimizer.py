"""The optimiser of theta and its learning rate over the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import lr_scheduler

from lfm_ray.config import OptimizerSettings


def build_optimizer(
    settings: OptimizerSettings, parameters: Sequence[Tensor], steps_an_epoch: int, epochs: int
) -> tuple[torch.optim.Optimizer, lr_scheduler.LRScheduler]:
    """The optimiser, and the schedule of its learning rate, which is advanced at every step."""
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
