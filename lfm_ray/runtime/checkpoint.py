"""All state that a run needs to resume bit for bit, in one file.

The file holds tensors and plain values only, and is loaded with `weights_only=True`: opening a
checkpoint never executes code. It ends with the SHA-256 of its content, so that a truncated or
altered file is detected; the file it replaced can be kept to fall back on.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lfm_ray.errors import UserError
from lfm_ray.files import written_anew
from lfm_ray.models.directions import natural_direction
from lfm_ray.settings import Settings


class CheckpointSettings(Settings):
    """How often the state is saved from which a killed run resumes, and which models are kept."""

    hours_between_failures: float = Field(
        6.0,
        ge=0,
        description="mean time between kills, which decides how often the state is saved; 0: after every epoch",
    )
    keep_every: int | None = Field(
        None,
        ge=1,
        description="keep the model after the first, the last and every so many epochs, to see what it looked at"
        " (lfm_ray.report --gradcam); null: keep none",
    )

    best: str | None = Field(
        None,
        pattern="^val/",
        description="a metric of the validation split, such as val/fused/accuracy: the model after the best epoch is"
        " kept beside the last (best.pt; lfm_ray.export --best), and confirm measures that one. The epoch is then"
        " fitted to the validation split, whose figures of it are too good; null: only the last epoch counts",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="a run stops when so many epochs in a row were not better, by `best`, than the best before; null:"
        " it trains all its epochs",
    )

    @model_validator(mode="after")
    def _patience_for_something(self) -> Self:
        if self.patience is not None and self.best is None:
            raise ValueError("patience needs a metric to wait for; set checkpoint.best, such as val/fused/accuracy")
        return self

    def improves(self, value: float, best: float) -> bool:
        """Whether a value of the metric `best` is better than the best before."""
        return value < best if natural_direction(self.best or "") == "minimize" else value > best

    def is_due(self, elapsed: float, cost: float) -> bool:
        """Whether to save the state again, `elapsed` seconds after a save that took `cost` seconds.

        Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of
        the ACM 17(9), 1974: the square root of twice the cost times the mean time between failures. For a cost of
        15 ms and 6 hours the interval is 25 s, and saving takes 0.06 % of the time; for 10 s, 11 minutes and 1.5 %.
        """
        return elapsed >= math.sqrt(2 * cost * 3600 * self.hours_between_failures)

    def keeps(self, epoch: int, epochs: int) -> bool:
        """Whether the model is kept after `epoch` of `epochs`."""
        return self.keep_every is not None and (epoch in (1, epochs) or epoch % self.keep_every == 0)


def save(path: Path, state: dict[str, Any], keep_previous: bool = False) -> None:
    """Writes `state` so that a reader finds the old file or the new one, never a partial file.

    keep_previous: keep the old file as `previous(path)`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    with written_anew(path, tidy=True) as file:
        file.write(content.getbuffer())
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.flush()
        os.fsync(file.fileno())
        if keep_previous and path.exists():
            path.replace(previous(path))


def previous(path: Path) -> Path:
    """Where the predecessor of the checkpoint at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote.

    Raises:
        UserError: the file is missing or is not an intact checkpoint.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    size = hashlib.sha256().digest_size
    if len(content) <= size or hashlib.sha256(memoryview(content)[:-size]).digest() != content[-size:]:
        raise UserError(f"{path}: the checkpoint is truncated or was altered (its checksum differs)")
    try:
        with warnings.catch_warnings(action="ignore"):  # such as on sparse tensors, which no run of ours has
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of somebody else's makes of it, such as code, which is refused
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(".")[0]
        raise UserError(f"{path}: not a checkpoint of lfm_ray: {reason}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of lfm_ray")
    return state


def load_newest(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The state in `path`, or in its predecessor if `path` cannot be used; None if neither can.

    The second value has one line for each file that could not be used.
    """
    troubles: list[str] = []
    for file in (path, previous(path)):
        if file.exists():
            try:
                return load(file), troubles
            except UserError as error:
                troubles.append(str(error))
    return None, troubles


def evaluated_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that a run's metrics belong to: their moving average, if there is one."""
    if averaged := state.get("averaged"):  # torch's AveragedModel also holds a count of its updates
        return {name[7:]: value for name, value in averaged.items() if name.startswith("module.")}
    return state["model"]


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the random generators that training draws from."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
