"""Predictions for raw media files by an exported model. This module does not need Ray.

model = lfm_ray.load("exported/mine")
model.predict({"audio": "seven.wav", "image": "seven.png"}).label
for prediction in model.predict([{"audio": "1.wav", "image": "1.png"}, {"audio": "2.wav", "image": "2.png"}]):
    print(prediction.label, prediction.probabilities, prediction.unimodal["audio"])
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from lfm_ray.datasets.columns import Column, PackedFrames, presence
from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing.decoding import BrokenMedia, decode
from lfm_ray.datasets.preparing.manifest import Row
from lfm_ray.datasets.reading.batches import from_memory
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.errors import UserError
from lfm_ray.export.embedders import read_embedders
from lfm_ray.export.model_folder import preprocessing_in, read
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.embedding import embedded_where
from lfm_ray.models.targets import TARGETS
from lfm_ray.settings import nearest

Sample = Mapping[str, str | os.PathLike[str] | float | None]
TIMES = ("start", "end")


@dataclass(frozen=True)
class Prediction:
    """The model's prediction for one sample.

    label: the most likely class, or as a manifest writes it the labels whose probability is above 1/2 (`dog;rain`), or
    the number; probabilities: class or label -> probability, of the training method's fused prediction; unimodal:
    modality -> class -> probability, of that modality alone, without those that the sample lacks; labels: those of
    several. value, unimodal_values: of targets that are numbers, in their unit; then there are no probabilities.
    """

    label: str
    probabilities: dict[str, float]
    unimodal: dict[str, dict[str, float]]
    labels: tuple[str, ...] = ()
    value: float | None = None
    unimodal_values: dict[str, float] = field(default_factory=dict)


class Predictor:
    """An exported model (`lfm_ray.export.model_folder`), ready to classify raw media.

    Like a row of a manifest, a sample names a file for each modality, or the text itself, and
    optionally `start` and `end`, the seconds of a clip within its files. Files are decoded with the
    code and the settings that prepared the training data, and pass through the same storage
    (`storage`: JPEG, 16-bit sound). A modality that rows of the training data lacked (`prepare --allow-missing`) can
    be left out of a sample, or be None. Two things are left out: `noise`, which only made the task
    harder, and augmentation, which evaluation does not have either.

    Computes in float32, whatever the precision of training. device: auto is the GPU if there is one.

    Raises:
        UserError: the folder is not an exported model, or was altered.
    """

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        folder = Path(folder)
        if device != "cpu" and not torch.cuda.is_available():
            if device != "auto":
                raise UserError(f"device: {device} was asked for, but there is no usable GPU")
            device = "cpu"
        self.card, model = read(folder)
        self.device = torch.device("cuda" if device == "auto" else device)
        self.model = model.to(self.device)
        self.classes: list[str] = self.card.dataset.classes
        self.modalities: dict[str, Kind] = {name: one.kind for name, one in self.card.dataset.raw.items()}
        self._preprocessing = preprocessing_in(folder, self.card)
        self._embedders = read_embedders(self.card.dataset, folder, self.device)
        self._inputs = Inputs.of(self.card.dataset, self.card.run.data)
        self._method = self.card.run.method

    @overload
    def predict(self, samples: Sample, batch_size: int = 32) -> Prediction: ...
    @overload
    def predict(self, samples: Sequence[Sample], batch_size: int = 32) -> list[Prediction]: ...
    def predict(self, samples: Sample | Sequence[Sample], batch_size: int = 32) -> Prediction | list[Prediction]:
        """The prediction for one sample, or for each of several; batch_size: samples in memory at once.

        Raises:
            UserError: a modality is missing or unknown, or a file cannot be decoded.
        """
        if isinstance(samples, Mapping):
            return self.predict([samples])[0]
        rows = [self._row(number, sample) for number, sample in enumerate(samples)]
        return [
            prediction
            for first in range(0, len(rows), batch_size)
            for prediction in self._predictions(self._outputs(rows[first : first + batch_size]))
        ]

    def outputs(self, samples: Sequence[Sample]) -> Outputs:
        """Logits and embeddings of the samples, computed as one batch in evaluation mode."""
        return self._outputs([self._row(number, sample) for number, sample in enumerate(samples)])

    def _row(self, number: int, sample: Sample) -> Row:
        """A sample as a row of a manifest, with white space stripped from the ends of its texts."""
        where = f"sample {number}"
        if not isinstance(sample, Mapping):
            raise UserError(f"{where}: must be a mapping from modality to file or text, not {type(sample).__name__}")
        for name in sample:
            if name not in self.modalities and name not in TIMES:
                raise UserError(f"{where}: there is no modality {name!r}{nearest(name, list(self.modalities))}")
        values: dict[str, str] = {}
        for name, kind in self.modalities.items():
            value = sample.get(name)
            if value is None and self.card.dataset.modalities[name].missing:
                continue
            if not isinstance(value, str if kind == "text" else str | os.PathLike) or not str(value).strip():
                what = "the text" if kind == "text" else f"the path of its {kind}"
                raise UserError(f"{where}: {name} must be {what}; the model takes {', '.join(self.modalities)}")
            values[name] = str(value).strip() if kind == "text" else os.fspath(value)
        if not values:
            raise UserError(f"{where}: has no modality; the model takes {', '.join(self.modalities)}")
        start, end = (_seconds(where, name, sample.get(name)) for name in TIMES)
        if end is not None and end <= (start or 0):
            raise UserError(f"{where}: end must be after start")
        return Row(str(number), 0, values, start, end)

    def _outputs(self, rows: Sequence[Row]) -> Outputs:
        numbers = np.arange(len(rows))
        columns: dict[str, Column] = {}
        for name in self.modalities:
            there = np.array([name in row.values for row in rows], dtype=bool)
            columns[name] = self._column(name, rows, there)
            if self.card.dataset.modalities[name].missing:
                columns[presence(name)] = there
        chosen, _ = from_memory(columns, numbers)(numbers, self._inputs.frames(numbers, 1))
        inputs = self._inputs(chosen, numbers, 1)
        with torch.no_grad():
            outputs: Outputs = self.model({name: value.to(self.device) for name, value in inputs.items()})
        return outputs

    def _column(self, name: str, rows: Sequence[Row], there: np.ndarray) -> Column:
        """One modality of the rows, as shards would hold it; there: which of them have it."""
        card = self.card.dataset.raw[name]
        frames = card.stored_shape[0] if card.storage == "jpeg" else 0
        nothing = (
            [b""] * frames if frames else np.zeros(card.arrow_type.shape, card.arrow_type.value_type.to_pandas_dtype())
        )
        try:
            stored = [
                decode(row, name, self.modalities[name], self._preprocessing).stored if name in row.values else nothing
                for row in rows
            ]
        except BrokenMedia as error:
            row = next(row for row in rows if str(row.values.get(name)) == error.path)
            raise UserError(f"sample {row.id}: {name}: {error.path}: {error.reason}") from None
        column: Column
        if frames:
            column = PackedFrames.pack([files for files in stored if isinstance(files, list)])
        else:
            column = np.stack([array for array in stored if isinstance(array, np.ndarray)])
        return embedded_where(self._embedders[name], column, there) if name in self._embedders else column

    def _predictions(self, outputs: Outputs) -> list[Prediction]:
        fused = self._said(self._method.predict(outputs))
        unimodal = {name: self._said(logits) for name, logits in outputs.unimodal.items()}
        masks = {name: outputs.rows_with(name) for name in unimodal}
        return [
            self._prediction(
                row, {name: rows[i] for name, rows in unimodal.items() if (mask := masks[name]) is None or mask[i]}
            )
            for i, row in enumerate(fused)
        ]

    def _prediction(self, said: np.ndarray, alone: Mapping[str, np.ndarray]) -> Prediction:
        """The prediction for one sample; said: (C,), and modality -> (C,)."""
        target = self.card.dataset.target
        if target.kind == "regression":
            values = {name: float(row[0]) for name, row in alone.items()}
            return Prediction(target.words(said[0], []), {}, {}, (), float(said[0]), values)
        probabilities = dict(zip(self.classes, said.tolist(), strict=True))
        unimodal = {name: dict(zip(self.classes, row.tolist(), strict=True)) for name, row in alone.items()}
        if target.kind == "classes":
            return Prediction(self.classes[said.argmax()], probabilities, unimodal)
        labels = tuple(name for name, probability in probabilities.items() if probability > 0.5)
        return Prediction(target.words(said > 0.5, self.classes), probabilities, unimodal, labels)

    def _said(self, logits: Tensor) -> np.ndarray:
        """(B, C) -> probabilities, or the number in its unit."""
        target = self.card.dataset.target
        return target.in_its_unit(TARGETS[target.kind].said(logits.double()).cpu().numpy())


def _seconds(where: str, name: str, value: object) -> float | None:
    if value is None or (isinstance(value, int | float) and 0 <= value < float("inf")):
        return value
    raise UserError(f"{where}: {name} must be a number of seconds, 0 or more")
