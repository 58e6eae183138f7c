"""What the report says of sweeps: sentences, tables and figures, from what the sweeps have written so far."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from markupsafe import Markup, escape

from lfm_ray.launch import EPOCHS
from lfm_ray.report import confirmation
from lfm_ray.report.plots import Axis, Bars, Curve, Plot
from lfm_ray.report.tables import BASELINES, modalities_of
from lfm_ray.run import Row
from lfm_ray.schedules import Polynomial, formula
from lfm_ray.search.selection import best_of, by_strategy, schedule_of
from lfm_ray.search.space import Space
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.settings import flatten
from lfm_ray.storage import shown as shown_path

STATES = ("finished", "pruned", "failed", "running")
ENOUGH = 10  # finished trials, below which importances are noise
MOST_AXES = 14  # of parallel coordinates


@dataclass(frozen=True)
class Table:
    """A table of the page: cells as they are shown; `texts`: the columns that hold no numbers."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    texts: frozenset[str] = frozenset()
    best: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Seen:
    """A sweep as it was when it was read, under the name by which the page calls it."""

    sweep: Sweep
    trials: list[Trial]
    name: str

    @staticmethod
    def of(folders: Sequence[Path]) -> list[Seen]:
        """Reads sweeps; those whose folders have the same name are called by their paths.

        Raises:
            UserError: a folder is no sweep.
        """
        sweeps = [Sweep.open(folder) for folder in folders]
        named = Counter(sweep.folder.absolute().name for sweep in sweeps)
        return [
            Seen(sweep, [_whole(trial) for trial in sweep.trials()], name if named[name] == 1 else str(sweep.folder))
            for sweep in sweeps
            for name in [sweep.folder.absolute().name]
        ]

    @cached_property
    def best(self) -> Trial | None:
        """The best finished trial."""
        return best_of(self.trials)

    @cached_property
    def modalities(self) -> list[str]:
        """The names of the modalities."""
        return next((modalities_of(trial.rows[-1]) for trial in self.trials if trial.rows), [])

    @property
    def epochs(self) -> int:
        """Epochs that all trials have taken together."""
        return sum(len(trial.rows) for trial in self.trials)


def counts(trials: Iterable[Trial]) -> str:
    """`17 finished, 6 pruned, 1 failed`."""
    states = Counter(trial.state for trial in trials)
    return ", ".join(f"{states[state]} {state}" for state in STATES if states[state])


def summary(seen: Seen) -> list[str | Markup]:
    """What was done, what was found, and how far it can be believed: a sentence each."""
    space, trials, folder = seen.sweep.space, seen.trials, seen.sweep.folder
    if not trials:
        return [f"No trial has begun yet; {space.trials} are planned, on {space.base.data.path}."]
    began = [trial.frozen.datetime_start for trial in trials if trial.frozen.datetime_start]
    ended = [trial.frozen.datetime_complete for trial in trials if trial.frozen.datetime_complete]
    took = f" in {_duration(max(ended) - min(began))}" if began and ended else ""
    lengths = sorted({trial.config.epochs for trial in trials})
    length = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    planned = f" of {space.trials}" if len(trials) < space.trials else ""
    first = (
        f"{len(trials)}{planned} trials of {length} epochs on {space.base.data.path} took"
        f" {seen.epochs:,} epochs{took}: {counts(trials)}."
    )
    if seen.best is None:
        reasons = [trial.reason for trial in trials if trial.state == "failed"]
        return [first, f"No trial has finished{f'; the first reason: {reasons[0]}' if reasons else ''}."]
    row = seen.best.rows[-1]
    alone = ", ".join(f"{name} {row[f'val/{name}/accuracy']:.3f}" for name in seen.modalities)
    second = (
        f"The best, trial {seen.best.number} ({seen.best.strategy}), reaches a fused validation accuracy of"
        f" {seen.best.accuracy:.3f} ({alone}; gap {row['val/accuracy_gap']:.3f})"
    )
    joint = by_strategy(trials).get("alpha = 0")
    if joint is not None and joint.number != seen.best.number:
        second += f", {seen.best.accuracy - joint.accuracy:+.3f} against the best joint training (alpha = 0)"
    third = Markup("The best of many trials looks better than it is; <code>python -m lfm_ray.confirm {}</code>")
    third = third.format(shown_path(folder)) + " trains it anew with other seeds."
    for split, confirmed in confirmed_runs(seen):
        ours = confirmed[confirmed["trial"] == seen.best.number][f"{split}/fused/accuracy"]
        if len(ours):
            theirs = _joint(confirmed, split)
            against = f", against {_percent(theirs)} % of joint training" if len(theirs) else ""
            seeds = f"with {len(ours)} other seeds"
            third = escape(f"Trained anew {seeds}, it reaches {_percent(ours)} % on the {split} split{against}.")
            break
    return [first, f"{second}.", third]


