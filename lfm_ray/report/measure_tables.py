"""The tables beside that of accuracies: imbalance, calibration, costs."""

from __future__ import annotations

import pandas as pd

from lfm_ray.report.cost_cells import COSTS, cost_cells
from lfm_ray.report.imbalance import CALIBRATION, IMBALANCE, Groups, calibration_cells, imbalance_cells, modalities_of

NOTES = {"Imbalance": IMBALANCE, "Calibration": CALIBRATION, "Costs": COSTS}


def measure_tables(groups: Groups, split: str) -> dict[str, pd.DataFrame]:
    """Title -> cells; without the tables that the runs, of an earlier version, have nothing for."""
    where = f"{split} split, {' / '.join(modalities_of(groups, split))}"
    tables = {
        f"Imbalance, {where}": imbalance_cells(groups, split),
        f"Calibration, {where}": calibration_cells(groups, split),
        "Costs": cost_cells(groups),
    }
    key = {"Imbalance": "Shapley", "Calibration": "ECE", "Costs": "parameters"}
    return {
        title: cells
        for title, cells in tables.items()
        if len(cells) and (cells[key[title.partition(",")[0]]] != "-").any()
    }


def note_of(title: str) -> str:
    """What explains the table of this title; empty for others."""
    return NOTES.get(title.partition(",")[0], "")
