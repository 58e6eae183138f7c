"""CREMA-D: 7,442 clips of 91 actors, six emotions; audio and video (data/crema_d.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import fields
from lfm_ray.datasets.preparing.splits import with_validation
from lfm_ray.errors import UserError


def read(root: Path) -> pd.DataFrame:
    """Reads AudioWAV/*.wav with VideoFlash/*.flv, or with folders of frames in Image-01-FPS.

    If there are train.csv and test.csv (name, emotion), they decide the clips and the splits; else
    all clips that have a sound or a picture are taken. The emotion is in a clip's name.

    Raises:
        UserError: there is no sound, or neither videos nor frames.
    """
    sounds = _stems(root / "AudioWAV", ".wav")
    if not sounds:
        raise UserError(f"{root / 'AudioWAV'}: contains no .wav file; --root must be the folder that contains AudioWAV")
    frames, videos = root / "Image-01-FPS", root / "VideoFlash"
    if not frames.is_dir() and not videos.is_dir():
        raise UserError(f"{root}: has neither VideoFlash nor Image-01-FPS")
    listed = _lists(root)
    seen = (
        {path.name for path in frames.iterdir() if not path.name.startswith(".")}
        if frames.is_dir()
        else _stems(videos, ".flv")
    )
    rows = []
    for name in listed or sorted(sounds | seen):
        emotion, split = listed.get(name) or (name.split("_")[2] if name.count("_") >= 2 else "", "")
        video = frames / name if frames.is_dir() else videos / f"{name}.flv"
        sound = root / "AudioWAV" / f"{name}.wav"
        rows.append({"id": name, "label": emotion, "split": split, "audio": str(sound), "video": str(video)})
    table = pd.DataFrame(rows)
    return with_validation(table) if listed else table.drop(columns="split")


def _stems(folder: Path, suffix: str) -> set[str]:
    """The names of the clips in a folder, whose extension can be in capitals; macOS's ._1001.wav is none."""
    files = folder.iterdir() if folder.is_dir() else []
    return {file.stem for file in files if file.suffix.lower() == suffix and not file.name.startswith(".")}


def _lists(root: Path) -> dict[str, tuple[str, str]]:
    """Clip -> emotion and split, of the lists that there are."""
    if not (root / "train.csv").exists():
        return {}
    splits = [split for split in ("train", "val", "test") if split != "val" or (root / "val.csv").exists()]
    return {name: (emotion, split) for split in splits for name, emotion, *_ in fields(root / f"{split}.csv", 2)}
