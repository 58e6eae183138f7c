"""What is counted of a modality while its samples are decoded: sums, missing values, cut sequences, clipped sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lfm_ray.datasets.preparing.decoding import Sample
from lfm_ray.datasets.shards import ModalityCard

OVERSHOT = 1.1  # up to here sound is beyond [-1, 1] as lossy codecs and resampling make it, and clipping is not heard


class Tally:
    """Of one modality in the rows of a shard.

    Attributes:
        sums: (2, entries), sums and sums of squares of the entries as models see them: one pair, or one for each of
            the card's `entries`.
        steps: of sequences, those that are not padding.
        cut: rows whose sequence is longer than the others' length; longest: the most steps of a row.
        clipped: rows of 16-bit sound that reached far beyond [-1, 1]; loudest: the largest value of one.
        present: (rows,), whether each of the rows so far has the modality.
    """

    def __init__(self, card: ModalityCard, rows: int) -> None:
        self._card = card
        self.sums = np.zeros((2, card.entries))
        self.steps = self.cut = self.longest = self.clipped = 0
        self.loudest = 0.0
        self.present = np.zeros(rows, dtype=bool)

    def add(self, number: int, sample: Sample) -> None:
        """Counts the sample of the row of this number."""
        self.present[number] = True
        if sample.loudest > OVERSHOT:
            self.clipped += 1
            self.loudest = max(self.loudest, sample.loudest)
        values = sample.seen.astype(np.float64)
        if self._card.kind == "audio" and self._card.entries > 1:
            values = values.swapaxes(-1, -2)  # frames, bands
        values = values.reshape(-1, self.sums.shape[1])
        if self._card.padded:
            values = values[~np.isnan(values).any(axis=1)]
            self.steps += len(values)
            self.cut += sample.steps > self._card.shape[0]
            self.longest = max(self.longest, sample.steps)
        self.sums += values.sum(axis=0), np.square(values).sum(axis=0)


def as_json(tallies: Mapping[str, Tally], rows: int) -> dict[str, Any]:
    """What is counted -> modality -> its value, of a shard of so many good rows; see `Tally`. missing: rows without."""
    names = ("steps", "cut", "longest", "clipped", "loudest")
    found: dict[str, Any] = {what: {name: getattr(one, what) for name, one in tallies.items()} for what in names}
    found["sums"] = {name: one.sums.tolist() for name, one in tallies.items()}
    found["missing"] = {name: int((~one.present[:rows]).sum()) for name, one in tallies.items()}
    return found
