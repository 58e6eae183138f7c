"""Population based training of a schedule: alpha and the learning rate change while the members train.

Jaderberg et al., "Population based training of neural networks", 2017. All members train side by
side, a few epochs per round. After each round, every member of the lowest quarter continues from the
state of one in the highest quarter (exploit), with a new alpha and a new learning rate factor from
then on (explore). A member ends with the schedule of its line of ancestors, one alpha and one
learning rate per epoch, which are ordinary settings (`alpha.strategy: table`,
`optimizer.schedule: table`). All members use the sweep's seed, so a single run with those settings
reproduces the member's numbers.

Ray's own PBT and PB2 are not used: they keep their decisions in the driver's memory, copy
checkpoints through their own storage, and compare members whenever one happens to report. Here a
round ends when all members have finished it, so neither a kill nor the number of CPUs changes the
result. Members are compared by the measure that pruning uses (`Pruning.by`), for the same reason.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lfm_ray.checksums import line_of, record_of, sealed
from lfm_ray.config import RunConfig
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.files import write_atomically
from lfm_ray.optimization.optimizer import OptimizerSettings, after_step, build_optimizer
from lfm_ray.runtime import checkpoint
from lfm_ray.search.spaces.objective import signed
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.storage import name_of
from lfm_ray.training.run_folder import CHECKPOINT, CONFIG, EPOCHS, add_notice, lines_of, read_epochs, settings_key

ALPHAS, RATES = "alpha.values", "optimizer.table"
JOURNAL, STEPS = "population.jsonl", "steps"
ROUNDS = 10  # per run, if it has at least as many epochs
ALPHA_STEP = 0.3  # the largest change of alpha
RATE_FACTORS = (0.8, 1.25)


def population_space(space: Space, members: int) -> Space:
    """The space of a population: alpha and the learning rate are tables; other searched settings are drawn.

    Raises:
        UserError: there are too few members, or a population cannot search the space.
    """
    if members < 4:
        raise UserError(f"--population {members}: takes at least 4 members, as its lowest quarter follows the highest")
    if space.base.method.name != "lfm" or "epochs" in space.search:
        raise UserError("--population needs method lfm and a fixed number of epochs")
    if space.constraints or len(space.objective) > 1:
        raise UserError("--population supports a single objective and no constraints")
    if space.base.checkpoint.patience:
        raise UserError("--population trains all members for the same epochs; leave out checkpoint.patience")
    changes = {
        "alpha": {"strategy": "table", "values": [0.5] * space.base.epochs},
        "optimizer": {
            **space.base.optimizer.model_dump(),
            "schedule": "table",
            "table": rate_factors(space.base.optimizer, space.base.epochs),
        },
    }
    search = {name: value for name, value in space.search.items() if not name.startswith(("alpha.", "method"))}
    update = {"run": {**space.run, **changes}, "search": search, "points": {}, "fair": None, "trials": members}
    update["epochs_a_round"] = max(1, round(space.base.epochs / ROUNDS))
    return Space.model_validate({**space.model_dump(), **update})


def check_population(workers: int, folder: Path) -> None:
    """Checks that a population can be run this way.

    Raises:
        UserError: members have several workers, or the sweep is kept in an object store.
    """
    if workers > 1:
        raise UserError(
            "--population trains each member in one process, since Ray Train's workers would have to be restarted"
            " for every round of a few epochs; leave out --workers-per-trial"
        )
    if "://" in name_of(folder):
        raise UserError("--population copies checkpoints between its members; --storage must be a folder")


def rounds(space: Space) -> int:
    """How many rounds each member trains; 0 if the space is not that of a population."""
    return -(-space.base.epochs // space.epochs_a_round) if space.epochs_a_round else 0


def rate_factors(settings: OptimizerSettings, epochs: int) -> list[float]:
    """The learning rate schedule as a table: the rate in each epoch as a factor of the learning rate setting.

    The table of `plateau` is flat: lowering the rate is left to the population.
    """
    if settings.schedule == "table":
        given = settings.table or [1.0]
        return [given[t * len(given) // epochs] for t in range(epochs)]
    optimizer, scheduler = build_optimizer(settings, torch.nn.Linear(1, 1), 1, epochs)
    factors = []
    for _ in range(epochs):
        factors.append(optimizer.param_groups[0]["lr"] / settings.learning_rate)
        optimizer.step()
        after_step(scheduler)
    return factors


def explored(settings: dict[str, Any], epoch: int, random: np.random.Generator) -> dict[str, Any]:
    """Settings with a new alpha and learning rate after `epoch`; earlier epochs keep theirs."""
    changed = copy.deepcopy(settings)
    alphas, rates = changed[ALPHAS], changed[RATES]
    alpha = float(np.clip(alphas[epoch] + random.uniform(-ALPHA_STEP, ALPHA_STEP), 0, 1))
    factor = float(random.choice(RATE_FACTORS))
    alphas[epoch:] = [alpha] * (len(alphas) - epoch)
    rates[epoch:] = [rate * factor for rate in rates[epoch:]]
    return changed


def next_round(
    settings: list[dict[str, Any]], scores: list[float], epoch: int, random: np.random.Generator
) -> list[tuple[int, dict[str, Any]]]:
    """For each member: the member it continues from, itself or another, and its settings after `epoch`.

    scores: what members are compared by; nan for a failed member, which always continues from another.

    Raises:
        TrainingFailed: every member that could be continued from has failed.
    """
    order = sorted(range(len(scores)), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])
    quarter = len(order) // 4
    upper = [i for i in order[-quarter:] if not math.isnan(scores[i])]
    followers = set(order[:quarter]) | {i for i in order if math.isnan(scores[i])}
    if not upper:
        raise TrainingFailed("no member of the population could be trained")
    result = []
    for i, its_settings in enumerate(settings):
        if i in followers:
            parent = int(random.choice(upper))
            result.append((parent, explored(settings[parent], epoch, random)))
        else:
            result.append((i, its_settings))
    return result


class Population:
    """The rounds of a population, kept on disk: what every member does next, and when a round is over.

    Members are the trials of the sweep; trials/0003 holds member 3. population.jsonl has one line per
    round: the member that each one continues from, and its settings. It is written before any
    checkpoint is copied, and a parent never follows another member in the same round, so a copy that
    is interrupted by a kill can simply be repeated.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.space, self.T = sweep, sweep.space, sweep.space.base.epochs
        self.every = sweep.space.epochs_a_round or self.T
        self.failed: dict[int, str] = {}
        file = sweep.folder / JOURNAL
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.rounds: list[list[tuple[int, dict[str, Any]]]] = [
            [(step["from"], step["settings"]) for step in _steps(file, line, number)]
            for number, line in enumerate(lines, start=1)
        ]
        if not self.rounds:
            self._decide([(i, settings) for i, settings in enumerate(self._first())])
        else:
            self._begin()

    @property
    def until(self) -> int:
        """The epoch at which the current round ends."""
        return min(len(self.rounds) * self.every, self.T)

    @property
    def over(self) -> bool:
        """Whether every member has ended."""
        return all(self.sweep.study.ended(member) for member in range(self.space.trials))

    def remaining(self) -> int:
        """How many rounds are still to be trained, over all members."""
        return self.space.trials * (rounds(self.space) - len(self.rounds) + 1)

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """A member that has yet to train in this round, with its settings; None if all have been handed out."""
        if not self._waiting:
            return None
        number = self._waiting.pop(0)
        return number, self.rounds[-1][number][1]

    def ended(self, number: int, reason: str | None = None) -> None:
        """Records that a member finished the round, or why it failed. The last one starts the next round.

        A failed member continues from another, and the reason is added to its folder as a notice; if
        all members fail, the population ends.
        """
        self._open.discard(number)
        if reason is not None:
            self.failed[number] = reason
        if self._open:
            return
        if self.until < self.T and len(self.failed) < self.space.trials:
            for member, why in self.failed.items():
                add_notice(self._folder(member), f"{why}; it went on from another member after epoch {self.until}")
            scores = [self._score(number) for number in range(self.space.trials)]
            random = np.random.default_rng((self.sweep.file.seed, len(self.rounds)))
            settings = [settings for _, settings in self.rounds[-1]]
            self._decide(next_round(settings, scores, self.until, random))
            return
        study = self.sweep.study
        for member in range(self.space.trials):
            if study.ended(member):
                continue
            if member in self.failed:
                study.fail(member, self.failed[member])
            else:
                study.finish(member, read_epochs(self._folder(member))[-1])

    def _first(self) -> list[dict[str, Any]]:
        """Settings of the first round, drawn from the space, with alpha spread evenly over [0, 1]."""
        spread = np.linspace(0, 1, self.space.trials)
        rates = list(self.space.base.optimizer.table or [])
        drawn = [self.sweep.study.ask()[1] for _ in spread]
        return [
            {**settings, ALPHAS: [float(alpha)] * self.T, RATES: rates}
            for settings, alpha in zip(drawn, spread, strict=True)
        ]

    def _decide(self, round_: list[tuple[int, dict[str, Any]]]) -> None:
        self.rounds.append(round_)
        steps = [[{"from": parent, "settings": settings} for parent, settings in r] for r in self.rounds]
        lines = [line_of({STEPS: of_round}, number) for number, of_round in enumerate(steps, start=1)]
        write_atomically(self.sweep.folder / JOURNAL, "".join(lines))
        self._begin()

    def _begin(self) -> None:
        """Brings every member to the start of the round, and opens the round."""
        self.failed = {}
        for number, (parent, settings) in enumerate(self.rounds[-1]):
            if not self.sweep.study.ended(number):  # a kill may have come between the ends of two members
                self.sweep.study.change(number, settings)
            if parent != number:
                take_over(self._folder(parent), self._folder(number), self.space.config(settings))
        self._waiting = list(range(self.space.trials))
        self._open = set(self._waiting)

    def _score(self, number: int) -> float:
        if number in self.failed:
            return float("nan")
        row, by = read_epochs(self._folder(number))[-1], self.space.pruning.by
        return signed(self.space.objective, row)[0] if by == "none" else row[f"val/{by}"]

    def _folder(self, number: int) -> Path:
        return trial_folder(self.sweep.folder, number)


