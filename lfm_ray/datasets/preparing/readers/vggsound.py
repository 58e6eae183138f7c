"""VGGSound: clips of ten seconds, 309 classes; audio and video (data/vggsound.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import clip_finder, fields
from lfm_ray.datasets.preparing.splits import with_validation


def read(root: Path) -> pd.DataFrame:
    """Reads vggsound.csv (YouTube id, start in s, class, train or test), and clips ID_SSSSSS.mp4 anywhere below `root`.

    A clip's sound is ID_SSSSSS.wav if there is one, else that of its video.
    """
    clip = clip_finder(root)
    rows = []
    for youtube, start, label, split, *_ in fields(root / "vggsound.csv", 4):
        name = f"{youtube}_{start:0>6}"
        rows.append({"id": name, "label": label, "split": split, **clip(name)})
    return with_validation(pd.DataFrame(rows))
