"""What a run costs: parameters, operations, time and memory of a training step.

`costs.json` in a run's folder, written when it has ended. The operations are counted, by PyTorch's own formulas
(`torch.utils.flop_counter`), in one step that the run takes anyway; that changes nothing about the step.
"""

from __future__ import annotations

import json
import statistics
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lfm_ray import storage
from lfm_ray.checksums import is_whole, with_checksum
from lfm_ray.datasets.reading.batches import Batch, Batches
from lfm_ray.files import write_atomically
from lfm_ray.runtime import compute, distributed
from lfm_ray.training.run_folder import RUN, is_anothers, run_key
from lfm_ray.training.trainer import Trainer

COSTS = "costs.json"
WARM_UP = 1  # steps that are not counted: the optimiser's state is made, kernels are chosen


@dataclass(frozen=True)
class Costs:
    """What a run costs; None: unknown.

    parameters: of the model; trained: those of them that are not frozen. flops: floating-point operations of the
    prediction for one sample, with all modalities; training_flops: of a training step, its backward passes and its
    share of the updates of alpha included, for one sample. Additions and multiplications count singly; only matrix
    products, convolutions and attention are counted. seconds: of a training step, waiting for data included, the
    median over epochs. memory: bytes at the peak: on a GPU all that was allocated on it during the run, on a CPU the
    tensors of one training step, the model and the optimiser's state.
    """

    parameters: int
    trained: int
    flops: float | None
    training_flops: float | None
    seconds: float | None
    memory: int | None


class Meter:
    """Measures the steps of one run in this process, the training batches of which pass through `steps_of`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        # Compiled code hides its operations, and with several ranks some of them wait for others.
        self.counts = not trainer.config.compute.compile and distributed.rank_and_world_size()[1] == 1
        self.counted: dict[bool, float] = {}  # whether alpha was updated -> operations a sample
        self.memory = 0
        self.steps = self.updates = 0
        self.epochs: list[float] = []  # seconds a step
        self.last: Batch | None = None
        self._counter: Counter | None = None
        if trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.device)

    def steps_of(self, batches: Batches) -> Batches:
        """The same batches, measured. A step lasts from one request for a batch to the next."""
        return _Measured(batches, self)

    def epoch(self, batches: Iterator[Batch], steps_an_epoch: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        first = min(WARM_UP, self.trainer.config.epochs * steps_an_epoch - 1)  # a run may have no more steps
        began, counting, taken = time.perf_counter(), 0.0, 0
        for batch in batches:
            due = self.trainer.alpha.due(self.trainer.steps + 1, steps_an_epoch)
            started = time.perf_counter()
            if self.counts and self.steps >= first and due not in self.counted:
                self._counter = Counter()
                self._counter.__enter__()
                yield batch
                counter = self.stop()
                self.counted[due] = counter.flops / len(batch.labels)
                self.memory = max(self.memory, counter.peak + self._resident())
                counting += time.perf_counter() - started
            else:
                yield batch
                taken += 1
            self.steps, self.updates, self.last = self.steps + 1, self.updates + due, batch
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        if taken:
            self.epochs.append((time.perf_counter() - began - counting) / taken)

    def stop(self) -> Counter:
        """Ends the counting of a step; whoever trains calls it also where a step failed."""
        counter, self._counter = self._counter, None
        if counter is None:
            return Counter()
        counter.__exit__(None, None, None)
        return counter

    def costs(self) -> Costs:
        """What has been measured so far."""
        model, device = self.trainer.model, self.trainer.device
        sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else self.memory
        return Costs(
            parameters=sum(size for size, _ in sizes),
            trained=sum(size for size, trained in sizes if trained),
            flops=self._of_prediction(),
            training_flops=self._of_steps(),
            seconds=statistics.median(self.epochs[1:] or self.epochs) if self.epochs else None,
            memory=memory or None,
        )

    def _of_steps(self) -> float | None:
        if not self.counted:
            return None
        plain = self.counted.get(False, self.counted.get(True, 0.0))
        return plain + (self.counted.get(True, plain) - plain) * self.updates / self.steps

    def _of_prediction(self) -> float | None:
        if not self.counts or self.last is None:
            return None
        model, rows = self.trainer.evaluated, min(2, len(self.last.labels))
        given = self.last.inputs  # without the masks of what is missing: of a sample that has everything
        inputs = {name: value[:rows] for name, value in given.items() if name in self.trainer.model.shapes}
        ready = compute.on_device(Batch(inputs, self.last.labels[:rows]), self.trainer.device)
        training = model.training
        model.eval()
        with torch.no_grad(), Counter() as counter:
            model(ready.inputs)
        model.train(training)
        return counter.flops / rows

    def _resident(self) -> int:
        """Bytes of the model, of the optimiser's state and of the method's."""
        trainer = self.trainer
        states = [value for state in trainer.optimizer.state.values() for value in state.values()]
        tensors = [*trainer.model.parameters(), *trainer.model.buffers(), *states, *trainer.memory.values()]
        return sum(one.untyped_storage().nbytes() for one in tensors if isinstance(one, Tensor))


@dataclass(frozen=True)
class _Measured:
    batches: Batches
    meter: Meter

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.batches.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`."""
        return self.meter.epoch(self.batches.epoch(epoch), self.steps)


class Counter(TorchDispatchMode):
    """Inside, counts the floating-point operations, and the bytes of the tensors that are made.

    flops: by the formulas of `torch.utils.flop_counter`, whose own counter also follows the modules, for which it
    leaves hooks in the graph that second derivatives do not bear. peak: the most bytes that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.peak, self._now = 0, 0, 0
        self._held: dict[int, tuple[Any, int]] = {}  # storage -> what tells of its end, its bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        kwargs = kwargs or {}
        known = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        result = func(*args, **kwargs)
        if (packet := func._overloadpacket) in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=result)
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in known:
                self._hold(one.untyped_storage())
        return result

    def _hold(self, made: torch.UntypedStorage) -> None:
        key = made._cdata
        if key not in self._held:
            self._held[key] = weakref.ref(made, lambda _: self._let_go(key)), made.nbytes()
            self._now += made.nbytes()
            self.peak = max(self.peak, self._now)

    def _let_go(self, key: int) -> None:
        self._now -= self._held.pop(key)[1]


def write_costs(folder: Path, costs: Costs) -> None:
    """Writes what a run has cost into its folder."""
    write_atomically(folder / COSTS, json.dumps(with_checksum(asdict(costs) | {RUN: run_key(folder)})))
    storage.push(folder / COSTS)


def read_costs(folder: Path) -> Costs | None:
    """What the run in a folder has cost; None if it has not ended, is of an earlier version, or the file is damaged or
    another run's."""
    storage.fetch(folder / COSTS)
    try:
        content = json.loads((folder / COSTS).read_text(encoding="utf-8"))
        if not is_whole(content) or is_anothers(content.get(RUN), run_key(folder)):
            return None
        return Costs(**{one.name: content[one.name] for one in fields(Costs)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
