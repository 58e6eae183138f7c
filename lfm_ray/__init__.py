"""lfm_ray: finds training strategies for imbalanced multimodal classification, on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: it takes seconds
    from lfm_ray.export.predictor import Predictor
    from lfm_ray.report.loaded_sweep import LoadedSweep


def load(folder: str | Path, device: str = "auto") -> Predictor:
    """Opens a model that `python -m lfm_ray.export` wrote; `predict` of what it returns takes raw media files.

    Raises:
        UserError: the folder is no exported model, or is not as it was written.
    """
    from lfm_ray.export.predictor import Predictor

    return Predictor(folder, device)


def load_sweep(sweep: str | Path) -> LoadedSweep:
    """Reads a sweep, running or ended, for a notebook: data frames of it, and the figures of its report.

    sweep: its folder, or where an object store keeps it.

    Raises:
        UserError: there is no sweep.
    """
    from lfm_ray.report.loaded_sweep import LoadedSweep
    from lfm_ray.storage import working_folder

    return LoadedSweep(working_folder(str(sweep)))
