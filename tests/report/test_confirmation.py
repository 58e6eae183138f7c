from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from lfm_ray.report.confirmation import comparisons, rich_table, summary, tables, write_confirmation

FUSED = {  # sweep, trial, strategy, validation accuracy -> test accuracy of seeds 1, 2, 3
    ("joint", 3, "alpha = 0", 0.70): (0.70, 0.72, 0.74),
    ("strategies", 0, "alpha = 0", 0.60): (0.99, 0.99, 0.99),  # not the best alpha = 0 by validation
    ("strategies", 1, "heuristic", 0.72): (0.75, 0.74, 0.73),
    ("strategies", 9, "polynomial", 0.80): (0.78, 0.82, 0.86),
}


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [
        {"sweep": sweep, "trial": trial, "strategy": strategy, "selected_by": selected, "seed": seed}
        | {"test/fused/accuracy": value, "test/audio/accuracy": 0.5, "test/image/accuracy": 0.6}
        | {"test/accuracy_gap": 0.1}
        for (sweep, trial, strategy, selected), values in FUSED.items()
        for seed, value in enumerate(values, 1)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order of the rows must not matter


def test_every_configuration_has_its_mean_and_interval(frame: pd.DataFrame) -> None:
    table = summary(frame)
    assert list(table["trial"]) == [0, 3, 1, 9]  # by validation accuracy
    best = table.iloc[-1]
    assert (best["fused"], best["fused std"], best["audio"], best["gap"]) == pytest.approx((82, 4, 50, 10))
    assert (best["low"], best["high"]) == pytest.approx((82 - 9.936551, 82 + 9.936551), abs=1e-5)  # 4.302653 * 4 / 3^.5


def test_the_winner_is_compared_with_both_baselines_and_the_heuristic_with_alpha_0(frame: pd.DataFrame) -> None:
    table = comparisons(frame)
    assert [(row.strategy, row.minus) for row in table.itertuples()] == [
        ("heuristic", "alpha = 0"),
        ("polynomial", "alpha = 0"),
        ("polynomial", "heuristic"),
    ]
    # 5, 2, -1; 8, 10, 12: by seed, with the alpha = 0 that is best on the validation split
    assert list(table["difference"]) == pytest.approx([2, 10, 8])
    assert list(table["std"]) == pytest.approx([3, 2, 5])
    # the smallest p times 3: t = 10 / (2 / sqrt 3) = sqrt 75, p = 1 - sqrt(75 / 77)
    assert table["p_holm"][1] == pytest.approx(3 * (1 - (75 / 77) ** 0.5))


def test_without_baselines_there_is_nothing_to_compare(frame: pd.DataFrame) -> None:
    alone = frame[frame["strategy"] == "polynomial"]
    assert len(comparisons(alone)) == 0
    assert len(tables(alone)) == 1


def test_the_tables_fit_the_terminal_and_are_written_in_every_format(frame: pd.DataFrame, tmp_path: Path) -> None:
    text = text_of(tables(frame))
    assert "82.0 ± 4.0" in text
    assert "+5.0 to +15.0" in text
    assert "…" not in text
    files = write_confirmation(frame, "test", tmp_path / "confirm")
    assert sorted(file.name for file in files) == [
        "confirm-comparisons.csv", "confirm-summary.csv", "confirm.csv", "confirm.csv.sha256", "confirm.md",
        "confirm.tex",
    ]  # fmt: skip
    assert pd.read_csv(tmp_path / "confirm-comparisons.csv")["difference"].tolist() == pytest.approx([2, 10, 8])
    assert "| strategies | 9 | polynomial | 82.0 ± 4.0 | 72.1 to 91.9 | 50.0 |" in (tmp_path / "confirm.md").read_text()
    tex = (tmp_path / "confirm.tex").read_text()
    assert r"strategies & 9 & polynomial & 82.0 $\pm$ 4.0 & 72.1 to 91.9 & 50.0" in tex
    assert r"95 \%" in tex


def test_another_objective_is_shown_and_compared_beside_fused_accuracy(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["test/fused/map"] = frame["test/fused/accuracy"] - 0.1 * frame["seed"]
    frame["test/fused/loss"] = 2 - frame["test/fused/accuracy"]
    objective = ["val/fused/map", "val/fused/loss"]
    best = summary(frame, objective=objective).iloc[-1]
    assert (best["fused/map"], best["fused/map std"]) == pytest.approx((62, 6))  # 68, 62, 56
    assert best["fused/loss"] == pytest.approx(1.18)
    compared = comparisons(frame, objective=objective).set_index(["metric", "strategy", "minus"])
    assert len(compared) == 9
    winner = compared.xs(("polynomial", "heuristic"), level=("strategy", "minus"))["difference"]
    assert list(winner.index) == ["fused/accuracy", "fused/map", "fused/loss"]
    assert list(winner) == pytest.approx([8, 8, -0.08])
    smallest = compared["p_t"].min()
    assert compared["p_holm"].min() == pytest.approx(9 * smallest)  # of all nine comparisons
    shown = tables(frame, objective=objective)
    assert list(shown)[2:] == ["fused map compared, seed by seed, in points", "fused loss compared, seed by seed"]
    assert shown["fused loss compared, seed by seed"]["difference"].iloc[-1] == "-0.080"
    first = next(iter(shown.values()))
    assert first.iloc[-1][["fused map", "fused loss"]].tolist() == ["62.0 ± 6.0", "1.180 ± 0.040"]
    assert max(len(line) for line in text_of(shown).splitlines()) <= 100


def text_of(shown: dict[str, pd.DataFrame]) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    for title, cells in shown.items():
        console.print(rich_table(title, cells))
    return console.export_text()
