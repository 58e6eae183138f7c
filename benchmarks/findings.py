"""Is the paper's claim true under equal tuning, and which combination is best? Writes docs/findings.md.

    OMP_NUM_THREADS=1 python benchmarks/findings.py shards/demo shards/av-digits shards/uci

On each folder of shards

1. every row of Table 1 is tuned with the same number of trials and confirmed with the same seeds (`lfm-ray reproduce
   table1`), and the claim that LFM with a learned alpha is above all others is answered;
2. method x L_MM x alpha(t) is searched with fair arms (search_spaces/methods.yaml), and the best of every method is
   confirmed.

What is there already, in --storage, is not run again, so the same command goes on after an interruption, and
--write only writes the page anew.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
from progress import begin, say

import lfm_ray
from lfm_ray.datasets.shards import read_card
from lfm_ray.optimization.schedules import Constant, Learned
from lfm_ray.report.cells import markdown
from lfm_ray.report.numbers import spread
from lfm_ray.report.statistics import paired
from lfm_ray.report.verdict import Verdict, verdict
from lfm_ray.reproduce.claim import LEARNED, claim
from lfm_ray.reproduce.ranking import Ranking
from lfm_ray.search.study.arms import JOINT
from lfm_ray.search.sweep import Sweep

METRIC = "test/fused/accuracy"
PAGE = Path(__file__).parents[1] / "docs/findings.md"
TABLE = "findings-table1"  # the leaderboard's folder


def main() -> None:
    """Runs what is missing, and writes the page."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("data", type=Path, nargs="+", help="folders of shards")
    arguments.add_argument("--trials", type=int, default=6, help="for each row of Table 1; default 6")
    arguments.add_argument("--search-trials", type=int, default=90, help="of each search over combinations; default 90")
    arguments.add_argument("--epochs", type=int, default=12, help="of each trial; default 12")
    arguments.add_argument("--seeds", type=int, default=5, help="of each confirmation; default 5")
    arguments.add_argument("--storage", type=Path, default=Path("sweeps"), help="where sweeps are kept; default sweeps")
    arguments.add_argument("--out", type=Path, default=PAGE, help="the page; default docs/findings.md")
    arguments.add_argument("--write", action="store_true", help="only write the page, of what is there")
    given = arguments.parse_args()
    if not given.write:
        begin("an hour or two on two cores, for three small data sets")
        table(given)
        for folder in given.data:
            say(f"{folder.name}: search over methods, matching losses and alpha(t)")
            search(folder, given)
    given.out.write_text(page(given), encoding="utf-8")
    print(given.out)


def table(given: argparse.Namespace) -> None:
    """Table 1 on every data set."""
    data = [part for folder in given.data for part in ("--data", str(folder))]
    sizes = ["--trials", str(given.trials), "--epochs", str(given.epochs), "--seeds", str(given.seeds)]
    where = ["--name", TABLE, "--storage", str(given.storage)]
    subprocess.run([sys.executable, "-m", "lfm_ray.reproduce", "table1", *data, *sizes, *where], check=True)


def search(folder: Path, given: argparse.Namespace) -> None:
    """The search over combinations on one data set, and its confirmation, unless they are there."""
    name = f"findings-{folder.name}"
    sweep = given.storage / name
    sizes = {"trials": given.search_trials, "epochs": given.epochs}
    if not (sweep / "best.yaml").exists():
        lfm_ray.tune("methods", data=folder, name=name, storage=given.storage, progress=False, **sizes)
    if not confirmed(sweep).exists():
        lfm_ray.confirm(sweep, seeds=given.seeds, progress=False)


def learned_then(sweep: Path) -> str:
    """What a learned alpha was in a sweep where nothing else was drawn, as far as that is not today's default."""
    now = Learned(strategy="learned").model_dump()
    return ", ".join(
        f"{name}: {value}" for name, value in Sweep.read(sweep).space.learned.items() if value != now[name]
    )


def confirmed(sweep: Path) -> Path:
    """The confirming runs of a sweep."""
    return sweep / "confirm.csv"


def page(given: argparse.Namespace) -> str:
    """docs/findings.md."""
    runs = pd.read_csv(given.storage / TABLE / "leaderboard-runs.csv")
    command = f"python benchmarks/findings.py {' '.join(shlex.quote(str(folder)) for folder in given.data)}"
    sizes = f"--trials {given.trials} --search-trials {given.search_trials} --epochs {given.epochs}"
    lines = [
        "# What was found",
        "",
        f"Written by `benchmarks/findings.py` on {datetime.date.today():%d %B %Y}; the same command keeps it current:",
        "",
        f"    {command} \\",
        f"        {sizes} --seeds {given.seeds}",
        "",
        *map(described, given.data),
        "",
        "## Is LFM with a learned alpha above all others, under equal tuning?",
        "",
        "The paper's Table 1 says so. Here every row had"
        f" {given.trials} trials of {given.epochs} epochs, and its best trial, by the validation split, was trained"
        f" with {given.seeds} further seeds and measured on the test split.",
        "",
        *(f"- {name}: {answer(of_one)}" for name, of_one in runs.groupby("dataset", sort=False)),
        "",
        "This favours the learned alpha: its defaults were chosen by what `benchmarks/learned_alpha.py` measured on the"
        " demo, av-digits and uci, while other methods have those of their authors.",
        "",
        *board(runs),
        "",
        "## Which combination of method, L_MM and alpha(t) is best?",
        "",
        f"A search over all of them (`search_spaces/methods.yaml`, {given.search_trials} trials, an equal share for"
        f" every method first); then the best of every method of which a trial was not stopped early, with"
        f" {given.seeds} seeds.",
        "",
    ]
    for folder in given.data:
        sweep = given.storage / f"findings-{folder.name}"
        if confirmed(sweep).exists():
            lines += combinations(folder.name, sweep)
    return "\n".join(map(wrapped, lines))


