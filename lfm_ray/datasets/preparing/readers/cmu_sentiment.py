"""CMU-MOSI and CMU-MOSEI: sentences of YouTube videos, three sentiments (data/cmu_mosi.yaml, data/cmu_mosei.yaml)."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import check_there
from lfm_ray.datasets.preparing.splits import named
from lfm_ray.errors import UserError

COLUMNS = ("video_id", "clip_id", "text", "annotation", "mode")


def read(root: Path) -> pd.DataFrame:
    """Reads label.csv and Raw/VIDEO/CLIP.mp4, whose sound is taken too.

    Columns of label.csv: video_id, clip_id, text, label, annotation (Negative, Neutral, Positive), mode (train,
    valid, test). The published features (text 300 or 768, sound 74, faces 35 or 47) are read by `cmu_features`.

    Raises:
        UserError: the list is missing, or lacks a column.
    """
    file = root / "label.csv"
    check_there(file)
    rows = []
    with file.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines)
        if lacking := [name for name in COLUMNS if name not in (table.fieldnames or [])]:
            raise UserError(f"{file}: has no column {lacking[0]}")
        for line in table:
            clip = str(root / "Raw" / line["video_id"] / f"{line['clip_id']}.mp4")
            rows.append(
                {
                    "id": f"{line['video_id']}/{line['clip_id']}",
                    "label": line["annotation"],
                    "split": named(line["mode"] or "") or line["mode"],
                    "text": line["text"],
                    "audio": clip,
                    "video": clip,
                }
            )
    return pd.DataFrame(rows)