def warnings(all_seen: Sequence[Seen]) -> list[str]:
    """What a reader has to know before believing the page."""
    said = []
    for seen in all_seen:
        running = sum(trial.state == "running" for trial in seen.trials)
        if running or len(seen.trials) < seen.sweep.space.trials:
            said.append(
                f"{seen.name} has not ended: {running} trials are running, or were interrupted (go on with"
                f" python -m lfm_ray.tune --resume {seen.name}). Make the page again for what has come since."
            )
    if len({seen.sweep.file.fingerprint for seen in all_seen}) > 1:
        said.append("These sweeps are of different data: their accuracies cannot be compared.")
    if len({seen.sweep.space.base.epochs for seen in all_seen}) > 1:
        said.append("These sweeps train for different numbers of epochs: part of a difference may come from that.")
    return said


def strategy_frame(all_seen: Sequence[Seen]) -> pd.DataFrame:
    """One row for each strategy of each sweep, the best last.

    The accuracies, the gaps and `best trial` are those of its best finished trial; mean and std are over
    the fused accuracies of all its finished trials.
    """
    rows: list[dict[str, Any]] = []
    for seen in all_seen:
        best = by_strategy(seen.trials)
        names = list(dict.fromkeys([*BASELINES, *(trial.strategy for trial in seen.trials)]))
        for name in sorted((n for n in names if any(t.strategy == n for t in seen.trials)), key=lambda n: n in best):
            mine = [trial for trial in seen.trials if trial.strategy == name]
            states = Counter(trial.state for trial in mine)
            accuracies = pd.Series([trial.accuracy for trial in mine if trial.state == "finished"], dtype=float)
            last: Row = best[name].rows[-1] if name in best else {}
            rows.append(
                {"sweep": seen.name, "strategy": name}
                | {other: last.get(f"val/{other}/accuracy", math.nan) for other in ("fused", *seen.modalities)}
                | {
                    "gap": last.get("val/accuracy_gap", math.nan),
                    "modality gap": last.get("val/modality_gap", math.nan),
                }
                | {"mean": accuracies.mean(), "std": accuracies.std()}
                | {"best trial": best[name].number if name in best else None, "trials": len(mine)}
                | {state: states[state] for state in STATES[:3]}
            )
    frame = pd.DataFrame(rows)
    return frame.sort_values("fused", na_position="first", ignore_index=True) if len(frame) else frame


def strategy_table(frame: pd.DataFrame) -> Table:
    """`strategy_frame` as the page shows it, the best first."""
    if frame.empty:
        return Table("strategies", "", [], [])
    frame = frame[::-1]
    if frame["sweep"].nunique() == 1:
        frame = frame.drop(columns="sweep")
    if not frame["failed"].any():
        frame = frame.drop(columns="failed")
    decimals = [column for column in frame if frame[column].dtype == float and column != "best trial"]
    rows = [
        [_number(value) if column in decimals else _cell(value) for column, value in row.items()]
        for _, row in frame.iterrows()
    ]
    note = (
        "Accuracy on the validation split: of the best finished trial of each strategy, for the fusion and for each"
        " modality alone. gap: highest minus lowest of the modalities; modality gap: distance between the centroids of"
        " their embeddings; mean and std: over all finished trials of the strategy, each with settings of its own."
    )
    best = 0 if frame["fused"].notna().any() else None
    return Table("strategies", "Strategies", list(frame), rows, frozenset({"sweep", "strategy"}), best, note)


def formulas(seen: Seen) -> list[Markup]:
    """alpha(t) of the best trial, and of the best polynomial, as the paper writes it."""
    said = []
    polynomials = [trial for trial in seen.trials if isinstance(trial.config.alpha, Polynomial)]
    found = {trial.number: trial for trial in (seen.best, best_of(polynomials)) if trial and len(trial.rows) > 1}
    for trial in found.values():
        schedule, residual = schedule_of(trial)
        text = str(escape(formula(schedule.power_basis(trial.config.epochs))))
        text = re.sub(r"t\^(\d+)", r"<i>t</i><sup>\1</sup>", text.replace("omega_hat(t)", "ω̂(<i>t</i>)"))
        text = re.sub(r"(?<=\d) t(?= |$)", " <i>t</i>", text)
        fitted = f", fitted with a residual of {residual:.3f}" if residual else ""
        said.append(
            Markup(f"{text} <span class='faint'>")
            + f"trial {trial.number}, {trial.strategy}, T = {trial.config.epochs}{fitted}"
            + Markup("</span>")
        )
    return said


