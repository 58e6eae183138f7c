"""The kinds of modality, how their files are named, how shards can store them, and the kinds of target."""

from __future__ import annotations

from typing import Literal

Kind = Literal["audio", "image", "video", "text", "feature"]
Storage = Literal["tensor", "waveform", "jpeg"]
TargetKind = Literal["classes", "multilabel", "regression"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".caf", ".wma",
              ".amr", ".au", ".ac3", ".mka"),
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
    "video": (".mp4", ".mkv", ".webm", ".avi", ".flv", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".3gp", ".ogv",
              ".mts", ".m2ts", ".vob"),
    "text": (".txt", ".text"),
    "feature": (".npy", ".npz"),
}  # fmt: skip
"""Kind -> how the names of its files end, in small letters; a video can also be a folder of pictures."""
