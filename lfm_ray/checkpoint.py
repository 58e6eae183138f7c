"""All state that a run needs to go on bit for bit, in one file.

The file holds tensors and plain values only, and is loaded with `weights_only=True`: opening a
checkpoint never executes code. It ends with the SHA-256 of what stands before, so that a truncated
or altered file is found; the file that it replaced can be kept, to go on from.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm_ray.errors import UserError


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
