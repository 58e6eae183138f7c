"""Figures of a sweep as PNG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from lfm_ray.report.plots import PLAIN_TEXT
from lfm_ray.report.tables import modalities_of
from lfm_ray.search.selection import by_strategy
from lfm_ray.search.sweep import Trial


@matplotlib.rc_context(PLAIN_TEXT)
def strategies_figure(trials: list[Trial], path: Path) -> None:
    """alpha(t) and the accuracies over the epochs for the best trial of each strategy (paper Figure 3)."""
    best = by_strategy(trials)
    if not best:
        return
    modalities = modalities_of(next(iter(best.values())).rows[-1])
    panels = [("alpha", "alpha(t)"), ("val/fused/accuracy", "fused accuracy, validation")]
    panels += [(f"val/{name}/accuracy", f"{name} accuracy, validation") for name in modalities]
    columns = 2
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(9, 3.1 * lines))  # not of pyplot, whose backend is that of the notebook
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False)
    for axis, (key, title) in zip(axes.flat, panels, strict=False):
        for name, trial in best.items():
            share = [row["epoch"] / trial.config.epochs for row in trial.rows]
            width = 2.4 if trial is list(best.values())[-1] else 1.2
            axis.plot(share, [row[key] for row in trial.rows], label=f"{name} (trial {trial.number})", linewidth=width)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("share of the epochs")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.04 + 0.03 * (len(labels) // 4), 1, 1))
    temporary = path.with_suffix(".writing.png")
    figure.savefig(temporary, dpi=130)
    temporary.replace(path)
