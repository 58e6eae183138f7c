"""The cards of known raw datasets: data/NAME.yaml, read by lfm_ray/datasets/preparing/readers/NAME.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lfm_ray import trust
from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing.raw_folders import where_it_is
from lfm_ray.errors import UserError
from lfm_ray.own_parts import called, returned
from lfm_ray.registry import Registry, parts_in
from lfm_ray.resources import DATA, shipped_folder, shipped_names
from lfm_ray.settings import Settings, load, nearest, read_yaml

if TYPE_CHECKING:  # imported where it is used: it takes seconds
    import pandas as pd


READERS: Registry[Callable[[Path], pd.DataFrame]] = Registry(
    "reader", parts_in("lfm_ray.datasets.preparing.readers", shared=("annotations",), attribute="read")
)
"""Readers: the raw folder -> a manifest, with a column for each modality, `label`, and optionally the others."""


class RawCard(Settings):
    """The contents of a card."""

    title: str
    paper: str = Field(description="where the dataset is described")
    download: str = Field(description="where to get it")
    licence: str
    layout: str = Field(description="the files under --root")
    layout_source: str = Field(description="the public repository whose layout this is")
    splits: str = Field(description="where train, val and test come from")
    paper_rows: dict[str, int] = Field(
        {}, description="split -> its samples in section 4.1 of the LFM paper; without val, train has those of both"
    )
    classes: list[str] | int = Field(description="the possible labels, or just their number")
    numbers: str | None = Field(None, description="the reader's column that holds a number, for --target regression")
    modalities: dict[str, Kind]
    reader: str | None = Field(
        None,
        description="what reads the raw folder: package.module:function, or a built-in one; null: that of this name",
    )
    preprocessing: dict[str, Any] = Field({}, description="settings of PrepareConfig, paper section 4.1")


def raw_card(name: str) -> RawCard:
    """The card of a dataset: a built-in one by its name, or that of a .yaml file.

    Raises:
        UserError: there is no card of that name.
    """
    if name.endswith((".yaml", ".yml")):
        trust.ask(read_yaml(Path(name)))
        return load(RawCard, Path(name))
    file = shipped_folder(DATA) / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"--dataset {name}: there is no such card{nearest(name, names())}")
    return load(RawCard, file)


def names() -> list[str]:
    """The datasets that have a card."""
    return shipped_names(DATA)


def raw_manifest(name: str, root: Path) -> pd.DataFrame:
    """The manifest of the raw dataset under `root`, made by its reader.

    Raises:
        UserError: the folder does not exist, or is not laid out as the card says.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    reader = raw_card(name).reader or Path(name).stem
    try:
        read = READERS[READERS.check(reader)]
        try:
            table: pd.DataFrame = called(f"reader {reader}", read, root.absolute())
        except UserError as error:
            raise UserError(f"{error}{where_it_is(root.absolute(), read)}") from None
    except ValueError as error:
        raise UserError(f"--dataset {name}: reader: {error}") from None
    import pandas as pd

    returned(f"reader {reader}", table, isinstance(table, pd.DataFrame), "a pandas DataFrame")
    if table.empty:
        raise UserError(f"--root {root}: holds nothing that the card of {name} describes")
    return table
