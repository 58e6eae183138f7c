"""TensorBoard: the curves and the settings of every trial, written while the sweep runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lfm_ray.config import RunConfig
from lfm_ray.run import Row
from lfm_ray.search.space import Space
from lfm_ray.search.study import SETTINGS
from lfm_ray.search.sweep import strategy_name
from lfm_ray.search.tune_adapters import FAILED, NUMBER, DriverOnly
from lfm_ray.settings import flatten

LAYOUT = {
    "strategies": {
        "alpha(t)": ["Multiline", ["^alpha$"]],
        "fused accuracy": ["Multiline", ["^val/fused/accuracy$"]],
        "mean unimodal accuracy": ["Multiline", ["^val/unimodal_accuracy$"]],
        "accuracy gap": ["Multiline", ["^val/accuracy_gap$"]],
    }
}


class RunWriter:
    """The TensorBoard run of one training run: a scalar for each metric and epoch, then HParams."""

    def __init__(self, folder: Path, config: RunConfig, settings: dict[str, Any]) -> None:
        self._writer = SummaryWriter(str(folder), flush_secs=5)
        self._settings = {"strategy": strategy_name(config), **settings}
        self._last: Row = {}

    def add(self, row: Row) -> None:
        """Writes the metrics of an epoch."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._last = row

    def close(self) -> None:
        """Writes the settings beside the last metrics (the HParams page), and ends the run."""
        typed = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in self._settings.items()
        }
        metrics = {f"hparam/{name}": value for name, value in self._last.items() if name.startswith(("val/", "test/"))}
        if metrics:
            for summary in hparams(typed, metrics):
                self._writer._get_file_writer().add_summary(summary)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, int(self._last["epoch"]))
        self._writer.close()


class TensorBoardCallback(DriverOnly, Callback):
    """Writes every trial of a sweep under `folder`, one TensorBoard run each, such as `007-learned`."""

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder, self.space = folder, space
        self._writers: dict[str, RunWriter] = {}
        with SummaryWriter(str(folder / "layout")) as writer:
            writer.add_custom_scalars(LAYOUT)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Writes an epoch."""
        if FAILED in result:
            return
        if trial.trial_id not in self._writers:
            config = self.space.config(trial.config[SETTINGS])
            name = f"{trial.config[NUMBER]:03d}-{strategy_name(config).replace(' ', '')}"
            values = flatten(config.model_dump())
            searched = {name: values[name] for name in self.space.searched_in(config)}
            self._writers[trial.trial_id] = RunWriter(self.folder / name, config, _scalars(searched))
        row = {
            name: value
            for name, value in result.items()
            if name.startswith(("val/", "train/", "alpha", "learning", "tau"))
        }
        self._writers[trial.trial_id].add({"epoch": result["epoch"], "seconds": result["seconds"], **row})

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends a trial's TensorBoard run."""
        writer = self._writers.pop(trial.trial_id, None)
        if writer:
            writer.close()

    on_trial_error = on_trial_complete


def _scalars(settings: dict[str, Any]) -> dict[str, Any]:
    """Lists become one setting for each entry, since HParams shows scalars only."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{i}": entry for i, entry in enumerate(value)} if isinstance(value, list) else {name: value}
    return flat
