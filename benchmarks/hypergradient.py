"""What does one update of alpha cost, in units of one training step? Time and peak memory.

    python benchmarks/hypergradient.py                     about 5 minutes on 2 cores; the first row in 20 seconds
    python benchmarks/hypergradient.py --encoder small --batch-size 64
    python benchmarks/hypergradient.py --encoder resnet18 --image 224 --frames 1004       on a GPU

A step is forward, backward and optimiser on a batch of spectrograms and images. Each case runs in
a process of its own; steps with and without an update take turns, and the table shows by how much
the former's median time is longer, in steps. Memory is what the process needs beyond what it had
before the model was made (on a GPU: what PyTorch allocated); its ratio is the peak with updates
over the peak of steps alone. "share" is the part of the training time that updates take at
inner_iters = 10. No Ray is needed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from progress import begin
from rows import RunningTable, gather
from torch import Tensor, nn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.settings import load
from lfm_ray.training.trainer import Trainer

SMALL = {"image": 32, "frames": 64, "bins": 32, "batch_size": 64}
LARGE = {"image": 112, "frames": 151, "bins": 129, "batch_size": 16}
COLUMNS = {"solver": 8, "product": 12, "K": 2, "time / step": 11, "2 + 2.5 K": 9, "memory / step": 13, "share": 6}


def main() -> None:
    """Prints each row when it is measured."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--encoder", choices=("small", "resnet18", "both"), default="both")
    arguments.add_argument("--batch-size", type=int, help="default 64 for small, 16 for resnet18")
    arguments.add_argument("--image", type=int, help="pixels a side; default 32 for small, 112 for resnet18")
    arguments.add_argument("--frames", type=int, help="of the spectrogram; default 64 for small, 151 for resnet18")
    arguments.add_argument("--bins", type=int, help="of the spectrogram; default 32 for small, 129 for resnet18")
    arguments.add_argument(
        "--steps", type=int, nargs="+", default=[1, 3, 5], help="K of neumann and cg, rank of nystrom"
    )
    arguments.add_argument("--solvers", nargs="+", default=["identity", "neumann", "cg", "nystrom"])
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments.add_argument("--gather", type=Path, metavar="FILE", help="add the rows to a file of benchmarks/gpu.sh")
    given = arguments.parse_args()
    begin("5 minutes on 2 cores")
    for encoder in ("small", "resnet18") if given.encoder == "both" else (given.encoder,):
        sizes = dict(SMALL if encoder == "small" else LARGE)
        sizes |= {name: value for name in sizes if (value := getattr(given, name)) is not None}
        table = RunningTable(COLUMNS, f"{encoder} encoders, {sizes}")
        for solver, product, K in [row for row in cases(given.steps) if row[0] in given.solvers]:
            settings = [f"alpha.solver={solver}", f"alpha.product={product}", f"alpha.solver_steps={K}"]
            settings += [f"alpha.rank={max(K, 1)}", f"device={given.device}"]
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                ratio, memory = pool.submit(measure, encoder, sizes, settings, given.repeats).result()
            goal = "2.0" if solver == "identity" else f"{2 + 2.5 * K:.1f}"
            table.add(
                solver, "-" if solver == "identity" else product, str(K) if K else "-", f"{ratio:.2f}", goal,
                f"{memory:.2f}", f"{100 * ratio / (10 + ratio):.0f} %",
            )  # fmt: skip
            case = f"{encoder}, {solver}" + (f", {product}, K = {K}" if K else "")
            gather(given.gather, "hyper-gradient", case, f"{ratio:.2f}", goal, f"{memory:.2f}")


def cases(steps: list[int]) -> list[tuple[str, str, int]]:
    """Solver, product and K of each row."""
    products = ("gauss_newton", "hessian")
    rows = [(solver, product, K) for solver in ("neumann", "cg") for product in products for K in steps]
    return [("identity", "gauss_newton", 0), *rows, ("nystrom", "gauss_newton", steps[-1])]


def measure(encoder: str, sizes: dict[str, int], settings: list[str], repeats: int) -> tuple[float, float]:
    """An update of alpha over a step on theta: ratio of median times, ratio of peak memories."""
    config = load(RunConfig, None, ["alpha.strategy=learned", *settings])
    shapes = {"audio": [1, sizes["bins"], sizes["frames"]], "image": [3, sizes["image"], sizes["image"]]}
    cards = {
        name: ModalityCard(kind="audio" if name == "audio" else "image", shape=shape, dtype="float32", mean=0, std=1)
        for name, shape in shapes.items()
    }
    card = DatasetCard(modalities=cards, classes=list("abcdefghij"), splits={}, preprocessing={}, fingerprint="0")
    torch.manual_seed(0)
    inputs = {name: torch.randn(sizes["batch_size"], *shape) for name, shape in shapes.items()}
    batches = [Batch(inputs, torch.randint(0, 10, (sizes["batch_size"],))) for _ in range(2)]
    run = Trainer(config, card)
    cuda = run.device.type == "cuda"
    if encoder == "resnet18":
        for name, shape in shapes.items():
            run.model.encoders[name] = ResNet18(shape[0], config.model.embedding_size).to(run.device)
        run.parameters = list(run.model.parameters())
    batches = [batch.to(run.device) for batch in batches]
    run.prepare(1000)
    d: list[torch.Tensor] = []

    def timed(what: str, before_alpha: bool = False) -> float:
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        if what == "step":
            d[:] = run.training_step(batches[0], before_alpha=before_alpha).d
        else:
            run.alpha_gradient(batches[0], iter([batches[1]]), d)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    before = 0 if cuda else peak(cuda)
    for _ in range(3):
        timed("step")
    of_steps = peak(cuda) - before
    timed("step", before_alpha=True)
    timed("update")
    of_updates = peak(cuda) - before
    turns = [(timed("step"), timed("step", before_alpha=True) + timed("update")) for _ in range(repeats)]
    step, both = (statistics.median(times) for times in zip(*turns, strict=True))
    return (both - step) / step, of_updates / of_steps


def peak(cuda: bool) -> int:
    """The most memory so far, in bytes."""
    return torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class ResNet18(nn.Module):
    """A ResNet-18 without its classifier, and a linear layer to the embedding size."""

    def __init__(self, channels: int, embedding_size: int) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        shape = ResNetConfig(
            num_channels=channels, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
        )
        self.body, self.project = ResNetModel(shape), nn.Linear(512, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, d)."""
        return self.project(self.body(value).pooler_output.flatten(1))


if __name__ == "__main__":
    main()
