"""Tables of results as text, for Markdown and LaTeX."""

from __future__ import annotations

import pandas as pd

from lfm_ray.models.directions import leading
from lfm_ray.visible import in_one_line

# Names of sweeps and modalities may hold any of these, which mean something in a table.
IN_MARKDOWN = str.maketrans({"\\": r"\\", "|": r"\|", "`": r"\`", "[": r"\[", "<": "&lt;", "&": "&amp;"})
IN_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "%_&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
)


def measured(frame: pd.DataFrame, split: str) -> list[str]:
    """`fused` and the modalities whose accuracies, or what leads for other targets, are in a frame of runs."""
    lead = leading(frame, split)
    return [key.split("/")[1] for key in frame if key.startswith(f"{split}/") and key.endswith(f"/{lead}")]


def markdown(cells: pd.DataFrame) -> str:
    """A Markdown table, in which names are shown as they are."""
    lines = [[_in(IN_MARKDOWN, text) for text in line] for line in [list(cells), *cells.itertuples(index=False)]]
    lines.insert(1, ["---"] * len(cells.columns))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(title: str, cells: pd.DataFrame) -> str:
    """A LaTeX tabular in the style of the package booktabs."""

    def line(values: list[str]) -> str:
        return f"{' & '.join(_in(IN_LATEX, text) for text in values)} \\\\\n"

    columns = "".join("l" if name in ("sweep", "strategy", "minus", "method") else "r" for name in cells)
    body = "".join(line(list(row)) for row in cells.itertuples(index=False))
    header = f"% {in_one_line(title)}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(list(cells))}\\midrule\n"
    return f"{header}{body}\\bottomrule\n\\end{{tabular}}\n"


def _in(language: dict[int, str], text: str) -> str:
    return in_one_line(text).translate(language)
