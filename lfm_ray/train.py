"""Trains one configuration on Ray Train, on one worker or several (DDP).

    python -m lfm_ray.train best.yaml
    python -m lfm_ray.train best.yaml --workers 2 --name two --set epochs=50
    python -m lfm_ray.train best.yaml --profile              where the time of a step goes

The run lies under STORAGE/NAME: its settings, the metrics of each epoch, a checkpoint, TensorBoard
curves. The same command with the same --name goes on with a run that was interrupted. A learned
alpha(t) is fitted by a polynomial, as in paper section 4.4; fitted.yaml has it in place of the
learned one, and `lfm_ray.tune --start-from STORAGE/NAME` begins a search there.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.markup import escape

from lfm_ray.cli import gpu_count, parser, positive, run, storage_folder
from lfm_ray.config import RunConfig
from lfm_ray.console import console
from lfm_ray.optimization.schedules import Adaptive, Polynomial, formula
from lfm_ray.ray_session import ray_session
from lfm_ray.resources import repository_file
from lfm_ray.settings import load
from lfm_ray.storage import fetch, push, shown, write_atomically


def main() -> None:
    """The command."""
    result = parser("train", __doc__ or "")
    add = result.add_argument
    add("config", type=Path, help="a run's settings as YAML, such as a sweep's best.yaml")
    add("--workers", type=positive, default=1, help="processes that share every batch; default 1")
    add("--cpus-per-worker", type=positive, default=1, help="default 1")
    add("--gpus-per-worker", type=gpu_count, default=0, help="below 1: a share of one; default 0")
    add("--name", help="of the run; default: the file's and the time")
    add("--fit-degree", type=positive, help="of the polynomial fitted to a learned alpha(t); default: chosen")
    add("--data", metavar="FOLDER", help="shards of lfm_ray.prepare, or their s3://, gs://; default: the settings'")
    add("--epochs", type=positive, help="T; default: the settings'")
    add("--profile", action="store_true", help="also show where the time of a training step goes")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    add(
        "--storage",
        type=storage_folder,
        default=Path("runs"),
        metavar="FOLDER",
        help="where runs are kept; default runs",
    )
    given = result.parse_args()
    flags = {"data.path": given.data, "epochs": given.epochs}
    overrides = [*given.overrides, *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    config = load(RunConfig, repository_file(given.config), overrides)
    folder = given.storage.absolute() / (given.name or f"{given.config.stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}")

    from lfm_ray.report.tables import metrics_table, profile_table
    from lfm_ray.search.ray_tune.resources import Resources
    from lfm_ray.training.execution import Launch, Workers
    from lfm_ray.training.ray_train import run_on_workers
    from lfm_ray.training.run_folder import NOTICES, PROFILE, read_epochs, read_notices
    from lfm_ray.training.source import DataSource

    with ray_session(given.address):
        workers = Workers(given.workers, given.cpus_per_worker, given.gpus_per_worker)
        Resources(workers, reader_cpus=config.data.reader_cpus).trials_at_once()
        source = DataSource.open(config)
        with followed(folder, config):
            run_on_workers(Launch(config, source, folder, workers, profile=given.profile), callbacks=[])
    rows = read_epochs(folder)
    console.print(metrics_table(rows[-1]))
    if given.profile:
        console.print(profile_table(json.loads((folder / PROFILE).read_text(encoding="utf-8"))))
    if isinstance(config.alpha, Adaptive) and len(rows) > 1:
        fitted, residual = Polynomial.fit([row["alpha"] for row in rows], given.fit_degree)
        write_atomically(folder / "fitted.yaml", config.model_copy(update={"alpha": fitted}).to_yaml())
        console.print(f"alpha(t) of degree {fitted.degree}, root mean square residual {residual:.4f}:")
        console.print(f"  {formula(fitted.power_basis(config.epochs))}", soft_wrap=True)
        console.print(f"train that      python -m lfm_ray.train {folder / 'fitted.yaml'}", soft_wrap=True)
    fetch(folder / NOTICES)
    push(folder / "fitted.yaml", folder / "tensorboard")
    for notice in read_notices(folder):
        console.print(f"[yellow]notice[/]          {escape(notice)}", soft_wrap=True)
    console.print(f"run             {shown(folder)}", soft_wrap=True)
    console.print(
        f"use it          python -m lfm_ray.export {shown(folder)} --out exported/{folder.name}", soft_wrap=True
    )
    console.print(f"TensorBoard     tensorboard --logdir {folder / 'tensorboard'}", soft_wrap=True)


@contextmanager
def followed(folder: Path, config: RunConfig) -> Iterator[None]:
    """Shows the epochs of the run in `folder`, and writes them for TensorBoard, as they come."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from lfm_ray.callbacks.tensorboard import RunWriter
    from lfm_ray.training.run_folder import EPOCHS, read_epochs

    ended = threading.Event()
    writer = RunWriter(folder / "tensorboard", config, {}, folder)
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("starting", total=config.epochs)

        def follow() -> None:
            seen = 0
            while True:
                last_look = ended.wait(0.5)
                with suppress(OSError):  # the store is away; the next look may find it again
                    fetch(folder / EPOCHS)
                for row in read_epochs(folder)[seen:]:
                    seen += 1
                    writer.add(row)
                    text = f"alpha {row['alpha']:.2f}, fused accuracy {row['val/fused/accuracy']:.3f}"
                    progress.update(task, completed=seen, description=text)
                if last_look:
                    return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            writer.close()


if __name__ == "__main__":
    run(main)