def confirmed_runs(seen: Seen) -> list[tuple[str, pd.DataFrame]]:
    """What `lfm_ray.confirm` has measured of a sweep: the split, and one row for each run."""
    files = {"test": seen.sweep.folder / "confirm.csv", "val": seen.sweep.folder / "confirm-val.csv"}
    frames = [(split, pd.read_csv(file)) for split, file in files.items() if file.exists()]
    return [(split, frame) for split, frame in frames if f"{split}/fused/accuracy" in frame and len(frame)]


def confirmed_tables(seen: Seen) -> list[Table]:
    """What `lfm_ray.confirm` says: figures over seeds, and comparisons with the baselines."""
    note = "Settings were chosen on the validation split; made by python -m lfm_ray.confirm."
    return [
        Table(
            f"confirmed-{split}-{i}",
            title[0].upper() + title[1:],
            list(cells),
            cells.to_numpy().tolist(),
            frozenset({"sweep", "strategy", "minus"}),
            note=note if i == 0 else "",
        )
        for split, frame in confirmed_runs(seen)
        for i, (title, cells) in enumerate(confirmation.tables(frame, split).items())
    ]


class Figures:
    """The figures of some sweeps. Colours stand for strategies, or for sweeps where there are several."""

    def __init__(self, all_seen: Sequence[Seen]) -> None:
        self.all_seen, self.several = all_seen, len(all_seen) > 1
        self.bold = {
            (seen.name, trial.number)
            for seen in all_seen
            for trial in ([seen.best] if self.several and seen.best else by_strategy(seen.trials).values())
        }

    @cached_property
    def groups(self) -> list[str]:
        """What has a colour, in the order of the legend."""
        if self.several:
            return [seen.name for seen in self.all_seen]
        present = [trial.strategy for trial in self.all_seen[0].trials]
        return [name for name in dict.fromkeys([*BASELINES, *present]) if name in present]

    @cached_property
    def plots(self) -> list[Plot]:
        """All that there is something to show of."""
        modalities = dict.fromkeys(name for seen in self.all_seen for name in seen.modalities)
        accuracies = [self._of_epochs(f"val/{name}/accuracy", name) for name in ("fused", *modalities)]
        found = [self.alpha(), *accuracies, self.best_so_far(), self.still_training()]
        if not self.several:
            found.append(self.parallel_coordinates(self.all_seen[0]))
        return [plot for plot in found if plot is not None and plot.curves]

    @cached_property
    def charts(self) -> list[Bars]:
        """Importances of the settings, where there are enough trials."""
        if not self.importances:
            return []
        note = (
            "PED-ANOVA (Watanabe et al., IJCAI 2023) of the finished trials: how much a setting matters for being among"
            " the best tenth. Settings that few trials have, and few trials, make it uncertain."
        )
        return [Bars("importance", "Importance of the settings", "share of the importance", self.importances, note)]

    @cached_property
    def importances(self) -> dict[str, float]:
        """Of the settings of the only sweep."""
        return {} if self.several else importances(self.all_seen[0].trials)

    def alpha(self) -> Plot:
        """alpha(t) over the share of the epochs, as paper Figure 3."""
        curves = [
            self._curve(seen, trial, [row["epoch"] / T for row in rows], [row["alpha"] for row in rows])
            for seen, trial in self._trials()
            for T in [trial.config.epochs]
            if (rows := _rows(trial, "alpha"))
        ]
        note = f"All trials; thick: the best finished one of each {'sweep' if self.several else 'strategy'}."
        return Plot("alpha", "alpha(t)", "share of the epochs", "alpha", curves, note, y_range=(0, 1))

    def _of_epochs(self, key: str, name: str) -> Plot:
        title = "Fused accuracy" if name == "fused" else f"Accuracy of {name} alone"
        curves = [
            self._curve(seen, trial, [row["epoch"] for row in rows], [row[key] for row in rows])
            for seen, trial in self._trials()
            if (rows := _rows(trial, key))
        ]
        return Plot(f"accuracy-{_file(name)}", title, "epoch", "validation accuracy", curves)

    def best_so_far(self) -> Plot:
        """The best fused accuracy that was known after so many epochs of all trials together."""
        curves: list[Curve] = []
        for seen in self.all_seen:
            spent, best = 0, -math.inf
            steps: list[tuple[int, float]] = []
            ended = [trial for trial in seen.trials if trial.frozen.datetime_complete]
            for trial in sorted(ended, key=lambda trial: str(trial.frozen.datetime_complete)):
                spent += len(trial.rows)
                if trial.state == "finished":
                    best = max(best, trial.accuracy)
                    curves.append(self._curve(seen, trial, [spent], [trial.accuracy], bold=False))
                if best > -math.inf:
                    steps.append((spent, best))
            if len(steps) > 1:
                label = seen.name if self.several else ""
                x, y = zip(*steps, strict=True)
                curves.append(Curve(f"best so far{f', {label}' if label else ''}", label, x, y, bold=True))
        note = "Epochs of the trials that had ended, together. Dots: finished trials."
        return Plot("best-so-far", "Best so far", "epochs spent", "fused accuracy", curves, note, steps=True)

    def still_training(self) -> Plot | None:
        """What share of the trials of each group had not been stopped after each epoch."""
        curves = []
        ended = [(seen, trial) for seen, trial in self._trials() if trial.state in ("finished", "pruned")]
        for group in self.groups:
            mine = [trial for seen, trial in ended if self._group(seen, trial) == group]
            stops = Counter(len(trial.rows) for trial in mine if trial.state == "pruned")
            if not mine:
                continue
            longest = max(trial.config.epochs for trial in mine)
            x = [0, *sorted(stops), longest]
            gone = [sum(n for epoch, n in stops.items() if epoch <= at) for at in x]
            y = [1 - n / len(mine) for n in gone]
            curves.append(Curve(f"{group}: {len(mine)} trials, {gone[-1]} pruned", group, x, y, bold=True))
        if all(trial.state != "pruned" for _, trial in ended):
            return None
        note = "A step down: trials that were stopped early at this epoch. Known points are never stopped."
        return Plot(
            "still-training", "Pruning", "epoch", "share still training", curves, note, steps=True, y_range=(0, 1)
        )

    def parallel_coordinates(self, seen: Seen) -> Plot | None:
        """The settings of the finished trials, and what accuracy they led to."""
        finished = [trial for trial in seen.trials if trial.state == "finished"]
        if len(finished) < 2:
            return None
        settings = [trial.space.searched_values(trial.config) for trial in finished]
        columns = {name: [one.get(name) for one in settings] for name in dict.fromkeys(n for s in settings for n in s)}
        varied = [name for name, values in columns.items() if len(set(map(str, values))) > 1]
        weight = self.importances
        shown = sorted(varied, key=lambda name: -weight.get(name, 0))[:MOST_AXES]
        varied.sort(key=lambda name: columns[name].count(None))  # settings that every trial has stand first
        scales = [Scale.of(name, columns[name], seen.sweep.space) for name in varied if name in shown]
        low, high = min(trial.accuracy for trial in finished), max(trial.accuracy for trial in finished)
        span = high - low or 1.0
        axes = [*(Axis(scale.name, scale.ticks()) for scale in scales)]
        axes.append(Axis("accuracy", {f"{low:.3f}": 0.0, f"{high:.3f}": 1.0}))

        def heights(i: int) -> list[float]:
            return [*(scale.height(columns[scale.name][i]) for scale in scales), (finished[i].accuracy - low) / span]

        curves = [self._curve(seen, trial, range(len(axes)), heights(i)) for i, trial in enumerate(finished)]
        note = "Finished trials; thick: the best of each strategy. none: the setting does not exist in the trial."
        if len(varied) > len(shown):
            note += f" The {len(shown)} most important of {len(varied)} settings; the CSV has all."
        data = pd.DataFrame(
            [
                {"trial": trial.number, "strategy": trial.strategy, **values, "accuracy": trial.accuracy}
                for trial, values in zip(finished, settings, strict=True)
            ]
        )
        title = "Settings and accuracy"
        return Plot("settings", title, "setting", "value", curves, note, axes=tuple(axes), data=data)

    def _trials(self) -> list[tuple[Seen, Trial]]:
        return [(seen, trial) for seen in self.all_seen for trial in seen.trials]

    def _group(self, seen: Seen, trial: Trial) -> str:
        return seen.name if self.several else trial.strategy

    def _curve(
        self, seen: Seen, trial: Trial, x: Sequence[float], y: Sequence[float], bold: bool | None = None
    ) -> Curve:
        where = f"{seen.name}, " if self.several else ""
        how = "" if trial.state == "finished" else f" ({trial.state})"
        name = f"{where}trial {trial.number}, {trial.strategy}, {trial.accuracy:.3f}{how}"
        thick = (seen.name, trial.number) in self.bold if bold is None else bold
        return Curve(name, self._group(seen, trial), x, y, thick)


