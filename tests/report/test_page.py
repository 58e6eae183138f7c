"""The report of sweeps in every state, read back from its files."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from made_sweep import make_sweep

from lfm_ray.errors import UserError
from lfm_ray.report.page import render, write_report
from lfm_ray.report.page_figures import Figures, strategies_figure
from lfm_ray.report.page_tables import strategy_frame
from lfm_ray.report.sweep_view import SweepView
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.objective import metric_name
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep
from lfm_ray.settings import build
from lfm_ray.training.run_folder import EPOCHS


def report(*folders: Path) -> str:
    """The text of the page of some sweeps."""
    return render(Figures(SweepView.of(folders)), "report")


def written(folder: Path) -> str:
    """The same, written with all its figures as the command does it."""
    write_report([folder], folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, flags=re.DOTALL)[1])


def cells(page: str, table: str) -> list[list[str]]:
    inside = re.search(rf'<table id="{table}"[^>]*>(.*?)</table>', page, flags=re.DOTALL)[1]
    rows = re.findall(r"<tr.*?</tr>", inside, flags=re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_the_strategy_table_is_the_best_trial_of_each_strategy(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s")
    page = report(tmp_path / "s")
    header, *rows = cells(page, "strategies")
    trials = sweep.trials()
    frame = strategy_frame(SweepView.of([tmp_path / "s"])).set_index("strategy")
    assert len(rows) == len({trial.strategy for trial in trials})
    shown = [float(row[header.index("fused")]) for row in rows if row[header.index("fused")] != "-"]
    assert shown == sorted(shown, reverse=True)
    for row in rows:
        named = dict(zip(header, row, strict=True))
        mine = [trial for trial in trials if trial.strategy == named["strategy"]]
        finished = [trial.reached for trial in mine if trial.state == "finished"]
        assert int(named["trials"]) == len(mine)
        if not finished:
            assert named["fused"] == "-"
            continue
        last = next(trial for trial in mine if trial.reached == max(finished)).rows[-1]
        alone = [last["val/audio/accuracy"], last["val/image/accuracy"]]
        assert named["fused"] == f"{max(finished):.3f}"
        assert named["gap"] == f"{max(alone) - min(alone):.3f}"
        assert named["mean"] == f"{sum(finished) / len(finished):.3f}"
        assert frame.loc[named["strategy"], "fused"] == pytest.approx(max(finished), rel=1e-5)
        assert frame.loc[named["strategy"], "gap"] == pytest.approx(max(alone) - min(alone), rel=1e-4)


def test_best_so_far_against_the_epochs_of_the_trials_that_had_ended(tmp_path: Path) -> None:
    make_sweep(tmp_path / "s", 5, 6, ends=("finished", "pruned", "failed", "finished", "finished"))
    accuracies, spent, best, expected = [], 0, 0.0, []
    for trial in Sweep.open(tmp_path / "s").trials():  # they end in the order of their numbers
        spent += len(trial.rows)
        if trial.state == "finished":
            best = max(best, trial.reached)
            accuracies.append((spent, trial.reached))
        expected.append((spent, best))
    frame = Figures(SweepView.of([tmp_path / "s"])).best_so_far().frame()
    steps = frame[frame["curve"] == "best so far"]
    assert list(steps["epochs spent"]) == [x for x, _ in expected] == [6, 10, 13, 19, 25]
    assert list(steps["fused accuracy"]) == pytest.approx([y for _, y in expected], rel=1e-5)
    assert sorted(frame[frame["curve"] != "best so far"]["epochs spent"]) == [x for x, _ in accuracies]


@pytest.mark.parametrize(("metric", "direction"), [("val/accuracy_gap", "minimize"), ("val/audio/map", "maximize")])
def test_a_sweep_with_another_objective_is_judged_by_it_everywhere(tmp_path: Path, metric: str, direction: str) -> None:
    folder = make_sweep(tmp_path / "s", ends=("finished",), objective={metric: direction}).folder
    (view,) = SweepView.of([folder])
    best = (min if direction == "minimize" else max)(view.trials, key=lambda trial: trial.rows[-1][metric])
    reached = best.rows[-1][metric]
    assert max(view.trials, key=lambda trial: trial.reached).number != best.number  # or it would show nothing
    frame = strategy_frame([view])
    assert frame.iloc[-1]["best trial"] == best.number
    assert ("audio map" in frame) == (metric == "val/audio/map")
    steps = Figures([view]).best_so_far().frame()
    so_far = steps[steps["curve"] == "best so far"][metric_name(metric)].tolist()
    assert so_far == sorted(so_far, reverse=direction == "minimize")
    assert so_far[-1] == pytest.approx(reached)
    page = report(folder)
    assert f"The best by {metric_name(metric)} ({reached:.3f}), trial {best.number} " in page
    assert cells(page, "best-trials")[1][0] == str(best.number)


def test_the_page_draws_what_the_csv_holds(tmp_path: Path) -> None:
    make_sweep(tmp_path / "s", 4, 5)
    data = data_of(written(tmp_path / "s"))
    plot = next(plot for plot in data["plots"] if plot["name"] == "accuracy-audio")
    frame = pd.read_csv(tmp_path / "s/report/accuracy-audio.csv")
    for named, x, y, _ in plot["curves"]:
        mine = frame[frame["curve"] == data["names"][named][0]]
        assert data["xs"][x] == list(mine["epoch"])
        assert y == pytest.approx(list(mine["validation accuracy"]), rel=1e-3)
    for plot in data["plots"]:
        for kind in ("png", "svg", "csv"):
            assert (tmp_path / "s/report" / f"{plot['name']}.{kind}").stat().st_size > 50


def test_everything_that_comes_from_the_user_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>&\"'"
    make_sweep(tmp_path / "s", 6, modalities=("<b>audio", "image/x"), reason=evil, question=evil)
    page = written(tmp_path / "s")
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<b>audio" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert (tmp_path / "s/report/accuracy-_b_audio.csv").exists()


def test_a_dollar_in_a_name_is_a_dollar_in_every_figure(tmp_path: Path) -> None:
    odd = r"$\frac$"  # not what matplotlib could read as a formula
    sweep = make_sweep(tmp_path / "s", 4, modalities=(odd, "image"))
    written(sweep.folder)
    strategies_figure(sweep.trials(), tmp_path / "strategies.png")
    (svg,) = (sweep.folder / "report").glob("accuracy-*frac*.svg")
    assert r"Accuracy of $\frac$ alone" in svg.read_text()


def test_the_space_on_the_page_is_that_of_the_sweep(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", 1)
    inside = re.search(r"<details>.*?<pre>(.*?)</pre>", report(tmp_path / "s"), flags=re.DOTALL)[1]
    assert build(Space, yaml.safe_load(unescape(inside))) == sweep.space
    assert "null" not in inside


def test_a_sweep_that_has_just_begun_or_runs_is_shown_as_far_as_it_is_and_only_read(tmp_path: Path) -> None:
    make_sweep(tmp_path / "empty", 0, planned=24)
    (tmp_path / "empty/study.journal").unlink()
    assert "No trial has started yet; 24 are planned" in report(tmp_path / "empty")
    assert not (tmp_path / "empty/study.journal").exists()

    make_sweep(tmp_path / "running", 7, planned=24, ends=("finished", "running", "pruned"))
    before = (tmp_path / "running/study.journal").read_bytes()
    page = report(tmp_path / "running")
    assert "7 of 24 trials" in page
    assert "2 trials are running" in page
    assert "tune --resume running" in page
    assert (tmp_path / "running/study.journal").read_bytes() == before


def test_a_sweep_of_failures_says_why(tmp_path: Path) -> None:
    make_sweep(tmp_path / "s", 3, ends=("failed",), reason="out of memory <1>")
    page = report(tmp_path / "s")
    assert "No trial has finished; the first reason: out of memory &lt;1&gt;" in page
    assert [row[-1] for row in cells(page, "failed")] == ["reason", "out of memory &lt;1&gt;"]
    assert cells(page, "failed")[1][:2] == ["3", "0, 1, 2"]


def test_a_half_written_sweep_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    make_sweep(folder, 6, ends=("finished",))
    for name in ("study.journal", f"trials/0002/{EPOCHS}"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) - 40])
    (folder / f"trials/0003/{EPOCHS}").unlink()
    page = report(folder)
    assert "6 trials of 12 epochs" in page
    assert "trial 2: its epochs.jsonl ends with epoch 11, and study.journal says 12; the journal is believed" in page
    assert "trial 3: its epochs.jsonl is missing or empty, and study.journal says that the trial finished" in page
    (folder / "sweep.yaml").write_text("space: [")
    with pytest.raises(UserError, match="not valid YAML"):
        report(folder)


def test_figures_of_confirm_are_on_the_page_once_there_are_some(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s")
    assert "lfm_ray.confirm" in report(tmp_path / "s")
    found = best_of(sweep.trials())
    runs = [
        {
            "sweep": "s",
            "trial": trial,
            "strategy": strategy,
            "selected_by": by,
            "seed": seed,
            "test/fused/accuracy": value,
        }
        | {"test/audio/accuracy": 0.5, "test/accuracy_gap": 0.1}
        for trial, strategy, by, values in ((0, "alpha = 0", 0.1, [0.5, 0.52]), (found.number, "x", 0.9, [0.8, 0.84]))
        for seed, value in enumerate(values)
    ]
    pd.DataFrame(runs).to_csv(tmp_path / "s/confirm.csv", index=False)
    page = report(tmp_path / "s")
    assert "Retrained with 2 other seeds, it reaches 82.0 ± 2.8 % on the test split, against 51.0 ± 1.4 %" in page
    header, *rows = cells(page, "confirmed-test-0")
    assert [row[header.index("fused")] for row in rows] == ["51.0 ± 1.4", "82.0 ± 2.8"]
    assert cells(page, "confirmed-test-1")[1][4] == "+31.0"


def test_several_sweeps_on_one_page_are_told_apart(tmp_path: Path) -> None:
    for name, seed, epochs in (("a", 1, 8), ("b", 2, 6)):
        make_sweep(tmp_path / name, 6, epochs, seed=seed)
    page = report(tmp_path / "a", tmp_path / "b")
    assert "different numbers of epochs" in page
    assert data_of(page)["groups"] == ["a", "b"]
    rows = {row[0]: row[1:] for row in cells(page, "differences")}
    assert rows["epochs"] == ["8", "6"]
    assert rows["best fused accuracy"] == [
        f"{max(t.reached for t in Sweep.open(tmp_path / name).trials() if t.state == 'finished'):.3f}" for name in "ab"
    ]
    assert {row[0] for row in cells(page, "strategies")[1:]} == {"a", "b"}


def test_a_large_sweep_is_thinned_and_says_so(tmp_path: Path) -> None:
    from lfm_ray.report.plots import Curve, Plot

    curves = [Curve(str(i), "a", range(100), [i] * 100, bold=i == 0) for i in range(50)]
    plot = Plot("p", "", "x", "y", curves, "Note.").thinned(1000)
    assert [len(curve.x) for curve in plot.curves] == [100] + [20] * 49
    assert (plot.curves[1].x[0], plot.curves[1].x[-1]) == (0, 99)
    assert plot.note == "Note. To keep the page small, thin curves show at most 20 of their points; " \
        "the CSV has all."  # fmt: skip
    assert len(Plot("p", "", "x", "y", curves).frame()) == 5000
