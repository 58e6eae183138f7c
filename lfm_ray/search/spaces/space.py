"""Search spaces: YAML files with the settings of a run, some of them given as distributions.

    question: Which alpha(t) trains the best classifier?
    extends: temperature.yaml             # or a list of files; this file overrides them
    run:                                  # settings shared by all trials; others keep their defaults
      epochs: 20
    search:
      alpha.strategy: {choice: [heuristic, polynomial, learned]}
      alpha.coefficients: {uniform: [0, 1], length: 4, order: decreasing, when: {alpha.strategy: polynomial}}
      alpha.inner_iters: {integer: [2, 10], when: {alpha.strategy: learned}}
      optimizer.learning_rate: {loguniform: [1e-3, 3e-2], source: "a decade around the default"}
      model.width: {same_as: model.embedding_size}
      loss.tau: null                      # no longer searched, although temperature.yaml searches it
    constraints:
      - alpha.low <= alpha.high           # a draw that violates it is never run
      - val/*/accuracy >= 0.5             # a trial that violates it is never the best
    objective: {val/fused/accuracy: maximize, val/accuracy_gap: minimize}      # or one metric
    fair: alpha.strategy                  # each strategy is tuned with an equal share of the trials first
    points:                               # tried first
      heuristic: {alpha.strategy: heuristic}

A setting with `when` exists only in trials where the named settings have the given values (one value,
or a list of alternatives). `length` makes a list of independent values, `order` an ordered list.
`extends` names files beside this one or in the repository; `run` is merged setting by setting, `search`
and `points` name by name (null removes an entry), `constraints` are added, and all else is replaced.

When a draw violates a constraint, Optuna is told by how much, so that TPE draws fewer of them; the
same holds for trials whose metrics violate one. Settings that a run rejects (`lfm_ray/config.py`) are
treated in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from pydantic import Field, field_validator, model_validator

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.optimization.schedules import Learned
from lfm_ray.registry import Registry, parts_in
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.objective import FUSED_ACCURACY, Direction, Relation, objective_of, own_metrics
from lfm_ray.settings import Settings, build, flatten, in_full, merge

SAMPLERS: Registry[Callable[[int, Space], BaseSampler]] = Registry(
    "sampler",
    parts_in("lfm_ray.search.samplers", attribute="sampler"),
)
"""Samplers: (seed of one trial, the space) -> a sampler of Optuna, which draws that trial."""


class Pruning(Settings):
    """Which trials are stopped early (`lfm_ray.search.study.pruning`)."""

    by: Literal[
        "probe_map", "unimodal_accuracy", "fused/accuracy", "unimodal_map", "fused/map", "probe_correlation",
        "unimodal_correlation", "fused/correlation", "none",
    ] = Field(
        "probe_map",
        description="the validation measure that rungs compare (lfm_ray.models.evaluation); fused/accuracy is plain"
        " ASHA, which is unfair to schedules that start with alpha near 1",
    )  # fmt: skip
    first_rung: int | None = Field(
        None, ge=1, description="epoch of the first comparison; null: 1/24 of the epochs, at least 1"
    )
    reduction: int = Field(3, ge=2, description="one trial in this many continues; also the factor between rungs")

    promotion: bool = Field(
        False,
        description="a trial that does not continue is only paused: it goes on from its checkpoint once it is among the"
        " best of its rung after all (only trials of one worker)",
    )

    def first_of(self, epochs: int) -> int:
        """The epoch of the first rung, for trials of `epochs` epochs."""
        return self.first_rung or max(1, round(epochs / 24))

    def rungs(self, epochs: int) -> list[int]:
        """The epochs of all rungs before the last of `epochs` epochs."""
        found, rung = [], self.first_of(epochs)
        while self.by != "none" and rung < epochs:
            found.append(rung)
            rung *= self.reduction
        return found


class Space(Settings):
    """A search space file."""

    question: str = Field("", description="the question that the search answers, in one sentence")
    run: dict[str, Any] = Field({}, description="settings shared by all trials, as in a run's YAML file")
    search: dict[str, Distribution] = Field({}, description="setting -> distribution")
    points: dict[str, dict[str, Any]] = Field(
        {}, description="name -> settings of a trial run first; never pruned are joint training and the heuristic"
    )
    objective: dict[str, Direction] = Field(
        {FUSED_ACCURACY: "maximize"},
        min_length=1,
        description="metric -> maximize or minimize, or just the metric; several metrics: search for the Pareto front",
    )
    fair: str | None = Field(
        None,
        description="a searched choice, such as alpha.strategy: each of its values is tuned with an equal share of the"
        " trials, then the worst are dropped one by one (lfm_ray.search.study.arms); null: no shares",
    )
    constraints: list[str] = Field([], description="relations between settings, metrics and numbers that must hold")
    from_learned: dict[str, Any] = Field(
        {}, description="settings of the learned run that --from-learned starts with, in addition to `run`"
    )
    trials: int = Field(24, ge=1, description="number of trials")
    epoch_budget: int | None = Field(None, ge=1, description="epochs of all trials together; null: no limit")
    sampler: str = Field(
        "tpe",
        description="how settings are drawn, by Optuna: tpe, gp, cmaes, random (lfm_ray/search/samplers), or"
        " package.module:function",
    )
    pruning: Pruning = Pruning()
    widen: bool = Field(
        True, description="widen a range during the sweep when the best trials lie at its end, where a run allows it"
    )
    widened: dict[str, str] = Field({}, description="setting -> its range at the start, of those that were widened")
    epochs_a_round: int | None = Field(
        None,
        ge=1,
        description="epochs per round, set by --population (lfm_ray.search.population); else null",
    )
    learned: dict[str, Any] = Field(
        default_factory=lambda: Learned(strategy="learned").model_dump(exclude={"strategy"}),
        description="a learned alpha where nothing else says what it is; a sweep goes on with what it began with",
    )
    keep_checkpoints: int = Field(
        10, ge=0, description="how many of the best finished trials keep their checkpoint; all keep their curves"
    )

    @field_validator("search")
    @classmethod
    def _in_full(cls, search: dict[str, Distribution]) -> dict[str, Distribution]:
        return {in_full(name): distribution for name, distribution in search.items()}

    @field_validator("points")
    @classmethod
    def _points_in_full(cls, points: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            label: {in_full(key) if isinstance(value, str) else key: value for key, value in point.items()}
            for label, point in points.items()
        }

    @field_validator("fair")
    @classmethod
    def _fair_in_full(cls, fair: str | None) -> str | None:
        return None if fair is None else in_full(fair)

    @model_validator(mode="after")
    def _fair_between_choices(self) -> Self:
        if self.fair is not None:
            distribution = self.search.get(self.fair)
            if distribution is None or not distribution.choice:
                raise ValueError(f"fair: {self.fair} is no choice that is searched")
            if distribution.when:
                raise ValueError(f"fair: {self.fair} exists only with {', '.join(distribution.when)}")
            if len(self.objective) > 1:
                raise ValueError("fair: arms are compared by one measure; leave it out, or give one objective")
        return self

    @field_validator("objective", mode="before")
    @classmethod
    def _metrics_alone_will_do(cls, value: Any) -> Any:
        return objective_of(value)

    @field_validator("constraints")
    @classmethod
    def _readable(cls, value: list[str]) -> list[str]:
        for text in value:
            Relation.parse(text)
        return value

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        return SAMPLERS.check(name)

    @model_validator(mode="after")
    def _runs_compute_the_metrics_that_are_asked_for(self) -> Self:
        named = [*self.objective, *(name for text in self.constraints for name in Relation.parse(text).metrics)]
        wanted = list(dict.fromkeys([*self.run.get("metrics", []), *own_metrics(named)]))
        if wanted != self.run.get("metrics", []):
            self.run["metrics"] = wanted
        return self

    @model_validator(mode="before")
    @classmethod
    def _several_objectives_are_not_pruned(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("objective"), dict | list) and "pruning" not in values:
            return {**values, "pruning": {"by": "none"}} if len(values["objective"]) > 1 else values
        return values

    @model_validator(mode="after")
    def _pruning_needs_one_objective(self) -> Self:
        if len(self.objective) > 1 and self.pruning.by != "none":
            raise ValueError(
                "pruning compares trials by one measure; with several objectives write pruning: {by: none}"
            )
        return self

    @cached_property
    def base(self) -> RunConfig:
        """The run in which every searched setting has its default."""
        return build(RunConfig, self.run)

    @cached_property
    def _base_values(self) -> dict[str, Any]:
        return flatten(self.base.model_dump())

    @property
    def longest(self) -> int:
        """The most epochs that a trial can have."""
        searched = self.search.get("epochs")
        return int(max(searched.extremes() if searched else [], default=self.base.epochs))

    @cached_property
    def relations(self) -> list[Relation]:
        """The constraints."""
        return [Relation.parse(text) for text in self.constraints]

    def conditions_hold(self, distribution: Distribution, drawn: Mapping[str, Any]) -> bool:
        """Whether a setting exists, given the settings drawn so far."""
        for name, allowed in distribution.when.items():
            value = drawn[name] if name in drawn else self._base_values.get(name)
            if value not in (allowed if isinstance(allowed, list) else [allowed]):
                return False
        return True

    def conditions(self, distribution: Distribution) -> dict[str, Any]:
        """Settings with which a searched setting exists, including the conditions of its conditions."""
        needed: dict[str, Any] = {}
        for name, allowed in distribution.when.items():
            if name in self.search:
                needed |= self.conditions(self.search[name])
            needed[name] = allowed[0] if isinstance(allowed, list) else allowed
        return needed

    def searched_in(self, config: RunConfig) -> list[str]:
        """The searched settings that exist in a run."""
        values = flatten(config.model_dump())
        return [path for path, distribution in self.search.items() if self.conditions_hold(distribution, values)]

    def searched_values(self, config: RunConfig) -> dict[str, Any]:
        """The values of the searched settings that exist in a run; lists are split into entries, `PATH.0` first."""
        values = flatten(config.model_dump(mode="json"))
        return entries({path: values[path] for path in self.searched_in(config)})

    def searched_examples(self) -> dict[str, list[Any]]:
        """The names that `searched_values` can return, each with both ends of its range or all of its choices."""
        examples: dict[str, list[Any]] = {}
        for path, distribution in self.search.items():
            while distribution.same_as in self.search:
                distribution = self.search[distribution.same_as]
            extremes = list(distribution.extremes()) or [self._base_values.get(distribution.same_as or "")]
            for value in extremes:
                for name, entry in entries({path: value}).items():
                    examples.setdefault(name, []).append(entry)
        return examples

    @cached_property
    def parameters(self) -> dict[str, BaseDistribution]:
        """Optuna's parameters of all searched settings: name -> distribution."""
        return {name: one for path, item in self.search.items() for name, one in item.parameters(path).items()}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draws the settings of a trial: dotted path -> value."""
        drawn: dict[str, Any] = {}
        for path, distribution in self.search.items():
            if not self.conditions_hold(distribution, drawn):
                continue
            if (other := distribution.same_as) is not None:
                drawn[path] = drawn[other] if other in drawn else self._base_values[other]
            else:
                drawn[path] = distribution.suggest(trial, path)
        return drawn

    def config(self, drawn: Mapping[str, Any]) -> RunConfig:
        """The run with the drawn settings."""
        values = merge(self.run, drawn)
        alpha = values.get("alpha")
        if isinstance(alpha, dict) and alpha.get("strategy") == "learned":
            values = {**values, "alpha": {**self.learned, **alpha}}
        return build(RunConfig, values)

    def learned_run(self) -> RunConfig:
        """The learned run that --from-learned starts with: `run` and `from_learned` combined."""
        return self.config({"alpha.strategy": "learned", **flatten(self.from_learned)})

    def broken(self, drawn: Mapping[str, Any]) -> dict[str, float]:
        """The constraints that forbid running drawn settings: constraint -> amount of the violation, above 0."""
        refused: dict[str, float] = {}
        values: Mapping[str, Any] = drawn
        try:
            values = flatten(self.config(drawn).model_dump())
        except UserError as error:
            refused = {str(error): 1.0}
        amounts = {one.text: one.violation(values) or 0.0 for one in self.relations if not one.metrics}
        return {text: amount for text, amount in amounts.items() if amount > 0} or refused

    def outcomes(self, config: RunConfig, row: Mapping[str, float]) -> dict[str, float]:
        """Evaluates the constraints on metrics for a run: constraint -> violation, above 0 if violated.

        A constraint on a setting or metric that the run does not have counts as satisfied.
        """
        values = {**flatten(config.model_dump()), **row}
        return {one.text: one.violation(values) or 0.0 for one in self.relations if one.metrics}

    def known_points(self) -> dict[str, dict[str, Any]]:
        """The points as Optuna's parameters; searched settings that a point does not set have their default.

        If a default lies outside the search range, the sampler draws a value.
        """
        points = {}
        for label, point in self.points.items():
            values = flatten(self.config(point).model_dump())
            points[label] = self.drawn(values)
        return points

    def drawn(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's parameters for a run's (flattened) settings, where the space can draw them."""
        drawn: dict[str, Any] = {}
        for path, distribution in self.search.items():
            if path in values and self.conditions_hold(distribution, values) and distribution.allows(values[path]):
                drawn |= distribution.drawn(path, values[path])
        return drawn


def entries(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with lists replaced by entries `PATH.0`, `PATH.1`, ..."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{i}": entry for i, entry in enumerate(value)} if isinstance(value, list) else {name: value}
    return flat
