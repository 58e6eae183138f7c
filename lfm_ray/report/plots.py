"""Figures of the report: their contents, drawn with matplotlib as PNG and SVG, and their data as CSV.

On the page, `page.js` draws the same `Plot`, so that it fits any screen and hovering names a trial.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lfm_ray.files import write_atomically, written_anew

# Colours of groups in light and dark mode, distinguishable for colour-blind readers (after Okabe and Ito).
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a6761d", "#e69f00", "#56b4e9", "#6a3d9a"]
DARK_COLOURS = ["#4aa3f0", "#ff8a4a", "#2fcf9f", "#f0a6d0", "#d8ab66", "#ffc34d", "#9ad8ff", "#b79ae8"]


@contextmanager
def plain_text(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Figures with names of users in them: a $ is a plain $, and letters that the font lacks are boxes, not warnings.

    settings: further ones of matplotlib.
    """
    given: dict[Any, Any] = {**(settings or {}), "text.parse_math": False}
    with warnings.catch_warnings(), matplotlib.rc_context(given):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


POINTS = 60_000  # per figure; with more, the page would exceed 5 MB


@dataclass(frozen=True)
class Curve:
    """A line through the points (x, y), or a dot if there is only one.

    name: shown when hovering; curves with the same name are highlighted together in all figures.
    group: decides the colour; "" is drawn in the text colour.
    """

    name: str
    group: str
    x: Sequence[float]
    y: Sequence[float]
    bold: bool = False


@dataclass(frozen=True)
class Axis:
    """A vertical axis of parallel coordinates; ticks: text -> height in [0, 1]."""

    label: str
    ticks: dict[str, float]


@dataclass(frozen=True)
class Plot:
    """The contents of a figure.

    name: of its files; note: its caption; steps: y holds until the next x; axes: makes it parallel
    coordinates, where x is the number of an axis and y a height in [0, 1]; data: the contents of the
    CSV, if not the points.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    note: str = ""
    steps: bool = False
    y_range: tuple[float, float] | None = None
    axes: tuple[Axis, ...] = ()
    data: pd.DataFrame | None = None

    def frame(self) -> pd.DataFrame:
        """The data, one row per point."""
        if self.data is not None:
            return self.data
        return pd.DataFrame(
            {
                "curve": [curve.name for curve in self.curves for _ in curve.x],
                "group": [curve.group for curve in self.curves for _ in curve.x],
                self.x_label: [value for curve in self.curves for value in curve.x],
                self.y_label: [value for curve in self.curves for value in curve.y],
            }
        )

    def thinned(self, points: int = POINTS) -> Plot:
        """The plot with at most about this many points; if some are left out, the note says so.

        Curves that are not bold keep evenly spaced points, including the first and the last.
        """
        if sum(len(curve.x) for curve in self.curves) <= points:
            return self
        keep = max(10, points // len(self.curves))

        def thin(curve: Curve) -> Curve:
            if curve.bold or len(curve.x) <= keep:
                return curve
            at = np.linspace(0, len(curve.x) - 1, keep).round().astype(int)
            return replace(curve, x=[curve.x[i] for i in at], y=[curve.y[i] for i in at])

        said = f"To keep the page small, thin curves show at most {keep} of their points; the CSV has all."
        return replace(self, curves=[thin(curve) for curve in self.curves], note=f"{self.note} {said}".strip())

    def draw(self, axes: Axes, groups: Sequence[str]) -> None:
        """Draws it with matplotlib, without a legend; the position of a group in `groups` decides its colour."""
        for group in ["", *groups]:
            mine = [curve for curve in self.curves if curve.group == group]
            colour = COLOURS[groups.index(group) % len(COLOURS)] if group else "#444444"
            label: str | None = group or None
            for bold in (False, True):
                lines = [self._path(curve) for curve in mine if curve.bold == bold and len(curve.x) > 1]
                faint = max(0.08, min(0.5, 20 / max(1, len(self.curves)))) if not bold else 1.0
                if lines:
                    width = 2.0 if bold else 0.8
                    axes.add_collection(
                        LineCollection(lines, colors=colour, linewidths=width, alpha=faint), autolim=True
                    )
            dots = [curve for curve in mine if len(curve.x) == 1]
            if dots:
                axes.scatter([c.x[0] for c in dots], [c.y[0] for c in dots], s=9, color=colour, alpha=0.7)
            if mine and label:
                axes.plot([], [], color=colour, label=label)
        axes.autoscale_view()
        if self.y_range:
            low, high = self.y_range
            axes.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
        if self.axes:
            self._draw_parallel_axes(axes)
        else:
            axes.grid(alpha=0.3)
            axes.set_xlabel(self.x_label)
            axes.set_ylabel(self.y_label)
        axes.spines[["top", "right"]].set_visible(False)

    def _path(self, curve: Curve) -> np.ndarray:
        points = np.column_stack([curve.x, curve.y])
        if not self.steps:
            return points
        corners = np.column_stack([points[1:, 0], points[:-1, 1]])
        return np.vstack([points[:1], np.stack([corners, points[1:]], axis=1).reshape(-1, 2)])

    def _draw_parallel_axes(self, axes: Axes) -> None:
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(-0.1, len(self.axes) - 0.4)
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks(range(len(self.axes)), [axis.label.replace(".", ".\n", 1) for axis in self.axes], fontsize=7)
        for i, axis in enumerate(self.axes):
            axes.axvline(i, color="#888888", linewidth=0.8)
            for text, height in axis.ticks.items():
                axes.annotate(text, (i, height), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center",
                              path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, the longest first."""

    name: str
    title: str
    x_label: str
    values: dict[str, float]
    note: str = ""

    def frame(self) -> pd.DataFrame:
        """The data, one row per bar."""
        return pd.DataFrame({"name": list(self.values), self.x_label: list(self.values.values())})

    def draw(self, axes: Axes, groups: Sequence[str]) -> None:
        """Draws them with matplotlib."""
        axes.barh(list(self.values), list(self.values.values()), color=COLOURS[0])
        axes.invert_yaxis()
        axes.set_xlabel(self.x_label)
        axes.spines[["top", "right"]].set_visible(False)


