"""One run on the workers of Ray Train, shown and written for TensorBoard while it trains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lfm_ray.callbacks.tensorboard import RunWriter
from lfm_ray.checksums import sealed
from lfm_ray.config import RunConfig
from lfm_ray.console import moves
from lfm_ray.files import check_within, write_atomically
from lfm_ray.interruption import Interrupted
from lfm_ray.models.directions import leading
from lfm_ray.optimization.schedules import Adaptive, Polynomial
from lfm_ray.ray_daemons import ENDED, RayEnded
from lfm_ray.ray_session import ray_session
from lfm_ray.report.loaded_run import FITTED
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.storage import exclusive, fetch, push
from lfm_ray.training.execution import Launch, Workers
from lfm_ray.training.ray_train import run_on_workers
from lfm_ray.training.run_folder import EPOCHS, NOTICES, read_epochs
from lfm_ray.training.source import DataSource

BUSY = "another process trains this run; wait for it, or give another --name"


@contextmanager
def _saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """Within it, the end of Ray's own processes is told with the name of the run."""
    try:
        yield
    except RayEnded:
        raise RayEnded(f"{ENDED}; the same command with --name {folder.name} goes on") from None


def train(
    config: RunConfig,
    folder: Path,
    workers: Workers,
    *,
    fit_degree: int | None,
    profile: bool,
    address: str | None,
    console: Console,
) -> None:
    """Runs `config` in `folder`, from its last saved epoch if it has been started there before.

    A learned alpha(t) is fitted by a polynomial of `fit_degree` (None: chosen), with which the same
    settings are written as fitted.yaml.

    Raises:
        UserError: the data, the settings or what the machine has do not fit, or another process trains this run.
        TrainingFailed: the run failed.
    """
    check_within(folder)
    with _saying_how_to_go_on(folder), ray_session(address):
        Resources(workers, reader_cpus=config.data.reader_cpus).trials_at_once()
        source = DataSource.open(config)
        with exclusive(folder, BUSY):
            with followed(folder, config, console):
                try:
                    run_on_workers(Launch(config, source, folder, workers, profile=profile), callbacks=[])
                except KeyboardInterrupt:
                    raise Interrupted.saying(f"stopped; the same command with --name {folder.name} goes on") from None
            rows = read_epochs(folder)
            if isinstance(config.alpha, Adaptive) and len(rows) > 1:
                fitted, _ = Polynomial.fit([row["alpha"] for row in rows], fit_degree)
                write_atomically(folder / FITTED, sealed(config.model_copy(update={"alpha": fitted}).to_yaml()))
    fetch(folder / NOTICES)
    push(folder / FITTED, folder / "tensorboard")


@contextmanager
def followed(folder: Path, config: RunConfig, console: Console) -> Iterator[None]:
    """Shows the epochs of the run in `folder`, and writes them for TensorBoard, as they come."""
    ended = threading.Event()
    writer = RunWriter(folder / "tensorboard", config, {}, folder)
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.description}", markup=False))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, disable=not moves(console)) as progress:
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
                    lead = leading(row)
                    text = f"alpha {row['alpha']:.2f}, fused {lead} {row[f'val/fused/{lead}']:.3f}"
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
