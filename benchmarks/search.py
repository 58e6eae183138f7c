"""How soon does a search find a good configuration? Replays recorded learning curves, in minutes.

    python benchmarks/search.py                                    100 repetitions, 2 processes; about 3 minutes
    python benchmarks/search.py --repetitions 20 --out /tmp/search

benchmarks/curves.parquet (made by benchmarks/record_curves.py) holds the learning curves of random
configurations on av-digits. A replayed search takes its configurations from these, without training:
it pays the epochs that it would have trained, and sees the validation metrics that were recorded.
Prints three tables, and draws search.png:

    rank correlation   Spearman's, of what trials could be compared by at an epoch with the fused
                       validation accuracy at the last; at a quarter of the epochs also by how much the
                       default is better, with the 95 % interval of a bootstrap over the configurations
    regret             the best recorded accuracy minus the best that the search has trained to the end,
                       in points, against all epochs paid so far; the median of the repetitions
    against ASHA       the median regret of the default minus that of TPE + ASHA, with the 95 % interval
                       of a bootstrap over the repetitions, which are paired: both begin with the same
                       configurations

Searches: `random` trains everything to the end, in random order. `TPE` asks Optuna's sampler as the
product does, and takes the recorded configuration nearest to the proposal that was not taken yet.
Rungs are decided by the product's own pruner, and Hyperband's by Optuna's. One trial runs at a time.

Limits: the best of a few dozen recorded configurations is what there is to be found, and a pool gets
emptier as the search goes on, so samplers differ less here than in life; what is compared fairly is
pruning. One dataset, one T. Rungs and the measure were chosen on random halves of the configurations,
by replays in random order; the searches in the table see all of them. Known points, which the product
trains first and to the end, are treated so only in the last two rows.

The regression is the better measure where it knows many final accuracies, and no better than probe_map
with as few of them as a sweep has at its rungs: so it is not offered (benchmarks/learning_curves.py).

Whether stopped trials, which Optuna is told of as pruned (`lfm_ray.search.study.study`), mislead TPE is seen
by comparing `TPE + probe_map` with `random + probe_map`: it must stay ahead.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from learning_curves import features, power_law, regression
from progress import begin, say
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from lfm_ray.search.spaces.space import Pruning, Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.study.pruning import PAUSED, PROMOTED, PROTECTED, SuccessiveHalving, goes_on

CURVES = Path(__file__).with_name("curves.parquet")
RECORDED = {  # ranges of the shipped space when the curves were recorded
    "optimizer.learning_rate": {"loguniform": [0.001, 0.03]},
    "alpha.eta_alpha": {"loguniform": [0.001, 0.3], "when": {"alpha.strategy": "learned"}},
    "alpha.initial": {"uniform": [0.5, 1], "when": {"alpha.strategy": "learned"}},
    "alpha.balance": None,
}
T = 24
OBJECTIVE = "val/fused/accuracy"
EPOCHS = (3, 4, 6, 8, 12, 18)  # of the table of correlations
BUDGETS = (48, 96, 144, 192, 240, 288, 384, 480, 720)
CLOSE = 0.5  # points
RESAMPLES = 2000  # of a bootstrap
MEASURE = "probe_map"  # the product's default
FEW, SETS = 10, 40  # trials that have ended at the rungs of a sweep, about; random sets of them

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
    of the same configuration with its whole schedule in so many epochs; features: epoch -> (N, k),
    of the learning-curve regression; seeds: (M, seeds), final accuracies of some configurations.
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
        curves = [self.measures[name] for name in ("fused accuracy", "mean unimodal accuracy", MEASURE)]
        learned = (ends["setting/alpha.strategy"] == "learned").to_numpy()
        rates = ends["setting/optimizer.learning_rate"].to_numpy(dtype=float)
        alphas = self._matrix(whole, whole["alpha"])
        self.features = {epoch: features(curves, alphas, learned, rates, epoch) for epoch in range(1, T)}
        finals = table[(table["T"] == T) & (table["epoch"] == T)]
        self.seeds = (
            finals.pivot(index="configuration", columns="seed", values=OBJECTIVE).dropna().to_numpy(dtype=float)
        )
        settings = ends[[name for name in ends if name.startswith("setting/")]]
        self.settings = [
            {name.removeprefix("setting/"): value for name, value in row.items() if not pd.isna(value)}
            for row in settings.to_dict("records")
        ]

    def reliability(self) -> float:
        """The rank correlation of the final accuracies of two seeds, mean over the pairs of seeds."""
        pairs = itertools.combinations(self.seeds.T, 2)
        return float(np.mean([rank_correlation(one, other) for one, other in pairs]))

    def _matrix(self, rows: pd.DataFrame, values: pd.Series) -> np.ndarray:
        frame = rows[["configuration", "epoch"]].assign(value=values)
        return frame.pivot(index="configuration", columns="epoch", values="value").loc[self.numbers].to_numpy(float)

    def predicted(self, epoch: int, there: Sequence[int], ended: Sequence[int]) -> np.ndarray:
        """The regression's prediction for the configurations `there`, with the final accuracies of `ended` of them."""
        measure = self.measures[MEASURE][there, epoch - 1]
        known = [i for i, n in enumerate(there) if n in ended]
        if not known:
            return measure
        return regression(self.features[epoch][there], measure, known, self.final[np.array(there)[known]])


