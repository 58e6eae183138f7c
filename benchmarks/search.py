"""How soon does a search find a good configuration? Replays recorded learning curves, in minutes.

    python benchmarks/search.py                                    100 repetitions, 2 processes
    python benchmarks/search.py --repetitions 20 --out /tmp/search

benchmarks/curves.parquet (made by benchmarks/record_curves.py) holds the learning curves of random
configurations on av-digits. A replayed search takes its configurations from these, without training:
it pays the epochs that it would have trained, and sees the validation metrics that were recorded.
Prints two tables, and draws search.png:

    rank correlation   Spearman's, of what trials could be compared by at an epoch with the fused
                       validation accuracy at the last
    regret             the best recorded accuracy minus the best that the search has trained to the end,
                       in points, against all epochs paid so far; the median of the repetitions

Searches: `random` trains everything to the end, in random order. `TPE` asks Optuna's sampler as the
product does, and takes the recorded configuration nearest to the proposal that was not taken yet.
Rungs are decided by the product's own pruner, and Hyperband's by Optuna's. One trial runs at a time.

Limits: the best of a few dozen recorded configurations is what there is to be found, and a pool gets
emptier as the search goes on, so samplers differ less here than in life; what is compared fairly is
pruning. One dataset, one T. Rungs and the measure were chosen on random halves of the configurations,
by replays in random order; the searches in the table see all of them.

Whether stopped trials, which Optuna is told of as pruned (`lfm_ray.search.study`), mislead TPE is seen
by comparing `TPE + probe_map` with `random + probe_map`: it must stay ahead.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr

from lfm_ray.search.pruning import SuccessiveHalving
from lfm_ray.search.space import Pruning, Space, load_space

CURVES = Path(__file__).with_name("curves.parquet")
T = 24
OBJECTIVE = "val/fused/accuracy"
BUDGETS = (48, 96, 144, 192, 240, 288, 384, 480, 720)
CLOSE = 0.5  # points

MEASURES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "fused accuracy": lambda rows: rows["val/fused/accuracy"],
    "mean unimodal accuracy": lambda rows: rows["val/unimodal_accuracy"],
    "fused + weakest modality": lambda rows: rows["val/fused/accuracy"] + weakest(rows),
    "fused MAP": lambda rows: rows["val/fused/map"],
    "mean unimodal MAP": lambda rows: (rows["val/audio/map"] + rows["val/image/map"]) / 2,
    "nearest class mean": lambda rows: rows["class_mean/fused"],
    "ridge probe, training samples": lambda rows: rows["ridge/fused"],
    "probe_map": lambda rows: rows["val/probe_map"],
}


def weakest(rows: pd.DataFrame) -> pd.Series:
    """The accuracy of the weaker modality."""
    return rows[["val/audio/accuracy", "val/image/accuracy"]].min(axis=1)


class Curves:
    """The recorded configurations that were trained to the end, each of them once.

    final: (N,), accuracy; measures: name -> (N, T); compressed: budget -> (N,), the final accuracy
    of the same configuration with its whole schedule in so many epochs.
    """

    def __init__(self, file: Path) -> None:
        table = pd.read_parquet(file)
        first = table[table["seed"] == 0]
        whole = first[first["T"] == T]
        ends = whole[whole["epoch"] == T].set_index("configuration")
        self.numbers = list(ends.index)
        self.final = ends[OBJECTIVE].to_numpy(dtype=float)
        whole = whole[whole["configuration"].isin(self.numbers)]
        self.measures = {name: self._matrix(whole, measure(whole)) for name, measure in MEASURES.items()}
        self.compressed = {}
        for epochs in sorted(set(first["T"]) - {T}):
            short = first[(first["T"] == epochs) & (first["epoch"] == epochs)].set_index("configuration")[OBJECTIVE]
            if set(self.numbers) <= set(short.index):
                self.compressed[int(epochs)] = short[self.numbers].to_numpy(dtype=float)
        settings = ends[[name for name in ends if name.startswith("setting/")]]
        self.settings = [
            {name.removeprefix("setting/"): value for name, value in row.items() if not pd.isna(value)}
            for row in settings.to_dict("records")
        ]

    def _matrix(self, rows: pd.DataFrame, values: pd.Series) -> np.ndarray:
        frame = rows[["configuration", "epoch"]].assign(value=values)
        return frame.pivot(index="configuration", columns="epoch", values="value").loc[self.numbers].to_numpy(float)

    def subset(self, keep: np.ndarray) -> Curves:
        """The same with only some of the configurations."""
        part = object.__new__(Curves)
        part.numbers = [self.numbers[i] for i in keep]
        part.final = self.final[keep]
        part.measures = {name: values[keep] for name, values in self.measures.items()}
        part.compressed = {epochs: values[keep] for epochs, values in self.compressed.items()}
        part.settings = [self.settings[i] for i in keep]
        return part


@dataclass(frozen=True)
class Search:
    """A way to search. by: a key of MEASURES, `compressed`, or None for no pruning. Rungs are the product's."""

    sampler: str
    by: str | None = None
    first_rung: int = Pruning().first_of(T)
    reduction: int = Pruning().reduction
    hyperband: bool = False

    def pruner(self) -> optuna.pruners.BasePruner:
        """What decides at the rungs."""
        if self.by is None:
            return optuna.pruners.NopPruner()
        if self.hyperband:
            return optuna.pruners.HyperbandPruner(self.first_rung, T, self.reduction)
        return SuccessiveHalving(self.first_rung, self.reduction)


