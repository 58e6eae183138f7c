"""Which update of the learned alpha needs no tuning? Rules for the step along eq. (3), against constant alphas.

    OMP_NUM_THREADS=1 python benchmarks/learned_alpha.py demo av-digits uci      three folders of shards; hours
    python benchmarks/learned_alpha.py --figure alpha.png                        what is recorded so far

For both L_MM, three learning rates and every seed, the same run is trained with ten constant alphas and with every
rule. The constant is chosen by its mean validation accuracy; it and the rules are then compared on the test split,
with the same settings and seeds. Runs are recorded as they end, in --out, and are not repeated; a table of what is
known follows. No Ray is needed.

    plain       alpha - eta_alpha gradient: eq. (3) as it stands
    cosine      gradient / (|d| |H^-1 g|), the cosine between the two
    sign        the gradient's sign
    rms         gradient / the root of its running mean square, as Adam divides
    logit       the cosine, and eta_alpha times it is added to logit(alpha)
    ... inner   the outer loss on the batch that theta was just trained on: no rows are held out
    balanced    the sign, from where alpha |grad L_MM| = balance (1 - alpha) |grad L_CLS|; balance, eta_alpha, the
                outer batch, and the solver of H^-1 g where it is not the identity

All but the last start at 0.95.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from progress import begin, say
from rich.console import Console
from rich.table import Table

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.optimization.schedules import AlphaGradient, Learned
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

CONSTANTS = [i / 10 for i in range(10)]
MATCHING, RATES = ("js", "infonce"), (0.003, 0.03, 0.01)
DRAWN_RATE = 0.01
DECAY = 0.9  # of the running mean square
Rule = tuple[type[Learned], dict[str, Any]]  # a schedule and its settings


class RootMeanSquare(Learned):
    """The gradient is divided by the root of its running mean square."""

    def slope(self, gradient: AlphaGradient) -> float:
        """The gradient in units of its own recent size."""
        square, weight = self.__dict__.get("_square", (0.0, 0.0))
        square, weight = DECAY * square + (1 - DECAY) * gradient.value**2, DECAY * weight + 1 - DECAY
        self.__dict__["_square"] = (square, weight)
        return gradient.value / (math.sqrt(square / weight) + 1e-12)


class Logit(Learned):
    """The logit of alpha moves; a start at 1 counts as 0.999."""

    def updated(self, alpha: float, gradient: AlphaGradient, t: int) -> float:
        """alpha after an update."""
        alpha = min(max(alpha, 1e-3), 1 - 1e-3)
        moved = math.log(alpha / (1 - alpha)) - self.eta_alpha * gradient.cosine
        return 1 / (1 + math.exp(-moved))


def balanced(eta_alpha: float, balance: float = 0.25, outer: str = "held_out", **other: Any) -> Rule:
    """The sign of the gradient, from a balanced start."""
    settings = {"update": "sign", "eta_alpha": eta_alpha, "balance": balance, "outer": outer, "inner_iters": 5}
    return Learned, settings | other


FIXED = {"initial": 0.95, "outer": "held_out", "inner_iters": 5}  # the official code's start
RULES: dict[str, Rule] = {
    "default": (Learned, {}),
    "balanced 0.25, 0.0075": balanced(0.0075),
    "balanced 0.25, 0.015": balanced(0.015),
    "balanced 0.25, 0.03": balanced(0.03),
    "balanced 0.25, 0.06": balanced(0.06),
    "balanced 0.5, 0.015": balanced(0.015, 0.5),
    "balanced 0.5, 0.03": balanced(0.03, 0.5),
    "balanced 0.5, 0.06": balanced(0.06, 0.5),
    "balanced 1, 0.03": balanced(0.03, 1.0),
    "balanced 0.25, 0.00375, inner": balanced(0.00375, outer="inner"),
    "balanced 0.25, 0.0075, inner": balanced(0.0075, outer="inner"),
    "balanced 0.25, 0.015, inner": balanced(0.015, outer="inner"),
    "balanced 0.25, 0.03, inner": balanced(0.03, outer="inner"),
    "balanced 0.5, 0.03, inner": balanced(0.03, 0.5, "inner"),
    "balanced 0.25, 0.0075, inner, neumann": balanced(0.0075, outer="inner", solver="neumann"),
    "balanced 0.25, 0.0075, inner, cg": balanced(0.0075, outer="inner", solver="cg"),
    "balanced 0.25, 0.0075, inner, nystrom": balanced(0.0075, outer="inner", solver="nystrom"),
    "plain 0.01": (Learned, FIXED | {"update": "plain", "eta_alpha": 0.01}),
    "cosine 0.05": (Learned, FIXED | {"update": "cosine", "eta_alpha": 0.05}),
    "cosine 0.1": (Learned, FIXED | {"update": "cosine", "eta_alpha": 0.1}),
    "cosine 0.2": (Learned, FIXED | {"update": "cosine", "eta_alpha": 0.2}),
    "cosine 0.1 inner": (Learned, FIXED | {"update": "cosine", "eta_alpha": 0.1, "outer": "inner"}),
    "sign 0.03": (Learned, FIXED | {"update": "sign", "eta_alpha": 0.03}),
    "rms 0.03": (RootMeanSquare, FIXED | {"eta_alpha": 0.03}),
    "logit 0.5": (Logit, FIXED | {"eta_alpha": 0.5}),
}


def jobs(folders: list[Path], seeds: int, rates: list[float], rules: list[str]) -> Iterator[dict[str, Any]]:
    """What is trained, in this order: all of a seed before the next."""
    for seed in range(seeds):
        for rate in rates:
            for folder in folders:
                for matching in MATCHING:
                    for rule in [*(f"constant {value}" for value in CONSTANTS), *rules]:
                        yield {"data": folder.name, "matching": matching, "rate": rate, "seed": seed, "rule": rule}


def trained(folder: Path, job: dict[str, Any], epochs: int) -> dict[str, Any]:
    """One run: `job`, its validation and test accuracy, and alpha at the end of each epoch."""
    torch.set_num_threads(1)
    shards = Shards(folder.absolute())
    settings = [f"data.path={folder}", f"epochs={epochs}", f"seed={job['seed']}", f"loss.matching={job['matching']}"]
    config = load(RunConfig, None, [*settings, f"optimizer.learning_rate={job['rate']}"])
    kind, _, value = job["rule"].partition(" ")
    if kind == "constant":
        config = config.model_copy(update={"alpha": config.alpha.model_copy(update={"value": float(value)})})
    else:
        rule, own = RULES[job["rule"]]
        config = config.model_copy(update={"alpha": rule(strategy="learned", **own)})
    source = DataSource(shards, {})
    trainer = Trainer(config, shards.card)
    rows = fit(trainer, source.splits(config))
    test = trainer.evaluate(source.evaluation("test", config))
    return job | {
        "val": rows[-1]["val/fused/accuracy"],
        "test": test["fused/accuracy"],
        "loss": test.get("fused/nll"),
        "alpha": [row["alpha_end"] for row in rows],
    }


def recorded(file: Path) -> list[dict[str, Any]]:
    """The runs that were trained."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def compared(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each rule, data, L_MM and learning rate: its test accuracy minus that of the best constant."""
    frame = pd.DataFrame(runs)
    rows = []
    for (data, matching, rate), cell in frame.groupby(["data", "matching", "rate"]):
        for rule in RULES:
            wanted = {rule, *(f"constant {value}" for value in CONSTANTS)}
            seeds = [group for _, group in cell.groupby("seed") if wanted <= set(group["rule"])]
            if not seeds:
                continue
            means = pd.concat(seeds).groupby("rule")[["val", "test"]].mean() * 100
            constants = means[means.index.str.startswith("constant")]
            best = constants["val"].idxmax()
            rows.append(
                {"data": data, "matching": matching, "rate": rate, "seeds": len(seeds), "rule": rule}
                | {"best": best, "constant": means.loc[best, "test"], "joint": means.loc["constant 0.0", "test"]}
                | {"test": means.loc[rule, "test"], "difference": means.loc[rule, "test"] - means.loc[best, "test"]}
            )
    return pd.DataFrame(rows)


