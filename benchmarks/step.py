"""What does a training step cost, against the bare encoders and against the plain way?

    python benchmarks/step.py                              ResNet-18, batch 16 and 64: about 8 minutes on 2 cores
    python benchmarks/step.py --batch-size 16              about 4 minutes
    python benchmarks/step.py --encoders vit_ast           ViT-S and a transformer for sound of its size, batch 4 and 16
    python benchmarks/step.py --precision bf16             ours and the bare step in bf16; on a GPU as well

resnet18 is a ResNet-18 for spectrograms (1 x 257 x 299) and one for images (3 x 224 x 224). vit_ast is ViT-S/16 for the
same images and an Audio Spectrogram Transformer of the same width and depth for 3 s of sound, both with random weights
and as encoders `auto`, so that a step of `ours` also makes the log-mel spectrograms. The optimiser is SGD.

    ours            Trainer.training_step with the default settings (`compute`: auto)
    bare            forward, mean square, backward, SGD of the same encoders in the same precision and
                    memory format, on inputs that are ready in the CPU's memory
    plain           the usual loop: float32, default memory format, the same losses, PyTorch's default SGD
    plain, anomaly  the same under torch.autograd.set_detect_anomaly(True), as the official code leaves it

Each variant runs against `ours`, in processes of their own that take turns step by step, since a machine's
speed drifts. "ours / it" is the median over turns of our time over its time: 1.05 against `bare` means that
the framework costs 5 %. "interval" is where that median lies with 95 % confidence, by the ranks of the turns; of
fewer than six turns, the lowest and the highest. There are --steps turns, but after three of them no more than
--seconds allow. /s are samples a second, by medians; MB is the most memory that a process held, and its ratio. Then
20 steps of `ours` in float32 against `plain`, ResNets only, at a learning rate of 1e-4: the largest difference of the
losses. In the same memory format the numbers are the same; another one rounds otherwise, and training
multiplies that. No Ray is needed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from intervals import interval_of_median
from progress import begin
from rows import RunningTable, gather
from torch import Tensor, nn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.models.classifier import MultimodalClassifier
from lfm_ray.models.encoders.auto import AutoEncoder
from lfm_ray.settings import load
from lfm_ray.training.trainer import Trainer

SHAPES = {"audio": [1, 257, 299], "image": [3, 224, 224]}
RATE, SOUND, FRAMES = 16000, [48000], 300  # 3 s, a frame every 10 ms
SETTINGS = ["model.embedding_size=512", "optimizer.name=sgd", "optimizer.learning_rate=0.01",
            "optimizer.schedule=constant", "optimizer.gradient_clip=null"]  # fmt: skip
ALPHA, TAU = 0.3, 0.2
Result = TypeVar("Result")
GOALS = {"bare": "1.05", "plain": "0.50", "plain, anomaly": "0.40"}  # of our time over its time
MEMORY = "1.10"  # of our memory over that of bare
BATCHES = {"resnet18": [16, 64], "vit_ast": [4, 16]}
FEWEST = 3
COLUMNS = {"step": 14, "batch": 5, "ours /s": 8, "it /s": 8, "ours / it": 9, "interval": 11, "goal": 5,
           "ours MB": 7, "it MB": 7, "MB / MB": 7, "its goal": 8}  # fmt: skip


def main() -> None:
    """Prints each row when it is measured."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--encoders", choices=tuple(BATCHES), default="resnet18")
    arguments.add_argument("--batch-size", type=int, nargs="+", help="default 16 64, and 4 16 for vit_ast")
    arguments.add_argument("--variants", nargs="+", choices=tuple(GOALS), default=list(GOALS))
    arguments.add_argument("--steps", type=int, default=9, help="timed steps after one more; default 9")
    arguments.add_argument("--seconds", type=float, default=30, help="of a row, see above; default 30")
    arguments.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments.add_argument("--equality-batch-size", type=int, default=16, help="of the 20 steps; 0: not compared")
    arguments.add_argument("--gather", type=Path, metavar="FILE", help="add the rows to a file of benchmarks/gpu.sh")
    given = arguments.parse_args()
    begin("15 minutes for batches of 16 and 64 on 2 cores, 4 for --batch-size 16 --steps 3")
    settings = [*SETTINGS, f"compute.precision={given.precision}", f"device={given.device}"]
    with tempfile.TemporaryDirectory() as scratch:
        settings += encoder_settings(given.encoders, Path(scratch))
        print(f"{given.encoders}: starting", flush=True)
        table: RunningTable | None = None
        for batch_size in given.batch_size or BATCHES[given.encoders]:
            for name in given.variants:
                with Turns(("ours", name), settings, batch_size) as turns:
                    table = table or RunningTable(COLUMNS, turns.description)
                    (ours, peak_of_ours), (other, peak) = turns.measure(given.steps, given.seconds)
                turns_of_it = [own / its for its, own in zip(other, ours, strict=True)]
                ratio = f"{statistics.median(turns_of_it):.3f}"
                low, high = interval_of_median(turns_of_it)
                interval = f"{low:.3f}-{high:.3f}"
                speed = [f"{batch_size / statistics.median(times):.2f}" for times in (ours, other)]
                memory, goal = f"{peak_of_ours / peak:.2f}", MEMORY if name == "bare" else ""
                megabytes = [f"{most / 1e6:.0f}" for most in (peak_of_ours, peak)]
                table.add(name, str(batch_size), *speed, ratio, interval, GOALS[name], *megabytes, memory, goal)
                case = f"{given.encoders}, batch {batch_size}, over {name}"
                gather(given.gather, "step", case, ratio, GOALS[name], memory, goal)
        if given.equality_batch_size and given.encoders == "resnet18":
            print("fp32, 20 steps, largest difference of ours from plain, in the loss:", flush=True)
            for name in ("contiguous", "channels_last"):
                difference = in_a_process(difference_over_20_steps, settings, given.equality_batch_size, name)
                print(f"  {name:14} {difference:.1e}   (goal 1e-05)", flush=True)


