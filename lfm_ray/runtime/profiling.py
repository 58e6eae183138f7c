"""Where the time of a training step goes: `python -m lfm_ray.train --profile`.

The code of a step says by `part` what it is doing, which costs about a microsecond and measures
nothing unless a `Profile` is on. On a GPU a part begins and ends when the device has nothing left
to do: each part has its own time, and what otherwise overlaps does not.
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
WARM_UP = 3  # steps that are left out: memory is allocated, kernels are chosen, encoders compiled


class Profile:
    """Sums seconds by part of a step. Parts do not overlap: inside one, others count as that one.

    device: what the run computes on. A step is that of a batch which passes through `steps_of`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.warm_up, self.steps, self.samples, self.seconds = WARM_UP, 0, 0, 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self._of_this_step = dict.fromkeys(PARTS, 0.0)
        self._inside = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Measures what this process trains inside."""
        global _current
        _current = self
        try:
            yield
        finally:
            _current = None

    def steps_of(self, batches: Batches) -> Batches:
        """The same batches. A step lasts from asking for one until asking for the next."""
        return _Watched(batches, self)

    def now(self) -> float:
        """Seconds, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what runs inside as `name`."""
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
        """A step begins now; what was measured since the last one belongs to none."""
        self._of_this_step = dict.fromkeys(PARTS, 0.0)
        return self.now()

    def end(self, samples: int, began: float) -> None:
        """The step, of so many samples on this rank, ends."""
        seconds = self.now() - began
        if self.warm_up:
            self.warm_up -= 1
            return
        self.steps, self.samples, self.seconds = self.steps + 1, self.samples + samples, self.seconds + seconds
        self.parts = {name: seconds + self._of_this_step[name] for name, seconds in self.parts.items()}

    def summary(self) -> dict[str, Any]:
        """Numbers for JSON: steps, samples, seconds of all steps, and seconds of each part; `other` is the rest."""
        parts = {**self.parts, "other": self.seconds - sum(self.parts.values())}
        return {"steps": self.steps, "samples": self.samples, "seconds": self.seconds, "parts": parts}


_current: Profile | None = None


@contextmanager
def part(name: str) -> Iterator[None]:
    """What runs inside is this part of a step (one of `PARTS`); also a decorator."""
    if _current is None:
        yield
        return
    with _current.part(name):
        yield


@dataclass(frozen=True)
class _Watched:
    """Batches whose steps are measured."""

    batches: Batches
    profile: Profile

    @property
    def steps(self) -> int:
        """Batches an epoch."""
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
