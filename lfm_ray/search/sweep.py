"""A sweep on disk, running or finished: its search space, what every trial did, and which is best.

STORAGE/NAME/
  sweep.yaml      the space with all overrides, the seed, the data's fingerprint, the versions
  study.journal   Optuna's journal: the settings and outcome of every trial
  trials/0007/    one run each: config.yaml, epochs.jsonl, checkpoint.pt
  tensorboard/    one TensorBoard run each
  .lock           held by the process that runs the sweep
  learned/        the learned run that --from-learned starts with
  warm_start.jsonl   the trials taken from earlier sweeps by --warm-start
  trials.csv, strategies.png, best.yaml, report.html   written at the end
"""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TextIO

import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, model_validator

from lfm_ray.checksums import sealed
from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.files import check_within, write_atomically
from lfm_ray.models.directions import leading
from lfm_ray.search.spaces.objective import signed
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.arms import strategy_name
from lfm_ray.search.study.prior_trials import PriorTrial, read_prior_trials, write_prior_trials
from lfm_ray.search.study.pruning import ARM, is_paused
from lfm_ray.search.study.study import EPOCHS, LABEL, REASON, ROW, SETTINGS, Study, read_trials, removed_parts
from lfm_ray.settings import Settings, flatten, load
from lfm_ray.storage import LOCK, hold_where_possible, pull, push, shown
from lfm_ray.training.run_folder import EPOCHS as EPOCHS_FILE
from lfm_ray.training.run_folder import epochs_and_trouble, is_last, row_of
from lfm_ray.training.trainer import Row

SWEEP, JOURNAL = "sweep.yaml", "study.journal"
BUSY = "another process is running this sweep; wait for it, or end it"

WARM_START, LEARNED = "warm_start.jsonl", "learned"
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def state_of(frozen: FrozenTrial) -> str:
    """One of `STATES`; pruned also while a trial is paused, since that is what it ends as unless it goes on."""
    return STATES[TrialState.PRUNED if is_paused(frozen) else frozen.state]


