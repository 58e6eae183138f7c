"""Shards -> shards of features, by frozen pretrained models: what `lfm_ray.prepare --embed` does.

Each part of the work is one shard, so that a job that was interrupted goes on where it stopped. Actors of Ray Data
hold the models, on GPUs where there are any.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from lfm_ray.console import moves
from lfm_ray.datasets.columns import PackedFrames, having
from lfm_ray.datasets.preparing.staging import StagingFolder, check_replaceable
from lfm_ray.datasets.shards import (
    CARD,
    DatasetCard,
    Embedded,
    ModalityCard,
    ShardFile,
    Shards,
    read_card,
    sha256,
    write_shard,
)
from lfm_ray.errors import UserError
from lfm_ray.files import write_atomically
from lfm_ray.models.embedding import TOKENS, Embedder, digest, embedded_where, frozen_encoder
from lfm_ray.models.encoders.auto import POOLINGS
from lfm_ray.ray_session import ray_session
from lfm_ray.settings import nearest

CPUS = 4  # of an actor without a GPU, each of which holds a copy of the models


@dataclass(frozen=True)
class Job:
    """What to embed: modality -> how, with the card that it has in the source."""

    source: Shards
    embedded: dict[str, Embedded]
    shapes: dict[str, list[int]]

    @classmethod
    def of(cls, source: Shards, models: Mapping[str, str], poolings: Mapping[str, str]) -> Job:
        """Loads each model once, to see what it takes and gives.

        Raises:
            UserError: there is no such modality, or a model does not take what the shards hold.
        """
        known = source.card.modalities
        embedded: dict[str, Embedded] = {}
        shapes: dict[str, list[int]] = {}
        for setting, names in (("--embed", models), ("--pooling", poolings)):
            for name in names:
                if name not in known:
                    raise UserError(f"{setting} {name}: there is no such modality{nearest(name, list(known))}")
        for name, pooling in poolings.items():
            if name not in models or pooling not in (*POOLINGS, TOKENS):
                possible = ", ".join((*POOLINGS, TOKENS))
                raise UserError(f"--pooling {name}={pooling}: give one of {possible}, of a modality of --embed")
        for name, pretrained in models.items():
            card = known[name]
            if card.kind == "feature":
                raise UserError(f"--embed {name}: holds features already")
            pooling = poolings.get(name, "auto")
            encoder = frozen_encoder(name, card, pretrained, pooling)
            pooling = TOKENS if pooling == TOKENS else encoder.pooling
            embedded[name] = Embedded(card=card, pretrained=pretrained, pooling=pooling, weights=digest(encoder))
            rows = np.flatnonzero(source.present("train", name)) if card.missing else np.arange(1)
            one, _ = source.take("train", rows[:1], [name])
            embedder = Embedder(name, card, source.card.preprocessing, encoder, pooling)
            shapes[name] = list(embedder(one[name]).shape[1:])
        return cls(source, embedded, shapes)

    @property
    def fingerprint(self) -> str:
        """sha256 of the source, the models and their poolings."""
        how = {name: [one.weights, one.pooling] for name, one in self.embedded.items()}
        return hashlib.sha256(json.dumps([self.source.card.fingerprint, how]).encode()).hexdigest()

    def plan(self) -> dict[str, tuple[str, int, int]]:
        """Shard file -> its split, its first row there, and its number of rows: those of the source."""
        return {
            shard.file: (split, sum(one.rows for one in shards[:number]), shard.rows)
            for split, shards in self.source.card.splits.items()
            for number, shard in enumerate(shards)
        }


def embed(
    source: Path,
    out: Path,
    models: Mapping[str, str],
    poolings: Mapping[str, str],
    *,
    address: str | None,
    console: Console,
) -> tuple[Shards, bool]:
    """Makes the feature shards `out`; also returns whether anything had to be done. See `lfm_ray.embed`.

    Raises:
        UserError: a model or the folder does not fit, or `out` cannot be written.
    """
    check_replaceable(out)
    if out.resolve() == source.resolve():
        raise UserError(f"--out {out}: is the folder of --data; choose another")
    job = Job.of(Shards(source), models, poolings)
    staging = StagingFolder(out, job.fingerprint)
    if (out / CARD).is_file() and read_card(out).fingerprint == job.fingerprint:
        return Shards(out), False
    with staging.opened():
        if staging.complete():
            staging.put_into_place()
        else:
            plan = job.plan()
            results = {file: result for file in plan if (result := staging.result(file))}
            missing = {file: part for file, part in plan.items() if file not in results}
            coming = run(missing, job, staging.folder, address)
            for result in track(
                coming, "embedding", total=len(missing), console=console, transient=True, disable=not moves(console)
            ):
                if "failed" in result:
                    raise UserError(f"{staging.folder / result['file']}: {result['failed']}")
                results[result["file"]] = result
            staging.finish(_card(job, [results[file] for file in plan]))
    return Shards(out), True


class ShardEmbedder:
    """An actor: embeds whole shards of the source, with models that it loads once."""

    def __init__(self, job: Job, folder: Path, gpu: bool, threads: int) -> None:
        torch.set_num_threads(threads)
        self.job, self.folder = job, folder
        self.embedders: dict[str, Embedder] = {}
        for name, how in job.embedded.items():
            encoder = frozen_encoder(name, how.card, how.pretrained, how.pooling).to("cuda" if gpu else "cpu")
            self.embedders[name] = Embedder(name, how.card, job.source.card.preprocessing, encoder, how.pooling)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """item: file, split, first, rows. Returns `result`, as JSON, which then also lies beside the shard."""
        try:
            return {"result": json.dumps(self._embed(**item))}
        except (UserError, OSError) as error:
            reason = f"cannot be written: {error.strerror}" if isinstance(error, OSError) else str(error)
            return {"result": json.dumps({"file": item["file"], "failed": reason})}

    def _embed(self, file: str, split: str, first: int, rows: int) -> dict[str, Any]:
        columns, labels = self.job.source.take(split, np.arange(first, first + rows))
        ids = self.job.source.ids(split)[first : first + rows]
        values: dict[str, Any] = {}
        sums: dict[str, Any] = {}
        present = {name: having(columns, name) for name in self.job.source.card.modalities}
        for name, there in present.items():
            column = columns[name]
            if name in self.embedders:
                values[name] = embedded_where(self.embedders[name], column, there)
                exact = values[name][there].astype(np.float64).reshape(-1, values[name].shape[-1])
                if _padded(self.job.embedded[name]):
                    exact = exact[~np.isnan(exact).any(axis=1)]
                if not np.isfinite(exact).all():
                    raise UserError(f"--embed {name}: the model gives numbers that are not finite")
                sums[name] = [len(exact), exact.sum(axis=0).tolist(), np.square(exact).sum(axis=0).tolist()]
            elif isinstance(column, PackedFrames):
                values[name] = [column.files(row) for row in range(rows)]
            else:
                values[name] = column
        path = self.folder / file
        write_shard(path, ids, labels, values, present)
        result = {"file": file, "rows": rows, "sha256": sha256(path), "sums": sums, "bad": []}
        write_atomically(path.with_name(f"{file}.json"), json.dumps(result))
        return result


def _padded(how: Embedded) -> bool:
    """Whether the features are sequences that differ in length: the tokens of texts."""
    return how.pooling == TOKENS and how.card.kind == "text"


def run(
    plan: Mapping[str, tuple[str, int, int]], job: Job, folder: Path, address: str | None
) -> Iterator[dict[str, Any]]:
    """Yields the results of the shards of `plan` as they are finished."""
    if not plan:
        return
    items = [{"file": file, "split": part[0], "first": part[1], "rows": part[2]} for file, part in plan.items()]
    with ray_session(address):
        import ray

        from lfm_ray.datasets.reading.stream import quiet

        quiet()
        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        each = 1 if gpus else min(CPUS, cpus)
        actors = min(len(items), gpus or max(1, cpus // each))
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
            ShardEmbedder,  # type: ignore[arg-type]
            fn_constructor_args=(job, folder.absolute(), gpus > 0, each),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=1 if gpus else None,
            num_cpus=None if gpus else each,
            max_restarts=0,  # the job goes on from its last shard when it is run again
        )
        try:
            for row in dataset.iter_rows():
                yield json.loads(row["result"])
        except ray.exceptions.RayError as error:
            raise UserError(f"embedding stopped: {str(error).strip().splitlines()[-1]}") from error


def _card(job: Job, results: list[dict[str, Any]]) -> DatasetCard:
    """The card of the finished dataset."""
    source = job.source.card
    made = {result["file"]: result for result in results}
    splits = {
        split: [ShardFile(file=one.file, rows=one.rows, sha256=made[one.file]["sha256"]) for one in shards]
        for split, shards in source.splits.items()
    }
    modalities = dict(source.modalities)
    for name, shape in job.shapes.items():
        of_train = [made[one.file]["sums"][name] for one in source.splits["train"]]
        steps = sum(count for count, _, _ in of_train)
        mean, square = np.sum([pair for _, *pair in of_train], axis=0) / steps  # (d,) each
        modalities[name] = ModalityCard(
            kind="feature",
            shape=shape,
            dtype="float32",
            padded=_padded(job.embedded[name]),
            missing=source.modalities[name].missing,
            mean=float(mean.mean()),
            std=math.sqrt(max(0.0, float(square.mean() - mean.mean() ** 2))),
            means=mean.tolist(),
            stds=np.sqrt(np.maximum(0.0, square - mean**2)).tolist(),
        )
    update = {
        "modalities": modalities,
        "splits": splits,
        "embedded": {**source.embedded, **job.embedded},
        "fingerprint": job.fingerprint,
    }
    return source.model_copy(update=update)
