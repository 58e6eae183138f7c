"""Shards, sweeps, a run and an exported model with every file that the commands leave there, made without Ray.

`FACTS` says what is read of such a folder: what an altered file must not change without a word.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import without_workers
from made_sweep import make_sweep
from synthetic import write_dataset
from tiny_run import SMALL

from lfm_ray.checksums import sealed
from lfm_ray.config import RunConfig
from lfm_ray.console import SILENT
from lfm_ray.datasets.shards import CARD, Shards, read_card
from lfm_ray.errors import UserError
from lfm_ray.export import from_run, model_folder
from lfm_ray.files import write_atomically
from lfm_ray.optimization.schedules import Polynomial
from lfm_ray.report import linear_baselines
from lfm_ray.report.confirmation import Confirmed, class_frame, confirm_frame, write_confirmation
from lfm_ray.report.confirmed_files import confirmed_runs
from lfm_ray.report.inspection import inspect
from lfm_ray.report.loaded_run import FITTED, LoadedRun
from lfm_ray.report.page_tables import strategy_frame
from lfm_ray.report.sweep_view import SweepView
from lfm_ray.runtime import checkpoint
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.selection import ranked
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.study.prior_trials import PriorTrial, read_prior_trials
from lfm_ray.search.sweep import LEARNED, WARM_START, Sweep
from lfm_ray.settings import load, read_yaml
from lfm_ray.training.costs import read_costs
from lfm_ray.training.execution import Launch, Workers, run_in_process
from lfm_ray.training.run_folder import WEIGHTS, read_config
from lfm_ray.training.source import DataSource
from lfm_ray.workflows import confirming, sweeping

Facts = dict[str, Any]
KEEPING = ["epochs=2", "checkpoint.keep_every=1", "checkpoint.best=val/fused/accuracy"]


def make(folder: Path) -> Path:
    """Fills a folder with `shards`, `made` (a sweep of made-up trials), `sweep`, `run`, and `model`, its export."""
    write_dataset(folder / "shards")
    write_atomically(folder / "shards" / CARD, read_card(folder / "shards").to_json())
    inspect(folder / "shards", SILENT)
    source = DataSource(Shards(folder / "shards"), {})
    make_sweep(folder / "made", trials=4, epochs=3, ends=("finished", "finished", "pruned", "failed"))
    _search(folder / "sweep", source)
    learned = load(
        RunConfig,
        None,
        [*SMALL, *KEEPING, "alpha.strategy=learned", "alpha.outer=held_out", f"data.path={folder / 'shards'}"],
    )
    run_in_process(Launch(learned, source, folder / "run", profile=True), lambda row: None)
    fitted, _ = Polynomial.fit([row["alpha"] for row in LoadedRun(folder / "run").epochs.to_dict("records")], 1)
    write_atomically(folder / "run" / FITTED, sealed(learned.model_copy(update={"alpha": fitted}).to_yaml()))
    from_run.export(folder / "run", folder / "model")
    return folder


def _search(folder: Path, source: DataSource) -> None:
    """A sweep that was searched and confirmed, with a warm start, and from a learned run."""
    space = load_space(
        {"run": {}, "search": {"alpha.strategy": {"choice": ["heuristic", "learned"]},
                               "optimizer.learning_rate": {"loguniform": [0.001, 0.03]}}},
        [*SMALL, *KEEPING, f"data.path={source.shards.path}"], trials=2,
    )  # fmt: skip
    prior = PriorTrial("earlier", {"alpha.strategy": "learned", "optimizer.learning_rate": 0.01}, [0.5], {})
    sweep = Sweep.create(folder, space, 0, source.shards.card.fingerprint, prior_trials=[prior])
    run_in_process(Launch(space.learned_run(), source, folder / LEARNED), lambda row: None)
    without_workers.run_sweep(sweep, source, Resources(Workers()))
    sweeping.write_results(sweep)
    confirmed = []
    for trial in ranked(sweep.trials()):
        run = confirming.run_folder(sweep, trial, 1, "confirm")
        run_in_process(Launch(confirming.again(trial, 1, {}), source, run, measure="test"), lambda row: None)
        confirmed.append(Confirmed(sweep, trial, trial.score[1], [run]))
    confirming.note_reading([(sweep, one.trial) for one in confirmed], [1])
    write_confirmation(
        confirm_frame(confirmed, [1]), "test", folder / "confirm", classes=class_frame(confirmed, "test")
    )
    write_atomically(folder / "simplest.yaml", sealed(confirmed[0].trial.config.to_yaml()))
    sweep.let_go()


def facts_of_arrays(folder: Path) -> Facts:
    """The card, samples, labels and ids of shards."""
    shards = Shards(folder)
    facts: Facts = {"card": shards.card.model_dump(exclude={"checksum"})}
    for split in shards.card.splits:
        arrays, labels = shards.arrays(split)
        facts |= {f"{split} {name}": np.asarray(array).tobytes() for name, array in arrays.items()}
        facts |= {f"{split} labels": labels.tobytes(), f"{split} ids": shards.ids(split)}
    return facts


def _of_shards(folder: Path) -> Iterator[Callable[[], Facts]]:
    yield lambda: facts_of_arrays(folder)
    yield lambda: _numbers("linear", linear_baselines.read(folder, Shards(folder).card.fingerprint))


def _numbers(what: str, values: object) -> Facts:
    """Those of some values that are there; gaps are none. values: a mapping, an object that has them, or None."""
    named = values if isinstance(values, dict) else {} if values is None else vars(values)
    return {f"{what} {name}": value for name, value in named.items() if value is not None and value == value}


def _of_sweep(folder: Path) -> Iterator[Callable[[], Facts]]:
    def of_trials() -> Facts:
        sweep = Sweep.open(folder)
        trials = sweep.trials()
        facts: Facts = {"file": sweep.file.model_dump(mode="json"), "named": sweep.troubles(trials)}
        for trial in trials:
            facts[f"{trial.number} settings"] = trial.config.model_dump(mode="json")
            for row in trial.rows:
                facts |= {f"{trial.number} {row['epoch']} {name}": value for name, value in row.items()}
        if not facts["named"]:  # else the tables are of fewer epochs, and the report says so
            for line in strategy_frame(SweepView.of([folder])).to_dict("records"):
                facts |= _numbers(f"strategy {line['strategy']}", line)
        return facts

    def of_confirming() -> Facts:
        frames, troubles = confirmed_runs(Sweep.open(folder))
        if troubles:
            raise UserError("; ".join(troubles))
        lines = [(split, number, line) for split, frame in frames for number, line in frame.to_dict("index").items()]
        found = [_numbers(f"{split} {number}", line) for split, number, line in lines]
        return {name: value for one in found for name, value in one.items()}

    def of_prior_trials() -> Facts:
        prior = read_prior_trials(folder / WARM_START)
        return {f"prior {number}": vars(one) for number, one in enumerate(prior)}

    yield of_trials
    yield of_confirming
    yield of_prior_trials
    for name in ("best.yaml", "simplest.yaml"):
        if (folder / name).exists():
            yield lambda name=name: _settings(folder / name)  # type: ignore[misc]
    for run in sorted({file.parent for file in folder.rglob("*.pt") if file.parent.name != WEIGHTS}):
        yield lambda run=run: _known_of_run(run, _digest(run))  # type: ignore[misc]


@functools.lru_cache
def _known_of_run(folder: Path, digest: str) -> Facts:
    """What the run of a trial says, read once while its files have this checksum.

    Raises:
        UserError: the first line with which a part is refused.
    """
    facts, said = _read(_of_run(folder))
    if said:
        raise UserError(said[0])
    return facts


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        found.update(f"{file} {file.stat().st_size}".encode() + file.read_bytes())
    return found.hexdigest()


def _settings(file: Path) -> Facts:
    """What a file of settings says; one that is empty says nothing, and `train` refuses it."""
    return {file.name: load(RunConfig, file).model_dump(mode="json")} if read_yaml(file) else {}


def _of_run(folder: Path) -> Iterator[Callable[[], Facts]]:
    """What a run's folder says, by the names of its files."""

    def of_epochs() -> Facts:
        loaded = LoadedRun(folder)
        facts: Facts = {"config": loaded.config.model_dump(mode="json")}
        facts |= {f"alpha {step}": value for step, value in loaded.alpha_updates.items()}
        for row in loaded.epochs.to_dict("records"):
            facts |= {f"{row['epoch']} {name}": value for name, value in row.items() if not pd.isna(value)}
        return facts

    def of_confusion() -> Facts:
        return {f"{folder} confusion": LoadedRun(folder).confusion().to_numpy().tolist()}

    def of_rest() -> Facts:
        loaded = LoadedRun(folder)
        facts = {"profile": loaded.profile} if loaded.profile else {}
        return facts | ({"fitted": loaded.fitted.model_dump(mode="json")} if loaded.fitted else {})

    yield lambda: {f"{folder} {name}": value for name, value in of_epochs().items()}
    yield of_confusion
    yield lambda: {f"{folder} {name}": value for name, value in of_rest().items()}
    yield lambda: {f"{folder} settings": read_config(folder).model_dump(mode="json")}
    yield lambda: _numbers(f"{folder} costs", read_costs(folder))
    for file in sorted(folder.rglob("*.pt")):
        yield lambda file=file: {str(file): checkpoint.load(file) and file.read_bytes()}  # type: ignore[misc]


def _of_model(folder: Path) -> Iterator[Callable[[], Facts]]:
    def of_all() -> Facts:
        card, model = model_folder.read(folder)
        weights = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
        return {"card": card.model_dump(mode="json", exclude={"checksum"}), **weights}

    yield of_all


FACTS: dict[str, Callable[[Path], Iterator[Callable[[], Facts]]]] = {
    "shards": _of_shards, "made": _of_sweep, "sweep": _of_sweep, "run": _of_run, "model": _of_model,
}  # fmt: skip


def facts_of(kind: str, folder: Path) -> tuple[Facts, list[str]]:
    """What is read of a folder, part by part, and the lines with which parts are refused."""
    return _read(FACTS[kind](folder))


def _read(parts: Iterator[Callable[[], Facts]]) -> tuple[Facts, list[str]]:
    facts: Facts = {}
    said = []
    for part in parts:
        try:
            facts |= part()
        except UserError as error:
            said.append(str(error))
    return facts, said