@dataclass(frozen=True)
class Search:
    """A way to search. Rungs are the product's.

    by: a key of MEASURES; `compressed`; `regression`; or None, no pruning. promotion: a trial that is stopped by one of
    the measures goes on later, from where it was, once it is among the best of its rung. known: so many configurations
    are taken as they come and trained to the end first, as the product does with known points.
    """

    sampler: str
    by: str | None = None
    first_rung: int = Pruning().first_of(T)
    reduction: int = Pruning().reduction
    hyperband: bool = False
    promotion: bool = False
    known: int = 0

    def pruner(self) -> optuna.pruners.BasePruner:
        """What decides at the rungs."""
        if self.by is None:
            return optuna.pruners.NopPruner()
        if self.hyperband:
            return optuna.pruners.HyperbandPruner(self.first_rung, T, self.reduction)
        return self.halving()

    def halving(self) -> SuccessiveHalving:
        """The product's rungs."""
        return SuccessiveHalving(self.first_rung, self.reduction, self.promotion)


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
    reached: dict[int, list[int]] = {}  # epoch of a rung -> the configurations that have come there
    ended: list[int] = []
    paused: dict[int, int] = {}  # number of a trial in the study -> its configuration
    while left:
        if search.promotion and (promoted := promotable(study, search, paused)) is not None:
            trial, since = promoted
            n = paused.pop(trial.number)
            trial.set_user_attr(PROMOTED, since)
            paid, stopped = train(curves, search, trial, n, paid, since)
            if stopped:
                paused[trial.number] = n
            else:
                study.tell(trial, curves.final[n])
                best[paid:] = np.maximum(best[paid:], curves.final[n])
            continue
        n = left[0]
        known = len(curves.final) - len(left) < search.known
        if search.sampler == "TPE" and not known:
            study.sampler = sampler
            proposal = study.ask()
            drawn = space().suggest(proposal)
            study.tell(proposal, state=optuna.trial.TrialState.FAIL)  # TPE learns of what was taken in its place
            n = nearest(curves, left, flat(drawn))
            study.sampler = plain
        if search.sampler == "TPE":
            study.enqueue_trial(curves.settings[n])
        left.remove(n)
        trial = study.ask()
        if search.sampler == "TPE":
            space().suggest(trial)
        trial.set_user_attr(PROTECTED, known)
        stopped = False
        if search.by == "regression":
            rungs = [epoch for epoch in range(1, T) if search.halving().is_rung(epoch)]
            for epoch, since in zip(rungs, [0, *rungs], strict=False):
                paid += epoch - since
                there = reached.setdefault(epoch, [])
                there.append(n)
                *others, value = curves.predicted(epoch, there, ended)
                trial.report(value, epoch)
                stopped = not goes_on(value, others, search.reduction)
                if stopped:
                    break
            paid += 0 if stopped else T - rungs[-1]
        elif search.by == "compressed":
            values = {epochs: curves.compressed[epochs][n] for epochs in curves.compressed}
            for epochs in (search.first_rung, search.first_rung * search.reduction):
                if epochs in values and not stopped:
                    paid += epochs
                    trial.report(values[epochs], epochs)
                    stopped = trial.should_prune()
            paid += 0 if stopped else T
        else:
            paid, stopped = train(curves, search, trial, n, paid)
        if stopped and search.promotion:
            paused[trial.number] = n
        elif stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            ended.append(n)
            study.tell(trial, curves.final[n])
            best[paid:] = np.maximum(best[paid:], curves.final[n])
    return best


