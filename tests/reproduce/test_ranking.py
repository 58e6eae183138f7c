from __future__ import annotations

import math

import pandas as pd
import pytest

from lfm_ray.reproduce.ranking import Ranking, score, scores

METRIC = "test/fused/accuracy"


def frame(accuracies: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """dataset -> row -> accuracies by seed."""
    return pd.DataFrame(
        [
            {"dataset": dataset, "row": row, "seed": seed, METRIC: value}
            for dataset, rows in accuracies.items()
            for row, values in rows.items()
            for seed, value in enumerate(values, start=1)
        ]
    )


TWO = frame(
    {
        "digits": {"Concat": [0.5, 0.6, 0.55], "MLA": [0.7, 0.82, 0.75], "Tilt": [0.6, 0.6, 0.7]}
        | {"OGM": [0.1, 0.2, 0.3]},
        "words": {"Concat": [0.9, 0.8, 0.85], "MLA": [0.7, 0.61, 0.65], "Tilt": [0.6, 0.9, 0.8]},
    }
)  # fmt: skip


def test_mean_ranks_over_datasets_and_seeds_by_hand() -> None:
    found = Ranking.of(TWO, METRIC)
    # By block: digits MLA 1 1 1, Tilt 2 2.5 2, Concat 3 2.5 3; words Concat 1 2 1, MLA 2 3 3, Tilt 3 1 2
    assert found.ranks == pytest.approx({"MLA": 11 / 6, "Concat": 12.5 / 6, "Tilt": 12.5 / 6})
    assert list(found.ranks) == ["MLA", "Concat", "Tilt"]
    assert found.blocks == 6
    assert "OGM" not in found.ranks  # words lacks it


def test_friedmans_test_by_hand() -> None:
    every = {"a": [0.9] * 4, "b": [0.8] * 4, "c": [0.7] * 4}
    # 12 N / (k (k + 1)) sum (R - 2)^2 = 12 * 4 / 12 * 2 = 8, with 2 degrees of freedom
    assert Ranking.of(frame({"x": every}), METRIC).p == pytest.approx(math.exp(-4))
    assert math.isnan(Ranking.of(frame({"x": {"a": [0.9, 0.8], "b": [0.8, 0.7]}}), METRIC).p)


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_have_the_published_quantiles(k: int, q: float) -> None:
    """Table 5 of Demsar, JMLR 2006."""
    ranking = Ranking({str(i): float(i) for i in range(1, k + 1)}, 14, 0.01)
    assert ranking.critical_difference == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 14)), rel=1e-3)


def test_groups_are_the_largest_that_hold_together() -> None:
    ranks = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 6.0, "e": 6.5}
    ranking = Ranking(ranks, 10, 0.01)
    assert 1.5 < ranking.critical_difference < 2.9  # 6.1 / sqrt(10)
    assert ranking.groups == [["a", "b"], ["b", "c"], ["d", "e"]] or ranking.groups == [["a", "b", "c"], ["d", "e"]]
    reach = ranking.critical_difference
    for group in ranking.groups:
        assert ranks[group[-1]] - ranks[group[0]] <= reach
    assert Ranking({"a": 1.0}, 10, math.nan).groups == []
    assert Ranking(ranks, 1, math.nan).groups == []


def test_wins_ties_and_losses_by_intervals() -> None:
    # MLA - Concat: digits 20, 22, 20 points, surely above 0; words -20, -19, -20, surely below; Tilt: neither
    assert str(score(TWO, "MLA", "Concat", METRIC)) == "1/0/1"
    assert str(score(TWO, "Tilt", "Concat", METRIC)) == "0/2/0"
    assert str(score(TWO, "Concat", "OGM", METRIC)) == "1/0/0"
    one_seed = TWO[TWO["seed"] == 1]
    assert str(score(one_seed, "MLA", "Concat", METRIC)) == "0/2/0"
    assert score(TWO, "MLA", "nobody", METRIC) is None
    table = scores(TWO, METRIC, ["MLA", "Concat"])
    assert table.to_numpy().tolist() == [["MLA", "-", "1/0/1"], ["Concat", "1/0/1", "-"]]
