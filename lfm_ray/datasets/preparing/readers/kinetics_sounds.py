"""Kinetics-Sounds: clips of ten seconds, 31 classes; audio and video (data/kinetics_sounds.yaml)."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import clip_finder, fields
from lfm_ray.datasets.preparing.splits import with_validation

SECONDS = 10  # of a clip


def read(root: Path) -> pd.DataFrame:
    """Reads my_train.txt and my_test.txt (name, seconds, class number), and clips anywhere below `root`.

    A name is that of the clip's file, or YouTube's id with the first second, ID_2 for ID_000002_000012.mp4.
    A clip's sound is NAME.wav if there is one, else that of its video.
    """
    clip = clip_finder(root)
    rows = []
    for split in ("train", "val", "test"):
        if split == "val" and not (root / "my_val.txt").exists():
            continue
        for name, _, label, *_ in fields(root / f"my_{split}.txt", 3):
            rows.append({"id": name, "label": label, "split": split, **clip(*names(name))})
    return with_validation(pd.DataFrame(rows))


def names(listed: str) -> list[str]:
    """The names that a listed clip's file may have: as listed, and with both seconds in six digits."""
    youtube, _, second = listed.rpartition("_")
    if not second.isdigit() or re.search(r"_\d{6}$", youtube):
        return [listed]
    start = int(second)
    return [listed, f"{youtube}_{start:06d}_{start + SECONDS:06d}"]
