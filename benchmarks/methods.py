"""What does a step of each training method cost, against joint training with the same fusion head?

    python benchmarks/methods.py                            ResNet-18 x 2, batch 16: about 8 minutes on 2 cores
    python benchmarks/methods.py --steps 3 --only mla umt   about 1 minute

A method's step and that of `lfm` with alpha = 0 take turns in one process, on the same made-up batch;
"x" is the median over turns of its time over that of joint training, which pays for L_MM as well.
Methods that alternate over epochs are measured in each kind of epoch. No Ray is needed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from progress import begin
from rows import RunningTable
from step import batch_of, make_run

from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.methods import METHODS
from lfm_ray.training.trainer import Trainer

SETTINGS = ["model.encoder=resnet18", "model.embedding_size=512", "optimizer.name=sgd", "optimizer.learning_rate=0.001",
            "optimizer.schedule=constant", "loss.matching=js", "epochs=4"]  # fmt: skip
PHASES = {"recon_boost": ("turn", "rectify"), "umt": ("teachers", "students")}


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=7, help="timed turns after one more")
    arguments.add_argument("--only", nargs="+", choices=sorted(METHODS), help="only these methods")
    given = arguments.parse_args()
    begin("8 minutes on 2 cores for all methods, 1 for --steps 3 --only mla umt")
    batch = replace(batch_of(given.batch_size), rows=torch.arange(given.batch_size))
    columns = {"method": 16, "epoch": 8, "head": 8, "ms": 6, "joint ms": 8, "x": 5}
    table = RunningTable(columns, f"a step, batch {given.batch_size}")
    cases = [(name, phase) for name in given.only or METHODS for phase in PHASES.get(name, ("",))]
    for name, phase in cases:
        run = in_phase(make_run([*SETTINGS, f"method={name}"]), batch, phase)
        head = run.config.model.fusion
        joint = make_run([*SETTINGS, f"model.fusion={head}"])
        joint.alpha = 0.0
        turns = [(seconds(run, batch), seconds(joint, batch)) for _ in range(given.steps + 1)][1:]
        ratio = statistics.median(own / other for own, other in turns)
        own, other = (1000 * statistics.median(times) for times in zip(*turns, strict=True))
        table.add(name, phase, head, f"{own:.0f}", f"{other:.0f}", f"{ratio:.2f}")


def in_phase(run: Trainer, batch: Batch, phase: str) -> Trainer:
    """The run in an epoch of this kind; alpha is 0."""
    run.alpha.value = 0.0
    if phase == "rectify":
        run.epoch = 1
    elif phase == "students":
        run.epoch = 1  # the last epoch of the teachers
        run.training_step(batch)
        run.method.on_epoch_end(run.state(), {})
        run.epoch = 2
    return run


def seconds(run: Trainer, batch: Batch) -> float:
    """Of one step."""
    started = time.perf_counter()
    run.training_step(batch)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
