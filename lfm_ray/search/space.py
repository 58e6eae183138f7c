"""Search spaces: a run's settings, some of them distributions, in one YAML file.

    question: Which alpha(t) trains the best classifier?
    run:                                  # settings shared by all trials; the rest has its default
      epochs: 20
    search:
      alpha.strategy: {choice: [heuristic, polynomial, learned]}
      alpha.coefficients: {uniform: [0, 1], length: 4, when: {alpha.strategy: polynomial}}
      optimizer.learning_rate: {loguniform: [1e-3, 3e-2]}
    points:                               # tried first and never pruned
      heuristic: {alpha.strategy: heuristic}

A setting with `when` exists only in trials in which the named settings have the given values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import optuna
from pydantic import Field, model_validator

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.settings import Settings, build, flatten, load, merge, nearest, parse_overrides


class Distribution(Settings):
    """Where a setting's value is drawn from: exactly one of choice, uniform, loguniform and integer."""

    choice: list[Any] | None = Field(None, min_length=1, description="one of these values")
    uniform: list[float] | None = Field(None, min_length=2, max_length=2, description="[low, high]")
    loguniform: list[float] | None = Field(None, min_length=2, max_length=2, description="[low, high], 0 < low")
    integer: list[int] | None = Field(None, min_length=2, max_length=2, description="whole numbers, [low, high]")
    length: int | None = Field(None, ge=1, description="with uniform: a list of that many independent values")
    when: dict[str, Any] = Field({}, description="setting -> value, or list of values, under which this one exists")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in ("choice", "uniform", "loguniform", "integer") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of choice, uniform, loguniform, integer (here: {kinds or 'none'})")
        if self.length is not None and self.uniform is None:
            raise ValueError("length goes with uniform")
        if kinds[0] != "choice" and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"{kinds[0]}: the first bound must be below the second, not {list(self.bounds)}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform: both bounds must be above 0, not {self.loguniform}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a numerical distribution."""
        low, high = self.uniform or self.loguniform or self.integer or (0, 0)
        return low, high

    def extremes(self) -> Iterator[Any]:
        """The values that show whether the whole range is allowed: all choices, or the two ends."""
        if self.choice is not None:
            yield from self.choice
        else:
            yield from ([end] * self.length if self.length else end for end in self.bounds)

    def allows(self, value: Any) -> bool:
        """Whether this can draw a value (of a setting that is no list)."""
        if self.choice is not None:
            return value in self.choice
        return isinstance(value, int | float) and self.bounds[0] <= value <= self.bounds[1]

    def names(self, path: str) -> list[str]:
        """The names under which Optuna knows the values of setting `path`."""
        return [f"{path}.{i}" for i in range(self.length)] if self.length else [path]

    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """Draws a value for setting `path`."""
        if self.length:
            low, high = self.bounds
            return [trial.suggest_float(name, low, high) for name in self.names(path)]
        if self.choice is not None:
            return trial.suggest_categorical(path, self.choice)
        if self.integer is not None:
            return trial.suggest_int(path, self.integer[0], self.integer[1])
        low, high = self.bounds
        return trial.suggest_float(path, low, high, log=self.loguniform is not None)


class Pruning(Settings):
    """Which trials are stopped early (`lfm_ray.search.pruning`)."""

    by: Literal["unimodal_accuracy", "fused/accuracy", "none"] = Field(
        "unimodal_accuracy",
        description="the validation measure that rungs compare; the fused accuracy is plain ASHA, and unfair to"
        " schedules that start with alpha near 1",
    )
    first_rung: int = Field(4, ge=1, description="epoch at which trials are compared for the first time")
    reduction: int = Field(3, ge=2, description="one in that many goes on; also the factor between rungs")


