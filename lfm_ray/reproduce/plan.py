"""The rows of the paper's tables and figures, each tuned with the same budget and confirmed with the same seeds.

FOLDER/
  comparison.yaml   what is compared: the table or figure, the data, and the trials, epochs and seeds of every row
  ROW/              one sweep per row (lfm_ray/search/sweep.py); confirm/ holds its best trial with other seeds

Every row has the same number of trials with the same number of epochs, without pruning. The first
trial of a row uses its authors' defaults; the others are drawn from its part of
search_spaces/methods.yaml (table3, table4, figure3: alpha_schedule.yaml). Finished runs are not
repeated, so the same call resumes after a kill.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import Field
from ray.tune import Callback

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.inputs import seen
from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.files import write_atomically
from lfm_ray.methods import METHODS
from lfm_ray.models.classifier import check_model
from lfm_ray.registry import short_name
from lfm_ray.reproduce.papers import PAPERS
from lfm_ray.resources import shipped_file
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.ray_tune.tuning import run_configs, run_each
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.study.arms import JOINT
from lfm_ray.search.sweep import Sweep, Trial, trial_folder
from lfm_ray.settings import Settings, build, load, merge, nearest
from lfm_ray.training.run_folder import read_epochs
from lfm_ray.training.source import DataSource

SPACE = "search_spaces/methods.yaml"
SCHEDULES = "search_spaces/alpha_schedule.yaml"
OF_SCHEDULES = ("table3", "table4", "figure3")  # here L_MM is tuned for every alpha(t)
CONCAT = "Concat"
JOINT_TRAINING = ["method.name=lfm", "alpha.strategy=constant", "alpha.value=0"]
HEADS = {
    CONCAT: "concat", "Affine": "affine", "Channel": "channel", "ML-LSTM": "ml_lstm", "Sum": "sum", "Weight": "weight",
}  # fmt: skip
OTHERS = {
    "ETMC": "etmc", "MSES": "mses", "G-Blend": "g_blend", "OGM-GE": "ogm_ge", "Greedy": "greedy", "DOMFN": "domfn",
    "MSLR": "mslr", "PMR": "pmr", "AGM": "agm", "MLA": "mla", "ReconBoost": "recon_boost", "MMPareto": "mmpareto",
    "UMT": "umt", "QMF": "qmf",
}  # fmt: skip
LFM = {f"LFM {name}": ["method.name=lfm", f"alpha.strategy={name}"] for name in ("heuristic", "polynomial", "learned")}
CONSTANTS = {
    f"alpha = {c}": ["method.name=lfm", "alpha.strategy=constant", f"alpha.value={c}"] for c in ("0", "0.5", "1")
}
STEPS = {f"h({p})": ["method.name=lfm", "alpha.strategy=stepwise", f"alpha.p={p}"] for p in ("0", "1", "0.05", "0.95")}
ABLATION = {JOINT: CONSTANTS[JOINT], "CL": CONSTANTS["alpha = 0.5"], "CL + DI": LFM["LFM learned"]}
MIXED = {
    f"u = {u}": [*JOINT_TRAINING, "model.fusion=concat", f"loss.uniform_labels={u}"]
    for u in ("0", "0.1", "0.3", "0.5", "0.7", "0.9", "1")
}
LFM["LFM official"] = ["method.name=official", "alpha.strategy=official"]
CLIP = {"image": "clip_image", "video": "clip_image", "text": "clip_text"}

Watch = Callable[[str, int], AbstractContextManager[Callback]]
"""Description of the runs and their number -> a context manager that shows progress."""


class ComparisonFile(Settings):
    """What `comparison.yaml` holds. trials: per row; null until first trials have been timed.

    added: methods that have rows beside those of the paper.
    """

    paper: str
    data: str
    fingerprint: str
    settings: list[str]
    epochs: int
    trials: int | None
    seeds: list[int]
    added: list[str] = Field([])


def rows(paper: str, card: DatasetCard) -> dict[str, list[str]]:
    """The rows of a table or figure of the paper for a dataset: name -> settings that restrict `SPACE` to the row.

    table1: each modality alone, joint training with each fusion head, every method, LFM. table3: without
    contrastive learning, with it (CL; alpha = 0.5), and also with dynamic integration (DI; alpha learned).
    table4: constant, stepwise, heuristic and learned alpha. table5: like table1, with CLIP's encoders.
    figure1: joint training with (1 - u) L_S + u L_U; the paper has u = 0, 0.3 and 1. figure2: joint
    training, G-Blend, MLA, LFM. figure3: heuristic, searched and learned alpha(t). figure4: joint training
    and LFM. Methods that do not prescribe a fusion head use `concat`, and LFM uses `sum`, as their authors
    do.

    Raises:
        UserError: there is no such table or figure, or CLIP has no encoder for a modality.
    """
    names = enumerate(card.modalities, start=1)
    alone = {f"Unimodal-{i}: {name}": [*JOINT_TRAINING, f"data.modalities=[{name}]"] for i, name in names}
    heads = {row: [*JOINT_TRAINING, f"model.fusion={head}"] for row, head in HEADS.items()}
    if paper == "table1":
        return alone | heads | {row: _method(name) for row, name in OTHERS.items()} | LFM
    if paper == "table3":
        return ABLATION
    if paper == "table4":
        return CONSTANTS | STEPS | {row: LFM[row] for row in ("LFM heuristic", "LFM learned")}
    if paper == "figure1":
        return MIXED
    if paper in ("figure2", "figure4"):
        others = {row: _method(OTHERS[row]) for row in ("G-Blend", "MLA") if paper == "figure2"}
        return {CONCAT: heads[CONCAT], **others, "LFM learned": LFM["LFM learned"]}
    if paper == "figure3":
        return {row: LFM[row] for row in ("LFM heuristic", "LFM polynomial", "LFM learned")}
    if paper != "table5":
        raise UserError(f"{paper}: must be one of {', '.join(PAPERS)}")
    if unknown := [name for name, one in card.modalities.items() if one.kind not in CLIP]:
        raise UserError(f"table5: CLIP has no encoder for {', '.join(unknown)}; it takes images and texts")
    encoders = {name: f"model.encoders.{name}.name={CLIP[one.kind]}" for name, one in card.modalities.items()}
    own = {row: [*settings, encoders[name]] for (row, settings), name in zip(alone.items(), encoders, strict=True)}
    clip = [*JOINT_TRAINING, "model.fusion=concat"]
    chosen = {"CLIP": clip, "CLIP + MLA": _method("mla"), "CLIP + LFM": LFM["LFM learned"]}
    return own | {row: [*settings, *encoders.values()] for row, settings in chosen.items()}


def added_rows(names: Sequence[str], taken: Sequence[str]) -> dict[str, list[str]]:
    """Rows of further methods, such as `opm` or `my_lab.methods:Tilt`; taken: rows that there are already.

    Raises:
        UserError: there is no such method, nobody has asked for its code, or a row has its name.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        try:
            METHODS.check(name)
            settings = _method(name)
        except ValueError as error:
            raise UserError(f"--add {name}: {error}") from None
        row = short_name(METHODS, name)
        if _plain(row) in map(_plain, [*taken, *found]):
            raise UserError(f"--add {name}: there is a row of that name already")
        found[row] = settings
    return found


