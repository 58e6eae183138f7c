"""Are the small encoders at least as good as linear models, each on one modality alone, and what does a step cost?

    python benchmarks/encoders.py                                        text: about 10 minutes on 2 cores
    python benchmarks/encoders.py --audio PATH/TO/av-digits              sound: about 5 minutes more

Real data, of which nothing is downloaded. All have ten classes or fewer, and three seeds of the encoder:

docstrings    first paragraphs of the docstrings of six installed packages; the class is the package
emoji         names of emoji; the class is the block of Unicode that they are in
digits        spoken digits (the Free Spoken Digit Dataset; PATH holds a manifest.csv with audio, label): four
              speakers to train on, two others to validate on, three times, so that each is left out once

The linear model is that of `lfm_ray.report.linear_baselines`: a logistic regression on TF-IDF of character n-grams
with n up to 4, or on mean and deviation of the log spectra. Accuracies are those of the validation split after the
last of 20 epochs with the default settings; ms a step are the median over an epoch of batches of 64.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from progress import begin
from rich.console import Console

from lfm_ray.config import RunConfig
from lfm_ray.datasets.media.audio import AudioSettings, load, spectrogram
from lfm_ray.datasets.media.text import BYTE_VALUES, TextSettings, tokens
from lfm_ray.datasets.shards import CARD, DatasetCard, ModalityCard, ShardFile, Shards, sha256, write_shard
from lfm_ray.report import linear_baselines
from lfm_ray.settings import load as load_settings
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

PACKAGES = ("matplotlib", "numpy", "pandas", "scipy", "sklearn", "torch")
BLOCKS = {0x2190: "symbols", 0x1F1E6: "flags", 0x1F300: "pictographs", 0x1F600: "faces", 0x1F680: "transport",
          0x1F900: "supplemental", 0x1FA70: "extended"}  # fmt: skip
SOUND = AudioSettings(sample_rate=8000, seconds=0.64, n_fft=256, hop=160, n_mels=32)
LEFT_OUT = (("george", "jackson"), ("lucas", "nicolas"), ("theo", "yweweler"))
SEEDS, EPOCHS = 3, 20
TEXT = {"n-grams": ["model.encoders.text.name=ngrams"], "GRU": ["model.encoders.text.name=small"]}

Rows = list[tuple[np.ndarray, str]]
"""Samples with their classes."""


def main() -> None:
    """Prints one row for each data set and encoder, as soon as it is measured."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--audio", type=Path, metavar="PATH", help="folder of the spoken digits")
    arguments.add_argument("--only", choices=("docstrings", "emoji", "digits"))
    given = arguments.parse_args()
    begin("about 10 minutes on 2 cores for text, and 5 for sound")
    console = Console(width=110, highlight=False)
    torch.set_num_threads(1)
    for name, encoders, datasets in tasks(given.audio):
        if given.only in (None, name):
            with tempfile.TemporaryDirectory() as scratch:
                shards = [write(Path(scratch) / str(number), *one) for number, one in enumerate(datasets)]
                compare(name, shards, encoders, console)


def tasks(audio: Path | None) -> Iterator[tuple[str, dict[str, list[str]], list[tuple[str, Rows, Rows]]]]:
    """Name, encoders with their settings, and the data sets, each of a kind, training and validation rows."""
    yield "docstrings", TEXT, [("text", *split(docstrings(), 1000))]
    yield "emoji", TEXT, [("text", *split(emoji(), 1000))]
    if audio is not None:
        every = list(digits(audio))
        by_speaker = [
            ([row for row, who in every if who not in out], [row for row, who in every if who in out])
            for out in LEFT_OUT
        ]
        yield "digits", {"CNN": []}, [("audio", train, val) for train, val in by_speaker]


