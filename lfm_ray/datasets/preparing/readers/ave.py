"""AVE: 4,143 clips of ten seconds, 28 events that are seen and heard; audio and video (data/ave.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import clip_finder, numbered_lines
from lfm_ray.errors import UserError

HEADER = "Category&"


def read(root: Path) -> pd.DataFrame:
    """Reads trainSet.txt, valSet.txt and testSet.txt, and clips ID.mp4 anywhere below `root`.

    A line: Church bell&RUhOCu3LNXM&good&0&10, the event, YouTube's id, the quality, and the seconds of the event
    within the clip, which is taken whole. A clip with two events is two rows. A clip's sound is ID.wav if there is
    one, else that of its video.

    Raises:
        UserError: a list is missing, or a line has other than five parts.
    """
    clip = clip_finder(root)
    rows = []
    for split in ("train", "val", "test"):
        for number, line in numbered_lines(root / f"{split}Set.txt"):
            if line.startswith(HEADER):
                continue
            parts = line.strip().split("&")
            if len(parts) != 5:
                raise UserError(f"{root / f'{split}Set.txt'}, line {number}: has {len(parts)} parts between &, not 5")
            event, youtube, _, start, end = parts
            name = f"{youtube}&{event}&{start}&{end}"
            rows.append({"id": name, "label": event, "split": split, **clip(youtube)})
    return pd.DataFrame(rows)
