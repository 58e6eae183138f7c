"""What the rows of a dataset are labelled with: one of several classes, any number of labels, or a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.settings import Settings


class TargetCard(Settings):
    """What the column `label` of the shards holds.

    classes: the index of the row's class, int64. multilabel: for each label 1 if the row has it, else 0, uint8 (C,).
    regression: a number, float64.
    """

    kind: TargetKind = "classes"
    mean: float = Field(0.0, description="regression: mean of the train split, which is subtracted for training")
    std: float = Field(1.0, gt=0, description="regression: its standard deviation, by which the rest is divided")

    def arrow_type(self, classes: int) -> pa.DataType:
        """Arrow type of the column `label`."""
        if self.kind == "multilabel":
            return pa.fixed_shape_tensor(pa.uint8(), [classes])
        return pa.int64() if self.kind == "classes" else pa.float64()

    def trouble(self, labels: np.ndarray, classes: int) -> str:
        """What is wrong with stored labels, which only an altered file can have; empty if nothing is."""
        if not len(labels):
            return ""
        if self.kind == "classes" and not 0 <= labels.min() <= labels.max() < classes:
            return f"a label is outside the {classes} classes"
        if self.kind == "multilabel" and labels.max() > 1:
            return "a label is neither 0 nor 1"
        if self.kind == "regression" and not np.isfinite(labels).all():
            return "a label is not finite"
        return ""

    def for_training(self, labels: np.ndarray) -> np.ndarray:
        """Stored labels as losses take them: numbers are standardised and float32, others stay as they are."""
        return ((labels - self.mean) / self.std).astype(np.float32) if self.kind == "regression" else labels

    def words(self, label: np.ndarray | float, classes: Sequence[str]) -> str:
        """A stored label as a manifest writes it: a class, `dog;rain`, or a number."""
        if self.kind == "classes":
            return classes[int(label)]
        if self.kind == "regression":
            return f"{float(label):.6g}"
        return ";".join(name for name, has in zip(classes, np.asarray(label), strict=True) if has)

    def in_its_unit(self, values: np.ndarray) -> np.ndarray:
        """What a model says, in the unit of the stored labels: the inverse of `for_training`."""
        return values * self.std + self.mean if self.kind == "regression" else values
