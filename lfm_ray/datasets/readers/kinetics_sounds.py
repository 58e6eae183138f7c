"""Kinetics-Sounds: clips of ten seconds, 31 classes; audio and video (data/kinetics_sounds.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.readers.annotations import VIDEO, by_stem, fields, with_validation


def read(root: Path) -> pd.DataFrame:
    """my_train.txt and my_test.txt (YOUTUBE_START, seconds, class number), and the clips anywhere below `root`.

    A clip's sound is YOUTUBE_START.wav where there is one, else that of its video.
    """
    videos, sounds = by_stem(root, VIDEO), by_stem(root, (".wav",))
    rows = []
    for split in ("train", "val", "test"):
        if split == "val" and not (root / "my_val.txt").exists():
            continue
        for name, _, label, *_ in fields(root / f"my_{split}.txt", 3):
            video = videos.get(name, root / f"{name}.mp4")
            audio = sounds.get(name, video)
            rows.append({"id": name, "label": label, "split": split, "audio": str(audio), "video": str(video)})
    return with_validation(pd.DataFrame(rows))
