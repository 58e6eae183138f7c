"""Fair arms: every strategy is tuned with an equal share of the trials, before the best of them get the rest.

A space names the setting whose choices are the arms (`fair: alpha.strategy`). Which arm a trial belongs to follows
from its settings. The share of each is that of successive rejects: after the k-th phase the arm whose best trial is
worst is dropped, and phase k ends when each of the K + 1 - k arms that are left has had

    n_k = ceil((n - K) / (log(K) (K + 1 - k))),   log(K) = 1/2 + 1/2 + 1/3 + ... + 1/K

trials of n in total (Audibert, Bubeck and Munos, "Best arm identification in multi-armed bandits", COLT 2010). In the
first phase all arms are treated alike, so it is what a comparison of strategies may be read from. Only the baseline,
joint training, is treated better: its first share is stopped early only against trials of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lfm_ray.config import RunConfig
from lfm_ray.methods import METHODS
from lfm_ray.optimization.schedules import SCHEDULES, Constant
from lfm_ray.registry import short_name
from lfm_ray.search.spaces.space import Space
from lfm_ray.settings import flatten

JOINT = "alpha = 0"  # an arm of its own where alpha's strategies are compared
COMPARED = (JOINT, "heuristic")  # the baselines that `lfm_ray.confirm` trains as well


def strategy_name(config: RunConfig) -> str:
    """`alpha = 0`, `heuristic`, `learned`, ... of LFM; `ogm_ge`, `ogm_ge + heuristic`, ... of another method."""
    alpha = JOINT if config.alpha == Constant() else short_name(SCHEDULES, config.alpha.strategy)
    method = short_name(METHODS, config.method.name)
    if method == "lfm":
        return alpha
    return method if alpha in (JOINT, method) else f"{method} + {alpha}"


def arms_of(space: Space) -> dict[str, dict[str, Any]]:
    """The arms: name -> the settings that all of an arm's trials share; empty if the space names no fair setting."""
    if space.fair is None:
        return {}
    arms: dict[str, dict[str, Any]] = {
        str(value): {space.fair: value} for value in space.search[space.fair].choice or []
    }
    joint = _joint_training(space)
    return {JOINT: joint, **arms} if joint else arms


def _joint_training(space: Space) -> dict[str, Any]:
    """The settings of plain joint training, where the space can draw them and they are no arm as they stand."""
    strategy, value = space.search.get("alpha.strategy"), space.search.get("alpha.value")
    if strategy is None or "constant" not in (strategy.choice or []):
        return {}
    joint: dict[str, Any] = {"alpha.strategy": "constant"}
    if value is not None:
        if not value.allows(0.0):
            return {}
        joint["alpha.value"] = 0.0
    elif not (isinstance(space.base.alpha, Constant) and space.base.alpha.value == 0):
        return {}
    if space.fair == "method.name":
        return {"method.name": "lfm", **joint} if "lfm" in (space.search["method.name"].choice or []) else {}
    return joint if space.fair == "alpha.strategy" and value is not None else {}


def arm_of(arms: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], space: Space) -> str | None:
    """The arm with the most settings of those that a trial with these drawn settings has."""
    values = {**flatten(space.run), **settings}
    fitting = [name for name, own in arms.items() if all(values.get(key) == value for key, value in own.items())]
    return max(fitting, key=lambda name: len(arms[name]), default=None)


@dataclass(frozen=True)
class Standing:
    """How an arm stands.

    trials: how many it was given. best: the highest (first) objective of its finished trials, minus it where it is
    minimised; inf while none has ended, -inf if all ended without a result.
    """

    trials: int
    best: float


def first_share(arms: int, trials: int) -> int:
    """n_1, the trials that every arm is given before any is dropped; at least 1."""
    return phases(arms, trials)[0] if arms > 1 else max(1, trials)


def phases(arms: int, trials: int) -> list[int]:
    """n_1 ... n_(K-1), at least 1 each, for K arms."""
    log = 0.5 + sum(1 / i for i in range(2, arms + 1))
    return [max(1, math.ceil((trials - arms) / (log * (arms + 1 - k)))) for k in range(1, arms)]


def left(standings: Mapping[str, Standing], trials: int) -> list[str]:
    """The arms that were not dropped yet, in their order."""
    active = list(standings)
    for share in phases(len(standings), trials):
        if any(standings[name].trials < share for name in active):
            break
        active.remove(min(reversed(active), key=lambda name: standings[name].best))
    return active


def next_arm(standings: Mapping[str, Standing], trials: int) -> str:
    """The arm of the next trial: of those that are left, the one that had the fewest; the first of several."""
    return min(left(standings, trials), key=lambda name: standings[name].trials)
