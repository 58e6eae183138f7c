"""Distributions that the values of searched settings are drawn from.

Values can be converted to Optuna's parameters and back, so that a sampler treats known points and
trials of earlier sweeps like its own draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, field_validator, model_validator

from lfm_ray.settings import Settings, in_full

KINDS = ("choice", "uniform", "loguniform", "integer", "same_as")


class Distribution(Settings):
    """The distribution of a setting: exactly one of choice, uniform, loguniform, integer and same_as.

    With `length`, the value is a list. With `order`, it is an ordered list, uniformly distributed
    over all ordered lists: Optuna draws a point in a box, and a power of each coordinate is the
    share that an entry takes of what the entry before it leaves (Devroye, "Non-uniform random variate
    generation", 1986, chapter V.3). No draw has to be rejected for being out of order.
    """

    choice: list[Any] | None = Field(None, min_length=1, description="one of these values")
    uniform: list[float] | None = Field(None, min_length=2, max_length=2, description="[low, high]")
    loguniform: list[float] | None = Field(None, min_length=2, max_length=2, description="[low, high], 0 < low")
    integer: list[int] | None = Field(None, min_length=2, max_length=2, description="whole numbers, [low, high]")
    same_as: str | None = Field(None, description="the value of this setting")
    length: int | None = Field(None, ge=1, description="with uniform: a list of this many values")
    order: Literal["decreasing", "increasing"] | None = Field(
        None, description="with length: no entry is above (decreasing) or below (increasing) the one before it"
    )
    when: dict[str, Any] = Field({}, description="setting -> value, or list of values, for which this setting exists")
    source: str = Field("", description="where the range comes from, in a few words; --describe prints it")

    @field_validator("when")
    @classmethod
    def _in_full(cls, when: dict[str, Any]) -> dict[str, Any]:
        return {in_full(name): value for name, value in when.items()}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if [] in self.when.values():
            raise ValueError("when: name at least one value, or leave the setting out")
        kinds = [name for name in KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)} (here: {', '.join(kinds) or 'none'})")
        if self.length is not None and self.uniform is None:
            raise ValueError("length goes with uniform")
        if self.order is not None and self.length is None:
            raise ValueError("order goes with length")
        if kinds[0] not in ("choice", "same_as") and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"{kinds[0]}: the first bound must be below the second, not {list(self.bounds)}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform: both bounds must be above 0, not {self.loguniform}")
        return self

    def __str__(self) -> str:
        """A short description: `uniform 0 ... 1, 4 values, decreasing`."""
        if self.same_as is not None:
            return f"same as {self.same_as}"
        if self.choice is not None:
            return "one of " + ", ".join("null" if value is None else str(_label(value)) for value in self.choice)
        kind = next(name for name in KINDS if getattr(self, name) is not None)
        low, high = self.bounds
        parts = [f"{kind} {low:g} ... {high:g}", f"{self.length} values" if self.length else "", self.order or ""]
        return ", ".join(part for part in parts if part)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a numerical distribution."""
        low, high = self.uniform or self.loguniform or self.integer or (0, 0)
        return low, high

    def extremes(self) -> Iterator[Any]:
        """All choices, or both ends of the range; if a run accepts these, it accepts the whole range."""
        if self.choice is not None:
            yield from self.choice
        elif self.same_as is None:
            yield from ([end] * self.length if self.length else end for end in self.bounds)

    def allows(self, value: Any) -> bool:
        """Whether `value` can be drawn; with same_as, any can."""
        if self.same_as is not None:
            return True
        if self.choice is not None:
            return value in self.choice
        entries = value if self.length else [value]
        if not isinstance(entries, list) or len(entries) != (self.length or 1):
            return False
        numbers = all(isinstance(entry, int | float) and self.bounds[0] <= entry <= self.bounds[1] for entry in entries)
        ordered = self.order is None or entries == sorted(entries, reverse=self.order == "decreasing")
        return numbers and ordered

    def possible(self, fixed: Mapping[str, Any]) -> bool:
        """Whether the condition `when` can hold, given fixed settings."""
        return all(
            fixed[name] in (allowed if isinstance(allowed, list) else [allowed])
            for name, allowed in self.when.items()
            if name in fixed
        )

    def parameters(self, path: str) -> dict[str, BaseDistribution]:
        """Optuna's parameters for setting `path`: name -> distribution."""
        if self.same_as is not None:
            return {}
        if self.order is not None:
            return {f"{path}.{i}.share": FloatDistribution(0.0, 1.0) for i in range(self.length or 0)}
        if self.length:
            return {f"{path}.{i}": FloatDistribution(*self.bounds) for i in range(self.length)}
        if self.choice is not None:
            return {path: CategoricalDistribution([_label(value) for value in self.choice])}
        if self.integer is not None:
            return {path: IntDistribution(self.integer[0], self.integer[1])}
        return {path: FloatDistribution(*self.bounds, log=self.loguniform is not None)}

    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """Draws a value for setting `path`."""
        drawn = [_draw(trial, name, one) for name, one in self.parameters(path).items()]
        if self.choice is not None:
            return self.choice[[_label(value) for value in self.choice].index(drawn[0])]
        if self.order is not None:
            return self._ordered(drawn)
        return drawn if self.length else drawn[0]

    def drawn(self, path: str, value: Any) -> dict[str, Any]:
        """The values of Optuna's parameters from which `suggest` would return `value`."""
        if self.choice is not None:
            values = [_label(value)]
        elif self.order is not None:
            values = self._shares(value)
        else:
            values = value if self.length else [value]
        return dict(zip(self.parameters(path), values, strict=False))

    def _ordered(self, shares: list[float]) -> list[float]:
        """Shares in [0, 1] -> an ordered list; uniform shares yield order statistics of uniform entries."""
        low, high = self.bounds
        values, top = [], 1.0
        for i, share in enumerate(shares):
            top *= share ** (1 / (len(shares) - i))
            values.append(low + (high - low) * (top if self.order == "decreasing" else 1 - top))
        return values

    def _shares(self, values: list[float]) -> list[float]:
        """The inverse of `_ordered`; if an entry leaves nothing, the share of the next is 1."""
        low, high = self.bounds
        shares, before = [], 1.0
        for i, value in enumerate(values):
            top = (value - low if self.order == "decreasing" else high - value) / (high - low)
            shares.append(min(top / before, 1.0) ** (len(values) - i) if before else 1.0)
            before = top
        return shares


def _draw(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution():
            return trial.suggest_int(name, distribution.low, distribution.high)
        case FloatDistribution():
            return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    raise TypeError(distribution)


def _label(value: Any) -> Any:
    """A choice in a form that Optuna's plots can show: lists and mappings become text."""
    return json.dumps(value) if isinstance(value, list | dict) else value