def encoder_settings(encoders: str, folder: Path) -> list[str]:
    """The encoders; those of `vit_ast` are saved to the folder with random weights, as a user would have them."""
    if encoders == "resnet18":
        return ["model.encoder=resnet18"]
    import transformers

    transformers.utils.logging.disable_progress_bar()
    size: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**size)).save_pretrained(folder / "image")
    transformers.ASTModel(transformers.ASTConfig(**size, max_length=FRAMES)).save_pretrained(folder / "audio")
    transformers.ASTFeatureExtractor(max_length=FRAMES).save_pretrained(folder / "audio")
    return [f"model.encoders.{name}={{name: auto, pretrained: {folder / name}}}" for name in ("audio", "image")]


def in_a_process(function: Callable[..., Result], *arguments: object) -> Result:
    """The function's result, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def describe(run: Trainer) -> str:
    """Where and how `ours` runs."""
    cuda = run.device.type == "cuda"
    where = (
        torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    )
    precision = sorted({str(dtype).removeprefix("torch.") for dtype in run.model.autocast.values()}) or ["float32"]
    return f"{where}; ours and bare: {', '.join(precision)}, {layout_of(run.model)}"


def make_run(settings: list[str]) -> Trainer:
    """A run on made-up data of the shapes above."""
    config = load(RunConfig, None, settings)
    cards = {
        name: ModalityCard(
            kind="audio" if name == "audio" else "image", shape=shape, dtype="float32", mean=0.1, std=1.1
        )
        for name, shape in SHAPES.items()
    }
    if config.model.encoders:
        cards["audio"] = ModalityCard(kind="audio", shape=SOUND, dtype="int16", mean=0, std=1, sample_rate=RATE)
    card = DatasetCard(modalities=cards, classes=list("abcdef"), splits={}, preprocessing={}, fingerprint="0")
    run = Trainer(config, card)
    run.prepare(1000)
    run.alpha.value = ALPHA
    return run


def layout_of(model: nn.Module) -> str:
    """The memory format of the image encoder's convolutions."""
    weight = next(value for value in model.encoders["image"].body.parameters() if value.ndim == 4)
    return "channels_last" if weight.is_contiguous(memory_format=torch.channels_last) else "contiguous"


