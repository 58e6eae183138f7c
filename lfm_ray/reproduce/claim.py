"""Table 1's claim on a dataset: LFM with a learned alpha is better than every other method, all tuned alike.

Every other row is compared with it, paired by seed, with Holm's correction for their number. `holds`: it is
significantly better than all of them. `is not refuted`: none has a higher mean, but not all are significantly lower.
`does not hold`: some have a higher mean; `is refuted`: some significantly so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from lfm_ray.report.statistics import Paired, holm, paired

LEARNED = "LFM learned"
LEVEL = 0.05

Answer = Literal["holds", "is not refuted", "does not hold", "is refuted"]


@dataclass(frozen=True)
class Claim:
    """The answer, and what it rests on.

    place: of the learned alpha by mean accuracy, 1 is best, among `methods` rows. above, below: the rows that are
    significantly better and worse. best: the best other row; against_best: the learned alpha minus it; p: of that
    difference, Holm-corrected. best_of_lfm: the best row of LFM, with any alpha(t).
    """

    answer: Answer
    place: int
    methods: int
    above: list[str]
    below: list[str]
    best: str
    against_best: Paired
    p: float
    best_of_lfm: str
    seeds: int

    @property
    def sentence(self) -> str:
        """`Table 1's claim ... does not hold here: place 4 of 27, ...`."""
        return f"Table 1's claim, that {LEARNED} is above all others, {self.answer} here: {self.figures}."

    @property
    def figures(self) -> str:
        """`place 4 of 27, significantly above 3 rows and below none; -2.1 points (95 % ...) against QMF`."""
        learned, above = self.against_best, len(self.below)
        return (
            f"place {self.place} of {self.methods}, significantly above {above or 'no'}"
            f" row{'' if above == 1 else 's'} and below {len(self.above) or 'none'};"
            f" {100 * learned.difference:+.1f} points (95 % {100 * learned.low:+.1f} to {100 * learned.high:+.1f},"
            f" p = {self.p:.2g} after Holm's correction) against {self.best}"
        )


def claim(frame: pd.DataFrame, metric: str) -> Claim | None:
    """Reads the confirmation runs of a dataset (`row`, `seed`, metrics); None without the row, others, or two seeds."""
    table = frame.pivot(index="seed", columns="row", values=metric).dropna(axis=1)
    others = [str(row) for row in table if row != LEARNED]
    if LEARNED not in table or not others or len(table) < 2:
        return None
    learned = table[LEARNED].to_numpy()
    found = {row: paired(learned, table[row].to_numpy()) for row in others}
    p = dict(zip(others, holm([one.p_t for one in found.values()]), strict=True))
    higher = [row for row in others if found[row].difference < 0]
    above = [row for row in others if p[row] < LEVEL and found[row].difference < 0]
    below = [row for row in others if p[row] < LEVEL and found[row].difference > 0]
    means = table.mean()
    best = str(means[others].idxmax())
    lfm = [row for row in table if str(row).startswith("LFM ")]
    answer: Answer = "holds" if len(below) == len(others) else "is not refuted"
    if higher:
        answer = "is refuted" if above else "does not hold"
    return Claim(
        answer,
        1 + int(np.sum(means[others] > means[LEARNED])),
        len(others) + 1,
        above,
        below,
        best,
        found[best],
        p[best],
        str(means[lfm].idxmax()),
        len(table),
    )
