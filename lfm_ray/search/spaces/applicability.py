"""Restricts a search space to what is defined for the modalities and targets of a dataset, before the search starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.errors import UserError
from lfm_ray.methods import METHODS
from lfm_ray.methods.losses import DIVERGENCES
from lfm_ray.models.directions import LEADING
from lfm_ray.models.fusion import FUSION_HEADS
from lfm_ray.models.targets import TARGETS
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.objective import FUSED_ACCURACY
from lfm_ray.search.spaces.space import Space
from lfm_ray.settings import flatten, merge

CHOSEN: Mapping[str, Mapping[str, Any]] = {"method.name": METHODS, "model.fusion": FUSION_HEADS}


def for_modalities(space: Space, card: DatasetCard) -> tuple[Space, list[str]]:
    """Unless there are two modalities, removes methods and fusion heads that are defined only for two.

    Settings and points that exist only with these are removed too. Returns the space, and for each
    setting that lost a choice a line that says what was left out and why.

    Raises:
        UserError: no choice is left.
    """
    names = space.base.data.modalities or list(card.modalities)
    lines: list[str] = []
    for setting, known in CHOSEN.items():
        values = (space.search[setting].choice if setting in space.search else None) or []
        of_two = [value for value in values if known[value].exactly_two]
        if len(names) == 2 or not of_two or "data.modalities" in space.search:
            continue
        why = f"defined for two modalities, and there are {len(names)} ({', '.join(names)})"
        if len(of_two) == len(values):
            raise UserError(f"search: {setting}: {', '.join(of_two)}: {why}; choose two by data.modalities")
        space = _without(space, setting, of_two)
        lines.append(f"left out of {setting}: {', '.join(of_two)}; {why}")
    return space, lines


def for_missing(space: Space, card: DatasetCard) -> tuple[Space, list[str]]:
    """Where rows lack a modality, removes methods and fusion heads that need all of them, and points with these.

    Returns the space and lines as `for_modalities`.

    Raises:
        UserError: no choice is left.
    """
    names = space.base.data.modalities or list(card.modalities)
    lacking = [name for name in names if name in card.lacking]
    if not lacking or len(names) < 2:
        return space, []
    lines: list[str] = []
    why = f"needs every modality of every sample, and some lack {' or '.join(lacking)}"
    for setting, known in CHOSEN.items():
        values = (space.search[setting].choice if setting in space.search else None) or []
        others = [value for value in values if not known[value].takes_missing]
        if others and len(others) == len(values):
            raise UserError(f"search: {setting}: {', '.join(others)}: {why}")
        if others:
            space = _without(space, setting, others)
            lines.append(f"left out of {setting}: {', '.join(others)}; {why}")
    points = {}
    for label, point in space.points.items():
        config = space.config(point)
        if config.method.takes_missing and FUSION_HEADS[config.model.fusion].takes_missing:
            points[label] = point
    if left_out := [label for label in space.points if label not in points]:
        lines.append(f"left out of points: {', '.join(left_out)}; {why}")
        space = Space.model_validate({**space.model_dump(), "points": points})
    return space, lines


def for_target(space: Space, kind: TargetKind) -> tuple[Space, list[str]]:
    """Unless targets are classes, removes methods, forms of them, matching losses and points that are only for classes.

    Where the objective and the measure of pruning are the usual ones, those of the targets take their place. Returns
    the space and lines as `for_modalities`.

    Raises:
        UserError: no choice is left.
    """
    if kind == "classes":
        return space, []
    lines: list[str] = []
    why = f"defined for classes, and the dataset's targets are {kind}"
    forms = [name for name in space.search if name.startswith("method.") and name != "method.name"]
    for setting in ("method.name", "loss.matching", *forms):
        values = (space.search[setting].choice if setting in space.search else None) or []
        others = [value for value in values if not _takes(space, setting, value, kind)]
        if others and len(others) == len(values):
            raise UserError(f"search: {setting}: {', '.join(others)}: {why}")
        if others:
            space = _without(space, setting, others)
            lines.append(f"left out of {setting}: {', '.join(others)}; {why}")
    points = {label: point for label, point in space.points.items() if _is_defined(space, point, kind)}
    if left_out := [label for label in space.points if label not in points]:
        lines.append(f"left out of points: {', '.join(left_out)}; {why}")
    lead, update = LEADING[kind], dict[str, Any](points=points)
    if space.objective == {FUSED_ACCURACY: "maximize"}:
        update["objective"] = {f"val/fused/{lead}": "maximize"}
        lines.append(f"objective: val/fused/{lead}, as targets that are {kind} have no accuracy")
    usual = {"probe_map": TARGETS[kind].probe_name, "unimodal_accuracy": f"unimodal_{lead}"}
    usual["fused/accuracy"] = f"fused/{lead}"
    by = usual.get(space.pruning.by, space.pruning.by)
    update["pruning"] = {**space.pruning.model_dump(), "by": by}
    return Space.model_validate({**space.model_dump(), **update}), lines


def _takes(space: Space, setting: str, value: Any, kind: TargetKind) -> bool:
    """Whether targets of this kind can be learned with a choice: a method as it is by default, or a form of one."""
    if setting == "loss.matching":
        return value not in DIVERGENCES
    base, key = space.base.method, setting.removeprefix("method.")
    when = space.search[setting].when.get("method.name", base.name)
    name = value if key == "name" else when[0] if isinstance(when, list) else when
    own = base.model_dump() if name == base.name else {"name": name}
    try:
        METHODS[name].model_validate({**own, key: value}).check_target(kind)
    except UserError:
        return False
    return True


def _is_defined(space: Space, point: Mapping[str, Any], kind: TargetKind) -> bool:
    """Whether targets of this kind can be learned with the settings of a point."""
    config = space.config(point)
    try:
        config.method.check_target(kind)
    except UserError:
        return False
    return config.loss.matching not in DIVERGENCES


def _without(space: Space, setting: str, values: list[Any]) -> Space:
    """The space with these values removed from the choices of a setting."""
    kept = [value for value in space.search[setting].choice or [] if value not in values]

    def narrowed(distribution: Distribution) -> Distribution | None:
        """The distribution with what is left of its condition; None if that can no longer hold."""
        if setting not in distribution.when:
            return distribution
        allowed = distribution.when[setting]
        left = [value for value in (allowed if isinstance(allowed, list) else [allowed]) if value not in values]
        return distribution.model_copy(update={"when": {**distribution.when, setting: left}}) if left else None

    search = {**space.search, setting: space.search[setting].model_copy(update={"choice": kept})}
    update = {
        "search": {name: one for name, old in search.items() if (one := narrowed(old))},
        "points": {label: point for label, point in space.points.items() if point.get(setting) not in values},
        "run": space.run if _base(space, setting) in (None, *kept) else merge(space.run, {setting: kept[0]}),
    }
    return Space.model_validate({**space.model_dump(), **update})


def _base(space: Space, setting: str) -> Any:
    """The value of a setting when it is not drawn; None: it exists only with others that are drawn."""
    return flatten(space.base.model_dump(mode="json")).get(setting)