def batch_of(size: int, cards: Mapping[str, ModalityCard], seed: int = 0) -> Batch:
    """Made-up samples."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(size, *card.shape, generator=generator) for name, card in cards.items()}
    for name, card in cards.items():
        if card.dtype == "int16":
            inputs[name] = (3000 * inputs[name]).clip(-32768, 32767).to(torch.int16)
    return Batch(inputs, torch.randint(0, 6, (size,), generator=generator))


def step_of(name: str, run: Trainer, batch: Batch) -> Callable[[], Tensor]:
    """One training step of a variant on the batch, which returns its loss."""
    if name == "ours":
        return lambda: run.training_step(batch).losses.total
    optimizer = torch.optim.SGD(
        [parameter for parameter in run.model.parameters() if parameter.requires_grad],
        lr=0.01, momentum=0.9, weight_decay=1e-4, **({"fused": True} if name == "bare" else {}),
    )  # fmt: skip
    ready = {
        key: {name: one.cpu() for name, one in ready_for(run.model.encoders[key], value.to(run.device)).items()}
        for key, value in batch.inputs.items()
    }

    def step() -> Tensor:
        optimizer.zero_grad()
        if name == "bare":
            there = {key: {name: one.to(run.device) for name, one in its.items()} for key, its in ready.items()}
            loss = bare_loss(run.model, there)
        else:
            loss = plain_loss(run.model, batch.to(run.device))
        run.scaler.scale(loss).backward()
        run.scaler.step(optimizer)
        run.scaler.update()
        return loss

    return step


def ready_for(encoder: nn.Module, value: Tensor) -> dict[str, Tensor]:
    """What the model inside an encoder takes of a batch."""
    if not isinstance(encoder, AutoEncoder):
        return {"pixel_values": value}
    if encoder.kind == "audio":
        return encoder.sound(value, torch.float32)
    return {"pixel_values": encoder.pixels(value, torch.float32)}


def bare_loss(model: MultimodalClassifier, ready: Mapping[str, dict[str, Tensor]]) -> Tensor:
    """The mean square of the encoders' outputs."""
    losses = []
    for name, inputs in ready.items():
        half = model.autocast.get(name)
        value = next(iter(inputs.values()))
        with torch.autocast(value.device.type, half or torch.bfloat16, enabled=half is not None):
            losses.append(model.encoders[name].body(**inputs).pooler_output)
    return torch.stack([value.float().square().mean() for value in losses]).sum()


def plain_loss(model: MultimodalClassifier, batch: Batch) -> Tensor:
    """The paper's loss as one would write it for two modalities."""
    z, logits = [], torch.zeros(())
    for name, value in batch.inputs.items():
        encoder = model.encoders[name]
        inputs = ready_for(encoder, value if isinstance(encoder, AutoEncoder) else (value - 0.1) / 1.1)
        z.append(encoder.project(encoder.body(**inputs).pooler_output.flatten(1)))
        logits = logits + model.head.classifiers[name](z[-1])
    similarity = F.normalize(z[0], dim=1) @ F.normalize(z[1], dim=1).T / TAU
    match = torch.arange(len(similarity), device=similarity.device)
    matching = (F.cross_entropy(similarity, match) + F.cross_entropy(similarity.T, match)) / 2
    return (1 - ALPHA) * F.cross_entropy(logits, batch.labels) + ALPHA * matching


class Turns:
    """Two variants in processes of their own, which take turns. `description`: where and how the first one runs."""

    def __init__(self, names: tuple[str, str], settings: list[str], batch_size: int) -> None:
        self.names, self.settings, self.batch_size = names, settings, batch_size

    def __enter__(self) -> Turns:
        with ExitStack() as stack:
            self.pools = [
                stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for _ in self.names
            ]
            starts = [
                pool.submit(start, name, self.settings, self.batch_size)
                for pool, name in zip(self.pools, self.names, strict=True)
            ]
            self.description, _ = [one.result() for one in starts]
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def measure(self, steps: int, seconds: float) -> list[tuple[list[float], float]]:
        """For each: the seconds of its steps after the first, and its peak memory in bytes."""
        times, began = [], time.monotonic()
        while len(times) <= steps and (len(times) <= FEWEST or time.monotonic() - began < seconds):
            times.append([pool.submit(timed_step).result() for pool in self.pools])
        peaks = [pool.submit(peak).result() for pool in self.pools]
        return [(list(own), most) for own, most in zip(zip(*times[1:], strict=True), peaks, strict=True)]


STARTED: dict[str, Any] = {}  # of this process


def start(name: str, settings: list[str], batch_size: int) -> str:
    """Makes a variant in this process."""
    torch.autograd.set_detect_anomaly(name == "plain, anomaly")
    if name.startswith("plain"):
        settings = [*settings, "compute.precision=fp32", "compute.memory_format=contiguous"]
    run = make_run(settings)
    STARTED.update(step=step_of(name, run, batch_of(batch_size, run.card.modalities)), cuda=run.device.type == "cuda")
    return describe(run)


def timed_step() -> float:
    """Seconds of one step of this process's variant."""
    started = time.perf_counter()
    STARTED["step"]()
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
        batch = batch_of(batch_size, ours.card.modalities, number % 4)
        optimizer.zero_grad()
        loss = plain_loss(model, batch.to(ours.device))
        loss.backward()
        optimizer.step()
        largest = max(largest, abs(loss.item() - ours.training_step(batch).losses.total.item()))
    return largest


if __name__ == "__main__":
    main()
