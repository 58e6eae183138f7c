"""Figures as the text of tables, in the terminal, in Markdown and in LaTeX."""

from __future__ import annotations

import math

import pandas as pd


def measured(frame: pd.DataFrame, split: str) -> list[str]:
    """`fused` and the modalities whose accuracies on a split a frame of runs has."""
    return [key.split("/")[1] for key in frame if key.startswith(f"{split}/") and key.endswith("/accuracy")]


def spread(mean: float, std: float, digits: int = 1) -> str:
    """`81.4 ± 1.3`; of one run, whose standard deviation is nan, the mean alone."""
    return f"{mean:.{digits}f}" if math.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def p_value(p: float) -> str:
    """`0.018`, `2e-05`."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def markdown(cells: pd.DataFrame) -> str:
    """A table for a page."""
    lines = [list(cells), ["---"] * len(cells.columns), *cells.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(title: str, cells: pd.DataFrame) -> str:
    """A tabular in the style of the package booktabs."""

    def line(values: list[str]) -> str:
        text = " & ".join(values).replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$")
        return f"{text} \\\\\n"

    columns = "".join("l" if name in ("sweep", "strategy", "minus", "method") else "r" for name in cells)
    body = "".join(line(list(row)) for row in cells.itertuples(index=False))
    header = f"% {title}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(list(cells))}\\midrule\n"
    return f"{header}{body}\\bottomrule\n\\end{{tabular}}\n"
