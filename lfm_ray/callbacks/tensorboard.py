"""TensorBoard: the curves and settings of every trial, written while the sweep runs.

The driver writes what trials report, so it does not matter which node they run on.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from lfm_ray import storage
from lfm_ray.config import RunConfig
from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.models.directions import LEADING, leading
from lfm_ray.search.ray_tune.adapters import FAILED, NUMBER, DriverOnly
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.arms import strategy_name
from lfm_ray.search.study.study import SETTINGS
from lfm_ray.search.sweep import trial_folder
from lfm_ray.settings import flatten
from lfm_ray.training.run_folder import read_alpha_updates, row_of
from lfm_ray.training.trainer import Row

FURTHER: dict[TargetKind, dict[str, str]] = {
    "classes": {"val/fused/map": "fused MAP", "val/fused/macro_f1": "fused macro F1"},
    "multilabel": {"val/fused/micro_f1": "fused micro F1", "val/fused/macro_f1": "fused macro F1"},
    "regression": {"val/fused/mae": "fused MAE"},
}


def metrics(kind: TargetKind) -> dict[str, str]:
    """Metrics on the HParams page: name of the scalar -> name on the page."""
    lead = LEADING[kind]
    name = "MAP" if lead == "map" else lead
    return {
        f"val/fused/{lead}": f"fused {name}",
        **FURTHER[kind],
        f"val/unimodal_{lead}": f"mean unimodal {name}",
        f"val/{lead}_gap": f"{name} gap",
        "val/modality_gap": "modality gap",
        **({"val/shapley_gap": "Shapley gap", "val/fused/calibration_error": "ECE"} if kind == "classes" else {}),
        "val/fused/loss": "fused loss",
    }


def layout(modalities: Collection[str], lead: str = "accuracy") -> dict[str, dict[str, list[Any]]]:
    """The layout of the Custom Scalars page: alpha(t) of all runs beside their accuracies."""

    def overlay(*tags: str) -> list[Any]:
        return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]  # a modality may be called a+b

    of_classes = {
        "contributions": {f"Shapley value of {name}": overlay(f"val/{name}/shapley") for name in modalities}
        | {f"accuracy without {name}": overlay(f"val/{name}/missing_accuracy") for name in modalities},
        "calibration": {
            "NLL": overlay("val/fused/loss"),
            "calibration error": overlay("val/fused/calibration_error"),
        },
    }
    return {
        "strategies": {
            "alpha(t)": overlay("alpha"),
            f"fused {lead}": overlay(f"val/fused/{lead}"),
            f"mean unimodal {lead}": overlay(f"val/unimodal_{lead}"),
        },
        "modalities": {f"{name} {lead}": overlay(f"val/{name}/{lead}") for name in modalities}
        | {f"{lead} gap": overlay(f"val/{lead}_gap"), "modality gap": overlay("val/modality_gap")},
        **(of_classes if lead == LEADING["classes"] else {}),
        "losses": {
            "classification loss (training)": overlay("train/classification_loss"),
            "matching loss (training)": overlay("train/matching_loss"),
            "learning rate": overlay("learning_rate"),
        },
    }


class RunWriter:
    """The TensorBoard run of one training run.

    It has a scalar for each metric and epoch. A learned alpha also has one for each of its updates,
    indexed by the training step on theta that it followed. Settings are written at the start, so that
    the HParams page shows the run while it trains. run: the training run's folder.
    """

    def __init__(self, folder: Path, config: RunConfig, settings: dict[str, Any], run: Path) -> None:
        self.folder, self.run, self.epochs, self.last = folder, run, config.epochs, dict[str, float]()
        self._learns_alpha, self._updates = config.learns_alpha, 0
        self._writer = SummaryWriter(str(folder), flush_secs=5)
        info = plugin_data_pb2.SessionStartInfo()
        for name, value in settings.items():
            kind = _kind([value])
            field = {"BOOL": "bool_value", "FLOAT64": "number_value", "STRING": "string_value"}[kind]
            setattr(info.hparams[name], field, str(value) if kind == "STRING" else value)
        self._add(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=info))

    def add(self, row: Row) -> None:
        """Writes the metrics of an epoch, and the updates of alpha since the previous call."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        if self._learns_alpha:
            for step, alpha in read_alpha_updates(self.run).items():
                if step > self._updates:
                    self._writer.add_scalar("alpha_per_update", alpha, step)
                    self._updates = step
        self.last = row

    def close(self, failed: bool = False) -> None:
        """Ends the run."""
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        end = plugin_data_pb2.SessionEndInfo(status=status)
        self._add(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))
        self._writer.close()

    def _add(self, tag: str, content: Any) -> None:
        _add(self._writer, tag, content)