def wrapped(line: str) -> str:
    """A line of prose in lines of 120 columns; rows of tables and commands stay whole."""
    if line.startswith(("|", "    ", "#")):
        return line
    return textwrap.fill(line, 120, subsequent_indent="  " * line.startswith("- "), break_long_words=False,
        break_on_hyphens=False)  # fmt: skip


def described(folder: Path) -> str:
    """A data set in a line."""
    card = read_card(folder)
    kinds = ", ".join(f"{name} ({one.kind})" for name, one in card.modalities.items())
    rows = ", ".join(f"{card.rows(split):,} {split}" for split in card.splits)
    noise = ", ".join(f"noise.{name}={level:g}" for name, level in card.preprocessing["noise"].items())
    return (
        f"- {folder.name}: {rows} rows, {len(card.classes)} classes; {kinds}{'; prepared with ' * bool(noise)}{noise}"
    )


def answer(runs: pd.DataFrame) -> str:
    """The claim's answer on a data set, and what the best alpha(t) of LFM is worth there."""
    found = claim(runs, METRIC)
    if found is None:
        return f"{LEARNED} could not be compared."
    text = f"the claim **{found.answer}**: {found.figures}."
    table = runs.pivot(index="seed", columns="row", values=METRIC)
    if "Concat" in table:
        gain = paired(table[found.best_of_lfm].to_numpy(), table["Concat"].to_numpy())
        low, high = 100 * gain.low, 100 * gain.high
        text += (
            f" The best of LFM's rows, {found.best_of_lfm}, is {100 * gain.difference:+.1f} points"
            f" (95 % {low:+.1f} to {high:+.1f}, not corrected) against Concat."
        )
    return text


def board(runs: pd.DataFrame) -> list[str]:
    """Accuracies and mean ranks of all rows, the best first."""
    ranking, names = Ranking.of(runs, METRIC), list(runs["dataset"].unique())
    cells = []
    for row, rank in ranking.ranks.items():
        line = {"method": row, "mean rank": f"{rank:.1f}"}
        for name in names:
            values = 100 * runs.loc[(runs["row"] == row) & (runs["dataset"] == name), METRIC]
            line[name] = spread(values.mean(), values.std())
        cells.append(line)
    note = (
        f"Test accuracy in %, mean ± std; ranks over {ranking.blocks} blocks, a seed on a data set each. Friedman:"
        f" p = {ranking.p:.1g}; mean ranks further apart than {ranking.critical_difference:.1f} differ significantly"
        " (Nemenyi, 5 %). Rows that a data set cannot have are left out."
    )
    return [markdown(pd.DataFrame(cells)), "", note]


def combinations(name: str, sweep: Path) -> list[str]:
    """The best of every method on a data set, and the verdict."""
    runs = pd.read_csv(confirmed(sweep))
    found: Verdict | None = verdict(runs, "test")
    trials = {trial.number: trial.config for trial in Sweep.open(sweep).trials()}
    cells = []
    for number, of_one in runs.groupby("trial"):
        config, strategy = trials[int(str(number))], str(of_one["strategy"].iloc[0])
        matching = "-" if config.alpha == Constant() else config.loss.matching
        values = 100 * of_one[METRIC]
        line = {"strategy": strategy, "L_MM": matching}
        joint = runs[runs["strategy"] == JOINT]
        against = paired(of_one.sort_values("seed")[METRIC], joint.sort_values("seed")[METRIC])
        line |= {"val": f"{100 * of_one['val/fused/accuracy'].mean():.1f}", "test": spread(values.mean(), values.std())}
        line["- alpha = 0"] = (
            f"{100 * against.difference:+.1f} ({100 * against.low:+.1f} to {100 * against.high:+.1f})"
            if strategy != JOINT
            else "-"
        )
        cells.append((of_one["val/fused/accuracy"].mean(), line))
    cells.sort(key=lambda one: -one[0])
    said = [f"- {sentence}" for sentence in found.sentences] if found else []
    if other := learned_then(sweep):
        said.append(f"- a learned alpha had `{other}` where nothing else was drawn, the default when this was searched")
    return [f"### {name}", "", *said, "", markdown(pd.DataFrame([line for _, line in cells])), ""]


if __name__ == "__main__":
    main()
