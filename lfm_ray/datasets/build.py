"""Manifest -> shards, as a Ray Data job over every core of the machine or the cluster.

Work goes to `OUT.partial` first, shard by shard, and becomes `OUT` when all of it is done, so an
interrupted job goes on where it stopped and a reader never sees half a dataset. On a cluster, the
media and `OUT` must lie on storage that every node reaches under the same path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lfm_ray.cli import ray_session
from lfm_ray.config import Kind, PrepareConfig
from lfm_ray.datasets.manifest import Manifest, Row
from lfm_ray.datasets.media import BYTE_VALUES, BrokenMedia, decode, resolve, shape_and_dtype
from lfm_ray.datasets.shards import (
    CARD,
    CONTACT_SHEET,
    DatasetCard,
    ModalityCard,
    ShardFile,
    read_card,
    sha256,
    write_shard,
)
from lfm_ray.errors import UserError

SHARD_ROWS = 256
SHARD_BYTES = 128 * 2**20
BAD_FILES = "bad_files.csv"
FINGERPRINT = "fingerprint"
LOCK = ".lock"
MOST_SHOWN = 20


def build(
    manifest: Manifest, config: PrepareConfig, out: Path, *, skip_bad: bool = False, address: str | None = None
) -> bool:
    """Writes the dataset folder `out`; False if it is there already, made from the same source.

    Equal input gives equal bytes, on any number of cores. A dataset that lies at `out` is replaced
    at the very end; any other folder that is not empty is left alone.

    Args:
        manifest: the rows to take, as `lfm_ray.datasets.manifest.read_manifest` gives them.
        config: the settings; nulls are filled in from the training rows.
        out: folder to make.
        skip_bad: leave out rows whose media cannot be decoded, and list them in `bad_files.csv`.
        address: a Ray cluster; None: this machine.

    Raises:
        UserError: `out` is in the way, a setting does not fit the media, or media are broken.
    """
    check_replaceable(out)
    config = resolve(config, manifest.kinds, manifest.splits["train"])
    content = json.dumps([manifest.fingerprint, config.model_dump(mode="json")])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    made_before = (out / CARD).is_file() and read_card(out).fingerprint == fingerprint
    if made_before and (skip_bad or not (out / BAD_FILES).exists()):
        return False
    work = out.with_name(f"{out.name}.partial")
    with _alone(work):
        _start_or_go_on(work, fingerprint)
        _build(manifest, config, out, work, fingerprint, skip_bad, address)
    return True


def _build(
    manifest: Manifest,
    config: PrepareConfig,
    out: Path,
    work: Path,
    fingerprint: str,
    skip_bad: bool,
    address: str | None,
) -> None:
    """Makes what is missing in `work`, and puts it into place."""
    plan = _plan(manifest, config)
    results = {name: result for name in plan if (result := _finished(work / name))}
    for result in _progress(_run(plan, results.keys(), work, manifest.kinds, config, address), plan, len(results)):
        results[result["file"]] = result
    ordered = [results[name] for name in plan]
    _report_bad(ordered, out, work / BAD_FILES if skip_bad else None)
    card = _card(manifest, config, ordered, fingerprint)
    for result in ordered:
        (work / f"{result['file']}.json").unlink()
    (work / CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    (work / FINGERPRINT).unlink()
    (work / LOCK).unlink()
    _put_into_place(work, out)


def check_replaceable(out: Path) -> None:
    """Raises a UserError unless `out` is free, empty, or a dataset folder with nothing else in it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / CARD).is_file():
        raise UserError(f"--out {out}: exists and is not a dataset of lfm_ray; name another folder")
    card = read_card(out)
    ours = {CARD, BAD_FILES, CONTACT_SHEET} | {shard.file for shards in card.splits.values() for shard in shards}
    foreign = sorted(item.name for item in out.iterdir() if item.name not in ours)
    if foreign:
        raise UserError(f"--out {out}: holds {foreign[0]}, which is not part of the dataset; name another folder")


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keeps `work` to this process; the lock of a process that was killed is free again.

    Raises:
        UserError: another process is writing there, or the folder cannot be made.
    """
    if work.exists() and not (work / FINGERPRINT).is_file() and any(item.name != LOCK for item in work.iterdir()):
        raise UserError(f"{work}: is in the way, and is not lfm_ray's; move it or name another --out")
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = (work / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{work}: cannot be made: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{work}: another prepare is writing there; wait for it, or name another --out") from None
        yield


def _start_or_go_on(work: Path, fingerprint: str) -> None:
    """Keeps what an interrupted job with the same fingerprint left, and nothing else."""
    mark = work / FINGERPRINT
    if mark.is_file() and mark.read_text() == fingerprint:
        return
    for item in work.iterdir():
        if item.name != LOCK:
            item.unlink()
    try:
        mark.write_text(fingerprint)
    except OSError as error:
        raise UserError(f"{work}: cannot be made: {error.strerror}") from None


def _plan(manifest: Manifest, config: PrepareConfig) -> dict[str, list[Row]]:
    """Shard file -> its rows. The sizes depend on the samples alone, so that the bytes do too."""
    shapes = [shape_and_dtype(kind, config) for kind in manifest.kinds.values()]
    row_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes)
    count = min(SHARD_ROWS, max(1, SHARD_BYTES // row_bytes))
    return {
        f"{split}-{first // count:05d}.arrow": rows[first : first + count]
        for split, rows in manifest.splits.items()
        for first in range(0, len(rows), count)
    }


def _run(
    plan: dict[str, list[Row]],
    done: Collection[str],
    work: Path,
    kinds: dict[str, Kind],
    config: PrepareConfig,
    address: str | None,
) -> Iterator[dict[str, Any]]:
    """The results of `make_shard` for all of `plan` that is not done, as they come."""
    # Rows travel as JSON, since Ray Data would pickle objects one by one.
    items = [
        {"file": name, "rows": json.dumps([dataclasses.asdict(row) for row in rows])}
        for name, rows in plan.items()
        if name not in done
    ]
    if not items:
        return
    with ray_session(address):
        import ray

        from lfm_ray.datasets.stream import quiet

        quiet()
        folder = work.absolute()

        def task(item: dict[str, str]) -> dict[str, str]:
            rows = [Row(**row) for row in json.loads(item["rows"])]
            return {"result": json.dumps(make_shard(folder / item["file"], rows, kinds, config))}

        try:
            for row in ray.data.from_items(items, override_num_blocks=len(items)).map(task).iter_rows():
                result = json.loads(row["result"])
                if "failed" in result:
                    raise UserError(f"{work / result['file']}: cannot be written: {result['failed']}")
                yield result
        except ray.exceptions.RayError as error:
            raise UserError(f"decoding stopped: {str(error).strip().splitlines()[-1]}") from error


def make_shard(path: Path, rows: Sequence[Row], kinds: dict[str, Kind], config: PrepareConfig) -> dict[str, Any]:
    """Decodes rows and writes one shard and, beside it, what is returned here as JSON.

    Returns `file`, `rows`, `sha256`, `sums` (modality -> sum, sum of squares) and `bad` (id, path
    and reason of each broken file); a shard without any good row is not written. `failed` instead
    of all this: the disk refused.
    """
    if "audio" in kinds.values():
        import torch

        torch.set_num_threads(1)  # one task a core; and sums do not depend on the number of threads
    good: list[Row] = []
    bad: list[list[str]] = []
    shapes = {name: shape_and_dtype(kind, config) for name, kind in kinds.items()}
    arrays = {name: np.empty((len(rows), *shape), dtype) for name, (shape, dtype) in shapes.items()}
    sums = {name: np.zeros(2) for name in kinds}
    for row in rows:
        decoded = {}
        for name, kind in kinds.items():
            try:
                decoded[name] = decode(row, name, kind, config)
            except BrokenMedia as error:
                bad.append([row.id, error.path, error.reason])
        if len(decoded) < len(kinds):
            continue
        for name, array in decoded.items():
            arrays[name][len(good)] = array
            values = array.astype(np.float64)
            sums[name] += values.sum(), np.square(values).sum()
        good.append(row)
    result = {"file": path.name, "rows": len(good), "sha256": "", "bad": bad}
    result["sums"] = {name: list(pair) for name, pair in sums.items()}
    try:
        if good:
            ids, labels = [row.id for row in good], [row.label for row in good]
            write_shard(path, ids, labels, {name: array[: len(good)] for name, array in arrays.items()})
            result["sha256"] = sha256(path)
        unfinished = path.with_name(f".{path.name}.json")
        unfinished.write_text(json.dumps(result), encoding="utf-8")
        unfinished.replace(path.with_name(f"{path.name}.json"))
    except OSError as error:
        return {"file": path.name, "failed": error.strerror or str(error)}
    return result


def _finished(path: Path) -> dict[str, Any] | None:
    """The result of an earlier job's shard; None where there is none, or files were broken that may be mended."""
    try:
        result = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return None if result["bad"] else result


