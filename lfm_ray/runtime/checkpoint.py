"""All state that a run needs to go on bit for bit, in one file.

The file holds tensors and plain values only, and is loaded with `weights_only=True`: opening a
checkpoint never executes code. It ends with the SHA-256 of what stands before, so that a truncated
or altered file is found; the file that it replaced can be kept, to go on from.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.errors import UserError
from lfm_ray.settings import Settings


class CheckpointSettings(Settings):
    """How often the state is saved from which a run goes on after a kill, and what is kept beside it."""

    hours_between_failures: float = Field(
        6.0,
        ge=0,
        description="mean time between two kills, which decides how often the state is saved; 0: after every epoch",
    )
    keep_every: int | None = Field(
        None,
        ge=1,
        description="epochs between two that the model is kept of, for good, beside the first and the last: to see what"
        " it looked at (lfm_ray.report --gradcam); null: none",
    )

    def is_due(self, elapsed: float, cost: float) -> bool:
        """Whether the state is to be saved again, `elapsed` seconds after a save that took `cost` seconds.

        Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of
        the ACM 17(9), 1974: the square root of twice the cost times the mean time between failures. For a cost of
        15 ms and 6 hours that is 25 s, so 0.06 % of the time; for 10 s it is 11 minutes, 1.5 %.
        """
        return elapsed >= math.sqrt(2 * cost * 3600 * self.hours_between_failures)

    def keeps(self, epoch: int, epochs: int) -> bool:
        """Whether the model after `epoch` of so many is kept."""
        return self.keep_every is not None and (epoch in (1, epochs) or epoch % self.keep_every == 0)


def save(path: Path, state: dict[str, Any], keep_previous: bool = False) -> None:
    """Writes `state` so that a reader finds the old file or the new one, never a part.

    keep_previous: the old file stays, as `previous(path)`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    temporary = path.with_name(f"{path.name}.writing")
    with temporary.open("wb") as file:
        file.write(content.getbuffer())
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.flush()
        os.fsync(file.fileno())
    if keep_previous and path.exists():
        path.replace(previous(path))
    temporary.replace(path)


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote.

    Raises:
        UserError: the file is missing or is not a whole checkpoint.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    size = hashlib.sha256().digest_size
    if len(content) <= size or hashlib.sha256(memoryview(content)[:-size]).digest() != content[-size:]:
        raise UserError(f"{path}: the checkpoint is truncated or was altered (its checksum differs)")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of lfm_ray")
    return state


def load_newest(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The state in `path`, or in the one before it where that is not whole; None where there is neither.

    The second value says in a line each what could not be used.
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
    """The weights that a run's metrics are of: their moving average, where there is one."""
    if averaged := state.get("averaged"):  # of torch's AveragedModel, which counts its updates beside them
        return {name[7:]: value for name, value in averaged.items() if name.startswith("module.")}
    return state["model"]


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the random generators that training draws from."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts back what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
