from __future__ import annotations

import pandas as pd
import pytest
from rich.console import Console

from lfm_ray.report.confirmation import rich_table
from lfm_ray.report.imbalance import contribution_table, groups_of, utilisation
from lfm_ray.report.measure_tables import measure_tables, note_of
from lfm_ray.report.numbers import quantity


def run(row: str, accuracies: dict[str, float], shapley: dict[str, float], **more: float) -> dict[str, object]:
    """A run with two seeds' worth of metrics; modalities that it lacks have none."""
    found: dict[str, object] = {"row": row, "test/fused/accuracy": 0.8, "test/fused/loss": 0.5}
    found |= {f"test/{name}/accuracy": value for name, value in accuracies.items()}
    found |= {f"val/{name}/accuracy": value - 0.1 for name, value in accuracies.items()}
    for name, value in shapley.items():
        found |= {f"test/{name}/shapley": value, f"test/{name}/preferred": 0.5, f"test/{name}/missing_accuracy": 0.6}
        found |= {f"test/{name}/loss": 1.25, f"test/{name}/calibration_error": 0.04}
    found |= {"test/accuracy_gap": 0.25, "test/fused/calibration_error": 0.123}
    return found | more


COST = {"costs/parameters": 23_456_789, "costs/flops": 1.5e9, "costs/training_flops": 4.5e9, "costs/seconds": 0.0456}
FRAME = pd.DataFrame(
    [
        run("Unimodal-1: audio", {"audio": 0.6}, {"audio": 0.5}),
        run("Unimodal-2: image", {"image": 0.7}, {"image": 0.6}),
        run("Concat", {"audio": 0.3, "image": 0.65}, {"audio": 0.1, "image": 0.4}, **COST),
        run("Concat", {"audio": 0.4, "image": 0.75}, {"audio": 0.2, "image": 0.5}, **COST),
    ]
)


def test_a_line_for_each_method_with_the_values_of_each_modality() -> None:
    tables = measure_tables(groups_of(FRAME, ["row"], ["method"]), "test")
    assert list(tables) == ["Imbalance, test split, audio / image", "Calibration, test split, audio / image", "Costs"]
    imbalance, calibration, costs = tables.values()
    # Alone 60 % and 70 %, jointly 35 % and 70 %
    assert imbalance.iloc[2].to_dict() == {
        "method": "Concat", "gap": "25.0", "Shapley": "15.0 / 45.0", "preferred": "50 / 50", "without": "60.0 / 60.0",
        "utilisation": "-25.0 / +0.0",
    }  # fmt: skip
    assert imbalance.iloc[0]["Shapley"] == "50.0 / -"
    assert imbalance.iloc[0]["utilisation"] == "-"
    assert calibration.iloc[2].tolist() == ["Concat", "0.500", "1.250 / 1.250", "12.3", "4.0 / 4.0"]
    assert costs.iloc[2].tolist() == ["Concat", "23.5 M", "1.5 G", "4.5 G", "45.6", "-"]
    assert costs.iloc[0].tolist() == ["Unimodal-1: audio", "-", "-", "-", "-", "-"]
    assert all(note_of(title) for title in tables)


def test_the_better_of_two_runs_on_a_modality_alone_counts_by_the_validation_split() -> None:
    both = {"audio": 0.5, "image": 0.9}
    runs = pd.concat([FRAME, pd.DataFrame([run("unimodal", both, both)])])
    assert utilisation(groups_of(runs, ["row"]), "test") == pytest.approx({"audio": 0.6, "image": 0.9})
    joint = FRAME[FRAME["row"] == "Concat"]
    assert utilisation(groups_of(joint, ["row"]), "test") == {}
    assert (
        "utilisation" not in measure_tables(groups_of(joint, ["row"]), "test")["Imbalance, test split, audio / image"]
    )


def test_runs_of_earlier_versions_have_no_such_tables() -> None:
    earlier = FRAME[[name for name in FRAME if name.endswith("accuracy") or name in ("row", "test/fused/loss")]]
    earlier = earlier[[name for name in earlier if "missing" not in name]]
    assert measure_tables(groups_of(earlier, ["row"]), "test") == {}
    assert contribution_table({"val/audio/accuracy": 0.5}, ["audio"]) is None


def test_tables_of_four_modalities_fit_the_terminal() -> None:
    names = dict.fromkeys(("rgb", "depth", "flow", "audio"), 0.5)
    tables = measure_tables(groups_of(pd.DataFrame([run("LFM polynomial", names, names, **COST)]), ["row"]), "test")
    console = Console(width=100, record=True)
    for title, cells in tables.items():
        console.print(rich_table(title, cells))
    text = console.export_text()
    assert "50.0 / 50.0" in text
    assert "…" not in text


def test_quantities() -> None:
    found = {0: "0", 999: "999", 1406: "1.41 k", 999_900: "1 M", 23_456_789: "23.5 M", 4.1e9: "4.1 G", 5e13: "50 T"}
    assert {value: quantity(value) for value in found} == found
    assert quantity(float("nan")) == "-"