class TensorBoardCallback(DriverOnly, Callback):
    """Writes every trial of a sweep to the sweep's folder `tensorboard`, one TensorBoard run each.

    A run is called `017-learned` while it trains and `017-learned-acc0.83` when it has ended, with
    `-epoch4` added if it was pruned and `-failed` if it failed. A trial that is resumed after a kill
    reports its earlier epochs again, and its TensorBoard run is rewritten.
    """

    def __init__(self, sweep: Path, space: Space, modalities: Collection[str], kind: TargetKind = "classes") -> None:
        self.sweep, self.folder, self.space = sweep, sweep / "tensorboard", space
        self._writers: dict[str, RunWriter] = {}
        shutil.rmtree(self.folder / "layout", ignore_errors=True)
        with SummaryWriter(str(self.folder / "layout")) as writer:
            writer.add_custom_scalars(layout(modalities, LEADING[kind]))
            experiment = _experiment(space, kind)
            _add(writer, metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Writes an epoch."""
        if FAILED in result:
            return
        if trial.trial_id not in self._writers:
            number, config = trial.config[NUMBER], self.space.config(trial.config[SETTINGS])
            for earlier in self.folder.glob(f"{number:03d}-*"):
                shutil.rmtree(earlier, ignore_errors=True)
            settings, run = run_settings(self.space, number, config), trial_folder(self.sweep, number)
            self._writers[trial.trial_id] = RunWriter(self.folder / run_name(number, config), config, settings, run)
        self._writers[trial.trial_id].add(row_of(result))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Closes a trial's TensorBoard run and adds the accuracy to its name."""
        writer = self._writers.pop(trial.trial_id, None)
        if writer is None:
            return
        failed = FAILED in (trial.last_result or {}) or trial.status == Trial.ERROR
        writer.close(failed)
        lead = leading(writer.last)
        name = f"{writer.folder.name}-{lead[:3]}{writer.last[f'val/fused/{lead}']:.2f}"
        if failed:
            name += "-failed"
        elif writer.last["epoch"] < writer.epochs:
            name += f"-epoch{writer.last['epoch']:.0f}"
        storage.push(writer.folder.rename(writer.folder.with_name(name)))

    on_trial_error = on_trial_complete


def run_name(number: int, config: RunConfig) -> str:
    """The name of a trial while it trains: `017-learned`."""
    return f"{number:03d}-{strategy_name(config).replace(' ', '')}"


def run_settings(space: Space, number: int, config: RunConfig) -> dict[str, Any]:
    """The settings that distinguish trials: strategy, number, all searched settings, and a few that all trials have."""
    values = flatten(config.model_dump(mode="json"))
    always = {name: values[name] for name in _always(space) if name in values}
    return {"strategy": strategy_name(config), "trial": number, **always, **space.searched_values(config)}


def _experiment(space: Space, target: TargetKind) -> api_pb2.Experiment:
    """The columns of the HParams page: every searched setting with its type, and the metrics.

    TensorBoard shows no others. They are written once for all runs, since a run knows only the
    settings of its own strategy. Settings that every run has come first (`differs`).
    """
    always, base = _always(space), flatten(space.base.model_dump(mode="json"))
    kinds = {"strategy": "STRING", "trial": "FLOAT64", **{name: _kind([base[name]]) for name in always if name in base}}
    kinds |= {name: _kind(values) for name, values in space.searched_examples().items()}
    return api_pb2.Experiment(
        description=space.question,
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=getattr(api_pb2, f"DATA_TYPE_{kind}"), differs=name in always)
            for name, kind in kinds.items()
        ],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name)
            for tag, name in metrics(target).items()
        ],
    )


def _always(space: Space) -> list[str]:
    """At least five settings that every run has.

    TensorBoard shows the first five unless the user chooses others, and its parallel coordinates
    leave out every run that lacks a shown setting.
    """
    searched = [name for name, one in space.search.items() if not one.when and not one.length]
    others = [name for name in ("epochs", "seed", "data.batch_size") if name not in space.search]
    return ["strategy", "trial", *searched, *others[: max(0, 3 - len(searched))]]


def _kind(values: Iterable[Any]) -> str:
    """TensorBoard's name of a type that can hold all of these values."""
    types = {type(value) for value in values}
    if types == {bool}:
        return "BOOL"
    return "FLOAT64" if types <= {int, float} else "STRING"


def _add(writer: SummaryWriter, tag: str, content: Any) -> None:
    """Writes a message of the HParams plugin."""
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
    writer._get_file_writer().add_summary(Summary(value=[value]))