class SweepFile(Settings):
    """What `sweep.yaml` holds."""

    space: Space
    seed: int
    fingerprint: str = Field(description="of the shards; a sweep can only be resumed on the same data")
    created: str
    versions: dict[str, str]
    command: str = Field("", description="the command line that started the sweep")
    hardware: str = Field("", description="of the cluster")
    identity: str = Field(
        "",
        description="also in study.journal, so that files of two sweeps are not mixed up; empty: of earlier versions",
    )
    from_learned: bool = Field(
        False, description="the learned run has yet to finish; its fit then becomes a known point"
    )
    open_encoder: Literal["by kind"] = Field(
        "by kind",
        description="what model.encoder: null means; files of earlier versions lack this: they meant small",
    )

    @model_validator(mode="before")
    @classmethod
    def _encoders_as_they_were(cls, values: Any) -> Any:
        """A sweep of an earlier version goes on, and is confirmed, with the encoders that it began with."""
        if isinstance(values, dict) and isinstance(values.get("space"), dict) and "open_encoder" not in values:
            run = values["space"].get("run") or {}
            if isinstance(run, dict) and isinstance(run.get("model") or {}, dict):
                run = run | {"model": {"encoder": "small"} | (run.get("model") or {})}
                values = values | {"space": values["space"] | {"run": run}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, values: Any) -> Any:
        """A sweep goes on with the learned alpha that it began with.

        First that was plain from 0.95, then sign from 0.95, then sign from a balanced start, all on held-out rows
        and every five steps.
        """
        space = values.get("space") if isinstance(values, dict) else None
        if not isinstance(space, dict) or "learned" in space:
            return values
        always = {"outer": "held_out", "inner_iters": 5}
        before: dict[str, Any] = always | {"initial": 0.95, "update": space.get("learned_update", "plain")}
        before["eta_alpha"] = 0.01 if before["update"] == "plain" else 0.03
        if "learned_as_before" in space:
            balanced = {"initial": "balanced", "update": "sign", "eta_alpha": 0.015}
            before = always | balanced | space["learned_as_before"]
        others = {key: value for key, value in space.items() if key not in ("learned_update", "learned_as_before")}
        return {**values, "space": {**others, "learned": before}}


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep. state: finished, pruned, failed, running or waiting; frozen: Optuna's record of it.

    rows: what its folder has of its epochs; of a finished trial the last one is that of the journal. trouble: how
    its folder disagrees with the journal, which is believed; empty if it does not.
    """

    number: int
    label: str
    state: str
    reason: str
    config: RunConfig
    rows: list[Row]
    frozen: FrozenTrial
    space: Space
    trouble: str = ""

    @property
    def reached(self) -> float:
        """Fused validation accuracy at the last epoch so far, or the metric that leads for other targets."""
        return self.rows[-1][f"val/fused/{leading(self.rows[-1])}"] if self.rows else float("nan")

    @property
    def trained(self) -> int:
        """How many epochs it was trained for."""
        return int(self.rows[-1]["epoch"]) if self.rows else 0

    @property
    def ended(self) -> bool:
        """Whether its folder has all its epochs, or those until it ran out of patience."""
        return bool(self.rows) and is_last(self.rows[-1], self.config.epochs)

    @property
    def violation(self) -> float:
        """By how much the last epoch's metrics violate the space's constraints in total; 0 if they hold."""
        return sum(max(0.0, amount) for amount in self.space.outcomes(self.config, self.rows[-1]).values())

    @property
    def score(self) -> tuple[float, ...]:
        """What trials are compared by, higher is better: constraints, objectives in order, then validation loss."""
        return -self.violation, *signed(self.space.objective, self.rows[-1]), -self.rows[-1]["val/fused/loss"]

    @property
    def strategy(self) -> str:
        """The short name of the strategy, as tables show it."""
        return strategy_name(self.config)

    @property
    def arm(self) -> str:
        """The arm that it was given to (`lfm_ray.search.study.arms`); empty in a sweep without."""
        return str(self.frozen.user_attrs.get(ARM, ""))


class Sweep:
    """A sweep's folder."""

    def __init__(self, folder: Path, file: SweepFile) -> None:
        self.folder, self.file = folder, file
        self.space = file.space
        self._held: TextIO | None = None

    @staticmethod
    def check_free(folder: Path) -> None:
        """Checks that a folder can become a new sweep.

        Raises:
            UserError: it already holds a sweep, or other files.
        """
        pull(folder, skip=_only_trials_need)
        where = shown(folder)
        if (folder / SWEEP).exists():
            raise UserError(
                f"{where}: already holds a sweep; continue it with --resume {folder.name}, or use another --name"
            )
        if folder.exists() and any(item.name != LOCK for item in folder.iterdir()):
            raise UserError(f"{where}: is neither empty nor a sweep; use another --name")

    @classmethod
    def create(
        cls,
        folder: Path,
        space: Space,
        seed: int,
        fingerprint: str,
        command: str = "",
        hardware: str = "",
        prior_trials: Sequence[PriorTrial] = (),
        from_learned: bool = False,
    ) -> Sweep:
        """Creates the folder of a new sweep and locks it; `fingerprint` is that of its shards.

        Raises:
            UserError: what `check_free` and `hold` raise.
        """
        cls.check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        packages = ("lfm_ray", "torch", "ray", "optuna", "numpy")
        file = SweepFile(
            space=space,
            seed=seed,
            fingerprint=fingerprint,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={name: importlib.metadata.version(name) for name in packages},
            command=command,
            hardware=hardware,
            identity=secrets.token_hex(8),
            from_learned=from_learned,
        )
        sweep = cls(folder, file)
        sweep.hold()
        if prior_trials:
            write_prior_trials(folder / WARM_START, prior_trials)
            push(folder / WARM_START)
        write_atomically(folder / SWEEP, sealed(file.to_yaml()))
        push(folder / SWEEP)
        return sweep

    @classmethod
    def open(cls, folder: Path) -> Sweep:
        """Opens a sweep.

        Raises:
            UserError: the folder holds no sweep, or links that lead out of it.
        """
        pull(folder, skip=_only_trials_need)
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Like `open`, with what this node has of a sweep in an object store."""
        if not (folder / SWEEP).exists():
            raise UserError(f"{shown(folder)}: there is no sweep here (no sweep.yaml)")
        check_within(folder)
        return cls(folder, load(SweepFile, folder / SWEEP))

    def hold(self) -> None:
        """Locks the sweep for this process for the life of this object; only the holder may change it.

        A file system without locks cannot keep other processes out; the sweep runs there all the same.

        Raises:
            UserError: another process holds it.
        """
        self._held = hold_where_possible(self.folder, BUSY)

    def let_go(self) -> None:
        """Lets other processes, and other objects of this one, have the sweep."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def extend(self, trials: int | None = None, epoch_budget: int | None = None) -> None:
        """Changes the number of trials or the epoch budget."""
        changes = {"trials": trials, "epoch_budget": epoch_budget}
        given = {name: value for name, value in changes.items() if value is not None}
        if given:
            self._rewrite(space=self.space.model_copy(update=given))

    def widen(self, space: Space) -> None:
        """Records wider ranges, which the study draws from at once."""
        self._rewrite(space=space)
        self.study.space = space

    def settle(self) -> None:
        """Records as finished what had trained all its epochs when the time was up, and was not asked any more."""
        for trial in self.trials():
            if trial.state == "running" and trial.ended:
                self.study.finish(trial.number, trial.rows[-1])

    def start_around(self, space: Space) -> None:
        """Records that the learned run has ended; `space` has its fit among the known points."""
        self._rewrite(space=space, from_learned=False)

    def _rewrite(self, **changes: Any) -> None:
        self.file = self.file.model_copy(update=changes)
        self.space = self.file.space
        write_atomically(self.folder / SWEEP, sealed(self.file.to_yaml()))
        push(self.folder / SWEEP)

    def check_data(self, fingerprint: str) -> None:
        """Checks that the data has not changed.

        Raises:
            UserError: the shards are not those that the sweep started with.
        """
        if fingerprint != self.file.fingerprint:
            path = self.space.base.data.path
            raise UserError(f"{path}: these are not the shards that the sweep started with (their fingerprint differs)")

    @cached_property
    def study(self) -> Study:
        """The sweep's study."""
        prior_trials = read_prior_trials(self.folder / WARM_START)
        return Study(self.folder / JOURNAL, self.space, self.file.seed, prior_trials, self.file.identity)

    @cached_property
    def removed(self) -> dict[int, str]:
        """The trials of which a part was removed by `lfm_ray.sweeps remove`, and what and when."""
        return removed_parts(self.folder / JOURNAL)

    def trials(self) -> list[Trial]:
        """All started trials, by number. Writes nothing, so the sweep may be running."""
        recorded = read_trials(self.folder / JOURNAL, self.file.identity)
        return [self.trial(frozen) for frozen in recorded if SETTINGS in frozen.user_attrs]

    def trial(self, frozen: FrozenTrial) -> Trial:
        """The trial that Optuna records as `frozen`.

        The journal is the record. A finished trial whose files are missing or say otherwise has the metrics of its last
        epoch that the journal has, and no others; one of an earlier version, which recorded none, is a failed one.
        """
        state, reason = state_of(frozen), frozen.user_attrs.get(REASON, "")
        config = self.space.config(frozen.user_attrs[SETTINGS])
        rows, trouble = self._rows(frozen, config.epochs)
        if frozen.state.is_finished() and not trial_folder(self.folder, frozen.number).exists():
            trouble = self.removed.get(frozen.number, trouble)
        if state == "finished" and trouble and not rows:
            state, reason = "failed", trouble
        return Trial(
            number=frozen.number,
            label=frozen.user_attrs.get(LABEL, ""),
            state=state,
            reason=reason,
            config=config,
            rows=rows,
            frozen=frozen,
            space=self.space,
            trouble=trouble,
        )

    def _rows(self, frozen: FrozenTrial, epochs: int) -> tuple[list[Row], str]:
        """The epochs of a trial, and how its folder disagrees with the journal."""
        rows, trouble = epochs_and_trouble(trial_folder(self.folder, frozen.number))
        if frozen.state == TrialState.COMPLETE:
            recorded: Row | None = frozen.user_attrs.get(ROW)
            if problem := self._differs(frozen, rows, epochs, recorded) or trouble:
                return ([recorded] if recorded else []), problem
        elif frozen.state.is_finished() and len(rows) < frozen.user_attrs.get(EPOCHS, 0):
            trouble = trouble or f"its {EPOCHS_FILE} has {len(rows)} of the {frozen.user_attrs[EPOCHS]} epochs trained"
        return rows, trouble

    def _differs(self, frozen: FrozenTrial, rows: list[Row], epochs: int, recorded: Row | None) -> str:
        """In what the epochs of a finished trial differ from the journal; empty: in nothing."""
        file, says = f"its {EPOCHS_FILE}", f"{JOURNAL} says"
        if not rows:
            return f"{file} is missing or empty, and {says} that the trial finished"
        if recorded is not None and row_of(rows[-1]) == recorded:
            return ""
        epochs = int(recorded["epoch"]) if recorded else frozen.user_attrs.get(EPOCHS) or epochs
        whole = self.space.epochs_a_round or is_last(rows[-1], epochs)
        if not whole:
            return f"{file} ends with epoch {rows[-1].get('epoch')}, and {says} {epochs}"
        values = recorded or dict(zip(self.space.objective, frozen.values or [], strict=False))
        for name, value in values.items():
            found = rows[-1].get(name)
            if not isinstance(found, int | float) or not math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-12):
                return f"{file} has {name} = {found}, and {says} {value}"
        return ""

    def troubles(self, trials: Sequence[Trial]) -> list[str]:
        """What in the folder disagrees with the journal, a line each. trials: all of the sweep."""
        known = {trial.number for trial in trials}
        folders = sorted(item.name for item in (self.folder / "trials").glob("[0-9]*") if item.is_dir())
        unknown = [name for name in folders if name.isdecimal() and int(name) not in known]
        said = [f"trial {trial.number}: {trial.trouble}; the journal is believed" for trial in trials if trial.trouble]
        if unknown:
            said.append(
                f"{JOURNAL} does not know of trials/{', '.join(unknown)}: it was cut, or they are from elsewhere"
            )
        return said

    def table(self) -> pd.DataFrame:
        """One row per trial: its state, its settings, the epochs that it took of T, the metrics of the last one."""
        return pd.DataFrame(
            [
                {"number": trial.number, "label": trial.label, "state": trial.state, "reason": trial.reason}
                | {"strategy": trial.strategy}
                | flatten(trial.config.model_dump(mode="json"))
                | {"epochs": trial.trained, "T": trial.config.epochs}
                | (trial.rows[-1] if trial.rows else {})
                for trial in self.trials()
            ]
        )


def trial_folder(sweep: Path, number: int) -> Path:
    """The run folder of trial `number` in the sweep folder `sweep`."""
    return sweep / "trials" / f"{number:04d}"


def _only_trials_need(name: str) -> bool:
    """Whether the command that runs a sweep can do without this file of the object store."""
    return name == LOCK or name.endswith(".pt") or name.startswith(("ray/", "tensorboard/"))
