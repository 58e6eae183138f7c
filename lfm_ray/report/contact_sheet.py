"""A contact sheet of a dataset: a few samples of several classes in every modality, as models receive them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lfm_ray.datasets.columns import having
from lfm_ray.datasets.media.text import BYTE_VALUES
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import ModalityCard, Shards
from lfm_ray.files import written_anew
from lfm_ray.report.plots import plain_text

COLUMNS = 8
HEIGHTS = {"text": 0.5, "video": 0.8}  # inches; other kinds: 1.6


@plain_text()
def contact_sheet(shards: Shards, path: Path, split: str = "train") -> None:
    """Writes a PNG with `COLUMNS` samples of `split`, of as many classes as possible, one row per modality."""
    card = shards.card
    rows = of_many_classes(shards, split, COLUMNS)
    inputs = Inputs.of(card)
    columns, labels = shards.take(split, rows, frames=inputs.frames(rows, epoch=1))
    seen = inputs(columns, rows, epoch=1)
    samples = {name: seen[name].numpy() for name in card.modalities}
    there = {name: having(columns, name) for name in card.modalities}
    heights = [HEIGHTS.get(item.kind, 1.6) for item in card.modalities.values()]
    figure = Figure(figsize=(1.6 * len(rows), sum(heights) + 0.6))
    axes = figure.subplots(len(heights), len(rows), squeeze=False, height_ratios=heights)
    for line, (name, item) in zip(axes, card.modalities.items(), strict=True):
        for axis, sample, has in zip(line, samples[name], there[name], strict=True):
            draw(axis, sample, item, missing=not has)
        line[0].set_ylabel(name, fontsize=9)
    for axis, label in zip(axes[0], labels, strict=True):
        axis.set_title(card.target.words(label, card.classes)[:18], fontsize=9)
    figure.tight_layout()
    with written_anew(path) as file:
        figure.savefig(file, dpi=110, format="png")


def of_many_classes(shards: Shards, split: str, count: int) -> np.ndarray:
    """At most `count` row numbers of a split, from as many classes as possible, the first rows of each.

    Rows with the same set of labels are a class here, and so are those with the same tenth of the range of numbers.
    """
    labels = shards.take(split, np.arange(shards.card.rows(split)), [])[1]
    if shards.card.target.kind == "regression":
        labels = np.digitize(labels, np.linspace(labels.min(), labels.max(), 11)[1:-1])
    labels = labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    nth_of_its_class = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    return np.sort(np.argsort(nth_of_its_class, kind="stable")[:count])


def draw(axis: Axes, sample: np.ndarray, card: ModalityCard, missing: bool = False) -> None:
    """Draws a sample: a spectrogram with low frequencies below, a curve, pixels, frames side by side, or a text."""
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    if missing:
        axis.text(0, 0.5, "missing", fontsize=7, va="center", transform=axis.transAxes)
    elif card.kind == "text":
        if card.vocabulary == BYTE_VALUES:
            text = bytes((sample[sample > 0] - 1).astype(np.uint8)).decode("utf-8", errors="replace")
        else:
            text = " ".join(map(str, sample[sample != card.padding]))
        axis.text(0, 0.5, text[:22], fontsize=7, va="center", transform=axis.transAxes)
    elif card.kind == "feature" or card.sample_rate is not None:
        axis.plot(sample.ravel(), linewidth=0.5)
    elif card.kind == "audio":
        axis.imshow(sample[0].astype(np.float32), origin="lower", aspect="auto", cmap="magma")
    else:
        frames = sample if card.kind == "video" else sample[None]
        pixels = np.concatenate([frame.transpose(1, 2, 0) for frame in frames], axis=1)
        axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
