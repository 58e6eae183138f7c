"""Tables of results as text, for Markdown and LaTeX."""

from __future__ import annotations

import pandas as pd

from lfm_ray.models.directions import leading


def measured(frame: pd.DataFrame, split: str) -> list[str]:
    """`fused` and the modalities whose accuracies, or what leads for other targets, are in a frame of runs."""
    lead = leading(frame, split)
    return [key.split("/")[1] for key in frame if key.startswith(f"{split}/") and key.endswith(f"/{lead}")]


def markdown(cells: pd.DataFrame) -> str:
    """A Markdown table."""
    lines = [list(cells), ["---"] * len(cells.columns), *cells.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(title: str, cells: pd.DataFrame) -> str:
    """A LaTeX tabular in the style of the package booktabs."""

    def line(values: list[str]) -> str:
        text = " & ".join(values).replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$")
        return f"{text} \\\\\n"

    columns = "".join("l" if name in ("sweep", "strategy", "minus", "method") else "r" for name in cells)
    body = "".join(line(list(row)) for row in cells.itertuples(index=False))
    header = f"% {title}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(list(cells))}\\midrule\n"
    return f"{header}{body}\\bottomrule\n\\end{{tabular}}\n"
