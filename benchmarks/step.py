"""What does a training step cost, against the plain way and against the bare encoders?

    python benchmarks/step.py                              batch 16 and 64: about 15 minutes on 2 cores
    python benchmarks/step.py --batch-size 16 --steps 3    about 4 minutes
    python benchmarks/step.py --precision bf16             ours and the bare step in bf16; on a GPU as well

ResNet-18 for spectrograms (1 x 257 x 299) and ResNet-18 for images (3 x 224 x 224), SGD.

    ours            Trainer.training_step with the default settings (`compute`: auto)
    bare            forward, mean square, backward, SGD of the same encoders in the same precision and
                    memory format, and nothing else
    plain           the usual loop: float32, default memory format, the same losses, PyTorch's default SGD
    plain, anomaly  the same under torch.autograd.set_detect_anomaly(True), as the official code leaves it

Each variant runs against `ours`, in processes of their own that take turns step by step, since a
machine's speed drifts. "ours is x" is the median over turns of its time over ours; /s are samples a
second, by medians; MB is the most memory that a process held. Then 20 steps of `ours` in float32
against `plain`, at a learning rate of 1e-4: the largest difference of the losses. In the same memory
format the numbers are the same; another one rounds otherwise, and training multiplies that.
No Ray is needed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from progress import Rows, begin, say
from rich.console import Console
from torch import Tensor, nn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.models.classifier import MultimodalClassifier
from lfm_ray.settings import load
from lfm_ray.training.trainer import Trainer

SHAPES = {"audio": [1, 257, 299], "image": [3, 224, 224]}
SETTINGS = ["model.encoder=resnet18", "model.embedding_size=512", "optimizer.name=sgd", "optimizer.learning_rate=0.01",
            "optimizer.schedule=constant", "optimizer.gradient_clip=null"]  # fmt: skip
ALPHA, TAU = 0.3, 0.2
Result = TypeVar("Result")
VARIANTS = ("ours", "bare", "plain", "plain, anomaly")


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batch-size", type=int, nargs="+", default=[16, 64])
    arguments.add_argument("--steps", type=int, help="timed steps after one more; default 7, and 3 above batch 16")
    arguments.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments.add_argument("--equality-batch-size", type=int, default=16, help="of the 20 steps; 0: not compared")
    given = arguments.parse_args()
    begin("15 minutes for batches of 16 and 64 on 2 cores, 4 for --batch-size 16 --steps 3")
    console = Console(width=110, highlight=False)
    settings = [*SETTINGS, f"compute.precision={given.precision}", f"device={given.device}"]
    described = in_a_process(describe, settings)
    say(described)
    table = Rows(title=f"ResNet-18 x 2, {described}", title_justify="left")
    columns = ("batch", "step", "ours /s", "it /s", "ours is x", "goal", "ours MB", "it MB", "ours / it", "goal")
    for column in columns:
        table.add_column(column, justify="left" if column == "step" else "right")
    cases = [(batch_size, name) for batch_size in given.batch_size for name in VARIANTS[1:]]
    for batch_size, name in cases:
        steps = given.steps or (7 if batch_size <= 16 else 3)
        (ours, peak_of_ours), (other, peak) = in_turns(("ours", name), settings, batch_size, steps)
        faster = statistics.median(its / own for its, own in zip(other, ours, strict=True))
        speed = [batch_size / statistics.median(times) for times in (ours, other)]
        table.add_row(
            str(batch_size), name, f"{speed[0]:.2f}", f"{speed[1]:.2f}", f"{faster:.2f}",
            {"bare": "0.95", "plain": "2.00", "plain, anomaly": "2.50"}[name],
            f"{peak_of_ours / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{peak_of_ours / peak:.2f}",
            "1.10" if name == "bare" else "",
        )  # fmt: skip
    console.print(table)
    if given.equality_batch_size:
        say("20 steps of ours and of plain in fp32, twice")
        console.print("fp32, 20 steps, largest difference of ours from plain, in the loss:")
        for name in ("contiguous", "channels_last"):
            difference = in_a_process(difference_over_20_steps, settings, given.equality_batch_size, name)
            console.print(f"  {name:14} {difference:.1e}   (goal 1e-05)")


def in_a_process(function: Callable[..., Result], *arguments: object) -> Result:
    """The function's result, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def describe(settings: list[str]) -> str:
    """Where and how `ours` runs."""
    run = make_run(settings)
    cuda = run.device.type == "cuda"
    where = (
        torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    )
    precision = sorted({str(dtype).removeprefix("torch.") for dtype in run.model.autocast.values()}) or ["float32"]
    return f"{where}; ours and bare: {', '.join(precision)}, {layout_of(run.model)}"


def make_run(settings: list[str]) -> Trainer:
    """A run on made-up data of the shapes above."""
    cards = {
        name: ModalityCard(
            kind="audio" if name == "audio" else "image", shape=shape, dtype="float32", mean=0.1, std=1.1
        )
        for name, shape in SHAPES.items()
    }
    card = DatasetCard(modalities=cards, classes=list("abcdef"), splits={}, preprocessing={}, fingerprint="0")
    run = Trainer(load(RunConfig, None, settings), card)
    run.prepare(1000)
    run.alpha.value = ALPHA
    return run


