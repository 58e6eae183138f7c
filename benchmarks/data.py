"""Is data ever the bottleneck? Reading shards against decoding raw media, memory of readers, and `prepare` at scale.

    python benchmarks/data.py                    all parts, about 6 minutes on 2 cores, 8 GB of disk
    python benchmarks/data.py tiny               one of: tiny, rows, reading, sharing, preparing

tiny        `python -m lfm_ray.prepare` of 3,000 tiny files, 1,500 sounds of half a second and as many pictures
            of 8 x 8 pixels, from the start of the process to its end
rows        the memory of the process that runs `prepare` on 1,000, 10,000 and 100,000 rows: simulated by
            short texts, whose decoding costs nothing, in shards made by Ray
reading     clips like CREMA-D's (3 s of sound, ten frames of 480 x 360 as JPEG files, of which three are
            used): an epoch of batches from shards, prepared by one thread, against decoding the raw
            files at every epoch by two workers the way the field's scripts do, and against a bare loop
            over memory-mapped Arrow files
sharing     what 1, 2 and 4 readers at once on one node need beside the one copy of the dataset
preparing   the job's peak memory and speed on 1,000 and on 20,000 rows

Each row is printed when it is measured. Ratios within one run are meant to be read; rows a second only show their
order of magnitude.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from progress import begin
from rows import RunningTable

from lfm_ray.datasets.preparing import build as job
from lfm_ray.datasets.preparing.build import build
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import read_manifest
from lfm_ray.datasets.reading.batches import Order, ReadBatches, from_memory, from_shards
from lfm_ray.datasets.reading.inputs import DataSettings, Inputs
from lfm_ray.datasets.reading.stream import StreamBatches
from lfm_ray.datasets.shards import Shards
from lfm_ray.ray_session import ray_session
from lfm_ray.settings import build as settings

CLIPS, FRAMES, BATCH, CORES, REPEATS = 400, 10, 64, 2, 3
TINY = 1500  # sounds, and as many pictures
PREPARE = {"audio": {"sample_rate": 16000, "seconds": 3, "n_fft": 512, "hop": 159, "padding": "repeat"}}
STORAGES = {"tensor": {}, "compressed": {"audio": "waveform", "video": "jpeg"}}
AUGMENTATION = {"smallest_crop": 0.08, "flip": 0.5, "time_mask": 0.2, "frequency_mask": 0.2, "random_frames": True}


def main() -> None:
    """Runs the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("part", nargs="?", choices=("tiny", "rows", "reading", "sharing", "preparing"))
    given = arguments.parse_args()
    begin("5 minutes on 2 cores and 8 GB of disk for all parts")
    torch.set_num_threads(1)
    for name, part in {"tiny": tiny, "rows": rows_of_the_driver}.items():
        if given.part in (None, name):
            with tempfile.TemporaryDirectory() as temporary:
                part(Path(temporary))
    parts = {"reading": reading, "sharing": sharing, "preparing": preparing}
    if given.part is not None and given.part not in parts:
        return
    with tempfile.TemporaryDirectory() as temporary, ray_session():
        raw = Path(temporary) / "raw"
        write_raw(raw)
        for name, part in parts.items():
            if given.part in (None, name):
                part(raw, Path(temporary))


def tiny(temporary: Path) -> None:
    """Seconds of the command on many small files, with those of Python's imports."""
    import soundfile

    random = np.random.default_rng(0)
    for number in range(TINY):
        soundfile.write(temporary / f"{number}.wav", random.normal(0, 0.1, 4000).clip(-1, 1), 8000, subtype="PCM_16")
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(temporary / f"{number}.png")
    lines = [(f"{number}.wav", f"{number}.png", number % 10) for number in range(TINY)]
    pd.DataFrame(lines, columns=["audio", "image", "label"]).to_csv(temporary / "manifest.csv", index=False)
    words = ["-m", "lfm_ray.prepare", "manifest.csv", "--audio", "audio", "--image", "image"]
    words += ["--set", "audio.n_fft=256", "--set", "audio.hop=80"]
    table = RunningTable({"what": 28, "s": 6, "s of CPU": 8, "goal": 5}, f"prepare: {2 * TINY:,} tiny files")
    for name, command in {
        "imports alone": ["-c", "import lfm_ray.workflows.preparing, lfm_ray.report.inspection, torchaudio"],
        "prepare, first time": [*words, "--out", "first"],
        "prepare, other folder": [*words, "--out", "second"],
    }.items():
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=temporary, env=with_this_package(), check=True, stdout=DEVNULL)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        table.add(name, f"{seconds:.1f}", f"{cpu:.1f}", "15" if "prepare" in name else "")


