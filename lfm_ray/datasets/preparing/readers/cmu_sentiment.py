"""CMU-MOSI and CMU-MOSEI: sentences of YouTube videos, three sentiments (data/cmu_mosi.yaml, data/cmu_mosei.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import fields
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
    rows = []
    header, *lines = fields(file, 1)
    if lacking := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{file}: has no column {lacking[0]}")
    for number, values in enumerate(lines, start=2):
        if len(values) < len(header):
            raise UserError(f"{file}, line {number}: has {len(values)} fields, not {len(header)}")
        line = dict(zip(header, values, strict=False))
        clip = str(root / "Raw" / line["video_id"] / f"{line['clip_id']}.mp4")
        rows.append(
            {
                "id": f"{line['video_id']}/{line['clip_id']}",
                "label": line["annotation"],
                "split": named(line["mode"]) or line["mode"],
                "text": line["text"],
                "audio": clip,
                "video": clip,
            }
        )
    return pd.DataFrame(rows)
