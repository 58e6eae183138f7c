"""`python -m lfm_ray.reproduce`: tunes and confirms each row of a table or figure of the paper."""

from __future__ import annotations

import datetime
import math
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from ray.tune import Callback

from lfm_ray import storage, trust
from lfm_ray.callbacks.progress import RunsProgress
from lfm_ray.config import RunConfig
from lfm_ray.console import console, notice
from lfm_ray.datasets.shards import Shards, read_card
from lfm_ray.errors import UserError
from lfm_ray.files import appending, check_name, write_atomically
from lfm_ray.methods import METHODS
from lfm_ray.ray_session import ray_session
from lfm_ray.registry import short_name
from lfm_ray.report.cells import latex, markdown
from lfm_ray.report.gradcam import COLUMNS, Kept, gradcam_figure
from lfm_ray.report.imbalance import groups_of
from lfm_ray.report.measure_tables import measure_tables, note_of
from lfm_ray.report.plots import save, write
from lfm_ray.reproduce.claim import claim
from lfm_ray.reproduce.figures import (
    Embedded,
    alpha_plot,
    embeddings_figure,
    gap_cells,
    label_mixing_figure,
    over_seeds,
)
from lfm_ray.reproduce.papers import OF_TRAINING
from lfm_ray.reproduce.plan import (
    ComparisonFile,
    baseline_of,
    best_trials,
    confirm_all,
    open_comparison,
    plan,
    tune_all,
)
from lfm_ray.reproduce.tables import cells, friedman, paper_frame, paper_table, second_metric, settings_cells, summary
from lfm_ray.search.ray_tune.resources import Resources, cluster_hardware
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Trial
from lfm_ray.training.execution import Workers
from lfm_ray.training.source import DataSource


@dataclass(frozen=True)
class Comparison:
    """The completed runs of a table or figure: for each row its space or why it is left out, best trial, and runs.

    runs: row -> the folders of its confirmation runs, one per seed of `file.seeds`, evaluated on `split`.
    hardware: how many runs ran at once, and on what.
    """

    folder: Path
    file: ComparisonFile
    planned: dict[str, Space | str]
    best: dict[str, Trial]
    runs: dict[str, list[Path]]
    split: str
    hardware: str

    @property
    def frame(self) -> pd.DataFrame:
        """One row per confirmation run."""
        return paper_frame(self.best, self.runs, self.file.seeds)

    @property
    def title(self) -> str:
        """The title of the table: split, seeds and budget."""
        how = f"mean ± std over {len(self.file.seeds)} seeds; {self.file.trials} trials of {self.file.epochs} epochs"
        return f"{self.split} split in %, {how} for each row"

    @property
    def left_out(self) -> list[str]:
        """One line per row that the data rule out."""
        return [f"{row} is left out: {reason}" for row, reason in self.planned.items() if isinstance(reason, str)]

    @property
    def measures(self) -> dict[str, pd.DataFrame]:
        """Title -> cells of the tables of imbalance, calibration and costs."""
        return measure_tables(groups_of(self.frame, ["row"], ["method"]), self.split)

    def write_page(self, shown: pd.DataFrame, notes: list[str], more: Mapping[str, pd.DataFrame] | None = None) -> Path:
        """Writes PAPER.md: the table `shown`, notes, the tables `more`, and the best settings of each row."""
        spaces = {row: space for row, space in self.planned.items() if isinstance(space, Space)}
        settings = markdown(settings_cells(self.best, spaces))
        lines = "\n".join([*notes, *self.left_out])
        text = [self.title, markdown(shown), *([lines] if lines else [])]
        text += [part for title, cells in (more or {}).items() for part in (title, markdown(cells), note_of(title))]
        text += ["Best settings of each row:", settings]
        page = self.folder / f"{self.file.paper}.md"
        write_atomically(page, "\n\n".join(text))
        return page


def compare(given: Namespace) -> None:
    """Runs what is missing for a table or figure of the paper, and shows the result.

    given: paper, data, name, storage, overrides, rows, add, epochs, trials, budget (seconds), seeds, split,
    address and concurrency, as the command line has them; of Figure 4 samples and class_of.
    """
    started = time.monotonic()
    done = run_comparison(given)
    if given.paper.startswith("table"):
        show_table(done)
    elif given.paper == "figure4":
        show_gradcam(done, given)
    else:
        show_figure(done)
    console.print(f"this took       {(time.monotonic() - started) / 60:.1f} minutes")


