"""lfm_ray: finds training strategies for imbalanced multimodal classification, on Ray.

shards = lfm_ray.prepare(frame, audio="audio", image="image", out="shards/mine")
sweep = lfm_ray.tune("alpha_schedule", data=shards, trials=40)
table = lfm_ray.confirm(sweep, seeds=4)
run = lfm_ray.train(sweep.best, workers=2)
model = lfm_ray.export(run, "exported/mine")

`help(lfm_ray.tune)` and so on describe each; what they have in common is in `lfm_ray.api`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from lfm_ray.api import confirm, embed, export, load, load_run, load_sweep, prepare, train, tune
from lfm_ray.errors import TrainingFailed, UserError

__all__ = [
    "TrainingFailed",
    "UserError",
    "confirm",
    "embed",
    "export",
    "load",
    "load_run",
    "load_sweep",
    "prepare",
    "train",
    "tune",
]


class _Package(ModuleType):
    """This package, in which `tune` stays the function when the module lfm_ray.tune, the command, is imported.

    The import system would put the module in its place. The modules are found all the same, by
    `from lfm_ray.tune import main` and by `python -m lfm_ray.tune`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
