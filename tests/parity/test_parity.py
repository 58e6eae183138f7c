"""Every method gives what its authors' code gives, or the deviation has a name and a reason here."""

from __future__ import annotations

import pytest
from comparisons import COMPARISONS, Case, cases, difference
from newer import NEWER

ALL = COMPARISONS | NEWER

TOLERANCE = 1e-6
OF_TABLES = {"official_audio": 1e-4}  # the logarithm of a small magnitude in float32

DEVIATIONS = {
    ("g_blend", "estimated weights, a loss rises"): "the authors published no estimator; a third party's takes the"
    " absolute value of a rise, the paper's has no weight for it",
    ("greedy", "running mean of the second view"): "their code fills it with the scales of the first view",
    (
        "mla",
        "projected gradient, the name being met",
    ): "it never happens at their commit; ours is the paper's form",
    ("mla", "projection, the name being met"): "they divide by the matrix k r and rescale P to norm 1 at every step",
    ("mla", "entropy weights, by batch"): "with --dynamic they weigh a whole batch, by a softmax over the samples",
    ("mses", "whether the run ends when all have stopped"): "our fusion learns on",
}
"""(table, quantity) -> why ours is not theirs. `test_a_named_deviation_is_there` fails once it is."""


@pytest.mark.parametrize(
    ("table", "case"),
    [pytest.param(table, case, id=f"{table}-{case['name']}") for table in ALL for case in cases(table)],
)
def test_ours_is_theirs(table: str, case: Case) -> None:
    for quantity, ours, theirs in ALL[table](case):
        if (table, quantity) not in DEVIATIONS:
            assert difference(ours, theirs) < OF_TABLES.get(table, TOLERANCE), quantity


@pytest.mark.parametrize(("table", "quantity"), DEVIATIONS)
def test_a_named_deviation_is_there(table: str, quantity: str) -> None:
    found = [
        difference(ours, theirs) for case in cases(table) for name, ours, theirs in ALL[table](case) if name == quantity
    ]
    assert max(found) >= TOLERANCE, "ours is theirs now: take the name off the list"