def _progress(results: Iterator[dict[str, Any]], plan: dict[str, list[Row]], done: int) -> Iterator[dict[str, Any]]:
    """Passes results on and shows shards done, time taken and time left on stderr."""
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("shards,"))
    times = (TimeElapsedColumn(), TextColumn("passed,"), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, *times, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("decoding", total=len(plan), completed=done)
        for result in results:
            progress.advance(bar)
            yield result


def _report_bad(results: Sequence[dict[str, Any]], out: Path, listing: Path | None) -> None:
    """Writes the list of broken files as CSV: to `listing`, or else beside `out`, shows it, and stops."""
    bad = [line for result in results for line in result["bad"]]
    beside = out.with_name(f"{out.name}.{BAD_FILES}")
    text = pd.DataFrame(bad, columns=["id", "file", "reason"]).to_csv(index=False)
    if bad and listing is None:
        beside.write_text(text, encoding="utf-8")
        table = Table("id", "file", "reason")
        for line in bad[:MOST_SHOWN]:
            table.add_row(*(escape(field) for field in line))
        if len(bad) > MOST_SHOWN:
            table.add_row("...", f"{len(bad) - MOST_SHOWN} more", "")
        Console(stderr=True, width=None if sys.stderr.isatty() else 100).print(table)
        raise UserError(
            f"{len(bad)} media files cannot be decoded; the first: {bad[0][1]}: {bad[0][2]}; all of them: {beside};"
            " mend them, or leave their rows out with --skip-bad"
        )
    beside.unlink(missing_ok=True)
    if bad and listing is not None:
        listing.write_text(text, encoding="utf-8")


def _card(
    manifest: Manifest, config: PrepareConfig, results: Sequence[dict[str, Any]], fingerprint: str
) -> DatasetCard:
    splits: dict[str, list[ShardFile]] = {split: [] for split in manifest.splits}
    for result in results:
        if result["rows"]:
            shard = ShardFile(file=result["file"], rows=result["rows"], sha256=result["sha256"])
            splits[result["file"].rpartition("-")[0]].append(shard)
    for split, shards in splits.items():
        if not shards:
            raise UserError(f"{manifest.path}: no row of split {split} is left, all of its media are broken")
    modalities = {}
    for name, kind in manifest.kinds.items():
        shape, dtype = shape_and_dtype(kind, config)
        sums = np.sum([result["sums"][name] for result in results if result["file"].startswith("train-")], axis=0)
        mean, square = sums / (math.prod(shape) * sum(shard.rows for shard in splits["train"]))
        std = math.sqrt(max(0.0, square - mean**2))
        vocabulary = BYTE_VALUES if kind == "text" else None
        modalities[name] = ModalityCard(
            kind=kind, shape=shape, dtype=dtype.name, mean=float(mean), std=std, vocabulary=vocabulary
        )
    return DatasetCard(
        modalities=modalities,
        classes=manifest.classes,
        splits=splits,
        preprocessing=config.model_dump(mode="json"),
        skipped=list(dict.fromkeys(line[0] for result in results for line in result["bad"])),
        fingerprint=fingerprint,
    )


def _put_into_place(work: Path, out: Path) -> None:
    """Renames the finished folder to `out`; an older dataset there goes only once the new one stands."""
    older = out.with_name(f"{out.name}.replaced")
    if out.exists():
        out.rename(older)
    work.rename(out)
    if older.exists():
        shutil.rmtree(older)
