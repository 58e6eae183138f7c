"""The critical-difference diagram: mean ranks on a line, and bars over those that do not differ significantly."""

from __future__ import annotations

import io
import math
import re

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lfm_ray.report.plots import plain_text
from lfm_ray.reproduce.ranking import Ranking

INK = "#1c2128"  # no other colour is drawn; on the page it is that of the text
ROW, BAR = 0.5, 0.22  # heights of a label and of a bar, in units of the diagram


def critical_difference_figure(ranking: Ranking) -> Figure:
    """The diagram of Demsar (JMLR 2006), the best method on the left. Without a critical difference it has no bars."""
    names, k = list(ranking.ranks), len(ranking.ranks)
    left = (k + 1) // 2
    top = -0.3 - BAR * len(ranking.groups)
    bottom = top - ROW * (left + 0.4)
    with plain_text():
        figure = Figure(figsize=(9, 0.42 * (2.2 - bottom)))
        axes = figure.add_axes((0.2, 0, 0.6, 1))
        margin = 0.02 * max(1, k - 1)
        axes.set_xlim(1 - margin, max(2, k) + margin)
        axes.set_ylim(bottom, 2.2)
        axes.axis("off")
        _scale(axes, k)
        if not math.isnan(reach := ranking.critical_difference):
            width = min(reach, max(2, k) - 1)
            axes.plot([1, 1 + width], [1.4, 1.4], color=INK, linewidth=1.6, marker="|", markersize=7)
            cut = " (wider than the scale)" if width < reach else ""
            axes.text(1 + width / 2, 1.6, f"CD = {reach:.2f}{cut}", ha="center", va="bottom", fontsize=9, color=INK)
        for i, group in enumerate(ranking.groups):
            ends = [ranking.ranks[group[0]] - margin / 5, ranking.ranks[group[-1]] + margin / 5]
            axes.plot(ends, [-0.3 - BAR * i] * 2, color=INK, linewidth=3.2, solid_capstyle="butt")
        for i, name in enumerate(names):
            row = i if i < left else k - 1 - i  # the outermost is the highest on either side, so no lines cross
            _label(axes, name, ranking.ranks[name], top - ROW * (row + 0.6), to_the_left=i < left, k=k)
    return figure


def _scale(axes: Axes, k: int) -> None:
    axes.plot([1, max(2, k)], [0, 0], color=INK, linewidth=1.2)
    for rank in range(1, max(2, k) + 1, 1 if k <= 16 else 2):
        axes.plot([rank, rank], [0, 0.14], color=INK, linewidth=1)
        axes.text(rank, 0.24, str(rank), ha="center", va="bottom", fontsize=8, color=INK)


def _label(axes: Axes, name: str, rank: float, y: float, to_the_left: bool, k: int) -> None:
    margin = 0.02 * max(1, k - 1)
    end = 1 - margin if to_the_left else max(2, k) + margin
    axes.plot([rank, rank, end], [0, y, y], color=INK, linewidth=0.8, clip_on=False)
    text = f"{name}  {rank:.2f}" if to_the_left else f"{rank:.2f}  {name}"
    offset = (-4, 0) if to_the_left else (4, 0)
    axes.annotate(text, (end, y), xytext=offset, textcoords="offset points", va="center", fontsize=9, color=INK,
                  ha="right" if to_the_left else "left", annotation_clip=False)  # fmt: skip


def inline_svg(figure: Figure) -> str:
    """A figure as SVG for a page, in the colour of its text; labels are escaped by matplotlib."""
    text = io.StringIO()
    with plain_text({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    body = text.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", body[body.index("<svg") :], flags=re.DOTALL)
    return body.replace(INK, "currentColor")
