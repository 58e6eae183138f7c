"""What does the hyper-gradient of eq. (3) see of the end of a run? One step ahead against whole runs.

    OMP_NUM_THREADS=1 python benchmarks/long_horizon.py demo av-digits      folders of shards; about 5 minutes each

The truth is the derivative of the last validation loss by alpha, for a constant alpha: whole runs at alpha + h and
alpha - h with the same initial weights, order of samples and dropout, (loss(alpha + h) - loss(alpha - h)) / 2h, over
seeds. Beside it stands what eq. (3) says on the way of the same runs at alpha, without moving it: the mean of the
cosine - d . x / (|d| |x|) with x = H^-1 g, for every solver, over the first quarter of the epochs and over all. A
positive value says that a smaller alpha is better, for both. "right" is the share of alphas and seeds at which the mean
over all epochs has the sign of the truth, where the truth is at least two standard errors from zero. No Ray is needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from progress import begin
from pydantic import PrivateAttr
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.optimization.schedules import AlphaGradient, Learned
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

H = 0.1
SOLVERS = ("identity", "neumann", "cg", "nystrom")


class Watched(Learned):
    """An alpha that stays, and notes what eq. (3) says of it."""

    _seen: list[tuple[int, float]] = PrivateAttr(default_factory=list)

    def updated(self, alpha: float, gradient: AlphaGradient, t: int) -> float:
        """The same alpha."""
        self._seen.append((t, gradient.cosine))
        return alpha


def loss(shards: Shards, settings: list[str], alpha: float, seed: int) -> float:
    """The last validation loss of a run with a constant alpha."""
    config = load(RunConfig, None, [*settings, f"alpha.value={alpha}", f"seed={seed}"])
    trainer = Trainer(config, shards.card)
    return float(fit(trainer, DataSource(shards, {}).splits(config))[-1]["val/fused/loss"])


def says(shards: Shards, settings: list[str], alpha: float, seed: int, solver: str) -> tuple[float, float]:
    """The mean cosine over the first quarter of the epochs, and over all."""
    config = load(RunConfig, None, [*settings, f"seed={seed}"])
    watched = Watched(strategy="learned", initial=alpha, solver=solver)  # type: ignore[arg-type]
    config = config.model_copy(update={"alpha": watched})
    trainer = Trainer(config, shards.card)
    fit(trainer, DataSource(shards, {}).splits(config))
    found = np.array(watched._seen)
    return float(found[found[:, 0] <= config.epochs / 4, 1].mean()), float(found[:, 1].mean())


def main() -> None:
    """Prints a table for each folder and L_MM."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, nargs="+", help="folders of shards")
    arguments.add_argument("--alphas", type=float, nargs="+", default=[0.2, 0.5, 0.8])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--matching", nargs="+", default=["js", "infonce"])
    arguments.add_argument("--solvers", nargs="+", choices=SOLVERS, default=["identity"])
    arguments.add_argument("--learning-rate", type=float, default=0.01)
    arguments.add_argument("--epochs", type=int, default=20)
    given = arguments.parse_args()
    begin("about 5 minutes for each folder on 2 cores")
    console = Console(width=100, highlight=False)
    torch.set_num_threads(1)
    for folder in given.data:
        for matching in given.matching:
            shards = Shards(folder.absolute())
            settings = [f"data.path={folder}", f"epochs={given.epochs}", f"loss.matching={matching}"]
            settings += [f"optimizer.learning_rate={given.learning_rate}"]
            console.print(table_of(shards, settings, given, f"{folder.name}, {matching}", console))


def table_of(shards: Shards, settings: list[str], given: argparse.Namespace, title: str, console: Console) -> Table:
    """One row for each alpha and solver."""
    table = Table(title=title, title_justify="left")
    for name in ("alpha", "truth, over seeds", "solver", "first quarter", "all", "right"):
        table.add_column(name, justify="left" if name == "solver" else "right")
    for alpha in given.alphas:
        seeds: list[Any] = list(track(range(given.seeds), f"{title}, alpha {alpha}", console=console, transient=True))
        slopes = [
            (loss(shards, settings, alpha + H, seed) - loss(shards, settings, alpha - H, seed)) / (2 * H)
            for seed in seeds
        ]
        mean, error = float(np.mean(slopes)), float(np.std(slopes, ddof=1) / len(slopes) ** 0.5)
        for solver in given.solvers:
            found = [says(shards, settings, alpha, seed, solver) for seed in seeds]
            early, whole = (np.array(part) for part in zip(*found, strict=True))
            right = f"{np.mean(np.sign(whole) == np.sign(mean)):.0%}" if abs(mean) > 2 * error else "open"
            table.add_row(f"{alpha:g}", f"{mean:+.3f} ± {error:.3f}", solver, f"{early.mean():+.3f}",
                          f"{whole.mean():+.3f}", right)  # fmt: skip
    return table


if __name__ == "__main__":
    main()
