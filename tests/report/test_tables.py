from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

from made_sweep import make_sweep
from rich.console import Console

from lfm_ray.report.sentences import headline
from lfm_ray.report.tables import strategy_table
from lfm_ray.search.selection import best_of, by_strategy

SIX = ("fac", "fou", "kar", "mor", "pix", "zer")


def printed(table: object) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    return out.getvalue()


def test_six_modalities_fit_100_columns_with_the_fusion_whole_and_both_ends_named(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "six", 24, modalities=SIX)
    trials = sweep.trials()
    text = printed(strategy_table(trials))
    best = best_of(trials)
    assert best is not None
    alone = {name: best.rows[-1][f"val/{name}/accuracy"] for name in SIX}
    lowest, highest = min(alone, key=alone.__getitem__), max(alone, key=alone.__getitem__)
    (line,) = [line for line in text.splitlines() if "best found" in line]
    for cell in (f"{best.reached:.3f}", f"{alone[lowest]:.3f} {lowest}", f"{alone[highest]:.3f} {highest}"):
        assert cell in line
    assert "…" not in text and max(map(len, text.splitlines())) <= 100


def test_each_strategy_says_how_many_trials_and_epochs_it_had(tmp_path: Path) -> None:
    trials = make_sweep(tmp_path / "two", 24).trials()
    text = printed(strategy_table(trials))
    for name in by_strategy(trials):
        mine = [trial for trial in trials if trial.strategy == name]
        (line,) = [line for line in text.splitlines() if line.startswith(f" {name} ") or line.startswith(f"│ {name} ")]
        assert re.findall(r"\d+", line.split(name, 1)[1])[:2] == [str(len(mine)), str(sum(one.trained for one in mine))]


def test_a_strategy_whose_trials_were_all_stopped_early_has_a_row_too(tmp_path: Path) -> None:
    trials = [trial for trial in make_sweep(tmp_path / "two", 24).trials() if trial.state != "failed"]
    name = by_strategy(trials).popitem()[0]
    stopped = [replace(trial, state="pruned") if trial.strategy == name else trial for trial in trials]
    assert name not in by_strategy(stopped)
    (line,) = [
        line for line in printed(strategy_table(stopped)).splitlines() if f" {name} " in line and ":" not in line
    ]
    mine = [trial for trial in trials if trial.strategy == name]
    assert re.findall(r"\d+", line.split(name, 1)[1]) == [str(len(mine)), str(sum(one.trained for one in mine))]


def test_the_headline_compares_with_tuned_joint_training_and_not_with_itself(tmp_path: Path) -> None:
    trials = make_sweep(tmp_path / "two", 40).trials()
    best, joint = best_of(trials), by_strategy(trials)["alpha = 0"]
    assert best is not None and best.strategy != "alpha = 0"
    said = headline(trials, best)
    tuned = sum(trial.strategy == "alpha = 0" for trial in trials)
    assert f"{best.reached - joint.reached:+.3f} against alpha = 0, as tuned by {tuned} trial" in said
    assert "unconfirmed until confirm has run" in said
    assert headline(trials, joint).startswith("joint training wins")
    others = [trial for trial in trials if trial.strategy != "alpha = 0"]
    assert "no finished trial has alpha = 0" in headline(others, best)