def _method(name: str) -> list[str]:
    head = [] if METHODS[name].heads else ["model.fusion=concat"]
    return [f"method.name={name}", *JOINT_TRAINING[1:], *head]


def baseline_of(paper: str) -> str:
    """The row that the others are compared with: joint training."""
    return {"table3": JOINT, "table4": JOINT, "table5": "CLIP"}.get(paper, CONCAT)


def row_space(settings: Sequence[str], card: DatasetCard, file: str = SPACE) -> Space:
    """The space of one row, without pruning.

    Raises:
        UserError: the row's method or fusion head is not defined for the modalities, or where rows lack one.
    """
    space = load_space(shipped_file(file), settings, pruning={"by": "none"}, points={"defaults": {}})
    config = space.base
    names = config.data.modalities or list(card.modalities)
    check_model(config.model, seen(card, config.data))
    config.method.check_modalities(names)
    config.check_missing(card)
    if config.method.name == "mslr":  # it has one setting per modality, named after it
        rates = {f"method.factors.{name}": Distribution(loguniform=[0.1, 10]) for name in names}
        equal = {"defaults": dict.fromkeys(rates, 1.0)}
        space = space.model_copy(update={"search": {**space.search, **rates}, "points": equal})
    return space


def plan(
    paper: str, card: DatasetCard, overrides: Sequence[str], only: Sequence[str] = (), added: Sequence[str] = ()
) -> dict[str, Space | str]:
    """The rows of a table or figure, in order: name -> space, or why the data rule the row out.

    only: these rows; added: methods that have a row beside those of the paper.

    Raises:
        UserError: `only` names none of the rows, there is no such method, or the data rule out every row.
    """
    used = load_space(shipped_file(SPACE), overrides).base.data.modalities
    if used:
        card = card.model_copy(update={"modalities": {name: card.modalities[name] for name in used}})
    wanted = rows(paper, card)
    wanted |= added_rows(added, list(wanted))
    for row in only:
        if row not in wanted:
            raise UserError(f"--rows {row}: there is no such row{nearest(row, list(wanted))}")
    planned: dict[str, Space | str] = {}
    for row in only or wanted:
        try:
            file = SCHEDULES if paper in OF_SCHEDULES else SPACE
            planned[row] = row_space([*overrides, *wanted[row]], card, file)
        except UserError as error:
            planned[row] = str(error)
    if not any(isinstance(space, Space) for space in planned.values()):
        raise UserError(str(next(iter(planned.values()))))
    return planned