def replay(curves: Curves, search: Search, seed: int) -> np.ndarray:
    """The best accuracy after each paid epoch, (all epochs of all configurations,); 0 before the first end."""
    random = np.random.default_rng(seed)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "TPE":
        sampler = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    plain = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(study_name="replay", direction="maximize", pruner=search.pruner())
    left = list(random.permutation(len(curves.final)))
    best = np.zeros(len(curves.final) * (T + 12) + 1)
    paid = 0
    while left:
        n = left[0]
        if search.sampler == "TPE":
            study.sampler = sampler
            proposal = study.ask()
            drawn = space().suggest(proposal)
            study.tell(proposal, state=optuna.trial.TrialState.FAIL)  # TPE learns of what was taken in its place
            n = nearest(curves, left, flat(drawn))
            study.sampler = plain
            study.enqueue_trial(curves.settings[n])
        left.remove(n)
        trial = study.ask()
        if search.sampler == "TPE":
            space().suggest(trial)
        stopped = False
        if search.by == "compressed":
            values = {epochs: curves.compressed[epochs][n] for epochs in curves.compressed}
            for epochs in (search.first_rung, search.first_rung * search.reduction):
                if epochs in values and not stopped:
                    paid += epochs
                    trial.report(values[epochs], epochs)
                    stopped = trial.should_prune()
            paid += 0 if stopped else T
        else:
            for epoch in range(1, T + 1):
                paid += 1
                if search.by is None:
                    continue
                trial.report(curves.measures[search.by][n, epoch - 1], epoch)
                if epoch < T and trial.should_prune():
                    stopped = True
                    break
        if stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, curves.final[n])
            best[paid:] = np.maximum(best[paid:], curves.final[n])
    return best


@functools.cache
def space() -> Space:
    """The space that the recorded configurations were drawn from."""
    return load_space(Path(__file__).parents[1] / "search_spaces/alpha_schedule.yaml")


def flat(drawn: dict[str, object]) -> dict[str, object]:
    """Lists become one setting for each entry, as Optuna knows them."""
    result: dict[str, object] = {}
    for name, value in drawn.items():
        result |= {f"{name}.{i}": entry for i, entry in enumerate(value)} if isinstance(value, list) else {name: value}
    return result


def nearest(curves: Curves, left: list[int], drawn: dict[str, object]) -> int:
    """The remaining configuration with the fewest other choices, then the least distance in its numbers."""

    def distance(n: int) -> tuple[int, float]:
        others, square = 0, 0.0
        for name, value in drawn.items():
            theirs = curves.settings[n].get(name)
            if isinstance(value, str) or theirs is None:
                others += value != theirs
                continue
            distribution = space().search[name if name in space().search else name.rpartition(".")[0]]
            low, high = distribution.bounds
            a, b, low, high = (
                np.log([value, theirs, low, high]) if distribution.loguniform else (value, theirs, low, high)
            )
            square += ((a - b) / (high - low)) ** 2
        return others, square

    return min(left, key=distance)


