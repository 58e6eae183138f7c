"""CMU-MOSI and CMU-MOSEI by their published features of text, sound and faces (data/cmu_mosi_features.yaml).

Two layouts, each a pickle of a dict with train, valid and test:

- MMSA (thuiar/MMSA at 177bc04, src/MMSA/data_loader.py): text (N, T, 768 or 300), audio (N, T, 74 or 5), vision (N, T,
  35, 47 or 20), regression_labels (N,), id `VIDEO$_$CLIP`; unaligned audio_lengths and vision_lengths; text_bert (N, 3,
  T), whose second row says which words there are;
- MulT (yaohungt/Multimodal-Transformer at 4002b6b, src/dataset.py): text, audio and vision (N, T, d), labels (N, 1, 1),
  id (N, 3).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from lfm_ray.datasets.preparing import pickles
from lfm_ray.datasets.preparing.embedded import Embedded
from lfm_ray.datasets.preparing.pickles import PickledArray, Place
from lfm_ray.datasets.preparing.readers.annotations import files_below
from lfm_ray.errors import UserError

MODALITIES = ("text", "audio", "vision")
SPLITS = {"train": "train", "valid": "val", "test": "test"}
LABELS = ("regression_labels", "labels")
SENTIMENTS = ("Negative", "Neutral", "Positive")


@dataclass(frozen=True, slots=True)
class Steps(Embedded):
    """The sequence of one sample, (T, d), in an array of the pickle; it becomes a .npy file without its padding.

    length: its first steps that are no padding; None: all but steps of zeros at either end. A sequence of padding alone
    has one step of zeros. Minus infinity and NaN become 0, as in both loaders.
    """

    name: str
    data: bytes | Place
    shape: tuple[int, ...]
    dtype: str
    length: int | None

    @property
    def place(self) -> str:
        """The array and the number of the sample."""
        return self.name

    @property
    def most_steps(self) -> int:
        """Those of the array, padding included."""
        return self.shape[0]

    def copy_to(self, target: IO[bytes]) -> None:
        """Writes the .npy file."""
        found = np.frombuffer(pickles.read_bytes(self.file, self.data), self.dtype)
        if found.size != np.prod(self.shape):
            raise ValueError("is damaged: the file around it is shorter than before")
        steps = found.reshape(self.shape).astype(np.float32)
        steps[np.isneginf(steps) | np.isnan(steps)] = 0
        if self.length is not None:
            steps = steps[: max(1, self.length)]
        else:
            there = np.flatnonzero(steps.any(axis=1))
            steps = steps[there[0] : there[-1] + 1] if len(there) else steps[:1]
        content = io.BytesIO()
        np.save(content, steps, allow_pickle=False)
        target.write(content.getvalue())


def read(root: Path) -> pd.DataFrame:
    """Reads the only .pkl file below `root`: `label` is the sign of the sentiment, `score` the sentiment, -3 to 3.

    Raises:
        UserError: there is none, there are several, or it is in neither layout.
    """
    found = sorted(path for path in files_below(root) if path.suffix.lower() in (".pkl", ".pickle"))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found) or "none"
        raise UserError(
            f"{root}: must hold one .pkl file of features, and holds {len(found)} ({names}); name its folder"
        )
    file = found[0]
    content = pickles.read(file)
    if not isinstance(content, dict) or not set(SPLITS) <= set(content):
        raise UserError(
            f"{file}: is not a dict with {', '.join(SPLITS)}; data/cmu_mosi_features.yaml says what is read"
        )
    rows: list[dict[str, Any]] = []
    for name, split in SPLITS.items():
        rows += [row | {"split": split} for row in _rows(file, name, content[name])]
    return pd.DataFrame(rows)


def _rows(file: Path, split: str, part: Any) -> list[dict[str, Any]]:
    where = f"{file}: {split}"
    if not isinstance(part, dict):
        raise UserError(f"{where}: is not a dict of arrays")
    named = next((name for name in LABELS if name in part), None)
    for name in (*MODALITIES, named):
        if name is None or name not in part:
            raise UserError(f"{where}: has no {name or ' or '.join(LABELS)}")
    arrays = {name: _array(f"{where}: {name}", part[name]) for name in MODALITIES}
    count = len(_values(file, part[named]))
    scores = np.asarray(_values(file, part[named])).reshape(count, -1)
    if scores.shape[1:] != (1,) or scores.dtype.kind not in "fiu" or not np.isfinite(scores).all():
        raise UserError(f"{where}: {named} does not hold one number for each sample")
    for name, array in arrays.items():
        if array.shape[0] != count:
            raise UserError(f"{where}: {name} has {array.shape[0]} samples, {named} {count}")
    lengths = {name: _lengths(file, where, part, name, arrays[name].shape) for name in MODALITIES}
    size = file.stat().st_size
    return [
        {
            "id": name,
            "label": SENTIMENTS[int(np.sign(scores[i, 0])) + 1],
            "score": float(scores[i, 0]),
            **{
                modality: Steps(
                    str(file), size, f"{split}/{modality}[{i}]", array.row(i), array.shape[1:], str(array.dtype),
                    None if (known := lengths[modality]) is None else int(known[i]),
                )
                for modality, array in arrays.items()
            },
        }
        for i, name in enumerate(_ids(file, split, part, count))
    ]  # fmt: skip


def _array(where: str, value: Any) -> PickledArray:
    """An array of sequences."""
    if not isinstance(value, PickledArray) or value.dtype is None or value.dtype.kind not in "fiu":
        raise UserError(f"{where}: is not an array of numbers")
    if len(value.shape) != 3 or not all(value.shape):
        raise UserError(f"{where}: has shape {list(value.shape)}, not samples, steps and entries")
    return value


def _values(file: Path, value: Any) -> Any:
    """An array, or a list."""
    return value.values(file) if isinstance(value, PickledArray) else value if isinstance(value, Sequence) else []


def _lengths(file: Path, where: str, part: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """(N,): the steps of each sample that are no padding, where the file says it."""
    if f"{name}_lengths" in part:
        found = np.asarray(_values(file, part[f"{name}_lengths"])).reshape(-1)
    elif name == "text" and isinstance(part.get("text_bert"), PickledArray):
        tokens = part["text_bert"].values(file)
        if tokens.shape != (shape[0], 3, shape[1]):
            return None
        found = tokens[:, 1].sum(axis=1)
    else:
        return None
    if found.shape != shape[:1] or found.dtype.kind not in "fiu" or not ((found >= 0) & (found <= shape[1])).all():
        raise UserError(f"{where}: {name}_lengths are not {shape[0]} numbers of steps, 0 to {shape[1]}")
    return found


def _ids(file: Path, split: str, part: Mapping[str, Any], count: int) -> list[str]:
    """`VIDEO/CLIP`; of samples without name the split and the number."""
    numbered = [f"{split}/{number}" for number in range(count)]
    if "id" not in part or len(found := _values(file, part["id"])) != count:
        return numbered
    ids = [_text(value) for value in found]
    return ids if len(set(ids)) == count else numbered


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, list | tuple | np.ndarray):
        return "/".join(_text(one) for one in value)
    return str(value).replace("$_$", "/")