def train(curves: Curves, search: Search, trial: optuna.Trial, n: int, paid: int, since: int = 0) -> tuple[int, bool]:
    """Trains configuration n after epoch `since`: the epochs paid by then, and whether it was stopped at a rung."""
    if search.by is None:
        return paid + T, False
    for epoch in range(since + 1, T + 1):
        trial.report(curves.measures[search.by][n, epoch - 1], epoch)
        if epoch < T and trial.should_prune():
            trial.set_user_attr(PAUSED, epoch)
            return paid + epoch - since, True
    return paid + T - since, False


def promotable(study: optuna.Study, search: Search, paused: dict[int, int]) -> tuple[optuna.Trial, int] | None:
    """The paused trial that goes on, and the epoch from which."""
    known = study.get_trials(deepcopy=False)
    found = search.halving().promoted(study, [known[number] for number in paused])
    return None if found is None else (optuna.Trial(study, found._trial_id), found.user_attrs[PAUSED])


@functools.cache
def space() -> Space:
    """The space that the recorded configurations were drawn from."""
    shipped = str(Path(__file__).parents[1] / "search_spaces/alpha_schedule.yaml")
    return load_space({"extends": shipped, "search": RECORDED, "fair": None})


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


DEFAULT, ASHA, PROMOTION = "TPE + probe_map (default)", "TPE + ASHA, fused", "TPE + probe_map, promotion"
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
    "random + regression": Search("random", "regression"),
    "random + probe_map": Search("random", MEASURE),
    "random + probe_map, promotion": Search("random", MEASURE, promotion=True),
    "TPE, full budgets": Search("TPE"),
    ASHA: Search("TPE", "fused accuracy", **PLAIN),
    "TPE + regression": Search("TPE", "regression"),
    DEFAULT: Search("TPE", MEASURE),
    PROMOTION: Search("TPE", MEASURE, promotion=True),
    f"{DEFAULT}, 4 known points": Search("TPE", MEASURE, known=4),
    f"{PROMOTION}, 4 known points": Search("TPE", MEASURE, promotion=True, known=4),
}


