"""`python -m lfm_ray.report --paper`: tunes, confirms and prints the rows of one of the paper's tables."""

from __future__ import annotations

import datetime
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from ray.tune import Callback

from lfm_ray.cli import console, ray_session, write_atomically
from lfm_ray.datasets.shards import read_card
from lfm_ray.errors import UserError
from lfm_ray.launch import Source, Workers
from lfm_ray.report.confirmation import latex
from lfm_ray.report.paper import (
    cells,
    friedman,
    markdown,
    paper_frame,
    paper_table,
    second_metric,
    settings_cells,
    summary,
)
from lfm_ray.report.progress import RunsProgress
from lfm_ray.schedules import Learned
from lfm_ray.search.paper import ComparisonFile, baseline_of, best_trials, confirm_all, open_comparison, plan, tune_all
from lfm_ray.search.run import Resources
from lfm_ray.search.space import Space


def compare(given: Namespace) -> None:
    """Runs what is missing of the comparison, and prints its table.

    given: paper, data, name, storage, overrides, rows, epochs, trials, budget (seconds), seeds, split,
    address and concurrency, as the command line has them.
    """
    started = time.monotonic()
    card = read_card(given.data)
    settings = [f"data.path={given.data}", *given.overrides, *([f"epochs={given.epochs}"] if given.epochs else [])]
    planned = plan(given.paper, card, settings, given.rows)
    spaces = {row: space for row, space in planned.items() if isinstance(space, Space)}
    refused = {row: reason for row, reason in planned.items() if isinstance(reason, str)}
    for row, space in spaces.items():
        alpha = space.base.alpha
        if given.split == "val" and isinstance(alpha, Learned) and alpha.outer == "val":
            raise UserError(
                f"{row}: its alpha is fitted to the validation split (alpha.outer: val), and cannot be measured on it;"
                " use --split test or --set alpha.outer=held_out"
            )
    base = next(iter(spaces.values())).base
    folder = given.storage / (given.name or f"{given.paper}-{given.data.name}")
    seeds = [1 + i for i in range(given.seeds)]
    wanted = ComparisonFile(
        paper=given.paper, data=str(given.data), fingerprint=card.fingerprint, settings=settings, epochs=base.epochs,
        trials=given.trials, seeds=seeds,
    )  # fmt: skip
    file = open_comparison(folder, wanted)
    for row, reason in refused.items():
        console.print(f"[yellow]{row} is left out:[/] {reason}", soft_wrap=True)
    resources = Resources(Workers(1), given.concurrency, base.data.reader_cpus)
    with ray_session(given.address):
        source = Source.open(base.model_copy(update={"data": base.data.model_copy(update={"modalities": None})}),
                             splits=tuple(dict.fromkeys(("train", "val", given.split))))  # fmt: skip
        console.print(f"[bold]{folder}[/]  {len(spaces)} rows, {file.epochs} epochs a trial, {len(seeds)} seeds")
        file = tune_all(folder, file, spaces, source, resources, given.budget, watched)
        best = best_trials(folder, spaces)
        if given.split == "test":
            with (folder / "test_reads.log").open("a", encoding="utf-8") as log:
                now = datetime.datetime.now(datetime.UTC)
                log.write(f"{now:%Y-%m-%dT%H:%M:%SZ} the best trials of {len(best)} rows, seeds {seeds}\n")
        folders = confirm_all(folder, file, best, source, resources, given.split, watched)

    frame = paper_frame(best, folders, seeds)
    baseline = baseline_of(given.paper)
    shown = cells(summary(frame, given.split, second_metric(card), baseline), list(planned))
    title = (
        f"{given.split} split in %, mean ± std over {len(seeds)} seeds; {file.trials} trials of {file.epochs} epochs"
        " for each row"
    )
    chance = friedman(frame, given.split)
    chosen = settings_cells(best, spaces)
    page = folder / f"{given.paper}.md"
    notes = [
        f"Friedman's test that all rows are alike: p = {chance:.2g}.",
        f"p: against {baseline}, paired by seed, Holm.",
    ]
    notes += [f"{row} is left out: {reason}" for row, reason in refused.items()]
    write_atomically(folder / f"{given.paper}.csv", frame.to_csv(index=False))
    write_atomically(folder / f"{given.paper}.tex", latex(title, shown))
    text = [title, markdown(shown), "\n".join(notes), "Best settings of each row:", markdown(chosen)]
    write_atomically(page, "\n\n".join(text))
    console.print(paper_table(title, shown))
    console.print(notes[0])
    console.print(f"each run        {folder / f'{given.paper}.csv'}", soft_wrap=True)
    console.print(f"with settings   {page}", soft_wrap=True)
    console.print(f"this took       {(time.monotonic() - started) / 60:.1f} minutes")


@contextmanager
def watched(what: str, runs: int) -> Iterator[Callback]:
    """The progress of some runs."""
    console.print(what)
    with RunsProgress(console, runs) as progress:
        yield progress
