"""Where the time of a training step goes: `python -m lfm_ray.train --profile`.

The code of a step marks its parts with `part`, which costs about a microsecond and measures nothing
unless a `Profile` is on. On a GPU the device is synchronised before and after each part, so that each
has its own time; work that otherwise overlaps does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lfm_ray.datasets.reading.batches import Batch, Batches

PARTS = ("data", "forward", "loss", "backward", "optimiser", "alpha update")
WARM_UP = 3  # first steps, left out: memory is allocated, kernels are chosen, encoders compiled


SUMMARY = {"steps", "samples", "seconds", "parts"}  # the keys of `Profile.summary`


class Profile:
    """Sums the seconds of each part of a step. Parts do not overlap: one inside another counts as the outer one.

    device: what the run computes on. Each batch that passes through `steps_of` is one step.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.warm_up, self.steps, self.samples, self.seconds = WARM_UP, 0, 0, 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self._of_this_step = dict.fromkeys(PARTS, 0.0)
        self._inside = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Measures the training that this process does inside."""
        global _current
        _current = self
        try:
            yield
        finally:
            _current = None

    def steps_of(self, batches: Batches) -> Batches:
        """The same batches, timed. A step lasts from one request for a batch to the next."""
        return _Watched(batches, self)

    def now(self) -> float:
        """The time in seconds, once the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time spent inside as `name`."""
        if self._inside:
            yield
            return
        self._inside, started = True, self.now()
        try:
            yield
        finally:
            self._inside = False
            self._of_this_step[name] += self.now() - started

    def begin(self) -> float:
        """Begins a step and returns the time; what was measured since the last step is dropped."""
        self._of_this_step = dict.fromkeys(PARTS, 0.0)
        return self.now()

    def end(self, samples: int, began: float) -> None:
        """Ends the step that began at `began`; samples: how many it had on this rank."""
        seconds = self.now() - began
        if self.warm_up:
            self.warm_up -= 1
            return
        self.steps, self.samples, self.seconds = self.steps + 1, self.samples + samples, self.seconds + seconds
        self.parts = {name: seconds + self._of_this_step[name] for name, seconds in self.parts.items()}

    def summary(self) -> dict[str, Any]:
        """For JSON: steps, samples, seconds of all steps, and seconds of each part; `other` is the rest."""
        parts = {**self.parts, "other": self.seconds - sum(self.parts.values())}
        return {"steps": self.steps, "samples": self.samples, "seconds": self.seconds, "parts": parts}


_current: Profile | None = None


@contextmanager
def part(name: str) -> Iterator[None]:
    """Marks what runs inside as this part of a step (one of `PARTS`); also a decorator."""
    if _current is None:
        yield
        return
    with _current.part(name):
        yield


@dataclass(frozen=True)
class _Watched:
    """Batches whose steps are timed."""

    batches: Batches
    profile: Profile

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.batches.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`."""
        coming = iter(self.batches.epoch(epoch))
        while True:
            began = self.profile.begin()
            with part("data"):
                batch = next(coming, None)
            if batch is None:
                return
            yield batch
            self.profile.end(len(batch.labels), began)