def main() -> None:
    """Prints the tables and draws the figure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--curves", type=Path, default=CURVES)
    arguments.add_argument("--repetitions", type=int, default=100)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--out", type=Path, default=Path("."), help="folder of search.png")
    given = arguments.parse_args()
    begin("about 3 minutes on 2 cores for 100 repetitions")
    console = Console(width=100, highlight=False)
    curves = Curves(given.curves)
    console.print(
        f"{len(curves.final)} configurations, T = {T}; fused validation accuracy {100 * curves.final.min():.1f} to"
        f" {100 * curves.final.max():.1f}, median {100 * np.median(curves.final):.1f}"
    )
    console.print(correlations(curves))
    console.print(
        f"Two seeds of the same {len(curves.seeds)} configurations: the rank correlation of their final accuracies is"
        f" {curves.reliability():.2f}"
    )
    jobs = [(name, seed) for name in SEARCHES for seed in range(given.repetitions)]
    found: dict[str, list[np.ndarray]] = {name: [] for name in SEARCHES}
    with multiprocessing.Pool(given.processes, _start, (given.curves,)) as pool:
        played = pool.imap(_play, jobs, chunksize=5)
        for (name, _), best in zip(jobs, played, strict=True):
            found[name].append(best)
            if len(found[name]) in (1, given.repetitions):
                median = 100 * (curves.final.max() - np.median(np.array(found[name])[:, BUDGETS[0]]))
                say(f"{name}, {len(found[name])} repetitions: {median:.1f} points after {BUDGETS[0]} epochs")
    regrets = {name: 100 * (curves.final.max() - np.array(bests)) for name, bests in found.items()}
    medians = {name: np.median(regret, axis=0) for name, regret in regrets.items()}
    console.print(regret_table(medians))
    console.print(against_asha(regrets[DEFAULT], regrets[ASHA]))
    given.out.mkdir(parents=True, exist_ok=True)
    draw(medians, given.out / "search.png")
    console.print(f"figure  {given.out / 'search.png'}")


def correlations(curves: Curves) -> Table:
    """Spearman's correlation with the final accuracy, of what could be compared at a few epochs.

    The regression predicts each configuration from all others, and from random sets of FEW others.
    """
    table = Table(title="rank correlation with the final fused accuracy", title_justify="left")
    table.add_column("compared at epoch")
    for epoch in EPOCHS:
        table.add_column(str(epoch), justify="right")
    quarter, everyone = T // 4, np.arange(len(curves.final))
    table.add_column(f"default - it, at {quarter}", justify="right")
    random = np.random.default_rng(0)
    sets = [random.permutation(everyone) for _ in range(SETS)]

    # name -> epoch -> pairs of configurations and what they are compared by
    compared = {name: {e: [(everyone, v[:, e - 1])] for e in EPOCHS} for name, v in curves.measures.items()}
    short = {e: [(everyone, values)] for e, values in curves.compressed.items() if e in EPOCHS}
    compared["the schedule compressed into it"] = short
    fused = curves.measures["fused accuracy"]
    compared["power law"] = {e: [(everyone, power_law(fused[:, :e], T))] for e in EPOCHS}
    few = {e: [(one[FEW:], curves.predicted(e, everyone, one[:FEW])[one[FEW:]]) for one in sets] for e in EPOCHS}
    compared[f"regression on {FEW} others"] = few
    others = [np.delete(everyone, n) for n in everyone]
    known = {e: np.array([curves.predicted(e, everyone, o)[n] for n, o in enumerate(others)]) for e in EPOCHS}
    compared["regression on all others"] = {e: [(everyone, values)] for e, values in known.items()}

    for name, by_epoch in compared.items():
        shown = [
            f"{np.mean([rank_correlation(v, curves.final[n]) for n, v in by_epoch[e]]):.2f}" if e in by_epoch else ""
            for e in EPOCHS
        ]
        differences = []
        for n, values in by_epoch[quarter]:
            drawn = random.integers(0, len(n), (RESAMPLES // len(by_epoch[quarter]), len(n)))
            default, final = curves.measures[MEASURE][n, quarter - 1][drawn], curves.final[n][drawn]
            differences.append(rank_correlation(default, final) - rank_correlation(values[drawn], final))
        table.add_row(name, *shown, "" if name == MEASURE else _interval(np.concatenate(differences), 2))
    return table


def rank_correlation(values: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Spearman's, along the last axis."""
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (rankdata(v, axis=-1) for v in (values, final)))
    return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def against_asha(ours: np.ndarray, theirs: np.ndarray) -> Table:
    """The difference of two median regrets at some budgets, and where it is the highest.

    ours, theirs: (repetitions, epochs), of the same repetitions, which the bootstrap draws together.
    """
    drawn = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    budgets = np.arange(T, ours.shape[1], 2)

    def difference(budget: int) -> float:
        return float(np.median(ours[:, budget]) - np.median(theirs[:, budget]))

    def interval(budget: int) -> str:
        return _interval(np.median(ours[drawn, budget], axis=1) - np.median(theirs[drawn, budget], axis=1), 1)

    worst = int(max(budgets, key=difference))
    table = Table(title=f"median regret in points, {DEFAULT} minus {ASHA}", title_justify="left")
    table.add_column("after epochs")
    for name in ("difference", "95 %"):
        table.add_column(name, justify="right")
    for budget in BUDGETS:
        table.add_row(str(budget), f"{difference(budget):+.1f}", interval(budget))
    table.add_section()
    table.add_row(f"{worst}, the worst of all", f"{difference(worst):+.1f}", interval(worst))
    return table


def _interval(resampled: np.ndarray, digits: int) -> str:
    """The 95 % interval of a bootstrap's differences."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


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
    drawn = ("random, full budgets", "random + Hyperband, fused", "TPE, full budgets", ASHA, DEFAULT)
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
