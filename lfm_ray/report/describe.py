"""Describes a search space as tables: settings with ranges, conditions, defaults and sources, and known points."""

from __future__ import annotations

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from lfm_ray.report.numbers import setting
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.arms import arms_of, first_share
from lfm_ray.search.study.samplers import drawn_at_random
from lfm_ray.settings import flatten


def describe(space: Space) -> Group:
    """The tables of a space, at most 100 columns wide."""
    table = Table(title=space.question, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name, width in {"setting": 23, "drawn from": 33, "default": 10, "source": 21}.items():
        table.add_column(name, width=width, overflow="fold")
    for path, distribution in space.search.items():
        default, meaning = _default_and_meaning(space, path, distribution)
        conditions = "".join(f"\n  when {name}: {_text(value)}" for name, value in distribution.when.items())
        table.add_row(path, f"{distribution}{conditions}", _text(default), distribution.source or meaning)
    title = "run first"
    points = Table(title=title, title_justify="left", show_header=False, box=SIMPLE_HEAD, pad_edge=False)
    for label, point in space.points.items():
        points.add_row(label, ", ".join(f"{name} {_text(value)}" for name, value in point.items()) or "all defaults")
    return Group(table, *([points] if space.points else []), *facts(space))


def facts(space: Space) -> list[str]:
    """The other fields of a space, one line each."""
    arms = arms_of(space)
    pruning, first = space.pruning, space.pruning.first_of(space.base.epochs)
    lines = {
        "all trials": ", ".join(f"{name} {_text(value)}" for name, value in flatten(space.run).items()) or "defaults",
        "objective": ", ".join(f"{direction} {metric}" for metric, direction in space.objective.items()),
        "constraints": ", ".join(space.constraints) or "none",
        "trials": f"{space.trials}" + (f", {space.epoch_budget} epochs in total" if space.epoch_budget else ""),
        "fair": "no" if not arms else f"{first_share(len(arms), space.trials)} trials of each first: {', '.join(arms)}",
        "sampler": space.sampler,
        "pruning": "none"
        if pruning.by == "none"
        else f"by {pruning.by}, first after epoch {first}, where one in {pruning.reduction} continues"
        + (", the others later where they are among the best after all" if pruning.promotion else ""),
    }
    if at_random := drawn_at_random(space):
        lines["sampler"] += f"; draws at random what it cannot model: {', '.join(at_random)}"
    return [f"{name:<12} {text}" for name, text in lines.items()]


def _default_and_meaning(space: Space, path: str, distribution: Distribution) -> tuple[object, str]:
    """A setting's default and its description (`lfm_ray/config.py`)."""
    conditions = space.conditions(distribution)
    config = space.config(conditions)
    model: BaseModel = config
    *sections, name = path.split(".")
    for section in sections:
        inner = getattr(model, section)
        if not isinstance(inner, BaseModel):
            return flatten(config.model_dump()).get(path), ""
        model = inner
    return getattr(model, name), type(model).model_fields[name].description or ""


def _text(value: object) -> str:
    return setting(value, none="null")
