"""The leaderboard: a table of the paper on several datasets, its methods ranked over datasets and seeds.

FOLDER/
  DATASET/             the comparison on each dataset, as `lfm_ray.reproduce.plan` lays it out
  leaderboard.html     one page: ranks, critical-difference diagram, wins and losses, imbalance and costs
  leaderboard.csv, .md, .tex, leaderboard-runs.csv, critical-difference.png, .svg, .csv
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from lfm_ray import report
from lfm_ray.cli import command_line
from lfm_ray.console import console
from lfm_ray.errors import UserError
from lfm_ray.files import check_name, write_atomically
from lfm_ray.ray_session import ray_session
from lfm_ray.report.cells import latex, markdown
from lfm_ray.report.imbalance import groups_of
from lfm_ray.report.measure_tables import measure_tables, note_of
from lfm_ray.report.numbers import p_value, spread
from lfm_ray.report.page_tables import Table
from lfm_ray.report.plots import COLOURS, DARK_COLOURS, write
from lfm_ray.reproduce.claim import Claim, claim
from lfm_ray.reproduce.comparison import Comparison, run_comparison, show_table
from lfm_ray.reproduce.critical_difference import critical_difference_figure, inline_svg
from lfm_ray.reproduce.plan import baseline_of
from lfm_ray.reproduce.ranking import Ranking, score, scores
from lfm_ray.reproduce.tables import paper_table

SHOWN = 4  # datasets with a column of their own in the terminal
FOLDERS = [Path(__file__).parent, Path(report.__path__[0])]  # of the template and of the style that it shares


@dataclass(frozen=True)
class Leaderboard:
    """The runs of a table on several datasets.

    frame: one row per confirmation run: dataset, row, seed, metrics, costs. left_out: dataset -> lines that say
    which of its rows are left out, and why. how: trials, epochs and seeds.
    """

    paper: str
    split: str
    frame: pd.DataFrame
    left_out: Mapping[str, Sequence[str]]
    how: str
    command: str = ""

    @property
    def metric(self) -> str:
        """What the methods are ranked by."""
        return f"{self.split}/fused/accuracy"

    @property
    def datasets(self) -> list[str]:
        """Their names."""
        return [str(name) for name in self.frame["dataset"].unique()]

    @cached_property
    def ranking(self) -> Ranking:
        """Over all blocks."""
        return Ranking.of(self.frame, self.metric)

    @property
    def order(self) -> list[str]:
        """The methods, the best first; last those that are not ranked."""
        ranked = list(self.ranking.ranks)
        return ranked + [str(row) for row in self.frame["row"].unique() if row not in ranked]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """A line for each method: mean rank, accuracy on each dataset, wins, ties and losses against the baseline."""
        baseline, lines = baseline_of(self.paper), []
        for row in self.order:
            rank = self.ranking.ranks.get(row)
            line = {"method": row, "rank": "-" if rank is None else f"{rank:.2f}"}
            mine = self.frame[self.frame["row"] == row]
            for name in self.datasets:
                values = 100 * mine.loc[mine["dataset"] == name, self.metric]
                line[name] = spread(values.mean(), values.std()) if len(values) else "-"
            line[f"w/t/l {baseline}"] = "-"
            if row != baseline:
                line[f"w/t/l {baseline}"] = str(score(self.frame, row, baseline, self.metric) or "-")
            lines.append(line)
        return pd.DataFrame(lines)

    @property
    def title(self) -> str:
        """Of the table."""
        return f"{self.split} split, accuracy in %, mean ± std over seeds; {self.how}"

    @property
    def notes(self) -> list[str]:
        """What the ranks mean and how far they can be trusted, a sentence a line."""
        ranking, baseline = self.ranking, baseline_of(self.paper)
        blocks = f"{ranking.blocks} blocks, a seed on a dataset each"
        notes = [f"rank: by accuracy, 1 is best, the mean over {blocks}."]
        if not math.isnan(ranking.p):
            notes.append(f"Friedman's test of the hypothesis that all methods are equal: p = {p_value(ranking.p)}.")
        if not math.isnan(reach := ranking.critical_difference):
            notes.append(f"Nemenyi: mean ranks further apart than {reach:.2f} differ significantly (5 %).")
        notes.append(
            "The seeds of one dataset share its samples, so both tests speak of these datasets; what holds for datasets"
            " in general needs many of them."
        )
        notes.append(
            f"w/t/l: on how many datasets the method wins, ties and loses against {baseline}; a win is a 95 % interval"
            " of the difference, paired by seed, above 0. These intervals are not corrected for their number."
        )
        unranked = [row for row in self.order if row not in ranking.ranks]
        if unranked:
            notes.append(f"Not ranked, as a dataset lacks them: {', '.join(unranked)}.")
        notes += [f"{name}: {one.sentence}" for name, one in self.claims.items()]
        return notes + [f"{name}: {line}" for name, lines in self.left_out.items() for line in lines]

    @property
    def claims(self) -> dict[str, Claim]:
        """Table 1's claim on each dataset, where it can be judged."""
        if self.paper != "table1":
            return {}
        found = {name: claim(runs, self.metric) for name, runs in self.frame.groupby("dataset", sort=False)}
        return {str(name): one for name, one in found.items() if one is not None}

    def measures(self, dataset: str) -> dict[str, pd.DataFrame]:
        """Title -> cells of imbalance, calibration and costs on a dataset."""
        runs = self.frame[self.frame["dataset"] == dataset].dropna(axis=1, how="all")
        return measure_tables(groups_of(runs, ["row"], ["method"]), self.split)

    def write(self, folder: Path) -> Path:
        """Writes the page and everything beside it, and returns the page."""
        against = scores(self.frame, self.metric, self.order)
        ranks = pd.DataFrame({"method": list(self.ranking.ranks), "rank": list(self.ranking.ranks.values())})
        write("critical-difference", folder, ranks, lambda: critical_difference_figure(self.ranking))
        per_dataset = {
            f"{name}: {title}": cells for name in self.datasets for title, cells in self.measures(name).items()
        }
        tables = {self.title: self.cells, "wins/ties/losses of a line against a column": against, **per_dataset}
        write_atomically(folder / "leaderboard.csv", self.cells.to_csv(index=False))
        write_atomically(folder / "leaderboard-runs.csv", self.frame.to_csv(index=False))
        texts = [part for title, cells in tables.items() for part in (title, markdown(cells))]
        write_atomically(folder / "leaderboard.md", "\n\n".join([*texts[:2], "\n".join(self.notes), *texts[2:]]))
        write_atomically(folder / "leaderboard.tex", "\n".join(latex(*table) for table in tables.items()))
        page = folder / "leaderboard.html"
        write_atomically(page, self.render(against))
        return page

    def render(self, against: pd.DataFrame) -> str:
        """The page."""
        environment = Environment(
            loader=FileSystemLoader(FOLDERS), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        return environment.get_template("leaderboard.html").render(
            title=f"{self.paper}: {len(self.order)} methods on {', '.join(self.datasets)}",
            about=self.title,
            ranks=_table("leaderboard", "Accuracy and ranks", self.cells),
            notes=self.notes,
            diagram=Markup(inline_svg(critical_difference_figure(self.ranking))),
            against=_table("scores", "Wins, ties and losses", against),
            measures={
                name: [
                    _table(f"measures-{i}-{j}", title, cells, note_of(title))
                    for j, (title, cells) in enumerate(self.measures(name).items())
                ]
                for i, name in enumerate(self.datasets)
            },
            command=self.command,
            colours=COLOURS,
            dark_colours=DARK_COLOURS,
        )


def lead(given: Namespace) -> None:
    """Makes a table of the paper on every dataset, where runs are missing, and the leaderboard of all.

    given: as for `lfm_ray.reproduce.comparison.compare`, but `data` is a list. A budget is shared by the datasets
    that are left: what one does not use, the next ones have.
    """
    started, datasets = time.monotonic(), by_name(given.data)
    folder = given.storage / check_name("--name", given.name or f"{given.paper}-leaderboard")
    done: dict[str, Comparison] = {}
    with ray_session(given.address):
        for i, (name, data) in enumerate(datasets.items()):
            left = max(1.0, given.budget - (time.monotonic() - started)) if given.budget else None
            share = left and left / (len(datasets) - i)
            one = {**vars(given), "data": data, "name": name, "storage": folder, "budget": share}
            done[name] = run_comparison(Namespace(**one))
            show_table(done[name], brief=True)
    board = leaderboard_of(done)
    page = board.write(folder)
    cells = board.cells
    if len(datasets) > SHOWN:
        cells = cells.drop(columns=list(datasets))
    console.print(paper_table(board.title, cells))
    console.print("\n".join(board.notes))
    console.print(f"leaderboard     {page}", soft_wrap=True)
    console.print(f"tables          {folder}/leaderboard.{{csv,md,tex}}", soft_wrap=True)
    console.print(f"this took       {(time.monotonic() - started) / 60:.1f} minutes")


def leaderboard_of(done: Mapping[str, Comparison]) -> Leaderboard:
    """The leaderboard of completed comparisons; name of a dataset -> its comparison."""
    frame = pd.concat([one.frame.assign(dataset=name) for name, one in done.items()], ignore_index=True)
    first = next(iter(done.values()))
    trials = [str(one.file.trials) for one in done.values()]
    each = trials[0] if len(set(trials)) == 1 else f"{', '.join(trials)} (by dataset)"
    how = f"{each} trials of {first.file.epochs} epochs for each row, {len(first.file.seeds)} seeds"
    left_out = {name: one.left_out for name, one in done.items() if one.left_out}
    return Leaderboard(first.file.paper, first.split, frame, left_out, how, command_line("reproduce"))


def by_name(folders: Sequence[Path]) -> dict[str, Path]:
    """Datasets by the names of their folders.

    Raises:
        UserError: two have the same name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in found:
            raise UserError(f"--data {folder}: another dataset is called {name} too; rename one of the folders")
        found[name] = folder
    return found


def _table(name: str, title: str, cells: pd.DataFrame, note: str = "") -> Table:
    return Table(name, title, list(cells), cells.to_numpy().tolist(), frozenset({"method"}), note=note)
