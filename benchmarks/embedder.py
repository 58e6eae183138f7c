"""What does the inner loop of `prepare --embed` cost beside the frozen model alone? Without Ray.

    python benchmarks/embedder.py                         ViT-S/16 on images, and a transformer of its size on sound
    python benchmarks/embedder.py --samples 16 --size 64  small, to see that it runs

Random weights and made-up samples, as shards hold them. The loop (`lfm_ray.models.embedding.Embedder`) takes batches
out of a column, prepares them as the model's own processor would, copies them to the device, runs the model, pools,
and copies the features back; it is compared with the model alone, in the same batches, on inputs that are on the
device. "samples" are a second; memory is the most that PyTorch allocated on a GPU, and is not measured on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from progress import begin
from rows import RunningTable, gather

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.models.embedding import Embedder, frozen_encoder

RATE, SECONDS, FRAMES = 16000, 3, 300  # a frame every 10 ms
COLUMNS = {"model": 10, "samples, alone": 14, "samples, loop": 13, "loop / alone": 12, "memory": 8}
TURNS = 3


def main() -> None:
    """Prints each row when it is measured."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--samples", type=int, help="default 1024 on a GPU, 32 on a CPU")
    arguments.add_argument("--size", type=int, default=384, help="of the models' states; default 384, ViT-S's")
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments.add_argument("--gather", type=Path, metavar="FILE", help="add the rows to a file of benchmarks/gpu.sh")
    given = arguments.parse_args()
    begin("minutes on 2 cores, seconds on a GPU")
    cuda = torch.cuda.is_available() if given.device == "auto" else given.device == "cuda"
    samples = given.samples or (1024 if cuda else 32)
    transformers.utils.logging.disable_progress_bar()
    table = RunningTable(COLUMNS, f"{samples} samples, {torch.cuda.get_device_name() if cuda else 'CPU'}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (make, card) in models(given.size).items():
            make(Path(scratch) / name)
            alone, loop, memory = measure(Path(scratch) / name, card, samples, "cuda" if cuda else "cpu")
            ratio, most = f"{loop / alone:.2f}", f"{memory:.2f}" if cuda else ""
            table.add(name, f"{samples / alone:.0f}", f"{samples / loop:.0f}", ratio, most)
            gather(given.gather, "embed", f"{name}, size {given.size}, over the model alone", ratio, "", most)


def models(size: int) -> dict[str, tuple[Callable[[Path], None], ModalityCard]]:
    """Name -> what saves the model to a folder, and the samples that it takes."""
    shape: dict[str, Any] = {"hidden_size": size, "num_attention_heads": size // 64, "intermediate_size": 4 * size}

    def image(folder: Path) -> None:
        transformers.ViTModel(transformers.ViTConfig(**shape)).save_pretrained(folder)

    def sound(folder: Path) -> None:
        transformers.ASTModel(transformers.ASTConfig(**shape, max_length=FRAMES)).save_pretrained(folder)
        transformers.ASTFeatureExtractor(max_length=FRAMES).save_pretrained(folder)

    pictures = ModalityCard(kind="image", shape=[3, 224, 224], dtype="uint8", mean=127, std=70)
    waves = ModalityCard(kind="audio", shape=[SECONDS * RATE], dtype="int16", mean=0, std=1, sample_rate=RATE)
    return {"ViT": (image, pictures), "AST": (sound, waves)}


@torch.no_grad()
def measure(folder: Path, card: ModalityCard, samples: int, device: str) -> tuple[float, float, float]:
    """Median seconds of the model alone and of the loop over all samples, and the loop's memory over the model's."""
    embedder = Embedder("m", card, {}, frozen_encoder("m", card, str(folder)).to(device), "auto")
    random = np.random.default_rng(0)
    low, high = (-9000, 9000) if card.dtype == "int16" else (0, 256)
    column = random.integers(low, high, (samples, *card.shape), card.dtype)
    encoder, rows = embedder.encoder, min(embedder.rows, samples)
    value = torch.from_numpy(column[:rows]).to(device)
    if card.kind == "audio":
        ready = {name: one.to(device) for name, one in encoder.sound(value, torch.float32).items()}
    else:
        ready = {"pixel_values": encoder.pixels(value, torch.float32)}

    def alone() -> None:
        for _ in range(0, samples, rows):
            encoder.body(**ready)

    times: dict[str, list[float]] = {"alone": [], "loop": []}
    peaks = {}
    for turn in range(TURNS + 1):
        for name, what in (("alone", alone), ("loop", lambda: embedder(column))):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            started = time.perf_counter()
            what()
            if device == "cuda":
                torch.cuda.synchronize()
                peaks[name] = torch.cuda.max_memory_allocated()
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - started)
    memory = peaks["loop"] / peaks["alone"] if peaks else 0.0
    return statistics.median(times["alone"]), statistics.median(times["loop"]), memory


if __name__ == "__main__":
    main()
