"""The paper's Figures 1 to 3 for any dataset, from the confirmation runs of `lfm_ray.reproduce.plan`.

`lfm_ray.report.gradcam` draws Figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lfm_ray.datasets.reading.batches import Order, ReadBatches, from_shards
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.models.metrics import modality_gap
from lfm_ray.report.numbers import spread
from lfm_ray.report.plots import COLOURS, Curve, Plot
from lfm_ray.reproduce.tables import modalities_in
from lfm_ray.runtime import checkpoint
from lfm_ray.training.run_folder import CHECKPOINT, read_epochs
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import Trainer

DOTS = 600  # samples drawn per split; the gap is computed from all


def over_seeds(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """One line per row: mean and sample standard deviation (`NAME std`) over seeds.

    Columns: the fused accuracy, that of each modality and the accuracy gap, in per cent, and the
    modality gap. frame: `lfm_ray.reproduce.tables.paper_frame`.
    """
    names = ["fused", *modalities_in(frame, split)]
    columns = {name: 100 * frame[f"{split}/{name}/accuracy"] for name in names}
    columns |= {"accuracy gap": 100 * frame[f"{split}/accuracy_gap"], "modality gap": frame[f"{split}/modality_gap"]}
    groups = pd.DataFrame(columns).groupby(frame["row"], sort=False)
    mean, std = groups.mean(), groups.std()
    found = {key: values for name in columns for key, values in ((name, mean[name]), (f"{name} std", std[name]))}
    return pd.DataFrame(found).rename_axis("row").reset_index()


def gap_cells(figures: pd.DataFrame) -> pd.DataFrame:
    """`over_seeds` as text."""
    names = [name for name in figures if f"{name} std" in figures]
    lines = []
    for _, line in figures.iterrows():
        texts = {name: spread(line[name], line[f"{name} std"], 2 if name == "modality gap" else 1) for name in names}
        lines.append({"method": line["row"], **texts})
    return pd.DataFrame(lines)


def label_mixing_figure(figures: pd.DataFrame, classes: int) -> Figure:
    """Figure 1: accuracies and gaps against u, where L_CLS is (1 - u) L_S + u L_U.

    figures: `over_seeds` with a column `u`. Error bars: the standard deviation over seeds.
    """
    figures = figures.sort_values("u")
    names = [name for name in figures if f"{name} std" in figures and not name.endswith("gap")]
    figure = Figure(figsize=(11, 3.6))
    accuracy, gap, distance = figure.subplots(1, 3, width_ratios=[1.4, 1, 1])
    for name, colour in zip(names, ["#444444", *COLOURS], strict=False):
        _against_u(accuracy, figures, name, colour, 2.2 if name == "fused" else 1.4)
    accuracy.axhline(100 / classes, color="#999999", linestyle=":", linewidth=1, label="chance")
    accuracy.legend(frameon=False, fontsize=8)
    _against_u(gap, figures, "accuracy gap", COLOURS[3])
    _against_u(distance, figures, "modality gap", COLOURS[5])
    titles = ["accuracy, %", "accuracy gap between modalities, points", "modality gap, distance of centroids"]
    for axes, title in zip((accuracy, gap, distance), titles, strict=True):
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("u, the share of uniform labels")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    top = accuracy.secondary_xaxis("top")
    shown = {0.0: "L_S", 0.3: "0.7 L_S + 0.3 L_U", 1.0: "L_U"}
    ticks = [u for u in figures["u"] if u in shown]
    top.set_xticks(ticks, [shown[u] for u in ticks], fontsize=7)
    accuracy.set_title(titles[0], fontsize=9, loc="left", pad=18)
    figure.tight_layout()
    return figure


def _against_u(axes: Axes, figures: pd.DataFrame, name: str, colour: str, width: float = 1.8) -> None:
    spread = figures[f"{name} std"].fillna(0)
    axes.errorbar(figures["u"], figures[name], yerr=spread, label=name, color=colour, linewidth=width, marker="o",
                  markersize=3, capsize=2, elinewidth=0.8)  # fmt: skip


@dataclass(frozen=True)
class Embedded:
    """The embeddings that a trained model gives to a split.

    embeddings: modality -> (N, d) float32 of length 1; labels: (N,); gap: `lfm_ray.models.metrics.modality_gap`.
    """

    embeddings: dict[str, np.ndarray]
    labels: np.ndarray
    ids: list[str]
    gap: float

    @classmethod
    def of(cls, run: Path, shards: Shards, split: str) -> Embedded:
        """Computed by the final model in a run's folder.

        Raises:
            UserError: its checkpoint is missing or damaged.
        """
        state = checkpoint.load(run / CHECKPOINT)
        config = StoredModel.of(state, run / CHECKPOINT).config
        trained = Trainer(config, shards.card)
        trained.load_state_dict(state)
        inputs = Inputs.of(shards.card, config.data)
        rows = Order(np.arange(shards.card.rows(split)), max(256, config.data.batch_size), 0, False)
        take = from_shards(shards, split, list(inputs.modalities))
        outputs, labels = trained.outputs(ReadBatches(take, rows, inputs))
        on_sphere = {name: F.normalize(one.float(), dim=1).cpu().numpy() for name, one in outputs.embeddings.items()}
        return cls(on_sphere, labels.cpu().numpy(), shards.ids(split), modality_gap(outputs.embeddings))

    def in_plane(self) -> tuple[dict[str, np.ndarray], float]:
        """modality -> (N, 2), and the share of the variance explained by the two dimensions.

        Projects onto a plane through the centroids, so that the gaps between two or three modalities keep
        their true length. With two, the second axis is the first principal component of the orthogonal
        complement. (PCA of all embeddings can shorten a gap; t-SNE and UMAP do not preserve distances.)
        """
        from sklearn.decomposition import PCA

        every = np.concatenate(list(self.embeddings.values()))
        centroids = np.stack([values.mean(axis=0) for values in self.embeddings.values()])
        _, lengths, directions = np.linalg.svd(centroids - centroids.mean(axis=0), full_matrices=False)
        axes = directions[lengths > 1e-6][:2]
        if len(axes) < 2:
            axes = np.vstack(
                [axes, PCA(2 - len(axes), svd_solver="full").fit(every - every @ axes.T @ axes).components_]
            )
        points = {name: (values - every.mean(axis=0)) @ axes.T for name, values in self.embeddings.items()}
        return points, float(np.concatenate(list(points.values())).var(axis=0).sum() / every.var(axis=0).sum())

    def frame(self) -> pd.DataFrame:
        """The points of `in_plane`, one row per sample and modality."""
        return pd.concat(
            pd.DataFrame({"modality": name, "id": self.ids, "label": self.labels, "x": points[:, 0], "y": points[:, 1]})
            for name, points in self.in_plane()[0].items()
        )


def embeddings_figure(rows: Mapping[str, Embedded], accuracies: Mapping[str, float]) -> Figure:
    """Figure 2: for each row, the embeddings of each modality in the plane, with the modality gap.

    All panels have the same scale. Crosses mark the centroids; see `Embedded.in_plane`. accuracies: row -> per cent.
    """
    columns = min(len(rows), 4)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.4 * lines + 0.4))
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    for axes, (row, one) in zip(grid, rows.items(), strict=False):
        points, share = one.in_plane()
        drawn = np.random.default_rng(0).permutation(len(one.labels))[:DOTS]
        for xy, colour in zip(points.values(), COLOURS, strict=False):
            axes.scatter(*xy[drawn].T, s=5, color=colour, alpha=0.35, linewidths=0)
        centroids = {name: xy.mean(axis=0) for name, xy in points.items()}
        for a, b in combinations(centroids.values(), 2):
            axes.plot(*np.stack([a, b]).T, color="black", linewidth=1.2)
        axes.plot(*np.stack(list(centroids.values())).T, "x", color="black", markersize=7, markeredgewidth=2)
        axes.set_title(f"{row}: gap {one.gap:.2f}, accuracy {accuracies[row]:.1f} %", fontsize=8, loc="left")
        axes.set_xlabel(f"{100 * share:.0f} % of the variance", fontsize=7)
        axes.set_aspect("equal")
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.25)
    for axes in list(grid)[len(rows) :]:
        axes.set_visible(False)
    names = list(next(iter(rows.values())).embeddings)
    dots = [Line2D([], [], marker="o", linestyle="", color=colour) for _, colour in zip(names, COLOURS, strict=False)]
    figure.legend(dots, names, loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.3 / figure.get_figheight(), 1, 1))
    return figure


def alpha_plot(folders: Mapping[str, Sequence[Path]]) -> Plot:
    """Figure 3: alpha against the share of the epochs, for each seed of a row (thin) and their mean (thick)."""
    curves = []
    for row, runs in folders.items():
        histories = [read_epochs(run) for run in runs]
        share = [epoch["epoch"] / len(histories[0]) for epoch in histories[0]]
        alphas = np.array([[epoch["alpha"] for epoch in history] for history in histories])
        if len(alphas) > 1:
            curves += [Curve(f"{row}, seed {i}", row, share, alpha) for i, alpha in enumerate(alphas.tolist(), start=1)]
        curves.append(Curve(row, row, share, alphas.mean(axis=0).tolist(), bold=True))
    return Plot("figure3", "alpha(t)", "share of the epochs", "alpha", curves, y_range=(0, 1))