@dataclass(frozen=True)
class Scale:
    """How the values of a setting lie on an axis, from 0 to 1.

    marks: the lowest and the highest number, or all other values. sometimes: there are trials in
    which the setting does not exist; they lie at 0, below the others.
    """

    name: str
    marks: list[Any]
    numbers: bool
    log: bool
    sometimes: bool

    @classmethod
    def of(cls, name: str, values: Sequence[Any], space: Space) -> Scale:
        """The scale of a setting over the given values, None where it does not exist."""
        there = [value for value in values if value is not None]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)
        distribution = space.search.get(name) or space.search.get(name.rpartition(".")[0])
        log = numbers and distribution is not None and distribution.loguniform is not None
        marks = [min(there), max(there)] if numbers else sorted(set(map(str, there)))
        return cls(name, marks, numbers, log, len(there) < len(values))

    def height(self, value: Any) -> float:
        """Where a value is drawn."""
        bottom = 0.14 if self.sometimes else 0.0
        if value is None:
            return 0.0
        if not self.numbers:
            share = self.marks.index(str(value)) / max(1, len(self.marks) - 1)
        else:
            low, high, at = (math.log(v) if self.log else v for v in (*self.marks, value))
            share = (at - low) / (high - low) if high > low else 0.5
        return bottom + (1 - bottom) * share

    def ticks(self) -> dict[str, float]:
        """The texts of the axis, and where they stand."""
        marks = {f"{mark:.3g}" if self.numbers else mark: self.height(mark) for mark in self.marks}
        return {"none": 0.0, **marks} if self.sometimes else marks


