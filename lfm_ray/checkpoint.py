"""All state that a run needs to go on bit for bit, in one file.

The file holds tensors and plain values only, and is loaded with `weights_only=True`: opening a
checkpoint never executes code.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lfm_ray.errors import UserError


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` so that a reader finds the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.writing")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote.

    Raises:
        UserError: the file is missing or is not a whole checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # torch raises many kinds for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a whole checkpoint ({reason}); remove it to start that run afresh") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of lfm_ray")
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the random generators that training draws from."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts back what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