DEFAULT = "TPE + probe_map (default)"
PLAIN = {"first_rung": 2, "reduction": 3}  # ASHA's best on halves of the recorded configurations
SEARCHES = {
    "random, full budgets": Search("random"),
    "random + Hyperband, fused": Search("random", "fused accuracy", 2, 3, hyperband=True),
    "random + ASHA, fused": Search("random", "fused accuracy", **PLAIN),
    "random + fused, our rungs": Search("random", "fused accuracy"),
    "random + mean unimodal": Search("random", "mean unimodal accuracy"),
    "random + fused + weakest": Search("random", "fused + weakest modality"),
    "random + nearest class mean": Search("random", "nearest class mean"),
    "random + ridge probe": Search("random", "ridge probe, training samples"),
    "random + compressed runs": Search("random", "compressed", 6, 3),
    "random + probe_map": Search("random", "probe_map"),
    "TPE, full budgets": Search("TPE"),
    "TPE + ASHA, fused": Search("TPE", "fused accuracy", **PLAIN),
    DEFAULT: Search("TPE", "probe_map"),
}


def main() -> None:
    """Prints the tables and draws the figure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--curves", type=Path, default=CURVES)
    arguments.add_argument("--repetitions", type=int, default=100)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--out", type=Path, default=Path("."), help="folder of search.png")
    given = arguments.parse_args()
    console = Console(width=100, highlight=False)
    curves = Curves(given.curves)
    console.print(
        f"{len(curves.final)} configurations, T = {T}; fused validation accuracy {100 * curves.final.min():.1f} to"
        f" {100 * curves.final.max():.1f}, median {100 * np.median(curves.final):.1f}"
    )
    console.print(correlations(curves))
    jobs = [(name, seed) for name in SEARCHES for seed in range(given.repetitions)]
    found: dict[str, list[np.ndarray]] = {name: [] for name in SEARCHES}
    with multiprocessing.Pool(given.processes, _start, (given.curves,)) as pool:
        played = pool.imap(_play, jobs, chunksize=5)
        for (name, _), best in zip(jobs, track(played, "replaying", len(jobs), console=console), strict=True):
            found[name].append(best)
    regrets = {name: np.median(100 * (curves.final.max() - np.array(bests)), axis=0) for name, bests in found.items()}
    console.print(regret_table(regrets))
    given.out.mkdir(parents=True, exist_ok=True)
    draw(regrets, given.out / "search.png")
    console.print(f"figure  {given.out / 'search.png'}")


def correlations(curves: Curves) -> Table:
    """Spearman's correlation of each measure at a few epochs with the final accuracy."""
    epochs = (3, 4, 6, 8, 12, 18)
    table = Table(title="rank correlation with the final fused accuracy", title_justify="left")
    table.add_column("compared at epoch")
    for epoch in epochs:
        table.add_column(str(epoch), justify="right")
    for name, values in curves.measures.items():
        table.add_row(name, *(f"{spearmanr(values[:, e - 1], curves.final).statistic:.2f}" for e in epochs))
    short = {e: f"{spearmanr(values, curves.final).statistic:.2f}" for e, values in curves.compressed.items()}
    table.add_row("the schedule compressed into it", *(short.get(e, "") for e in epochs))
    return table


def regret_table(regrets: dict[str, np.ndarray]) -> Table:
    """Median regret at some budgets, and the epochs after which it is within CLOSE points."""
    table = Table(title="median regret in points after so many epochs in all", title_justify="left")
    table.add_column("search")
    for budget in BUDGETS:
        table.add_column(str(budget), justify="right")
    table.add_column(f"<= {CLOSE}", justify="right")
    for name, regret in regrets.items():
        close = np.flatnonzero(regret <= CLOSE + 1e-6)
        shown = ["-" if regret[b] > 50 else f"{regret[b]:.1f}" for b in BUDGETS]
        table.add_row(name, *shown, str(close[0]) if len(close) else "never")
    return table


def draw(regrets: dict[str, np.ndarray], file: Path) -> None:
    """Median regret against epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), constrained_layout=True)
    drawn = ("random, full budgets", "random + Hyperband, fused", "TPE, full budgets", "TPE + ASHA, fused", DEFAULT)
    for name in drawn:
        regret = regrets[name]
        shown = np.where(regret > 50, np.nan, regret)
        axes.plot(shown, label=name, linewidth=2.5 if name == DEFAULT else 1.5)
    axes.axhline(CLOSE, color="grey", linewidth=0.8)
    axes.set(xlim=(24, 1000), ylim=(0, None), xlabel="epochs trained, over all trials", ylabel="median regret, points")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


_curves: Curves


def _start(file: Path) -> None:
    """In each process of the pool."""
    global _curves
    _curves = Curves(file)


def _play(job: tuple[str, int]) -> np.ndarray:
    name, seed = job
    return replay(_curves, SEARCHES[name], seed)


if __name__ == "__main__":
    main()