def run_comparison(given: Namespace) -> Comparison:
    """Tunes every row, then retrains the best trial of each with all seeds; finished runs are not repeated."""
    card, data = read_card(given.data), storage.shown(given.data)
    if card.target.kind != "classes":
        raise UserError(f"--data {data}: the paper's tables and figures are of classes, not of {card.target.kind}")
    settings = [f"data.path={data}", *given.overrides, *([f"epochs={given.epochs}"] if given.epochs else [])]
    trust.ask(given.add)
    only = [*given.rows, *(short_name(METHODS, name) for name in given.add if given.rows)]
    planned = plan(given.paper, card, settings, only, given.add)
    spaces = {row: space for row, space in planned.items() if isinstance(space, Space)}
    split = "val" if given.paper in OF_TRAINING else given.split or "test"
    for row, space in spaces.items():
        if split == "val" and space.base.fits_validation:
            raise UserError(
                f"{row}: its alpha is fitted to the validation split (alpha.outer: val), and cannot be measured on it;"
                f" use {'--split test or ' if given.split else ''}--set alpha.outer=held_out"
            )
    base = next(iter(spaces.values())).base
    folder = given.storage / check_name("--name", given.name or f"{given.paper}-{given.data.name}")
    seeds = [1 + i for i in range(given.seeds or (1 if given.paper == "figure4" else 3))]
    wanted = ComparisonFile(
        paper=given.paper, data=data, fingerprint=card.fingerprint, settings=settings, epochs=base.epochs,
        trials=given.trials, seeds=seeds, added=given.add,
    )  # fmt: skip
    file = open_comparison(folder, wanted)
    if file.added != given.add:  # those of earlier calls
        planned = plan(given.paper, card, settings, only, file.added)
        spaces = {row: space for row, space in planned.items() if isinstance(space, Space)}
    for row, reason in planned.items():
        if isinstance(reason, str):
            console.print(notice(f"{row} is left out:", f" {reason}"), soft_wrap=True)
    resources = Resources(Workers(1), given.concurrency, base.data.reader_cpus)
    every = max(1, round(base.epochs / (COLUMNS - 1)))
    changes = {"checkpoint.keep_every": every} if given.paper == "figure4" else {}
    with ray_session(given.address):
        # The source has the data of all rows; `plan` has checked that each row suits it.
        whole = RunConfig(data=base.data.model_copy(update={"modalities": None}))
        source = DataSource.open(whole, splits=tuple(dict.fromkeys(("train", "val", split))))
        console.print(f"{folder}  {len(spaces)} rows, {file.epochs} epochs a trial, {len(seeds)} seeds")
        file = tune_all(folder, file, spaces, source, resources, given.budget, watched)
        best = best_trials(folder, spaces)
        if split == "test":
            with appending(folder / "test_reads.log") as log:
                now = datetime.datetime.now(datetime.UTC)
                log.write(f"{now:%Y-%m-%dT%H:%M:%SZ} the best trials of {len(best)} rows, seeds {seeds}\n")
        runs = confirm_all(folder, file, best, source, resources, split, watched, changes)
        hardware = f"{resources.trials_at_once()} runs at once on {cluster_hardware()}"
    return Comparison(folder, file, planned, best, runs, split, hardware)


def show_table(done: Comparison, brief: bool = False) -> None:
    """Prints a table of the paper and writes it as CSV, Markdown and LaTeX.

    brief: the tables of imbalance, calibration and costs are written only.
    """
    frame, paper, split = done.frame, done.file.paper, done.split
    baseline = baseline_of(paper)
    second = second_metric(Shards(done.file.data).card, frame, split)
    shown = cells(summary(frame, split, second, baseline), list(done.planned))
    notes = [f"seconds: median per epoch, including validation, {done.hardware}."]
    if not math.isnan(chance := friedman(frame, split)):
        notes.append(f"Friedman's test of the hypothesis that all rows are equal: p = {chance:.2g}.")
    if baseline in done.best and len(done.best) > 1:
        notes.append(f"p: compared with {baseline}, paired by seed, with Holm's correction.")
    if paper == "table1" and (found := claim(frame, f"{split}/fused/accuracy")):
        notes.append(found.sentence)
    write_atomically(done.folder / f"{paper}.csv", frame.to_csv(index=False))
    more = done.measures
    texts = [latex(title, each) for title, each in ({done.title: shown} | more).items()]
    write_atomically(done.folder / f"{paper}.tex", "\n".join(texts))
    page = done.write_page(shown, notes, more)
    console.print(paper_table(done.title, shown))
    console.print("\n".join(notes))
    for title, each in () if brief else more.items():
        console.print(paper_table(title, each))
        console.print(note_of(title))
    console.print(f"each run        {done.folder / f'{paper}.csv'}", soft_wrap=True)
    console.print(f"with settings   {page}", soft_wrap=True)


def show_figure(done: Comparison) -> None:
    """Draws Figure 1, 2 or 3 as PNG and SVG, with its data as CSV, and prints the accuracies and gaps."""
    frame, paper, folder = done.frame, done.file.paper, done.folder
    figures = over_seeds(frame, done.split)
    shards = Shards(done.file.data)
    if paper == "figure1":
        figures["u"] = [done.best[row].config.loss.uniform_labels for row in figures["row"]]
        write(paper, folder, figures, lambda: label_mixing_figure(figures, len(shards.card.classes)))
    elif paper == "figure2":
        with console.status("embedding"):
            embedded = {row: Embedded.of(runs[0], shards, done.split) for row, runs in done.runs.items()}
        first = frame[frame["seed"] == done.file.seeds[0]].set_index("row")[f"{done.split}/fused/accuracy"]
        points = pd.concat([one.frame().assign(row=row) for row, one in embedded.items()])
        write(paper, folder, points, lambda: embeddings_figure(embedded, (100 * first).to_dict()))
    else:
        save(alpha_plot(done.runs), list(done.runs), folder)
    shown = gap_cells(figures)
    write_atomically(folder / f"{paper}-runs.csv", frame.to_csv(index=False))
    page = done.write_page(shown, [])
    console.print(paper_table(done.title, shown))
    console.print(f"figure          {folder / paper}.{{png,svg,csv}}", soft_wrap=True)
    console.print(f"each run        {folder / f'{paper}-runs.csv'}", soft_wrap=True)
    console.print(f"with settings   {page}", soft_wrap=True)


def show_gradcam(done: Comparison, given: Namespace) -> None:
    """Draws Figure 4: Grad-CAM over the epochs of the first run of each row."""
    path = done.folder / "figure4.png"
    kept = [replace(one, name=row) for row, runs in done.runs.items() for one in Kept.of(runs[0])]
    with console.status("computing Grad-CAM"):
        gradcam_figure(kept, given.samples, path, given.class_of, given.data)
    console.print(f"figure          {path}", soft_wrap=True)


@contextmanager
def watched(what: str, runs: int) -> Iterator[Callback]:
    """Shows the progress of some runs."""
    console.print(what)
    with RunsProgress(console, runs) as progress:
        yield progress
