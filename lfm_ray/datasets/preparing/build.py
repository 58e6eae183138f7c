"""Manifest -> shards, by Ray tasks on all cores of the machine or the cluster, or without Ray where that is quicker.

It can be interrupted at any moment and resumes when it is run again (`lfm_ray.datasets.preparing.staging`).
On a cluster, the media and `OUT` must be on storage that every node reaches under the same path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lfm_ray.console import SILENT, PlainConsole, moves
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.decoding import BrokenMedia, decode, modality_card
from lfm_ray.datasets.preparing.manifest import BadRow, Manifest, Row
from lfm_ray.datasets.preparing.resolving import resolve
from lfm_ray.datasets.preparing.staging import BAD_ROWS, StagingFolder, check_replaceable
from lfm_ray.datasets.preparing.tally import Tally, as_json
from lfm_ray.datasets.shards import CARD, DatasetCard, ModalityCard, ShardFile, read_card, sha256, write_shard
from lfm_ray.datasets.targets import TargetCard
from lfm_ray.errors import UserError
from lfm_ray.files import write_atomically
from lfm_ray.ray_session import ray_session

SHARD_ROWS = 64  # rows per shard of a small split, so that every core gets work
SHARDS = 64  # shards of a larger split, if they stay below SHARD_BYTES
SHARD_BYTES = 128 * 2**20
JPEG_RATIO = 8  # bytes of pixels per byte of JPEG, assumed only for the size of shards
MOST_SHOWN = 20
LONGEST_SHOWN = 200  # characters of a value
RAY_STARTS = 8.0  # s that two cores compute until Ray has started and its workers have imported the decoders
LONGEST_ALONE = 60.0  # s, whatever the reason; a disk may answer several at once more quickly
TRIED, LONGEST_TRIAL = 16, 1.0  # rows, and s, that tell how long a job is


@dataclass(frozen=True)
class Job:
    """What to build: the rows, the settings with all nulls filled in, and each modality's card."""

    manifest: Manifest
    config: PrepareConfig
    cards: dict[str, ModalityCard]

    @classmethod
    def of(cls, manifest: Manifest, config: PrepareConfig) -> Job:
        """Fills in the nulls of `config` from the training rows."""
        config = resolve(config, manifest.kinds, manifest.splits["train"])
        return cls(manifest, config, {name: modality_card(name, kind, config) for name, kind in manifest.kinds.items()})

    @property
    def fingerprint(self) -> str:
        """sha256 of the source and the settings."""
        vocabularies = [card.vocabulary for card in self.cards.values()]
        content = json.dumps([self.manifest.fingerprint, self.config.model_dump(mode="json"), vocabularies])
        return hashlib.sha256(content.encode()).hexdigest()

    def plan(self) -> dict[str, list[Row]]:
        """Shard file -> its rows. The sizes depend on the samples alone, so that the shards' bytes do too."""
        row_bytes = sum(_stored_bytes(card) for card in self.cards.values())
        return {
            f"{split}-{number:05d}.arrow": rows[first : first + count]
            for split, rows in self.manifest.splits.items()
            for count in [max(1, min(max(SHARD_ROWS, -(-len(rows) // SHARDS)), SHARD_BYTES // row_bytes))]
            for number, first in enumerate(range(0, len(rows), count))
        }


def build(
    manifest: Manifest,
    config: PrepareConfig,
    out: Path,
    *,
    skip_bad: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> bool:
    """Writes the dataset folder `out`; returns False if it already exists and has the same source and settings.

    Equal input gives equal bytes, on any number of cores. A dataset at `out` is replaced at the very
    end; any other folder that is not empty is refused.

    Args:
        manifest: the rows to take, from `lfm_ray.datasets.preparing.manifest.read_manifest`.
        config: the settings; nulls are filled in from the training rows.
        out: folder to create.
        skip_bad: leave out rows that cannot be used, and list them in `bad_rows.csv`.
        address: a Ray cluster; None: this machine.
        progress: whether the shards done, and the rows that cannot be used, are shown on stderr.

    Raises:
        UserError: `out` holds something else, a setting does not fit the media, or rows are bad.
    """
    check_replaceable(out)
    console: Console = SILENT
    if progress:
        console = PlainConsole(stderr=True, width=None if sys.stderr.isatty() else 100)
    if manifest.bad and not skip_bad:
        raise _stopped(manifest.bad, out, console)
    job = Job.of(manifest, config)
    staging = StagingFolder(out, job.fingerprint)
    if (out / CARD).is_file() and (card := read_card(out)).fingerprint == job.fingerprint:
        staging.remove_older()
        if skip_bad or not card.skipped:
            return False
    with staging.opened():
        if staging.complete() and (skip_bad or not read_card(staging.folder).skipped):
            staging.put_into_place()
        else:
            _make(job, staging, skip_bad, address, console)
    return True


def _make(job: Job, staging: StagingFolder, skip_bad: bool, address: str | None, console: Console) -> None:
    """Makes what is missing, and puts the whole into place."""
    plan = job.plan()
    results = {name: result for name in plan if (result := staging.result(name))}
    missing = {name: rows for name, rows in plan.items() if name not in results}
    for result in _progress(_run(missing, staging.folder, job, address), len(plan), len(results), console):
        if "failed" in result:
            raise UserError(f"{staging.folder / result['file']}: cannot be written: {result['failed']}")
        results[result["file"]] = result
    ordered = [results[name] for name in plan]
    bad = [*job.manifest.bad, *(BadRow(*line) for result in ordered for line in result["bad"])]
    if bad and not skip_bad:
        raise _stopped(bad, staging.out, console)
    if bad:
        with staging.writing():
            write_atomically(staging.folder / BAD_ROWS, _as_csv(bad))
    card = _card(job, ordered, bad)
    _listing(staging.out).unlink(missing_ok=True)
    staging.finish(card)


def _run(plan: dict[str, list[Row]], folder: Path, job: Job, address: str | None) -> Iterator[dict[str, Any]]:
    """Yields the results of `make_shard` for all of `plan` as they finish.

    This process makes them alone while that takes no longer than to start Ray, and only then starts it.
    """
    left = dict(plan)
    if address is None and is_short([row for rows in plan.values() for row in rows], job):
        began, computed = time.monotonic(), time.process_time()
        with _one_thread(job):
            while left and time.process_time() - computed < 2 * RAY_STARTS and time.monotonic() - began < LONGEST_ALONE:
                name = next(iter(left))
                with _readable():
                    result = make_shard(folder / name, left.pop(name), job.cards, job.config)
                yield result
    if left:
        yield from _by_ray(left, folder, job, address)


def is_short(rows: Sequence[Row], job: Job) -> bool:
    """Whether one process decodes all rows before Ray's workers would decode their first; tries some of them.

    What counts is the time of the processor: on a busy machine all takes longer, the start of Ray too.
    """
    took, done, started = 0.0, 0, time.monotonic()
    for number, row in enumerate(rows[:: max(1, len(rows) // TRIED)]):
        began = time.process_time()
        for name in row.values:
            with _readable(), contextlib.suppress(BrokenMedia):
                decode(row, name, job.cards[name].kind, job.config)
        if number:  # the first one imports the decoders
            took, done = took + time.process_time() - began, done + 1
            if time.monotonic() - started > LONGEST_TRIAL:
                break
        else:
            started = time.monotonic()
    return took * len(rows) < RAY_STARTS * max(1, done)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """What is neither a file's fault nor a setting's, in one line, as when it happens in a worker."""
    try:
        yield
    except (NameError, ImportError) as error:
        raise UserError(f"decoding stopped: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _one_thread(job: Job) -> Iterator[None]:
    """PyTorch, which makes spectrograms, has one thread, as in Ray's workers: more may round sums otherwise."""
    if not any(card.kind == "audio" for card in job.cards.values()):
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _by_ray(plan: dict[str, list[Row]], folder: Path, job: Job, address: str | None) -> Iterator[dict[str, Any]]:
    """The same, on all cores of the machine or the cluster."""
    with ray_session(address):
        import ray

        task = ray.remote(make_shard)
        cards, config = ray.put(job.cards), ray.put(job.config)
        waiting = [task.remote(folder.absolute() / name, rows, cards, config) for name, rows in plan.items()]
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                yield from ray.get(done)
        except ray.exceptions.RayError as error:
            raise UserError(f"decoding stopped: {str(error).strip().splitlines()[-1]}") from error
        finally:
            for unfinished in waiting:
                ray.cancel(unfinished)


def make_shard(
    path: Path, rows: Sequence[Row], cards: dict[str, ModalityCard], config: PrepareConfig
) -> dict[str, Any]:
    """Decodes rows, writes them as one shard, and writes the returned dict beside it as JSON.

    The dict has: file; rows, the number of rows that could be decoded; sha256 of the file; bad, a
    `BadRow` for each file that could not; and what `lfm_ray.datasets.preparing.tally` counts. If the disk
    cannot be written, it has file and failed, the reason, instead.
    """
    columns: dict[str, Any] = {
        name: [] if card.storage == "jpeg" else _column(len(rows), card) for name, card in cards.items()
    }
    good: list[Row] = []
    bad: list[BadRow] = []
    tallies = {name: Tally(card, len(rows)) for name, card in cards.items()}
    for row in rows:
        decoded = {}
        for name in row.values:
            try:
                decoded[name] = decode(row, name, cards[name].kind, config)
            except BrokenMedia as error:
                bad.append(BadRow(row.id, name, error.path, error.reason))
        if len(decoded) < len(row.values):
            continue
        for name in cards.keys() - decoded.keys():
            if cards[name].storage == "jpeg":
                columns[name].append([b""] * cards[name].stored_shape[0])
        for name, sample in decoded.items():
            if cards[name].storage == "jpeg":
                columns[name].append(sample.stored)
            else:
                columns[name][len(good)] = sample.stored
            tallies[name].add(len(good), sample)
        good.append(row)
    result = {"file": path.name, "rows": len(good), "sha256": "", "bad": bad, **as_json(tallies, len(good))}
    try:
        if good:
            ids, labels = [row.id for row in good], np.array([row.label for row in good])
            stored = {name: column[: len(good)] for name, column in columns.items()}
            write_shard(path, ids, labels, stored, {name: one.present[: len(good)] for name, one in tallies.items()})
            result["sha256"] = sha256(path)
        write_atomically(path.with_name(f"{path.name}.json"), json.dumps(result))
    except OSError as error:
        return {"file": path.name, "failed": error.strerror or str(error)}
    return result


def _column(rows: int, card: ModalityCard) -> np.ndarray:
    """An empty array for the samples of a shard."""
    if card.storage == "waveform":
        return np.empty((rows, *card.stored_shape), np.int16)
    return np.empty((rows, *card.shape), card.dtype)


def _stored_bytes(card: ModalityCard) -> int:
    """Approximate size of one sample in a shard."""
    if card.storage == "waveform":
        return card.stored_shape[0] * 2
    size = math.prod(card.shape) * np.dtype(card.dtype).itemsize
    return size // JPEG_RATIO if card.storage == "jpeg" else size


def _progress(results: Iterator[dict[str, Any]], total: int, done: int, console: Console) -> Iterator[dict[str, Any]]:
    """Passes results on and shows shards done, time taken and time left."""
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("shards,"))
    times = (TimeElapsedColumn(), TextColumn("passed,"), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, *times, console=console, transient=True, disable=not moves(console)) as progress:
        bar = progress.add_task("decoding", total=total, completed=done)
        for result in results:
            progress.advance(bar)
            yield result


def _stopped(bad: Sequence[BadRow], out: Path, console: Console) -> UserError:
    """Shows the bad rows, and writes all of them beside `out`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_listing(out), _as_csv(bad))
    except OSError as error:
        return UserError(f"{_listing(out)}: cannot be written: {error.strerror}")
    table = Table()
    for name in BadRow._fields:
        table.add_column(name, overflow="fold")
    for line in bad[:MOST_SHOWN]:
        table.add_row(line.id, line.column, line.value[:LONGEST_SHOWN], line.reason)
    if len(bad) > MOST_SHOWN:
        table.add_row("...", "", "", f"{len(bad) - MOST_SHOWN} more")
    console.print(table)
    first = bad[0]
    return UserError(
        f"{len(bad)} rows cannot be used; the first: {first.id}: {first.column}: {first.value[:LONGEST_SHOWN]}:"
        f" {first.reason}; all are listed in {_listing(out)}; fix them, or leave them out with --skip-bad"
    )


def _listing(out: Path) -> Path:
    """The file that lists the bad rows when no dataset is written."""
    return out.with_name(f"{out.name}.{BAD_ROWS}")


def _as_csv(bad: Sequence[BadRow]) -> str:
    return pd.DataFrame(bad, columns=list(BadRow._fields)).to_csv(index=False)


def _card(job: Job, results: Sequence[dict[str, Any]], bad: Sequence[BadRow]) -> DatasetCard:
    splits: dict[str, list[ShardFile]] = {split: [] for split in job.manifest.splits}
    for result in results:
        if result["rows"]:
            shard = ShardFile(file=result["file"], rows=result["rows"], sha256=result["sha256"])
            splits[result["file"].rpartition("-")[0]].append(shard)
    for split, shards in splits.items():
        if not shards:
            raise UserError(f"{job.manifest.path}: no row of split {split} is left, since all have broken media")
    modalities = {}
    missing = {name: _missing(job, splits, results, name) for name in job.cards}
    for name, card in job.cards.items():
        sums = np.sum([result["sums"][name] for result in results if result["file"].startswith("train-")], axis=0)
        rows = sum(shard.rows for shard in splits["train"]) - missing[name].get("train", 0)
        count = math.prod(card.shape) * rows
        if card.padded:
            of_train = [result for result in results if result["file"].startswith("train-")]
            count = card.shape[-1] * sum(result["steps"][name] for result in of_train)
        mean, std = _moments(sums.sum(axis=1), count)
        update: dict[str, Any] = {"mean": mean, "std": std, "missing": missing[name]}
        for counted, most in (("cut", "longest"), ("clipped", "loudest")):
            counts = {split: count for split, count in _counts(splits, results, counted, name).items() if count}
            update[counted] = counts
            update[most] = max(result.get(most, {}).get(name, 0) for result in results) if counts else None
        modalities[name] = card.model_copy(update=update)
        if card.kind == "feature" or card.entries > 1:
            each = [_moments(pair, count // card.entries) for pair in sums.T]
            means, stds = ([one[part] for one in each] for part in (0, 1))
            modalities[name] = modalities[name].model_copy(update={"means": means, "stds": stds})
    skipped = list(dict.fromkeys(row.id for row in bad))
    return DatasetCard(
        modalities=modalities,
        target=_target(job.manifest, skipped),
        classes=job.manifest.classes,
        splits=splits,
        preprocessing=job.config.model_dump(mode="json"),
        skipped=skipped,
        fingerprint=job.fingerprint,
    )


def _missing(
    job: Job, splits: dict[str, list[ShardFile]], results: Sequence[dict[str, Any]], name: str
) -> dict[str, int]:
    """Split -> its rows that lack a modality; splits whose rows all have it are left out."""
    counts = _counts(splits, results, "missing", name)
    for split, count in counts.items():
        if count == sum(shard.rows for shard in splits[split]):
            raise UserError(f"{job.manifest.path}: no row of split {split} has {name}; leave out one of the two")
    return {split: count for split, count in counts.items() if count}


def _counts(splits: dict[str, Any], results: Sequence[dict[str, Any]], what: str, name: str) -> dict[str, int]:
    """Split -> the sum of what was counted of a modality in its shards."""
    return {
        split: sum(one.get(what, {}).get(name, 0) for one in results if one["file"].startswith(f"{split}-"))
        for split in splits
    }


def _target(manifest: Manifest, skipped: Sequence[str]) -> TargetCard:
    """What the labels are, with the mean and deviation of numbers."""
    if manifest.target != "regression":
        return TargetCard(kind=manifest.target)
    left_out = set(skipped)
    numbers = np.array([row.label for row in manifest.splits["train"] if row.id not in left_out])
    mean, std = float(np.mean(numbers)), float(np.std(numbers))
    if not std:
        raise UserError(f"{manifest.path}: all labels of train are {mean:g}; there is nothing to learn")
    return TargetCard(kind="regression", mean=mean, std=std)


def _moments(sums: np.ndarray, count: int) -> tuple[float, float]:
    """Mean and standard deviation from a sum and a sum of squares."""
    mean, square = sums / count
    return float(mean), math.sqrt(max(0.0, square - mean**2))
