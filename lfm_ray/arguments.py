"""Reads the arguments of the functions of `lfm_ray.api`, which are those of the commands, in Python's types."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfm_ray import trust as trusting
from lfm_ray.errors import UserError
from lfm_ray.files import check_name

if TYPE_CHECKING:
    from rich.console import Console

    from lfm_ray.datasets.shards import Shards
    from lfm_ray.report.loaded_run import LoadedRun
    from lfm_ray.report.loaded_sweep import LoadedSweep
    from lfm_ray.search.spaces.space import Space
    from lfm_ray.settings import Overrides

    Folder = str | Path

DEFAULT_SPACE = "alpha_schedule"


def trust_parts(given: bool) -> None:
    """Trusts, where `trust` is given, the parts of other packages that what is opened names."""
    if given:
        trusting.ask_for_everything()


def space_source(space: Folder | Mapping[str, Any] | Space | None) -> tuple[Path | Mapping[str, Any] | Space, str]:
    """Where a space is read from, and what a sweep of it is called."""
    from lfm_ray.resources import space_file

    if space is None or isinstance(space, str | Path):
        file = space_file(space or DEFAULT_SPACE)
        return file, file.stem
    return space, "sweep"


def fixed(
    settings: Overrides, data: Folder | Shards | None, epochs: int | None, seed: int | None = None
) -> dict[str, Any]:
    """Settings as a mapping, with those that have an argument of their own."""
    from lfm_ray.settings import parse_overrides
    from lfm_ray.storage import shown

    path = data if data is None or isinstance(data, str | Path) else shown(data.path)
    named = {"data.path": None if path is None else str(path), "epochs": epochs}
    changes = {**parse_overrides(settings), **{key: value for key, value in named.items() if value is not None}}
    return changes if seed is None else {"seed": seed, **changes}


def folder_of(what: Folder | LoadedRun | LoadedSweep) -> Path:
    """The folder of a run or a sweep."""
    return working_folder_of(what) if isinstance(what, str | Path) else what.folder


def working_folder_of(folder: Folder) -> Path:
    """The folder that this process works in: a copy where an object store is named."""
    from lfm_ray.storage import working_folder

    return working_folder(folder) if isinstance(folder, str) else folder


def path_or_none(path: Folder | None) -> Path | None:
    """A path, where one is given."""
    return None if path is None else Path(path)


def name_of_new(name: str | None, stem: str) -> str:
    """The name of a new run or sweep: the one given, or a stem with the time.

    Raises:
        UserError: it cannot name a folder.
    """
    return check_name("--name", name) if name is not None else dated(stem[:150])


def dated(stem: str) -> str:
    """The stem with the time."""
    return f"{stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def console_for(progress: bool) -> Console:
    """Where progress is shown."""
    from lfm_ray.console import SILENT, console

    return console if progress else SILENT


def check_counts(**given: int | None) -> None:
    """Checks that what counts something is a whole number of at least 1.

    Raises:
        UserError: one is not.
    """
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be a whole number of at least 1")


def gpus(given: float) -> float:
    """A number of GPUs, or a share of one.

    Raises:
        UserError: it is neither.
    """
    return float(_read("gpus_per_worker", given, "gpu_count"))


def seconds(given: float | str | None) -> float | None:
    """Seconds, given as such or as "90s", "30m", "2h"; None: no limit.

    Raises:
        UserError: it is no time.
    """
    text = given if given is None or isinstance(given, str) else f"{given:f}"
    return None if text is None else float(_read("time", text, "seconds"))


def _read(name: str, given: object, by: str) -> Any:
    """A value as the commands read it, by a function of `lfm_ray.cli`."""
    from lfm_ray import cli

    try:
        return getattr(cli, by)(str(given))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{name}: {error}") from None


def as_called(function: Callable[..., object], given: Mapping[str, Any]) -> str:
    """A call as it can be typed again: `lfm_ray.tune('cubic', data='shards/mine', trials=40)`."""
    import inspect

    words = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = given[name]
        if value is parameter.default or value == parameter.default or name in ("progress", "command"):
            continue
        path = getattr(value, "path", value)
        shown = repr(str(path)) if isinstance(path, Path) else repr(path)
        words.append(shown if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else f"{name}={shown}")
    return f"lfm_ray.{function.__name__}({', '.join(words)})"