def tune_all(
    folder: Path, file: ComparisonFile, spaces: Mapping[str, Space], source: DataSource, resources: Resources,
    budget: float | None, watch: Watch,
) -> ComparisonFile:  # fmt: skip
    """Tunes every row: each round runs one trial of every row at the same time, to keep the cluster busy.

    If `file.trials` is None, runs as many rounds as fit into `budget` seconds, at least one. A round, and
    the confirmation runs of one seed, are assumed to take as long as the median of the rounds so far,
    without the first, which has to start processes. Returns the file with the number of trials.
    """
    sweeps = {row: _open(folder, row, space, file) for row, space in spaces.items()}
    if file.trials is None:
        trials = _tune_for(budget or 0, len(file.seeds), sweeps, source, resources, watch)
        file = file.model_copy(update={"trials": trials})
        write_atomically(folder / "comparison.yaml", file.to_yaml())
    assert file.trials is not None
    for trials in range(1, file.trials + 1):
        _tune_to(trials, sweeps, source, resources, watch)
    for sweep in sweeps.values():
        sweep.extend(file.trials)
    return file


def _tune_for(
    budget: float, seeds: int, sweeps: Mapping[str, Sweep], source: DataSource, resources: Resources, watch: Watch
) -> int:
    """Runs rounds as long as another one fits; returns how many."""
    started = time.monotonic()
    rounds: list[float] = []
    while not rounds or rounds_that_fit(budget - (time.monotonic() - started), _typical(rounds), seeds):
        begun = time.monotonic()
        _tune_to(len(rounds) + 1, sweeps, source, resources, watch)
        cost = sum(epoch["seconds"] for sweep in sweeps.values() for trial in sweep.trials() for epoch in trial.rows)
        # The mean cost stands in for a round that ran before a kill.
        rounds.append(max(time.monotonic() - begun, cost / (len(rounds) + 1) / resources.trials_at_once()))
    return len(rounds)


def _typical(rounds: Sequence[float]) -> float:
    """The median time of a round, without the first, which starts processes."""
    return statistics.median(rounds[1:] or rounds)


def rounds_that_fit(left: float, a_round: float, seeds: int) -> int:
    """How many more rounds fit into `left` seconds, if each confirmation seed takes as long as a round."""
    return max(0, math.floor(left / a_round) - seeds)


def _open(folder: Path, row: str, space: Space, file: ComparisonFile) -> Sweep:
    where = row_folder(folder, row)
    if not (where / "sweep.yaml").exists():
        trials = {"trials": file.trials or 1}
        Sweep.create(where, space.model_copy(update=trials), file.seeds[0] - 1, file.fingerprint)
    sweep = Sweep.open(where)
    sweep.hold()
    sweep.check_data(file.fingerprint)
    return sweep