def layout_of(model: nn.Module) -> str:
    """The memory format of the image encoder's convolutions."""
    weight = model.encoders["image"].body.embedder.embedder.convolution.weight
    return "channels_last" if weight.is_contiguous(memory_format=torch.channels_last) else "contiguous"


def batch_of(size: int, seed: int = 0) -> Batch:
    """Made-up samples."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(size, *shape, generator=generator) for name, shape in SHAPES.items()}
    return Batch(inputs, torch.randint(0, 6, (size,), generator=generator))


def step_of(name: str, settings: list[str]) -> tuple[Callable[[Batch], Tensor], torch.device]:
    """One training step of a variant: batch -> its loss."""
    if name.startswith("plain"):
        settings = [*settings, "compute.precision=fp32", "compute.memory_format=contiguous"]
    run = make_run(settings)
    if name == "ours":
        return lambda batch: run.training_step(batch).losses.total, run.device
    optimizer = torch.optim.SGD(
        run.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, **({"fused": True} if name == "bare" else {})
    )
    loss_of = bare_loss if name == "bare" else plain_loss

    def step(batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(run.model, batch.to(run.device))
        run.scaler.scale(loss).backward()
        run.scaler.step(optimizer)
        run.scaler.update()
        return loss

    return step, run.device


def bare_loss(model: MultimodalClassifier, batch: Batch) -> Tensor:
    """The mean square of the encoders' outputs."""
    losses = []
    for name, value in batch.inputs.items():
        half = model.autocast.get(name)
        with torch.autocast(value.device.type, half or torch.bfloat16, enabled=half is not None):
            losses.append(model.encoders[name].body(value).pooler_output)
    return torch.stack([value.float().square().mean() for value in losses]).sum()


def plain_loss(model: MultimodalClassifier, batch: Batch) -> Tensor:
    """The paper's loss as one would write it for two modalities."""
    z, logits = [], torch.zeros(())
    for name, value in batch.inputs.items():
        encoder = model.encoders[name]
        z.append(encoder.project(encoder.body((value - 0.1) / 1.1).pooler_output.flatten(1)))
        logits = logits + model.head.classifiers[name](z[-1])
    similarity = F.normalize(z[0], dim=1) @ F.normalize(z[1], dim=1).T / TAU
    match = torch.arange(len(similarity), device=similarity.device)
    matching = (F.cross_entropy(similarity, match) + F.cross_entropy(similarity.T, match)) / 2
    return (1 - ALPHA) * F.cross_entropy(logits, batch.labels) + ALPHA * matching


def in_turns(
    names: tuple[str, str], settings: list[str], batch_size: int, steps: int
) -> list[tuple[list[float], float]]:
    """For each of two variants: the seconds of its steps after the first, and its peak memory in bytes."""
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for _ in names]
        for pool, name in zip(pools, names, strict=True):
            pool.submit(start, name, settings, batch_size).result()
        times = []
        for turn in range(steps + 1):
            times.append([pool.submit(timed_step).result() for pool in pools])
            taken = ", ".join(f"{name} {taken:.2f} s" for name, taken in zip(names, times[-1], strict=True))
            say(f"batch {batch_size}, turn {turn} of {steps}: {taken}{'' if turn else ' (warming up)'}")
        peaks = [pool.submit(peak).result() for pool in pools]
    return [(list(own), most) for own, most in zip(zip(*times[1:], strict=True), peaks, strict=True)]


STARTED: dict[str, Any] = {}  # of this process


def start(name: str, settings: list[str], batch_size: int) -> None:
    """Makes a variant in this process."""
    torch.autograd.set_detect_anomaly(name == "plain, anomaly")
    step, device = step_of(name, settings)
    STARTED.update(step=step, batch=batch_of(batch_size), cuda=device.type == "cuda")


def timed_step() -> float:
    """Seconds of one step of this process's variant."""
    started = time.perf_counter()
    STARTED["step"](STARTED["batch"])
    if STARTED["cuda"]:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak() -> float:
    """The most memory so far, in bytes; on a GPU what PyTorch allocated."""
    if STARTED["cuda"]:
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def difference_over_20_steps(settings: list[str], batch_size: int, memory_format: str) -> float:
    """The largest difference between the losses of `ours` in float32 and of `plain`."""
    settings = [*settings, "compute.precision=fp32", "optimizer.learning_rate=1e-4"]
    ours = make_run([*settings, f"compute.memory_format={memory_format}"])
    model = make_run([*settings, "compute.memory_format=contiguous"]).model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    largest = 0.0
    for number in range(20):
        batch = batch_of(batch_size, number % 4)
        optimizer.zero_grad()
        loss = plain_loss(model, batch.to(ours.device))
        loss.backward()
        optimizer.step()
        largest = max(largest, abs(loss.item() - ours.training_step(batch).losses.total.item()))
    return largest


if __name__ == "__main__":
    main()