def docstrings() -> list[tuple[str, str]]:
    """First paragraphs with their package, in which no package is named; none twice."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin
        files = sorted(Path(spec.origin).parent.rglob("*.py"))
        for file in random.Random(0).sample(files, min(150, len(files))):
            if "tests" not in file.parts:
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.FunctionDef | ast.ClassDef):
                        text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                        if 20 <= len(text) <= 128 and not any(name in text.lower() for name in PACKAGES):
                            found.setdefault(text, package)
    return sorted(found.items())


def emoji() -> list[tuple[str, str]]:
    """Names with their block, without those of skin tones."""
    from rich._emoji_codes import EMOJI

    starts = sorted(BLOCKS)
    named = [(name.replace("_", " "), ord(character[0])) for name, character in EMOJI.items() if "skin" not in name]
    return [
        (name, BLOCKS[starts[np.searchsorted(starts, code, side="right") - 1]]) for name, code in named if code > 0x2190
    ]


def split(texts: list[tuple[str, str]], size: int) -> tuple[Rows, Rows]:
    """Rows to train on, and up to 1,000 others to validate on, drawn at random."""
    shuffled = random.Random(0).sample(texts, len(texts))
    rows = [(tokens(text, TextSettings(length=128)), label) for text, label in shuffled]
    return rows[:size], rows[size : size + 1000]


def digits(folder: Path) -> Iterator[tuple[tuple[np.ndarray, str], str]]:
    """Spectrogram, digit and speaker of each recording."""
    import pandas as pd

    for line in pd.read_csv(folder / "manifest.csv").to_dict("records"):
        sound = spectrogram(load(str(folder / line["audio"]), SOUND, None, None), SOUND)
        yield (sound, str(line["label"])), Path(line["audio"]).stem.split("_")[1]


def write(folder: Path, kind: str, train: Rows, val: Rows) -> Shards:
    """One modality as shards, which `prepare` would make of files."""
    folder.mkdir()
    classes = sorted({label for _, label in train})
    splits = {}
    for name, rows in (("train", train), ("val", val)):
        file = folder / f"{name}-00000.arrow"
        values = np.stack([value for value, _ in rows])
        labels = [classes.index(label) for _, label in rows]
        write_shard(file, [f"{name}{number}" for number in range(len(rows))], labels, {kind: values})
        splits[name] = [ShardFile(file=file.name, rows=len(rows), sha256=sha256(file))]
    values = np.stack([value for value, _ in train]).astype(np.float64)
    measured = {"mean": values.mean(), "std": values.std()}
    if kind == "audio":
        measured |= {"means": values.mean(axis=(0, 1, 3)).tolist(), "stds": values.std(axis=(0, 1, 3)).tolist()}
    card = ModalityCard.model_validate(
        {"kind": kind, "shape": list(train[0][0].shape), "dtype": train[0][0].dtype.name}
        | {"vocabulary": BYTE_VALUES if kind == "text" else None}
        | measured
    )
    dataset = DatasetCard(
        modalities={kind: card}, classes=classes, splits=splits, preprocessing={}, fingerprint=folder.name
    )
    (folder / CARD).write_text(json.dumps(dataset.model_dump(mode="json")))
    return Shards(folder)


def compare(name: str, datasets: list[Shards], encoders: dict[str, list[str]], console: Console) -> None:
    """A table of the linear model and the encoders; its rows are printed as they are measured."""
    cards = [shards.card for shards in datasets]
    kind = next(iter(cards[0].modalities))
    rows = f"{cards[0].rows('train'):,} rows to train on, {len(cards[0].classes)} classes"
    console.print(f"{name}: {rows}")
    found = [linear_baselines.fit(shards).unimodal[kind] for shards in datasets]
    show(console, "linear", found, None)
    for encoder, settings in encoders.items():
        accuracies, times = [], []
        for seed in range(SEEDS):
            for shards in datasets:
                accuracy, step = trained(shards, kind, [*settings, f"seed={seed}"])
                accuracies.append(accuracy)
                times.append(step)
        show(console, encoder, accuracies, statistics.median(times))


def show(console: Console, name: str, accuracies: list[float], step: float | None) -> None:
    """One line: mean and each of the accuracies, and the time of a step."""
    each = " ".join(f"{accuracy:.3f}" for accuracy in accuracies)
    took = "" if step is None else f"{1000 * step:6.1f} ms a step"
    console.print(f"  {name:10} {statistics.mean(accuracies):.3f}  {took:18}  {each}", soft_wrap=True)


def trained(shards: Shards, kind: str, settings: list[str]) -> tuple[float, float]:
    """Validation accuracy after the last epoch, and the median seconds of a step."""
    config = load_settings(RunConfig, None, [f"epochs={EPOCHS}", "alpha.value=0", "device=cpu", *settings])
    run = Trainer(config, shards.card)
    times: list[float] = []
    step = run.training_step

    def timed(*arguments: object, **named: object) -> object:
        started = time.perf_counter()
        taken = step(*arguments, **named)  # type: ignore[arg-type]
        times.append(time.perf_counter() - started)
        return taken

    run.training_step = timed  # type: ignore[method-assign, assignment]
    rows = fit(run, DataSource(shards, {}).splits(config))
    return rows[-1][f"val/{kind}/accuracy"], statistics.median(times)


if __name__ == "__main__":
    main()