def _tune_to(trials: int, sweeps: Mapping[str, Sweep], source: DataSource, resources: Resources, watch: Watch) -> None:
    """Runs one trial of each row that has fewer than `trials`, and records the results in the rows' studies."""
    asked: dict[Path, tuple[Sweep, int]] = {}
    for sweep in sweeps.values():
        if sum(trial.state in ("finished", "failed") for trial in sweep.trials()) < trials:
            number, _ = sweep.study.ask()
            asked[trial_folder(sweep.folder, number).absolute()] = sweep, number
    if not asked:
        return
    configs = {where: next(t.config for t in sweep.trials() if t.number == n) for where, (sweep, n) in asked.items()}
    with watch(f"trial {trials} of each of {len(asked)} rows", len(asked)) as progress:
        failures = run_each(configs, source, resources, [progress], None)
    for where, (sweep, number) in asked.items():
        if where in failures:
            sweep.study.fail(number, failures[where])
        else:
            sweep.study.finish(number, read_epochs(where)[-1])


def best_trials(folder: Path, spaces: Mapping[str, Space]) -> dict[str, Trial]:
    """Row -> its best trial on the validation split; rows whose trials all failed are left out."""
    found = {row: best_of(Sweep.open(row_folder(folder, row)).trials()) for row in spaces}
    return {row: trial for row, trial in found.items() if trial is not None}


def confirm_all(
    folder: Path, file: ComparisonFile, best: Mapping[str, Trial], source: DataSource, resources: Resources,
    split: str, watch: Watch, changes: Mapping[str, object] | None = None,
) -> dict[str, list[Path]]:  # fmt: skip
    """Retrains the best trial of every row with each seed and evaluates it on `split`; row -> its runs' folders.

    changes: settings that override those of the trial.

    Raises:
        TrainingFailed: no trial of any row has finished, or a run failed.
    """
    if not best:
        raise TrainingFailed(f"{folder}: no trial of any row has finished")
    runs: dict[Path, RunConfig] = {}
    folders: dict[str, list[Path]] = {}
    for row, trial in best.items():
        folders[row] = [confirm_folder(folder, row, trial, seed, split) for seed in file.seeds]
        for where, seed in zip(folders[row], file.seeds, strict=True):
            if f"{split}/fused/accuracy" not in (read_epochs(where) or [{}])[-1]:
                runs[where] = build(RunConfig, merge(trial.config.model_dump(), {**(changes or {}), "seed": seed}))
    if not runs:
        return folders
    with watch(f"the best of {len(best)} rows with {len(file.seeds)} seeds", len(runs)) as progress:
        run_configs(runs, source, resources, [progress], split)
    return folders


def open_comparison(folder: Path, wanted: ComparisonFile) -> ComparisonFile:
    """Opens the comparison in a folder, or creates it if there is none.

    Raises:
        UserError: the folder holds a different comparison, or other files.
    """
    path = folder / "comparison.yaml"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is neither empty nor a comparison; use another --name")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, wanted.to_yaml())
        return wanted
    found = load(ComparisonFile, path)
    for name in ("paper", "fingerprint", "settings", "epochs", "seeds"):
        if getattr(found, name) != getattr(wanted, name):
            raise UserError(f"{folder}: is a comparison with other {name} ({getattr(found, name)}); use another --name")
    changes = {"added": list(dict.fromkeys([*found.added, *wanted.added])), "trials": wanted.trials or found.trials}
    changed = found.model_copy(update=changes)
    if changed != found:
        write_atomically(path, changed.to_yaml())
    return changed


def row_folder(folder: Path, row: str) -> Path:
    """The folder of a row's sweep."""
    return folder / _plain(row)


def confirm_folder(folder: Path, row: str, trial: Trial, seed: int, split: str) -> Path:
    """The folder of a row's best trial retrained with a seed, laid out as by `lfm_ray.confirm`."""
    kept = "confirm" if split == "test" else f"confirm-{split}"
    return (row_folder(folder, row) / kept / f"{trial.number:04d}-seed{seed}").absolute()


def _plain(row: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row.lower()).replace("--", "-")
