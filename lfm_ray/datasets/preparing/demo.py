"""The demo data: spoken digits and pictures of handwritten digits, paired by digit.

The speech is in `data/demo` of the repository (see its README); the pictures come with
scikit-learn. The speech is harder and slower to learn: a model trained on both modalities at once
relies on the pictures and hardly learns to listen, which is what LFM sets out to prevent.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from lfm_ray.errors import UserError
from lfm_ray.resources import DATA, shipped_folder

DEMO_FOLDER = shipped_folder(DATA).absolute() / "demo"

# Settings of `PrepareConfig`. The noise was chosen so that each modality alone can be learnt only in part.
DEMO_SETTINGS: dict[str, object] = {
    "audio.sample_rate": 8000,
    "audio.seconds": 0.8,
    "audio.n_fft": 256,
    "audio.hop": 128,
    "audio.n_mels": 40,
    "noise.audio": 1.0,
    "noise.image": 1.0,
}

SEED = 0
COLUMNS = ["id", "audio", "start", "end", "image", "label", "split"]


def prepare_demo(out: Path, address: str | None = None, progress: bool = True) -> None:
    """Makes the shards of the demo in `out`, where they are not there yet.

    Raises:
        UserError: see `write_raw_demo`; or `out` holds something else.
    """
    from lfm_ray.datasets.preparing.build import build
    from lfm_ray.datasets.preparing.config import PrepareConfig
    from lfm_ray.datasets.preparing.manifest import read_manifest
    from lfm_ray.datasets.preparing.staging import check_replaceable
    from lfm_ray.datasets.shards import CARD
    from lfm_ray.settings import build as settings
    from lfm_ray.settings import merge

    if (out / CARD).is_file():
        return
    check_replaceable(out)
    with tempfile.TemporaryDirectory(prefix="lfm_ray-demo-") as raw:
        manifest = read_manifest(write_raw_demo(Path(raw)), {"audio": "audio", "image": "image"}, allow_outside=True)
        build(manifest, settings(PrepareConfig, merge({}, DEMO_SETTINGS)), out, address=address, progress=progress)


def write_raw_demo(folder: Path) -> Path:
    """Writes `manifest.csv` and the pictures `images/*.png` into `folder`; returns the manifest's path.

    The manifest has one row for each utterance. `audio` is the absolute path of a file in `data/demo`,
    `start` and `end` are seconds within it, `image` is relative to `folder`. The pictures of each digit are
    divided among the splits in proportion to the utterances, so that no picture is in two splits; within a
    split, the utterances of a digit are paired with its pictures at random. Every call writes the same rows.

    Raises:
        UserError: `data/demo` is missing, or `folder` cannot be written.
    """
    utterances = _read_utterances()
    pixels, digits = _digits()
    random = np.random.default_rng(SEED)
    image_of_row = _pair(utterances, digits, random)
    images = folder / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
        for index in np.unique(image_of_row):
            _write_png(images / f"{index:04d}.png", pixels[index])
        manifest = _manifest(utterances, image_of_row, random)
        manifest.to_csv(folder / "manifest.csv", index=False, lineterminator="\n")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error}") from None
    return folder / "manifest.csv"


def _read_utterances() -> pd.DataFrame:
    """The table of the utterances; `start` and `end` stay strings, as in the file."""
    path = DEMO_FOLDER / "utterances.csv"
    try:
        return pd.read_csv(path, dtype={"start": str, "end": str})
    except FileNotFoundError:
        raise UserError(f"{path}: the demo's speech is not there, which comes with lfm_ray; install it anew") from None


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: pixels (1797, 8, 8) uint8 from 0 to 255, and which digit each is (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target


def _pair(utterances: pd.DataFrame, digits: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each utterance, the index of a picture of the same digit."""
    image_of_row = np.empty(len(utterances), dtype=np.int64)
    splits = list(dict.fromkeys(utterances["split"]))
    for digit in range(10):
        rows = [np.flatnonzero((utterances["digit"] == digit) & (utterances["split"] == split)) for split in splits]
        pictures = random.permutation(np.flatnonzero(digits == digit))
        bounds = np.cumsum([len(part) for part in rows]) * len(pictures) // sum(len(part) for part in rows)
        for part, share in zip(rows, np.split(pictures, bounds[:-1]), strict=True):
            image_of_row[part] = np.resize(share, len(part))  # repeats pictures if there are too few
    return image_of_row


def _manifest(utterances: pd.DataFrame, image_of_row: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """The manifest, each split in random order."""
    table = pd.DataFrame(
        {
            "audio": [str(DEMO_FOLDER / file) for file in utterances["file"]],
            "start": utterances["start"],
            "end": utterances["end"],
            "image": [f"images/{index:04d}.png" for index in image_of_row],
            "label": utterances["digit"],
            "split": utterances["split"],
        }
    )
    parts = []
    for split, part in table.groupby("split", sort=False):
        part = part.iloc[random.permutation(len(part))]
        parts.append(part.assign(id=[f"{split}-{number:04d}" for number in range(len(part))]))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _write_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)