def figure_of(plot: Plot | Bars, groups: Sequence[str]) -> Figure:
    """The plot as a matplotlib figure, independent of the backend."""
    with plain_text():
        figure = Figure(figsize=(10, 4.2) if isinstance(plot, Plot) and plot.axes else (6.4, 4.2))
        axes = figure.subplots()
        plot.draw(axes, groups)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4)
        axes.set_title(plot.title, fontsize=10, loc="left")
    return figure


def save_panels(plots: Sequence[Plot], groups: Sequence[str], path: Path) -> None:
    """Writes plots that share their x axis as one PNG, two per row, with one legend below."""
    with plain_text():
        lines = -(-len(plots) // 2)
        figure = Figure(figsize=(9, 3.1 * lines))
        grid = list(figure.subplots(lines, 2, sharex=True, squeeze=False).flat)
        for axes, plot in zip(grid, plots, strict=False):
            plot.draw(axes, groups)
            axes.label_outer()
            axes.set_title(plot.title, fontsize=10, loc="left")
        for axes in grid[len(plots) :]:
            axes.set_visible(False)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
        figure.tight_layout(rect=(0, 0.04 + 0.03 * (len(labels) // 4), 1, 1))
        with written_anew(path) as file:
            figure.savefig(file, format="png", dpi=130)


def save(plot: Plot | Bars, groups: Sequence[str], folder: Path) -> None:
    """Writes NAME.csv, NAME.png and NAME.svg."""
    write(plot.name, folder, plot.frame(), lambda: figure_of(plot, groups))


def write(name: str, folder: Path, data: pd.DataFrame, make: Callable[[], Figure]) -> None:
    """Writes NAME.csv, NAME.png and NAME.svg; calls `make` with the matplotlib settings of all our figures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.csv", data.to_csv(index=False, float_format="%.6g"))
    with plain_text({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = make()
        with written_anew(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
        with written_anew(folder / f"{name}.svg") as file:
            figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})


def for_page(plots: Sequence[Plot], groups: Sequence[str]) -> dict[str, Any]:
    """The data for `page.js`, as JSON: names and x values are stored once and referred to by index."""
    names: dict[tuple[str, str], int] = {}
    xs: dict[tuple[float, ...], int] = {}

    def curve(one: Curve) -> list[Any]:
        x = tuple(_short(value) for value in one.x)
        named = names.setdefault((one.name, one.group), len(names))
        return [named, xs.setdefault(x, len(xs)), [_short(value) for value in one.y], int(one.bold)]

    drawn = [
        {
            "name": plot.name,
            "x": plot.x_label,
            "y": plot.y_label,
            "steps": plot.steps,
            "range": plot.y_range,
            "axes": [[axis.label, list(axis.ticks.items())] for axis in plot.axes],
            "curves": [curve(one) for one in plot.curves],
        }
        for plot in plots
    ]
    places = {group: i for i, group in enumerate(groups)}
    return {
        "groups": list(groups),
        "names": [[name, places.get(group, -1)] for name, group in names],
        "xs": [list(x) for x in xs],
        "plots": drawn,
        "colours": len(COLOURS),
    }


def _short(value: float) -> float:
    """Rounds to four significant digits, and to an integer if whole."""
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short
