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

from argparse import Namespace
from pathlib import Path

from lfm_ray.api import train
from lfm_ray.cli import gpu_count, parser, positive, run, storage_folder, typed


def main() -> None:
    """The command."""
    given = arguments()

    # After the command line has been read, so that --help answers at once.
    from lfm_ray.console import console, notice
    from lfm_ray.optimization.schedules import Polynomial, formula
    from lfm_ray.report.imbalance import contribution_table
    from lfm_ray.report.tables import metrics_table, modalities_of, profile_table
    from lfm_ray.storage import shown
    from lfm_ray.training.run_folder import STOPPED_EARLY

    done = train(
        given.config, workers=given.workers, cpus_per_worker=given.cpus_per_worker,
        gpus_per_worker=given.gpus_per_worker, settings=given.overrides, data=given.data, epochs=given.epochs,
        name=given.name, storage=given.storage, fit_degree=given.fit_degree, profile=given.profile,
        address=given.address,
    )  # fmt: skip
    folder = done.folder
    console.print(metrics_table(done.metrics))
    if contributed := contribution_table(done.metrics, modalities_of(done.metrics)):
        console.print(contributed)
    if done.best_metrics:
        console.print(metrics_table(done.best_metrics))
        console.print(f"the best epoch by {done.config.checkpoint.best}, on the split that chose it: too good a figure")
    if STOPPED_EARLY in done.metrics:
        patience = done.config.checkpoint.patience
        console.print(f"stopped early   {patience} epochs in a row were not better")
    if given.profile and done.profile:
        console.print(profile_table(done.profile))
    if done.fitted and isinstance(found := done.fitted.alpha, Polynomial):
        console.print(f"alpha(t) of degree {found.degree}, root mean square residual {done.residual:.4f}:")
        console.print(f"  {formula(found.power_basis(done.config.epochs))}", soft_wrap=True)
        console.print(f"train that      {typed('train')} {folder / 'fitted.yaml'}", soft_wrap=True)
    for line in done.notices:
        console.print(notice("notice", f"          {line}"), soft_wrap=True)
    console.print(f"run             {shown(folder)}", soft_wrap=True)
    console.print(f"use it          {typed('export')} {shown(folder)} --out exported/{folder.name}", soft_wrap=True)
    console.print(f"TensorBoard     tensorboard --logdir {folder / 'tensorboard'}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
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
    add("--storage", type=storage_folder, default=Path("runs"), metavar="FOLDER",
        help="where runs are kept; default runs")  # fmt: skip
    return result.parse_args()


if __name__ == "__main__":
    run(main)
