"""Objective and constraints of a search: metrics to maximise or minimise, and relations that must hold.

objective: val/fused/map
objective: {val/fused/accuracy: maximize, val/accuracy_gap: minimize}
constraints:
  - alpha.low <= alpha.high          on settings: a draw that violates it is never run
  - val/*/accuracy >= 0.5            on metrics: a trial that violates it is never the best
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.errors import UserError
from lfm_ray.models.directions import Direction as Direction
from lfm_ray.models.directions import natural_direction
from lfm_ray.settings import nearest

FUSED_ACCURACY = "val/fused/accuracy"


def objective_of(given: Any) -> Any:
    """Converts a metric, a list of metrics or a mapping metric -> direction to such a mapping.

    A direction that is left out is `minimize` for losses, gaps and errors, else `maximize`. Metrics are
    those of the validation split; a `METRIC=DIRECTION` (as on the command line) is taken apart. One's
    own metric is named `package.module:function` (`lfm_ray.models.evaluation.METRICS`).
    """
    if isinstance(given, dict):
        return {in_validation(name): direction for name, direction in given.items()}
    items = given if isinstance(given, list) else [given]
    pairs = [str(item).partition("=")[::2] for item in items]
    return {in_validation(name): direction or natural_direction(name) for name, direction in pairs}


def in_validation(metric: str) -> str:
    """`package.module:function` -> its key in the rows of a run, `val/package.module:function`."""
    return f"val/{metric}" if ":" in metric and not metric.startswith("val/") else metric


def own_metrics(names: Iterable[str]) -> list[str]:
    """Which of these metrics of the validation split are one's own, as `RunConfig.metrics` names them."""
    return [name.removeprefix("val/") for name in names if ":" in name]


def metric_name(metric: str) -> str:
    """`val/fused/accuracy` -> `fused accuracy`, as tables and lines show it."""
    return metric.removeprefix("val/").rpartition(":")[2].replace("/", " ").replace("_", " ")


def signed(objective: Mapping[str, Direction], row: Mapping[str, float]) -> tuple[float, ...]:
    """The objective's values in a row of metrics, negated where lower is better."""
    return tuple(row[name] if direction == "maximize" else -row[name] for name, direction in objective.items())


@dataclass(frozen=True)
class Relation:
    """`left sign right`, each side a setting, a metric (with a slash) or a number.

    A metric may contain the wildcard `*`: the relation must then hold for every matching metric
    (`val/*/accuracy` matches the fused accuracy and that of each modality).
    """

    text: str
    left: str
    sign: str
    right: str

    @classmethod
    def parse(cls, text: str) -> Relation:
        """Reads `left <= right`, with <=, <, >= or >.

        Raises:
            ValueError: it is not written like this.
        """
        match = re.fullmatch(r"\s*([^\s<>=]+)\s*(<=|>=|<|>)\s*([^\s<>=]+)\s*", text)
        if not match:
            raise ValueError(f"{text!r}: write it as `left <= right`, with <=, <, >= or >")
        relation = cls(text, *match.groups())
        if not relation.names:
            raise ValueError(f"{text!r}: names neither a setting nor a metric")
        return relation

    @property
    def names(self) -> list[str]:
        """The settings and metrics in the relation."""
        return [side for side in (self.left, self.right) if _number(side) is None]

    @property
    def metrics(self) -> list[str]:
        """The metrics in the relation, known only when a trial has ended."""
        return [name for name in self.names if "/" in name]

    def violation(self, values: Mapping[str, Any]) -> float | None:
        """How far the values violate the relation: above 0 if they do; None if one of them is absent.

        Of several metrics that match a pattern, the worst counts.
        """
        sides = [_values(side, values) for side in (self.left, self.right)]
        if not all(sides):
            return None
        lower, upper = sides if self.sign in ("<=", "<") else reversed(sides)
        excess = max(lower) - min(upper)
        if excess == 0 and self.sign in ("<", ">"):
            return math.ulp(1.0)
        return excess


def check_metrics(
    objective: Iterable[str],
    relations: Iterable[Relation],
    modalities: Iterable[str],
    kind: TargetKind = "classes",
    pruning: str = "none",
) -> None:
    """Checks that runs on these modalities and targets of this kind have all of these metrics.

    pruning: what rungs compare (`Pruning.by`).

    Raises:
        UserError: a metric is unknown.
    """
    from lfm_ray.models.evaluation import evaluated_names  # it imports torch, which reading a space does not need

    known = [f"val/{name}" for name in evaluated_names(list(modalities), kind)]
    if pruning != "none" and f"val/{pruning}" not in known:
        raise UserError(f"pruning.by: targets that are {kind} have no {pruning}{nearest(f'val/{pruning}', known)}")
    for name in objective:
        if name not in known and ":" not in name:
            raise UserError(f"objective: unknown metric {name}{nearest(name, known)}")
    for relation in relations:
        for name in relation.metrics:
            if ":" not in name and not any(fnmatchcase(metric, name) for metric in known):
                raise UserError(f"constraints: {relation.text}: unknown metric {name}{nearest(name, known)}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _values(side: str, values: Mapping[str, Any]) -> list[float]:
    number = _number(side)
    if number is not None:
        return [number]
    found = [values[side]] if side in values else [values[name] for name in values if fnmatchcase(name, side)]
    return [float(value) for value in found if isinstance(value, int | float)]
