"""What `lfm_ray.confirm` says: figures over seeds, and each configuration compared with the baselines."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from rich.table import Table

from lfm_ray.cli import write_atomically
from lfm_ray.launch import read_epochs
from lfm_ray.search.selection import COMPARED
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.statistics import holm, interval, paired


def confirm_frame(groups: list[tuple[Sweep, Trial, list[Path]]], seeds: list[int]) -> pd.DataFrame:
    """One row for each confirming run: sweep, trial, strategy, validation accuracy, seed, metrics.

    groups: a trial with the folders of its runs, one for each seed.
    """
    return pd.DataFrame(
        [
            {
                "sweep": sweep.folder.name,
                "trial": trial.number,
                "strategy": trial.strategy,
                "selected_by": trial.accuracy,
            }
            | {"seed": seed}
            | read_epochs(folder)[-1]
            for sweep, trial, folders in groups
            for seed, folder in zip(seeds, folders, strict=True)
        ]
    )


def summary(frame: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """One row for each configuration, best validation accuracy last; accuracies in per cent.

    Mean, standard deviation and 95 % interval of the fused accuracy over seeds; mean and standard
    deviation of each modality's; the mean accuracy gap.
    """
    rows = []
    for group in _groups(frame):
        row: dict[str, object] = dict(group.iloc[0][["sweep", "trial", "strategy"]])
        for name in _measured(frame, split):
            values = 100 * group[f"{split}/{name}/accuracy"]
            row |= {name: values.mean(), f"{name} std": values.std()}
            if name == "fused":
                row["low"], row["high"] = interval(values.to_numpy())
        rows.append(row | {"gap": 100 * group[f"{split}/accuracy_gap"].mean()})
    return pd.DataFrame(rows)


def comparisons(frame: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Each configuration minus each baseline in fused accuracy, in per cent points, paired by seed.

    The baselines are the best alpha = 0 and the best heuristic by validation accuracy; the
    heuristic itself is compared with alpha = 0. `p Holm` is the p-value of the t-test, corrected
    for all comparisons of this table.
    """
    groups = _groups(frame)
    strategies = [str(group["strategy"].iloc[0]) for group in groups]
    best = {name: groups[len(groups) - 1 - strategies[::-1].index(name)] for name in COMPARED if name in strategies}
    rows: list[dict[str, object]] = []
    for name, baseline in best.items():
        for group, strategy in zip(groups, strategies, strict=True):
            if strategy in COMPARED and (name != "alpha = 0" or group is not best.get("heuristic")):
                continue
            ours, theirs = (100 * one.set_index("seed")[f"{split}/fused/accuracy"] for one in (group, baseline))
            found = paired(ours.to_numpy(), theirs[ours.index].to_numpy())
            row = dict(group.iloc[0][["sweep", "trial", "strategy"]])
            rows.append(row | {"minus": name, **vars(found)})
    frame = pd.DataFrame(rows)
    if rows:
        frame["p_holm"] = holm([float(p) for p in frame["p_t"]])
    return frame


def tables(frame: pd.DataFrame, split: str = "test") -> dict[str, pd.DataFrame]:
    """Title -> what is shown in the terminal, in Markdown and in LaTeX, as text."""
    figures, differences = summary(frame, split), comparisons(frame, split)
    seeds = frame["seed"].nunique()
    identity = ["sweep", "trial", "strategy"]
    shown = figures[identity].astype(str)
    for name in _measured(frame, split):
        shown[name] = [f"{value:.1f}" for value in figures[name]]
        if name == "fused":
            shown[name] = [_spread(*pair) for pair in zip(figures[name], figures[f"{name} std"], strict=True)]
            shown["95 %"] = [_range(*pair) for pair in zip(figures["low"], figures["high"], strict=True)]
    shown["gap"] = [f"{value:.1f}" for value in figures["gap"]]
    result = {f"{split} accuracy in %, mean ± std over {seeds} seeds": shown}
    if len(differences):
        compared = differences[[*identity, "minus"]].astype(str)
        compared["points"] = [f"{value:+.1f}" for value in differences["difference"]]
        compared["95 %"] = [_range(*pair, "+") for pair in zip(differences["low"], differences["high"], strict=True)]
        for column, label in (("p_t", "p t"), ("p_holm", "p Holm"), ("p_wilcoxon", "p Wilcoxon")):
            compared[label] = [f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" for value in differences[column]]
        result["fused accuracy compared, seed by seed, in points"] = compared
    return result


def rich_table(title: str, cells: pd.DataFrame) -> Table:
    """For the terminal."""
    table = Table(title=title, title_justify="left")
    for name in cells:
        text = name in ("sweep", "strategy", "minus")
        table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=name != "sweep")
    for row in cells.itertuples(index=False):
        table.add_row(*row)
    return table


def write_confirmation(frame: pd.DataFrame, split: str, stem: Path) -> list[Path]:
    """Writes each run and both tables as CSV, and the tables as Markdown and LaTeX. Returns the files."""
    shown = tables(frame, split)
    texts = {
        "": frame.to_csv(index=False),
        "-summary": summary(frame, split).to_csv(index=False),
        "-comparisons": comparisons(frame, split).to_csv(index=False),
    }
    files = {stem.with_name(f"{stem.name}{suffix}.csv"): text for suffix, text in texts.items()}
    files[stem.with_suffix(".md")] = "\n".join(_markdown(title, cells) for title, cells in shown.items())
    files[stem.with_suffix(".tex")] = "\n".join(latex(title, cells) for title, cells in shown.items())
    for file, text in files.items():
        write_atomically(file, text)
    return list(files)


def _groups(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The runs of each configuration, best validation accuracy last."""
    groups = [group for _, group in frame.groupby(["sweep", "trial"])]
    return sorted(groups, key=lambda group: float(group["selected_by"].iloc[0]))


def _measured(frame: pd.DataFrame, split: str) -> list[str]:
    """fused, then the modalities."""
    return [key.split("/")[1] for key in frame if key.startswith(f"{split}/") and key.endswith("/accuracy")]


def _spread(mean: float, std: float) -> str:
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def _range(low: float, high: float, sign: str = "") -> str:
    return "-" if math.isnan(low) else f"{low:{sign}.1f} to {high:{sign}.1f}"


def _markdown(title: str, cells: pd.DataFrame) -> str:
    lines = [list(cells), ["---"] * len(cells.columns), *cells.itertuples(index=False)]
    return f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(title: str, cells: pd.DataFrame) -> str:
    """A tabular in the style of the package booktabs."""

    def line(values: list[str]) -> str:
        text = " & ".join(values).replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$")
        return f"{text} \\\\\n"

    columns = "".join("l" if name in ("sweep", "strategy", "minus", "method") else "r" for name in cells)
    body = "".join(line(list(row)) for row in cells.itertuples(index=False))
    header = f"% {title}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(list(cells))}\\midrule\n"
    return f"{header}{body}\\bottomrule\n\\end{{tabular}}\n"
