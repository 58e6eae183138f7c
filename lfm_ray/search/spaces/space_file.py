"""Reads a space file with the files it extends, applies the command line, and checks that it can be searched.

The format is described in `lfm_ray.search.spaces.space`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from lfm_ray import trust
from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.resources import shipped_file
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.space import Space
from lfm_ray.settings import Overrides, build, flatten, line_of, merge, nearest, parse_overrides, read_yaml

TRIED_DRAWS = 1000  # a space is refused if this many random draws all violate a constraint


def load_space(source: Path | Mapping[str, Any] | Space, overrides: Overrides = (), **changes: Any) -> Space:
    """Reads a space from a file or its contents. An overridden setting is fixed and no longer searched.

    A setting whose condition contradicts an overridden one is not searched either.

    changes: fields of the space to replace, such as trials=50; None leaves a field unchanged.

    Raises:
        UserError: an unknown key, a wrong type, a bound that is impossible or that the setting does
            not allow, a condition on a setting that does not exist, or a constraint that no draw
            satisfies.
    """
    values, files = _read(source)
    trust.ask(changes)
    space = build(Space, values)
    fixed = parse_overrides(overrides)
    flat_fixed = flatten(fixed)
    searched = {key for key, one in space.search.items() if key not in flat_fixed and one.possible(flat_fixed)}
    changed: dict[str, Any] = {
        "run": merge(space.run, fixed),
        "search": {key: space.search[key] for key in _in_order(space.search) if key in searched},
        "points": {
            label: {key: value for key, value in point.items() if key not in flat_fixed}
            for label, point in space.points.items()
            if all(point.get(key, value) == value for key, value in flat_fixed.items())
        },
    }
    given = {key: value for key, value in changes.items() if value is not None}
    if space.fair not in changed["search"] or len(given.get("objective") or space.objective) > 1:
        changed["fair"] = None  # what is fixed has no arms, and several objectives no best arm
    space = build(Space, {**values, **changed, **given})
    _check_run(space, files, fixed)
    _check(space, files)
    return space


def _in_order(search: Mapping[str, Distribution]) -> list[str]:
    """The searched settings in their order, except that each comes after those it depends on."""
    placed: dict[str, None] = {}

    def place(name: str, dependants: tuple[str, ...] = ()) -> None:
        if name in search and name not in placed and name not in dependants:
            for other in [*search[name].when, search[name].same_as]:
                place(other or "", (*dependants, name))
            placed[name] = None

    for name in search:
        place(name)
    return list(placed)


def _read(
    source: Path | Mapping[str, Any] | Space, extending: tuple[Path, ...] = ()
) -> tuple[dict[str, Any], list[Path]]:
    """The contents of a space merged over the files it extends, and all files read, its own first."""
    files: list[Path] = []
    if isinstance(source, Path):
        if source.resolve() in extending:
            raise UserError(f"{source}: extends itself")
        own, files, extending = read_yaml(source), [source], (*extending, source.resolve())
    else:
        own = source.model_dump(exclude_unset=True) if isinstance(source, Space) else dict(source)
    trust.ask(own)
    parents = own.pop("extends", [])
    parents = parents if isinstance(parents, list) else [parents]
    if not all(isinstance(parent, str) for parent in parents):
        raise UserError(f"{_place(files, 'extends')}: must be a file, or a list of files, beside this one")
    present = {key: _without_null(value) if key in ("search", "points") else value for key, value in own.items()}
    build(Space, present, source=source if isinstance(source, Path) else None)
    beside = source.parent if isinstance(source, Path) else Path()
    values: dict[str, Any] = {}
    for parent in parents:
        file = beside / parent if (beside / parent).exists() else shipped_file(parent)
        if not file.exists():
            raise UserError(f"{_place(files[:1], 'extends')}: {file}: there is no such file")
        inherited, more = _read(file, extending)
        values = _over(inherited, values)
        files += more
    return _over(own, values), files


def _over(own: Mapping[str, Any], inherited: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the keys of a space over those of a space that it extends."""
    result = {**inherited, **own}
    for key in ("search", "points"):
        if key in result:
            result[key] = _without_null({**(inherited.get(key) or {}), **(own.get(key) or {})})
    if "run" in result:
        result["run"] = merge(inherited.get("run") or {}, flatten(own.get("run") or {}))
    if "constraints" in result:
        result["constraints"] = [*inherited.get("constraints", []), *own.get("constraints", [])]
    return result


