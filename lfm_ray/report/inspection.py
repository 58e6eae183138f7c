"""Shows the contents of a dataset folder, for `prepare --inspect`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lfm_ray.console import notice
from lfm_ray.datasets.shards import CONTACT_SHEET, DatasetCard, Shards, what_is_told
from lfm_ray.report import linear_baselines
from lfm_ray.report.contact_sheet import contact_sheet
from lfm_ray.storage import shown


def summary(card: DatasetCard) -> str:
    """Rows per split and shapes, in one line."""
    rows = ", ".join(f"{card.rows(split)} {split}" for split in card.splits)
    shapes = ", ".join(f"{name} {_shape(item.shape)} {item.dtype}" for name, item in card.modalities.items())
    return f"{rows} rows of {what_is_told(card)}; {shapes}"


def missing_values(card: DatasetCard) -> str:
    """How many rows of each split lack a modality, such as `image 12 train, 3 val; text 1 test`; empty: none."""
    counts = {name: [f"{rows} {split}" for split, rows in one.missing.items()] for name, one in card.modalities.items()}
    return "; ".join(f"{name} {', '.join(each)}" for name, each in counts.items() if each)


def cut_sequences(card: DatasetCard) -> list[str]:
    """For each modality whose sequences were cut: how many rows of each split, and the setting that keeps them."""
    lines = []
    for name, one in card.modalities.items():
        if one.cut:
            rows = ", ".join(f"{count} of {card.rows(split)} {split}" for split, count in one.cut.items())
            setting = f"--set feature.{name}.length={one.longest}"
            lines.append(f"{name}: {rows} rows have more than {one.shape[0]} steps and were cut; {setting} keeps all")
    return lines


def clipped_sound(card: DatasetCard) -> list[str]:
    """For each modality whose sound was clipped: how many rows of each split, by how much, and what to do."""
    lines = []
    for name, one in card.modalities.items():
        if one.clipped and one.loudest:
            rows = ", ".join(f"{count} of {card.rows(split)} {split}" for split, count in one.clipped.items())
            most = math.ceil(100 * one.loudest - 0.01) / 100
            instead = f", or store spectrograms: --set storage.{name}=tensor" if one.storage == "waveform" else ""
            lines.append(
                f"{name}: {rows} rows go beyond -1 and 1, up to {most:g}, and were clipped, as 16-bit sound holds no"
                f" more; divide all files by {most:g}{instead}"
            )
    return lines


def inspect(path: Path, console: Console) -> None:
    """Verifies all checksums, shows modalities and the rows of each class, fits linear models, and draws samples."""
    shards = Shards(path)
    shards.verify()
    card = shards.card
    modalities = Table("modality", "kind", "shape", "dtype", "stored as", "mean", "std")
    for name, item in card.modalities.items():
        numbers = f"{item.mean:.4g}", f"{item.std:.4g}"
        modalities.add_row(name, item.kind, _shape(item.shape), item.dtype, item.storage, *numbers)
    console.print(modalities, _labels(shards))
    if lacking := missing_values(card):
        console.print(f"missing: {lacking}", soft_wrap=True)
    for line in [*cut_sequences(card), *clipped_sound(card)]:
        console.print(line, soft_wrap=True)
    console.print(f"all checksums are right: {shown(path)}", soft_wrap=True)
    baselines = linear_baselines.fit(shards)
    console.print(linear_baselines.table(baselines, card.modalities))
    try:
        contact_sheet(shards, path / CONTACT_SHEET)
        linear_baselines.write(baselines, path)
    except OSError as error:  # the folder cannot be written; what was asked for has been checked and shown
        reason = f" no picture of samples is drawn: {shown(path)}: {error.strerror}"
        console.print(notice("notice", f"         {reason}"), soft_wrap=True)
        return
    console.print(f"samples         {path / CONTACT_SHEET}", soft_wrap=True)


def _labels(shards: Shards) -> Table:
    """How many rows of each split have each class or label; of numbers, their range, mean and deviation."""
    card, kind = shards.card, shards.card.target.kind
    labels = {split: shards.take(split, np.arange(card.rows(split)), [])[1] for split in card.splits}
    table = Table("number" if kind == "regression" else "class" if kind == "classes" else "label", *card.splits)
    for column, split in zip(table.columns[1:], card.splits, strict=True):
        column.justify, column.footer = "right", str(card.rows(split))
    table.columns[0].footer, table.show_footer = "all" if kind == "classes" else "rows", True
    if kind == "regression":
        columns = [(one.min(), one.mean(), one.max(), one.std()) for one in labels.values()]
        for name, line in zip(("lowest", "mean", "highest", "std"), zip(*columns, strict=True), strict=True):
            table.add_row(name, *(f"{value:.4g}" for value in line))
        return table
    of_all = np.eye(len(card.classes), dtype=int)
    counts = [(of_all[values] if kind == "classes" else values).sum(axis=0, dtype=int) for values in labels.values()]
    for index, name in enumerate(card.classes):
        table.add_row(name, *(str(count[index]) for count in counts))
    return table


def _shape(shape: list[int]) -> str:
    return " x ".join(str(size) for size in shape)


def rows_beside_the_papers(card: DatasetCard, papers: Mapping[str, int]) -> Table:
    """The number of rows of each split beside that of the paper (`RawCard.paper_rows`)."""
    table = Table("split", "rows", "in the paper", "")
    for column in table.columns[1:3]:
        column.justify = "right"
    for split, count in papers.items():
        both = split == "train" and "val" not in papers
        here = sum(card.rows(one) for one in ((split, "val") if both else (split,)) if one in card.splits)
        table.add_row("train and val" if both else split, f"{here:,}", f"{count:,}", "" if here == count else "differs")
    return table
