"""Population based training of a schedule: alpha and the learning rate change while the members train.

Jaderberg et al., "Population based training of neural networks", 2017. All members train side by
side, a few epochs a round. After a round each of the lowest quarter goes on from the state of one
of the highest quarter (exploit), with another alpha and another factor of the learning rate from
there on (explore). What a member ends with is the schedule of its line of ancestors, one alpha and
one learning rate for each epoch: settings like any other (`alpha.strategy: table`,
`optimizer.schedule: table`). All members have the sweep's seed, so a run of those settings alone
gives the same numbers again.

Ray's own PBT and PB2 are not used: they keep what they decided in the driver's memory, copy
checkpoints through a storage of their own, and compare members whenever one happens to report.
Here a round is over when all have ended it, so neither a kill nor the number of CPUs changes the
result. Members are compared by the measure that trials are pruned by, for the same reason.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lfm_ray.config import RunConfig
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.optimization.optimizer import OptimizerSettings, after_step, build_optimizer
from lfm_ray.runtime import checkpoint
from lfm_ray.search.spaces.objective import signed
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.storage import name_of, write_atomically
from lfm_ray.training.run_folder import CHECKPOINT, CONFIG, EPOCHS, add_notice, read_epochs

ALPHAS, RATES = "alpha.values", "optimizer.table"
JOURNAL = "population.jsonl"
ROUNDS = 10  # of a run, where it has so many epochs
ALPHA_STEP = 0.3  # alpha is changed by at most this
RATE_FACTORS = (0.8, 1.25)


def population_space(space: Space, members: int) -> Space:
    """The space of a population: alpha and the learning rate are tables, what else it searches is drawn.

    Raises:
        UserError: there are too few members, or the space cannot be searched so.
    """
    if members < 4:
        raise UserError(f"--population {members}: takes at least 4 members, of which a quarter follows another quarter")
    if space.base.method.name != "lfm" or "epochs" in space.search:
        raise UserError("--population needs method lfm and a fixed number of epochs")
    if space.constraints or len(space.objective) > 1:
        raise UserError("--population knows no constraints, and one objective")
    changes = {
        "alpha": {"strategy": "table", "values": [0.5] * space.base.epochs},
        "optimizer": {
            **space.base.optimizer.model_dump(),
            "schedule": "table",
            "table": rate_factors(space.base.optimizer, space.base.epochs),
        },
    }
    search = {name: value for name, value in space.search.items() if not name.startswith(("alpha.", "method"))}
    update = {"run": {**space.run, **changes}, "search": search, "points": {}, "trials": members}
    update["epochs_a_round"] = max(1, round(space.base.epochs / ROUNDS))
    return Space.model_validate({**space.model_dump(), **update})


def check_population(workers: int, folder: Path) -> None:
    """Refuses a way to run a population that it has not.

    Raises:
        UserError: members of several workers, or a sweep that is kept in an object store.
    """
    if workers > 1:
        raise UserError(
            "--population trains each member in one process: a round is a few epochs, and Ray Train's workers would"
            " have to be started anew for each; leave out --workers-per-trial"
        )
    if "://" in name_of(folder):
        raise UserError("--population copies checkpoints between its members: give a --storage that is a folder")


def rounds(space: Space) -> int:
    """How many rounds each member trains; 0 where the space is no population's."""
    return -(-space.base.epochs // space.epochs_a_round) if space.epochs_a_round else 0


def rate_factors(settings: OptimizerSettings, epochs: int) -> list[float]:
    """The schedule of the settings as a table: its learning rate in each epoch, over the highest.

    That of `plateau` is flat: it is for the population to lower it.
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
    """Settings whose alpha and learning rate after `epoch` are others; what has been trained with stays."""
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
    """For each member the member that it goes on from, itself or another, and its settings after `epoch`.

    scores: what members are compared by; nan for one that failed, which always follows another.

    Raises:
        TrainingFailed: there is nobody to follow.
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
    """The rounds of a population, on disk: what every member does next, and when a round is over.

    Members are the trials of the sweep; trials/0003 holds member 3. population.jsonl has a line for
    each round: whom each member goes on from, and its settings. It is written before anything is
    copied, and a parent is never a follower, so a copy that a kill interrupted is made again.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.space, self.T = sweep, sweep.space, sweep.space.base.epochs
        self.every = sweep.space.epochs_a_round or self.T
        self.failed: dict[int, str] = {}
        file = sweep.folder / JOURNAL
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.rounds: list[list[tuple[int, dict[str, Any]]]] = [
            [(step["from"], step["settings"]) for step in json.loads(line)] for line in lines
        ]
        if not self.rounds:
            self._decide([(i, settings) for i, settings in enumerate(self._first())])
        else:
            self._begin()

    @property
    def until(self) -> int:
        """The epoch at which the present round ends."""
        return min(len(self.rounds) * self.every, self.T)

    @property
    def over(self) -> bool:
        """Whether every member has ended."""
        return all(self.sweep.study.ended(member) for member in range(self.space.trials))

    def remaining(self) -> int:
        """How many rounds of members are still to be trained."""
        return self.space.trials * (rounds(self.space) - len(self.rounds) + 1)

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """A member that is to train until the end of the round, or None while others still do."""
        if not self._waiting:
            return None
        number = self._waiting.pop(0)
        return number, self.rounds[-1][number][1]

    def ended(self, number: int, reason: str | None = None) -> None:
        """A member has ended the round, or failed for a reason. The last of a round begins the next.

        One that failed follows another, and its reason is a notice in its folder; the population is
        over when all have.
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
        """Settings of the first round: drawn from the space, with alpha spread evenly over [0, 1]."""
        spread = np.linspace(0, 1, self.space.trials)
        rates = list(self.space.base.optimizer.table or [])
        drawn = [self.sweep.study.ask()[1] for _ in spread]
        return [
            {**settings, ALPHAS: [float(alpha)] * self.T, RATES: rates}
            for settings, alpha in zip(drawn, spread, strict=True)
        ]

    def _decide(self, round_: list[tuple[int, dict[str, Any]]]) -> None:
        self.rounds.append(round_)
        lines = [json.dumps([{"from": parent, "settings": settings} for parent, settings in r]) for r in self.rounds]
        write_atomically(self.sweep.folder / JOURNAL, "".join(f"{line}\n" for line in lines))
        self._begin()

    def _begin(self) -> None:
        """Puts every member where its round starts, and opens the round."""
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


def take_over(parent: Path, child: Path, config: RunConfig) -> None:
    """Makes the run in `child` one of `config` that has trained the parent's epochs. It may have been done before.

    The learning rate of the next step, which the optimiser and the last row hold, is that of the new table.
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
    write_atomically(child / EPOCHS, "".join(json.dumps(row) + "\n" for row in state["history"]))
    write_atomically(child / CONFIG, config.to_yaml())
    checkpoint.save(child / CHECKPOINT, state)
    checkpoint.previous(child / CHECKPOINT).unlink(missing_ok=True)  # it is of another line of ancestors