def importances(trials: Sequence[Trial]) -> dict[str, float]:
    """Setting -> share of the importance, the highest first; empty where too few trials have finished."""
    finished = [trial for trial in trials if trial.state == "finished"]
    if len(finished) < ENOUGH or len({trial.accuracy for trial in finished}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    for trial in finished:
        frozen = trial.frozen
        try:
            study.add_trial(
                optuna.create_trial(params=frozen.params, distributions=frozen.distributions, value=trial.accuracy)
            )
        except ValueError:  # a known point may lie outside the space
            continue
    found = optuna.importance.get_param_importances(study)
    return {name.removesuffix(".share"): value for name, value in found.items()}


def best_trials(seen: Seen, top: int = 10) -> Table:
    """The best finished trials with what was searched."""
    finished = sorted((t for t in seen.trials if t.state == "finished"), key=lambda trial: trial.rank, reverse=True)
    shown = finished[:top]
    values = [trial.space.searched_values(trial.config) for trial in shown]
    settings = [name for name in dict.fromkeys(n for one in values for n in one) if name != "alpha.strategy"]
    settings.sort(key=lambda name: sum(name not in one for one in values))  # those that every trial has stand first
    rows = [
        [str(trial.number), trial.strategy, f"{trial.accuracy:.3f}", f"{trial.rows[-1]['val/accuracy_gap']:.3f}"]
        + [_setting(one.get(name)) for name in settings]
        for trial, one in zip(shown, values, strict=True)
    ]
    columns = ["trial", "strategy", "fused", "gap", *settings]
    return Table("best-trials", "The best trials", columns, rows, frozenset({"strategy"}))


def pruned_table(seen: Seen) -> Table:
    """How many trials of each strategy were stopped at which epoch."""
    pruned = [trial for trial in seen.trials if trial.state == "pruned"]
    epochs = sorted({len(trial.rows) for trial in pruned})
    rows = []
    for name in dict.fromkeys(trial.strategy for trial in seen.trials):
        mine = [trial for trial in seen.trials if trial.strategy == name]
        stops = Counter(len(trial.rows) for trial in mine if trial.state == "pruned")
        rows.append([name, str(len(mine)), str(sum(stops.values())), *(str(stops[epoch]) for epoch in epochs)])
    by = seen.sweep.space.pruning.by
    return Table(
        "pruned",
        f"Pruned trials, by {by}",
        ["strategy", "trials", "pruned", *(f"at epoch {epoch}" for epoch in epochs)],
        rows if pruned else [],
        frozenset({"strategy"}),
    )


def failed_table(all_seen: Sequence[Seen]) -> Table:
    """Why trials failed: one row for each sweep and reason, the most frequent first."""
    reasons: dict[tuple[str, str], list[Trial]] = {}
    for seen in all_seen:
        for trial in seen.trials:
            if trial.state == "failed":
                reasons.setdefault((seen.name, trial.reason), []).append(trial)
    rows = []
    for (sweep, reason), trials in sorted(reasons.items(), key=lambda item: -len(item[1])):
        numbers = ", ".join(str(trial.number) for trial in trials[:8]) + (", ..." if len(trials) > 8 else "")
        strategies = ", ".join(dict.fromkeys(trial.strategy for trial in trials))
        rows.append([sweep, str(len(trials)), numbers, strategies, reason][len(all_seen) == 1 :])
    columns = ["sweep", "failed", "trials", "strategies", "reason"][len(all_seen) == 1 :]
    return Table("failed", "Failures", columns, rows, frozenset(columns) - {"failed"})


def differences(all_seen: Sequence[Seen]) -> Table:
    """What several sweeps spent and found, and the fixed settings in which they differ."""
    if len(all_seen) < 2:
        return Table("differences", "", [], [])
    bases = [flatten(seen.sweep.space.base.model_dump(mode="json")) for seen in all_seen]
    rows = [
        ["trials", *(str(len(seen.trials)) for seen in all_seen)],
        ["epochs spent", *(f"{seen.epochs:,}" for seen in all_seen)],
        ["best fused accuracy", *(_number(seen.best.accuracy if seen.best else math.nan) for seen in all_seen)],
        ["its strategy", *(seen.best.strategy if seen.best else "-" for seen in all_seen)],
        ["seed of the search", *(str(seen.sweep.file.seed) for seen in all_seen)],
    ]
    for name in dict.fromkeys(name for base in bases for name in base):
        values = [
            "searched" if name in seen.sweep.space.search else _setting(base.get(name))
            for seen, base in zip(all_seen, bases, strict=True)
        ]
        if len(set(values)) > 1:
            rows.append([name, *values])
    names = [seen.name for seen in all_seen]
    return Table("differences", "What the sweeps spent, and where they differ", ["", *names], rows)


def again(seen: Seen) -> dict[str, Any]:
    """The commands, versions, seed, data and hardware with which it can be done again."""
    file, folder = seen.sweep.file, seen.sweep.folder
    commands = [file.command] if file.command else []
    where = shown_path(folder)
    commands += [f"python -m lfm_ray.train {folder / 'best.yaml'}", f"python -m lfm_ray.confirm {where}"]
    commands.append(f"tensorboard --logdir {folder / 'tensorboard'}")
    facts = {
        "begun": file.created,
        "seed": str(file.seed),
        "data": file.space.base.data.path,
        "fingerprint": file.fingerprint,
        "hardware": file.hardware or "not recorded",
        "versions": ", ".join(f"{name} {version}" for name, version in file.versions.items()),
    }
    return {"name": seen.name, "commands": "\n".join(commands), "facts": facts, "space": file.space.to_yaml()}


def _whole(trial: Trial) -> Trial:
    """The trial; one that finished, and whose file of epochs has been lost or cut, counts as failed."""
    if trial.state != "finished" or len(trial.rows) == trial.config.epochs:
        return trial
    return replace(trial, state="failed", reason=f"finished, but its {EPOCHS} is not whole")


def _rows(trial: Trial, key: str) -> list[Row]:
    return [row for row in trial.rows if math.isfinite(row.get(key, math.nan))]


def _joint(frame: pd.DataFrame, split: str) -> pd.Series[float]:
    joint = frame[frame["strategy"] == "alpha = 0"]
    best = joint[joint["selected_by"] == joint["selected_by"].max()] if "selected_by" in joint else joint
    return best[f"{split}/fused/accuracy"]


def _percent(values: pd.Series[float]) -> str:
    spread = f" ± {100 * values.std():.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{spread}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else str(int(value))
    return "-" if value is None else str(value)


def _setting(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(time: timedelta) -> str:
    minutes = time.total_seconds() / 60
    return (
        f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    )


def _file(name: str) -> str:
    """A modality's name as a part of a file's."""
    return re.sub(r"[^\w.-]", "_", name)