def _steps(file: Path, line: str, number: int) -> list[dict[str, Any]]:
    """A line of the journal."""
    try:
        return json.loads(line) if line.startswith("[") else record_of(line, number)[0][STEPS]  # the first: of earlier
    except (ValueError, KeyError, RecursionError):
        raise UserError(f"{file}, line {number}: is not as it was written; put a copy of the file back") from None


def take_over(parent: Path, child: Path, config: RunConfig) -> None:
    """Turns the run in `child` into a run of `config` that has trained the parent's epochs. Can be repeated.

    The optimiser and the last row of metrics get the learning rate that the new table has for the next epoch.
    """
    values = config.model_dump(mode="json")
    if (child / CHECKPOINT).exists() and checkpoint.load(child / CHECKPOINT)["config"] == values:
        return
    state = checkpoint.load(parent / CHECKPOINT)
    state["config"] = values
    table = config.optimizer.table or [1.0]
    for group in state["optimizer"]["param_groups"]:
        group["lr"] = group["initial_lr"] * table[state["epoch"]]
    state["history"][-1]["learning_rate"] = state["optimizer"]["param_groups"][0]["lr"]
    child.mkdir(parents=True, exist_ok=True)
    settings = sealed(config.to_yaml())
    write_atomically(child / EPOCHS, "".join(lines_of(state["history"], run=settings_key(settings))))
    write_atomically(child / CONFIG, settings)
    checkpoint.save(child / CHECKPOINT, state)
    checkpoint.previous(child / CHECKPOINT).unlink(missing_ok=True)  # it belongs to another line of ancestors