def with_this_package() -> dict[str, str]:
    """The environment, in which processes in any folder find the package that this file belongs to."""
    return os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"}


def rows_of_the_driver(temporary: Path) -> None:
    """Private memory of the driver, MiB: with the manifest read, and the most that it needs more while Ray works."""
    columns = {"rows": 8, "rows / s": 9, "before": 8, "manifest": 9, "B a row": 8, "job, more": 10}
    table = RunningTable(columns, "prepare: memory of the process that runs it, MiB, on simulated rows")
    for count in (1_000, 10_000, 100_000):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            speed, *memory = pool.submit(driver, temporary / f"{count}", count).result()
        before, manifest, more = (value / 2**20 for value in memory)
        each = 2**20 * (manifest - before) / count
        table.add(f"{count:,}", f"{speed:.0f}", f"{before:.0f}", f"{manifest:.0f}", f"{each:.0f}", f"{more:.1f}")


def driver(folder: Path, count: int) -> tuple[float, int, int, int]:
    """Rows a second of one job; memory of this process before it, with its manifest, and the most beyond that."""
    folder.mkdir()
    texts = [f"row {number} of a simulated dataset" for number in range(count)]
    lines = pd.DataFrame({"text": texts, "label": np.arange(count) % 10, "split": "train"})
    lines.loc[: max(10, count // 10), "split"] = "val"
    lines.to_csv(folder / "manifest.csv", index=False)
    del texts, lines
    job.RAY_STARTS = 0.0  # as for media, which take longer
    most = [0]
    with ray_session():
        gc.collect()
        before = private_bytes()
        manifest = read_manifest(folder / "manifest.csv", {"text": "text"})
        gc.collect()
        held, started = private_bytes(), time.perf_counter()
        with watched(lambda: most.append(max(most.pop(), private_bytes()))):
            build(manifest, PrepareConfig(), folder / "shards", progress=False)
        return count / (time.perf_counter() - started), before, held, max(0, most[0] - held)


def reading(raw: Path, temporary: Path) -> None:
    """Rows a second from raw files, from shards of either storage, and from a bare loop."""
    rows: dict[str, Callable[[], Iterable[Any]]] = {"raw files, DataLoader of 2 workers": lambda: from_raw(raw)}
    sizes = {}
    for name, storage in STORAGES.items():
        shards = prepare(raw / "manifest.csv", temporary / name, storage)
        order = Order(np.arange(shards.card.rows("train")), BATCH, 0, True)
        sizes[name] = shards.nbytes("train") / shards.card.rows("train")
        plain = Inputs.of(shards.card)
        augmented = Inputs.of(shards.card, settings(DataSettings, {"augmentation": AUGMENTATION}), 0, training=True)
        memory, mapped = from_memory(*shards.arrays("train")), from_shards(shards, "train", ["audio", "video"])
        rows[f"{name}: memory"] = lambda take=memory, order=order, inputs=plain: epoch(ReadBatches(take, order, inputs))
        rows[f"{name}: mapped files"] = lambda take=mapped, order=order, inputs=plain: epoch(
            ReadBatches(take, order, inputs, ahead=True)
        )
        rows[f"{name}: mapped files, augmented"] = lambda take=mapped, order=order, inputs=augmented: epoch(
            ReadBatches(take, order, inputs, ahead=True)
        )
        rows[f"{name}: Ray Data, 2 CPUs, augmented"] = lambda shards=shards, order=order, inputs=augmented: epoch(
            StreamBatches(shards, "train", order, inputs, CORES)
        )
        if name == "tensor":
            rows["bare loop over mapped Arrow files"] = lambda shards=shards, order=order: bare(shards, order)
    print(
        f"reading {CLIPS} clips in batches of {BATCH}; each way in turn, {REPEATS} times after a first one", flush=True
    )
    found = interleaved(rows)
    raw_speed, bare_speed = found["raw files, DataLoader of 2 workers"], found["bare loop over mapped Arrow files"]
    table = RunningTable({"what": 40, "rows / s": 8, "times raw files": 15, "times bare loop": 15})
    for name, speed in found.items():
        table.add(name, f"{speed:.0f}", f"{speed / raw_speed:.1f}", f"{speed / bare_speed:.2f}")
    print("KB a row in the shards: " + ", ".join(f"{name} {size / 1000:.0f}" for name, size in sizes.items()))


def sharing(raw: Path, temporary: Path) -> None:
    """Private memory that a reader needs for an epoch, as a share of the dataset's size."""
    import ray

    lines = pd.read_csv(raw / "manifest.csv")
    lines = lines.iloc[np.arange(4 * CLIPS) % CLIPS].assign(id=np.arange(4 * CLIPS))
    lines.to_csv(raw / "larger.csv", index=False)
    shards = prepare(raw / "larger.csv", temporary / "larger", {})
    size = shards.nbytes("train")
    held = ray.put(shards.arrays("train"))

    @ray.remote(num_cpus=0)
    class Reader:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.shards = Shards(shards.path)
            self.order = Order(np.arange(shards.card.rows("train")), BATCH, 0, True)
            epoch(ReadBatches(from_shards(self.shards, "val", ["audio"]), self._order(4), Inputs.of(shards.card)))

        def _order(self, rows: int) -> Order:
            return Order(np.arange(rows), BATCH, 0, True)

        def read(self, held: list[Any] | None) -> int:
            before, most = private_bytes(), 0
            take = from_memory(*ray.get(held[0])) if held else from_shards(self.shards, "train", ["audio", "video"])
            for _ in ReadBatches(take, self.order, Inputs.of(shards.card), ahead=not held).epoch(1):
                most = max(most, private_bytes() - before)
            return most

    columns = {"readers at once": 15, "object store": 12, "mapped files": 12}
    table = RunningTable(columns, f"memory of a reader: {size / 2**20:.0f} MiB of data")
    for count in (1, 2, 4):
        shares = []
        for argument in ([held], None):
            readers = [Reader.remote() for _ in range(count)]
            shares.append(statistics.mean(ray.get([reader.read.remote(argument) for reader in readers])) / size)
            for reader in readers:
                ray.kill(reader)
        table.add(str(count), *(f"{share:.1%}" for share in shares))


def preparing(raw: Path, temporary: Path) -> None:
    """Peak memory and speed of the job on few and on many rows."""
    columns = {"rows": 14, "rows / s": 8, "peak memory, MiB": 16, "of that beside Ray's own": 24}
    table = RunningTable(
        columns, "prepare: 3 s of sound and one image a row; the first row, and the last ones, by medians"
    )
    found = []
    # The first one starts Ray's workers, and does not count; of the short ones, before and after the long one, the
    # median does.
    for number, rows in enumerate((2000, 1000, 1000, 20000, 1000, 1000)):
        lines = pd.read_csv(raw / "manifest.csv")
        many = lines.iloc[np.arange(rows) % len(lines)].drop(columns=["split", "video"]).reset_index(drop=True)
        many.assign(id=np.arange(rows) + number).to_csv(raw / "many.csv", index=False)
        manifest = read_manifest(raw / "many.csv", {"audio": "audio", "image": "image"})
        config = settings(PrepareConfig, {**PREPARE, "image": {"size": 224}})
        with peak_memory() as memory:
            started = time.perf_counter()
            build(manifest, config, temporary / "many")
            seconds = time.perf_counter() - started
        found.append((rows, rows / seconds, memory["peak"], memory["peak"] - memory["before"]))
        show_job(table, *found[-1])
    long = found.pop(3)
    few = [statistics.median(values) for values in zip(*found[1:], strict=True)]
    (_, slow, low, _), (_, fast, high, _) = few, long
    show_job(table, *few)
    table.add("20,000 / 1,000", f"{fast / slow:.2f}", f"{high / low:.2f}", "")


def show_job(table: RunningTable, rows: float, speed: float, peak: float, own: float) -> None:
    """One line of `preparing`."""
    table.add(f"{rows:,.0f}", f"{speed:.0f}", f"{peak / 2**20:.0f}", f"{own / 2**20:.0f}")


def write_raw(folder: Path) -> None:
    """Clips with sound, and frames that compress like photographs."""
    import soundfile

    random = np.random.default_rng(0)
    lines = []
    for clip in range(CLIPS):
        frames = folder / "frames" / f"{clip}"
        frames.mkdir(parents=True)
        soundfile.write(folder / f"{clip}.wav", random.normal(0, 0.1, 48000).clip(-1, 1), 16000, subtype="PCM_16")
        noise = random.integers(0, 256, (45, 60, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((480, 360), Image.Resampling.BICUBIC)
        for frame in range(FRAMES):
            blurred = picture.filter(ImageFilter.BoxBlur(frame / 4))
            blurred.save(frames / f"{frame:02d}.jpg", quality=90)
        split = "val" if clip % 10 == 9 else "train"
        lines.append((clip, f"{clip}.wav", f"frames/{clip}", f"frames/{clip}/00.jpg", clip % 6, split))
    columns = ["id", "audio", "video", "image", "label", "split"]
    pd.DataFrame(lines, columns=columns).to_csv(folder / "manifest.csv", index=False)


def prepare(manifest_file: Path, out: Path, storage: dict[str, str]) -> Shards:
    """The clips as shards."""
    manifest = read_manifest(manifest_file, {"audio": "audio", "video": "video"})
    build(manifest, settings(PrepareConfig, {**PREPARE, "storage": storage}), out)
    return Shards(out)


class RawClips(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """Decoding at every epoch: librosa.load and stft, images opened, cropped at random and normalised."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = pd.read_csv(folder / "manifest.csv")
        self.lines = lines[lines["split"] == "train"].to_dict("records")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        import librosa

        line = self.lines[index]
        sound, _ = librosa.load(self.folder / line["audio"], sr=16000)
        sound = np.tile(sound, 3)[:48000].clip(-1, 1)
        spectrogram = np.log(np.abs(librosa.stft(sound, n_fft=512, hop_length=159, center=False)) + 1e-7)
        frames = []
        for number in sorted(np.random.choice(FRAMES, 3, replace=False)):
            image = Image.open(self.folder / line["video"] / f"{number:02d}.jpg").convert("RGB")
            side = round((np.random.uniform(0.08, 1) * image.width * image.height) ** 0.5)
            width, height = min(side, image.width), min(side, image.height)
            left, top = np.random.randint(image.width - width + 1), np.random.randint(image.height - height + 1)
            cropped = image.resize((224, 224), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
            pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 255
            frames.append((pixels - 0.45) / 0.225)
        return torch.from_numpy(spectrogram).unsqueeze(0), torch.stack(frames), int(line["label"])


def from_raw(folder: Path) -> Iterable[Any]:
    """An epoch of batches from raw files."""
    return torch.utils.data.DataLoader(RawClips(folder), BATCH, shuffle=True, num_workers=CORES)


def bare(shards: Shards, order: Order) -> Iterator[Any]:
    """The same rows, taken one by one out of memory-mapped record batches, with nothing around it."""
    import pyarrow as pa

    batches = [
        pa.ipc.open_file(pa.memory_map(str(shards.path / shard.file))).get_batch(0)
        for shard in shards.card.splits["train"]
    ]
    place = [(number, row) for number, batch in enumerate(batches) for row in range(batch.num_rows)]
    sound = [batch.column("audio").to_numpy_ndarray() for batch in batches]
    video = [batch.column("video").to_numpy_ndarray() for batch in batches]
    middles = [1, 5, 8]
    for rows in order.epoch(1):
        where = [place[row] for row in rows]
        yield (
            torch.from_numpy(np.stack([sound[number][row] for number, row in where])),
            torch.from_numpy(np.stack([video[number][row][middles] for number, row in where])),
        )


def epoch(batches: Any) -> Iterable[Any]:
    """The batches of one epoch."""
    return batches.epoch(1)


def interleaved(ways: dict[str, Callable[[], Iterable[Any]]]) -> dict[str, float]:
    """Rows a second of an epoch, the median over rounds in which each way has its turn."""
    rows = CLIPS * 9 // 10
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(REPEATS + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            for _ in way():
                pass
            speed = rows / (time.perf_counter() - started)
            if turn:  # the first round warms up
                speeds[name].append(speed)
            print(f"  turn {turn} of {REPEATS}: {speed:7.0f} rows / s, {name}", flush=True)
    return {name: statistics.median(values) for name, values in speeds.items()}


def private_bytes(process: int | str = "self") -> int:
    """Anonymous memory of a process: neither pages of files nor of the object store."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Private memory of this process and of all that it started: before, and the highest until the end."""

    def total() -> int:
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        family, found = {os.getpid()}, True
        while found:
            found = {child for child, parent in parents.items() if parent in family} - family
            family |= found
        return sum(private_bytes(process) for process in family)

    memory = {"before": total(), "peak": 0}

    def look() -> None:
        memory["peak"] = max(memory["peak"], total())

    with watched(look):
        yield memory


@contextmanager
def watched(look: Callable[[], Any]) -> Iterator[None]:
    """Calls a function five times a second, in a thread."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