def _without_null(values: Any) -> Any:
    return {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values


def _place(files: Sequence[Path], *keys: str) -> str:
    """The position of keys for an error message: file, line and keys, in the first file that has them."""
    for file in files:
        line = line_of(file, keys, whole=True)
        if line:
            return f"{file}, line {line}, {', '.join(keys)}"
    return ", ".join([*map(str, files[:1]), *keys]) or "the space"


def _check_run(space: Space, files: Sequence[Path], fixed: Mapping[str, Any]) -> None:
    """Checks that the run can be built; the error names `--set` if the setting comes from there."""
    try:
        build(RunConfig, space.run, changed=fixed)
    except UserError as error:
        place = "" if str(error).startswith("--set ") else f"{_place(files, 'run')}: "
        raise UserError(f"{place}{error}") from None


def _check(space: Space, files: Sequence[Path]) -> None:
    base = space.base
    try:
        if space.from_learned:
            space.learned_run()
    except UserError as error:
        raise UserError(f"{_place(files, 'from_learned')}: {error}") from None
    known = set(flatten(base.model_dump())) | set(space.search)
    for (setting, distribution), earlier in zip(space.search.items(), _prefixes(list(space.search)), strict=True):
        where = _place(files, "search", setting)
        references = dict.fromkeys(distribution.when, "when")
        references |= {distribution.same_as: "same_as"} if distribution.same_as is not None else {}
        for name, kind in references.items():
            if name not in known:
                raise UserError(f"{where}: {kind}: unknown setting {name}{nearest(name, sorted(known))}")
            if name in space.search and name not in earlier:
                raise UserError(f"{where}: {kind}: {name} itself depends on {setting}")
        conditions = space.conditions(distribution)
        for value in distribution.extremes():
            try:
                space.config({**conditions, setting: value})
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    _check_points(space, files)
    _check_constraints(space, files, known)


def _check_points(space: Space, files: Sequence[Path]) -> None:
    for label, point in space.points.items():
        where = _place(files, "points", label)
        try:
            values = flatten(space.config(point).model_dump())
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        for name, value in point.items():
            distribution = space.search.get(name)
            if distribution is None and values.get(name) != flatten(space.base.model_dump()).get(name):
                raise UserError(f"{where}: {name} is not searched; allowed: {', '.join(space.search)}")
            if distribution is not None and not distribution.allows(values[name]):
                raise UserError(f"{where}: {name}: {value} is outside the search range: {distribution}")
        for relation in space.relations:
            if (relation.violation(point) or 0.0) > 0:
                raise UserError(f"{where}: breaks the constraint {relation.text}")


def _check_constraints(space: Space, files: Sequence[Path], known: set[str]) -> None:
    where = _place(files, "constraints")
    for relation in space.relations:
        for name in relation.names:
            if name not in known and name not in relation.metrics:
                raise UserError(f"{where}: {relation.text}: unknown setting {name}{nearest(name, sorted(known))}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    broken: dict[str, float] = {}
    for _ in range(TRIED_DRAWS):
        broken = space.broken(space.suggest(study.ask()))
        if not broken:
            return
    raise UserError(f"{_place(files)}: none of {TRIED_DRAWS} random draws satisfies {next(iter(broken))}")


def _prefixes(names: list[str]) -> Iterator[list[str]]:
    for i in range(len(names)):
        yield names[:i]
