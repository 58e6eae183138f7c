from __future__ import annotations

import pandas as pd
import pytest
from scipy import stats

from lfm_ray.reproduce.claim import LEARNED, claim

METRIC = "test/fused/accuracy"
SEEDS = [0.00, 0.02, 0.01, 0.03]


def frame(rows: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"row": row, "seed": seed, METRIC: value}
            for row, values in rows.items()
            for seed, value in enumerate(values, start=1)
        ]
    )


def around(mean: float, noise: float = 0.001) -> list[float]:
    return [mean + seed + noise * (-1) ** i for i, seed in enumerate(SEEDS)]


@pytest.mark.parametrize(
    ("others", "answer", "place"),
    [
        ({"Concat": around(0.7), "MLA": around(0.75)}, "holds", 1),
        ({"Concat": around(0.7), "MLA": around(0.799, 0.02)}, "is not refuted", 1),
        ({"Concat": around(0.7), "MLA": around(0.801, 0.02)}, "does not hold", 2),
        ({"Concat": around(0.7), "MLA": around(0.9), "LFM heuristic": around(0.95)}, "is refuted", 3),
    ],
)
def test_the_four_answers(others: dict[str, list[float]], answer: str, place: int) -> None:
    found = claim(frame({LEARNED: [0.8 + seed for seed in SEEDS], **others}), METRIC)
    assert found is not None
    assert (found.answer, found.place, found.methods) == (answer, place, len(others) + 1)
    assert f"{answer} here: place {place} of {len(others) + 1}" in found.sentence


def test_the_difference_from_the_best_other_row_by_hand() -> None:
    found = claim(frame({LEARNED: [0.8, 0.7], "Concat": [0.9, 0.9], "LFM heuristic": [0.5, 0.9]}), METRIC)
    assert found is not None
    assert found.best == "Concat" and found.best_of_lfm == LEARNED
    assert found.against_best.difference == pytest.approx(-0.15)
    alone = [stats.ttest_rel([0.8, 0.7], other).pvalue for other in ([0.9, 0.9], [0.5, 0.9])]
    assert found.p == pytest.approx(min(1, 2 * alone[0])) and alone[0] < alone[1]  # of two, the smaller counts twice


@pytest.mark.parametrize("rows", [{"Concat": SEEDS}, {LEARNED: SEEDS}, {LEARNED: [0.1], "Concat": [0.2]}])
def test_there_is_no_answer_without_the_row_others_and_two_seeds(rows: dict[str, list[float]]) -> None:
    assert claim(frame(rows), METRIC) is None