def table_of(found: pd.DataFrame) -> Table:
    """A row for each rule: its difference from the best constant by data set, the mean and the worst of all."""
    table = Table(title="test accuracy minus that of the best constant alpha, points", title_justify="left")
    names, kinds = sorted(found["data"].unique()), sorted(found["matching"].unique())
    for name in ("rule", "runs", *names, *kinds, "mean", "worst", "- alpha = 0"):
        table.add_column(name, justify="left" if name == "rule" else "right")
    for rule, group in found.groupby("rule", sort=False):
        by_data, by_kind = (group.groupby(one)["difference"].mean() for one in ("data", "matching"))
        cells = [str(group["seeds"].sum()), *(f"{by_data.get(name, math.nan):+.1f}" for name in names)]
        cells += [f"{by_kind.get(kind, math.nan):+.1f}" for kind in kinds]
        joint = (group["test"] - group["joint"]).mean()
        worst = group["difference"].min()
        table.add_row(str(rule), *cells, f"{group['difference'].mean():+.1f}", f"{worst:+.1f}", f"{joint:+.1f}")
    return table


def main() -> None:
    """Trains what is not recorded yet, and prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, nargs="*", help="folders of shards")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument(
        "--epochs", type=int, default=20, help="of a run; those of another length need another --out"
    )
    arguments.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates")
    arguments.add_argument("--processes", type=int, default=2, help="that train at once")
    arguments.add_argument("--only", nargs="+", choices=RULES, help="only these rules, beside the constants")
    arguments.add_argument("--out", type=Path, default=Path("runs/learned_alpha.jsonl"))
    arguments.add_argument("--figure", type=Path, help="where to draw alpha(t) of every rule")
    given = arguments.parse_args()
    console = Console(width=100, highlight=False)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    runs = recorded(given.out)
    keys = ("data", "matching", "rate", "seed", "rule")
    known = {tuple(run[key] for key in keys) for run in runs}
    folders = {folder.name: folder for folder in given.data}
    wanted = jobs(given.data, given.seeds, given.rates, given.only or list(RULES))
    todo = [job for job in wanted if tuple(job.values()) not in known]
    begin(f"hours for three data sets, a few seconds for each of {len(todo)} runs")
    if todo:
        console.print(f"{len(todo)} runs of {given.epochs} epochs, a few seconds each")
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        ended = as_completed([pool.submit(trained, folders[job["data"]], job, given.epochs) for job in todo])
        for number, run in enumerate((future.result() for future in ended), start=1):
            with given.out.open("a") as out:
                out.write(json.dumps(run) + "\n")
            runs.append(run)
            say(f"{number}/{len(todo)}  {' '.join(str(run[key]) for key in keys)}  {run['test']:.3f}")
    found = compared(runs)
    console.print(table_of(found))
    if given.figure:
        draw(runs, given.only or list(RULES), given.figure)


def draw(runs: list[dict[str, Any]], rules: list[str], file: Path) -> None:
    """alpha after every epoch, as paper Figure 3: the mean of the seeds, at one learning rate.

    A column of panels for each data set, a row for each L_MM; dotted: the best constant, by validation accuracy.
    """
    from matplotlib.figure import Figure

    frame = pd.DataFrame(runs)
    frame = frame[frame["rate"] == DRAWN_RATE]
    names, kinds = list(frame["data"].unique()), list(frame["matching"].unique())
    figure = Figure(figsize=(3.6 * len(names), 2.6 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(names), sharex=True, sharey=True, squeeze=False)
    for (kind, name), axis in zip(product(kinds, names), panels.flat, strict=True):
        cell = frame[(frame["data"] == name) & (frame["matching"] == kind)]
        for rule in rules:
            curves = cell.loc[cell["rule"] == rule, "alpha"].tolist()
            if curves:
                mean = pd.DataFrame(curves).mean()
                axis.plot(range(1, len(mean) + 1), mean, label=rule)
        constants = cell[cell["rule"].str.startswith("constant")].groupby("rule")["val"].mean()
        axis.axhline(float(constants.idxmax().split()[1]), color="grey", linestyle=":", label="best constant")
        axis.set(title=f"{name}, {kind}", ylim=(0, 1))
    for axis in panels[-1]:
        axis.set_xlabel("epoch")
    for axis in panels[:, 0]:
        axis.set_ylabel("alpha")
    panels.flat[-1].legend(fontsize=7)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
