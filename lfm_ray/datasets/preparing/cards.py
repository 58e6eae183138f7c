"""Cards of the known raw datasets: data/NAME.yaml, each with a reader lfm_ray/datasets/preparing/readers/NAME.py."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lfm_ray.datasets.kinds import Kind
from lfm_ray.errors import UserError
from lfm_ray.resources import REPOSITORY
from lfm_ray.settings import Settings, load, nearest

if TYPE_CHECKING:  # imported where it is used: it takes seconds
    import pandas as pd

FOLDER = REPOSITORY / "data"


class RawCard(Settings):
    """The contents of a card."""

    title: str
    paper: str = Field(description="where the dataset is described")
    download: str = Field(description="where to get it")
    licence: str
    layout: str = Field(description="the files under --root")
    layout_source: str = Field(description="the public repository whose layout this is")
    splits: str = Field(description="where train, val and test come from")
    classes: list[str] | int = Field(description="the possible labels, or just their number")
    modalities: dict[str, Kind]
    preprocessing: dict[str, Any] = Field({}, description="settings of PrepareConfig, paper section 4.1")


def raw_card(name: str) -> RawCard:
    """The card of a dataset.

    Raises:
        UserError: there is no card of that name.
    """
    file = FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"--dataset {name}: there is no such card{nearest(name, names())}")
    return load(RawCard, file)


def names() -> list[str]:
    """The datasets that have a card."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def raw_manifest(name: str, root: Path) -> pd.DataFrame:
    """The manifest of the raw dataset under `root`, made by its reader.

    Raises:
        UserError: the folder does not exist, or is not laid out as the card says.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    table: pd.DataFrame = importlib.import_module(f"lfm_ray.datasets.preparing.readers.{name}").read(root.absolute())
    if table.empty:
        raise UserError(f"--root {root}: contains nothing that data/{name}.yaml describes")
    return table
