"""A model in the folder of a run, as commands read it that do not train: what it is, and that it is the run's own.

A checkpoint has a checksum, which whoever wrote another one has made as well; so its content is checked part by part,
and compared with what the folder says of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.errors import UserError
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import build, flatten
from lfm_ray.storage import shown
from lfm_ray.training.run_folder import CHECKPOINT, CONFIG, EPOCHS, is_last, read_config, read_epochs, row_of
from lfm_ray.training.trainer import Row

MOVES = ("data.path",)  # settings that may be changed when a folder is moved


@dataclass(frozen=True)
class StoredModel:
    """What a checkpoint, `best.pt` or a file of weights holds of a model.

    config: of the run; epoch: after which the weights are, by name, those that its metrics were measured with;
    averaged: whether they are the moving average. card: of the shards, and history: the rows of the epochs; only files
    of weights have none.
    """

    file: Path
    config: RunConfig
    epoch: int
    weights: dict[str, Tensor]
    averaged: bool
    card: DatasetCard | None
    history: list[Row]

    @classmethod
    def read(cls, file: Path) -> StoredModel:
        """Reads a file.

        Raises:
            UserError: it is missing, was altered, or does not hold a model.
        """
        return cls.of(checkpoint.load(file), file)

    @classmethod
    def of(cls, state: Mapping[str, Any], file: Path) -> StoredModel:
        """What a file holds, or `Trainer.state_dict` gave that is to be one.

        Raises:
            UserError: it is no model.
        """
        checked: dict[str, bool] = {
            "config": isinstance(state.get("config"), dict),
            "epoch": isinstance(state.get("epoch"), int) and state["epoch"] >= 0,
            "card": isinstance(state.get("card", {}), dict),
            "history": _are_rows(state.get("history", []), state.get("epoch")) and _is_whole(state),
        }
        if wrong := [name for name, right in checked.items() if not right]:
            raise UserError(f"{shown(file)}: not a checkpoint of lfm_ray: it has no {wrong[0]} that can be read")
        try:
            config = build(RunConfig, state["config"])
            card = build(DatasetCard, state["card"]) if "card" in state else None
        except UserError as error:
            raise UserError(f"{shown(file)}: not a checkpoint of lfm_ray: {error}") from None
        try:
            weights = checkpoint.evaluated_weights(state)
            right = bool(weights) and all(isinstance(value, Tensor) for value in weights.values())
        except (KeyError, AttributeError, TypeError):
            right = False
        if not right:
            raise UserError(f"{shown(file)}: not a checkpoint of lfm_ray: it has no model that can be read")
        averaged, history = bool(state.get("averaged")), state.get("history", [])
        return cls(file, config, state["epoch"], dict(weights), averaged, card, history)

    def load_into(self, model: nn.Module) -> None:
        """Gives a model these weights.

        Raises:
            UserError: they are of another model.
        """
        load_weights(model, self.weights, self.file)

    def check_is_of(self, config: RunConfig, rows: Sequence[Row]) -> None:
        """Checks that the model is that of a run, and not of another one or of an earlier time.

        rows: of its epochs, as far as they are known.

        Raises:
            UserError: it is not.
        """
        wrong, put_back = f"{shown(self.file)}: is not the model of this run: ", "; put the right file back"
        if differing := _differing(self.config, config):
            raise UserError(f"{wrong}its {differing} is not that of {CONFIG}{put_back}")
        said = next((row for row in rows if row.get("epoch") == self.epoch), None)
        if said is not None and self.history and _plain(self.history[-1]) != _plain(said):
            raise UserError(f"{wrong}its metrics of epoch {self.epoch} are not those of {EPOCHS}{put_back}")
        last = rows[-1] if rows and is_last(rows[-1], config.epochs) else None
        if self.file.name == CHECKPOINT and last is not None and self.epoch < last["epoch"]:
            raise UserError(
                f"{shown(self.file)}: is from epoch {self.epoch}, and {EPOCHS} says that the run has ended with epoch"
                f" {last['epoch']:.0f}{put_back}, or train it again under its name, which goes on from there"
            )

    def check_is_of_folder(self, folder: Path) -> None:
        """Like `check_is_of`, with what the folder of the run says, where it says anything.

        Raises:
            UserError: it is another's.
        """
        config = read_config(folder) if (folder / CONFIG).is_file() else self.config
        self.check_is_of(config, read_epochs(folder))


def config_of_state(state: Mapping[str, Any], file: Path) -> RunConfig:
    """The settings of the run that a checkpoint is the state of, which is checked to be one.

    Raises:
        UserError: it is none, so that no run can go on from it.
    """
    kinds: dict[str, type | tuple[type, ...]] = {
        "card": dict, "optimizer": dict, "scheduler": dict, "scaler": dict, "random": dict, "memory": dict,
        "alpha": float, "steps": int, "history": list, "averaged": (dict, type(None)),
    }  # fmt: skip
    wrong = [name for name, kind in kinds.items() if name not in state or not isinstance(state[name], kind)]
    try:
        model = StoredModel.of(state, file)
        if wrong:
            raise UserError(f"{shown(file)}: not a checkpoint of lfm_ray: it has no {wrong[0]} that can be read")
    except UserError as error:
        raise UserError(f"{error}; put the right file back, or remove it to begin anew") from None
    return model.config


def load_weights(model: nn.Module, weights: Mapping[str, Any], file: Path) -> None:
    """Gives a model weights from a file.

    Raises:
        UserError: they are of another model.
    """
    own = model.state_dict()
    for name, value in own.items():
        if name not in weights:
            raise UserError(f"{shown(file)}: lacks weights of its model, such as {name}")
        if isinstance(value, Tensor) and not _fits(weights[name], value):
            raise UserError(f"{shown(file)}: its {name} is no tensor of shape {tuple(value.shape)}, as its model has")
    if others := [name for name in weights if name not in own]:
        raise UserError(f"{shown(file)}: holds {others[0]}, which its model does not have")
    model.load_state_dict(dict(weights))


def _fits(value: Any, own: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and value.shape == own.shape
        and value.layout == own.layout
        and value.is_complex() == own.is_complex()
    )


def _are_rows(history: Any, epoch: Any) -> bool:
    """Whether something is a list of rows of metrics, up to those of an epoch."""
    return isinstance(history, list) and all(
        isinstance(row, dict)
        and "epoch" in row
        and all(isinstance(name, str) and isinstance(value, int | float | None) for name, value in row.items())
        and (row is not history[-1] or row["epoch"] == epoch)
        for row in history
    )


def _is_whole(state: Mapping[str, Any]) -> bool:
    """Whether a state has rows of metrics, unless it is a file of weights."""
    return "card" not in state or bool(state.get("history"))


def _differing(one: RunConfig, other: RunConfig) -> str:
    """The first setting in which two runs differ; empty if they do not."""
    ours, theirs = (flatten(config.model_dump(mode="json")) for config in (one, other))
    names = [*ours, *(name for name in theirs if name not in ours)]
    return next((name for name in names if name not in MOVES and ours.get(name) != theirs.get(name)), "")


def _plain(row: Row) -> str:
    """The metrics of an epoch, to be compared."""
    return json.dumps(row_of(row), sort_keys=True)