class Space(Settings):
    """A search space file."""

    question: str = Field("", description="the question that the search answers, in one sentence")
    run: dict[str, Any] = Field({}, description="settings of every trial, as in a run's YAML file")
    search: dict[str, Distribution] = Field({}, description="setting -> distribution; later ones may depend on earlier")
    points: dict[str, dict[str, Any]] = Field({}, description="name -> settings that are tried first and never pruned")
    trials: int = Field(24, ge=1, description="number of trials")
    sampler: Literal["tpe", "random"] = Field("tpe", description="how settings are drawn, by Optuna")
    pruning: Pruning = Pruning()
    epochs_a_round: int | None = Field(
        None, ge=1, description="of a population (lfm_ray.search.population), set by --population; null: none"
    )

    @cached_property
    def base(self) -> RunConfig:
        """The run with every searched setting at its default."""
        return build(RunConfig, self.run)

    @cached_property
    def _base_values(self) -> dict[str, Any]:
        return flatten(self.base.model_dump())

    def conditions_hold(self, distribution: Distribution, drawn: Mapping[str, Any]) -> bool:
        """Whether a setting exists, given the settings drawn so far."""
        for name, allowed in distribution.when.items():
            value = drawn[name] if name in drawn else self._base_values.get(name)
            if value not in (allowed if isinstance(allowed, list) else [allowed]):
                return False
        return True

    def searched_in(self, config: RunConfig) -> list[str]:
        """The searched settings that exist in a run."""
        values = flatten(config.model_dump())
        return [path for path, distribution in self.search.items() if self.conditions_hold(distribution, values)]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draws the settings of a trial: dotted path -> value."""
        drawn: dict[str, Any] = {}
        for path, distribution in self.search.items():
            if self.conditions_hold(distribution, drawn):
                drawn[path] = distribution.suggest(trial, path)
        return drawn

    def config(self, drawn: Mapping[str, Any]) -> RunConfig:
        """The run with the drawn settings in place."""
        return build(RunConfig, merge(self.run, drawn))

    def known_points(self) -> dict[str, dict[str, Any]]:
        """The points in Optuna's names; searched settings that a point leaves open have their default."""
        points = {}
        for label, point in self.points.items():
            values = flatten(self.config(point).model_dump())
            drawn: dict[str, Any] = {}
            for path, distribution in self.search.items():
                if path in values and self.conditions_hold(distribution, values):
                    value = values[path] if distribution.length else [values[path]]
                    drawn |= dict(zip(distribution.names(path), value, strict=False))
            points[label] = drawn
        return points


def load_space(path: Path, overrides: Sequence[str] = (), trials: int | None = None) -> Space:
    """Reads a space file. An overridden setting is fixed for all trials, and no longer searched.

    Raises:
        UserError: an unknown key, a wrong type, a bound that is impossible or outside what the
            setting allows, a condition on a setting that does not exist.
    """
    space = load(Space, path)
    fixed = parse_overrides(overrides)
    flat_fixed = flatten(fixed)
    search = {key: value for key, value in space.search.items() if key not in flat_fixed}
    points = {
        label: {key: value for key, value in point.items() if key not in flat_fixed}
        for label, point in space.points.items()
        if all(point.get(key, value) == value for key, value in flat_fixed.items())
    }
    changes: dict[str, Any] = {"run": merge(space.run, fixed), "search": search, "points": points}
    if trials is not None:
        changes["trials"] = trials
    space = build(Space, {**space.model_dump(), **changes})
    _check(space, path)
    return space


def _check(space: Space, path: Path) -> None:
    try:
        base = space.base
    except UserError as error:
        raise UserError(f"{path}, run: {error}") from None
    known = set(flatten(base.model_dump())) | set(space.search)
    for (setting, distribution), earlier in zip(space.search.items(), _prefixes(list(space.search)), strict=True):
        where = f"{path}, search, {setting}"
        for name in distribution.when:
            if name not in known:
                raise UserError(f"{where}: when: unknown setting {name}{nearest(name, sorted(known))}")
            if name in space.search and name not in earlier:
                raise UserError(f"{where}: when: {name} must stand before {setting}")
        conditions = _with_conditions(space, distribution)
        for value in distribution.extremes():
            try:
                space.config({**conditions, setting: value})
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    for label, point in space.points.items():
        try:
            space.config(point)
        except UserError as error:
            raise UserError(f"{path}, points, {label}: {error}") from None


def _prefixes(names: list[str]) -> Iterator[list[str]]:
    for i in range(len(names)):
        yield names[:i]


def _with_conditions(space: Space, distribution: Distribution) -> dict[str, Any]:
    """Settings under which `distribution` exists, following the conditions of its conditions."""
    needed: dict[str, Any] = {}
    for name, allowed in distribution.when.items():
        if name in space.search:
            needed |= _with_conditions(space, space.search[name])
        needed[name] = allowed[0] if isinstance(allowed, list) else allowed
    return needed
