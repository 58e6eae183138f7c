"""Kinetics-Sounds: clips of ten seconds, 31 classes; audio and video (data/kinetics_sounds.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import clip_finder, fields, with_validation


def read(root: Path) -> pd.DataFrame:
    """Reads my_train.txt and my_test.txt (name, seconds, class number), and clips anywhere below `root`.

    A clip's file must have the very name that is listed. Its sound is NAME.wav if there is one, else that of its video.
    """
    clip = clip_finder(root)
    rows = []
    for split in ("train", "val", "test"):
        if split == "val" and not (root / "my_val.txt").exists():
            continue
        for name, _, label, *_ in fields(root / f"my_{split}.txt", 3):
            rows.append({"id": name, "label": label, "split": split, **clip(name)})
    return with_validation(pd.DataFrame(rows))
