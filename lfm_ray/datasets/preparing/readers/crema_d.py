"""CREMA-D: 7,442 clips of 91 actors, six emotions; audio and video (data/crema_d.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import fields, with_validation
from lfm_ray.errors import UserError


def read(root: Path) -> pd.DataFrame:
    """Reads AudioWAV/*.wav with VideoFlash/*.flv, or with folders of frames in Image-01-FPS.

    If there are train.csv and test.csv (name, emotion), they decide the splits; clips that they list
    but that have no .wav are left out.

    Raises:
        UserError: there is no sound, or neither videos nor frames.
    """
    sounds = sorted((root / "AudioWAV").glob("*.wav"))
    if not sounds:
        raise UserError(f"{root / 'AudioWAV'}: contains no .wav file; --root must be the folder that contains AudioWAV")
    frames, videos = root / "Image-01-FPS", root / "VideoFlash"
    if not frames.is_dir() and not videos.is_dir():
        raise UserError(f"{root}: has neither VideoFlash nor Image-01-FPS")
    listed = {
        name: (emotion, split)
        for split in ("train", "val", "test")
        if split != "val" or (root / "val.csv").exists()
        if (root / "train.csv").exists()
        for name, emotion, *_ in fields(root / f"{split}.csv", 2)
    }
    rows = []
    for sound in sounds:
        name = sound.stem
        if listed and name not in listed:
            continue
        emotion, split = listed.get(name) or (name.split("_")[2] if name.count("_") >= 2 else "", "")
        video = frames / name if frames.is_dir() else videos / f"{name}.flv"
        rows.append({"id": name, "label": emotion, "split": split, "audio": str(sound), "video": str(video)})
    table = pd.DataFrame(rows)
    return with_validation(table) if listed else table.drop(columns="split")
