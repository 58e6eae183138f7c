"""The shard format: a folder of Arrow IPC files and one `dataset.json`. This module does not need Ray.

A shard stores its rows as one record batch: `id` (string), `label` (`lfm_ray.datasets.targets`) and a column per
modality, of the canonical extension type `arrow.fixed_shape_tensor`, or `fixed_size_list<binary>` for JPEG
files; null where a row lacks the modality. Shards are memory-mapped and read without copying.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from lfm_ray.checksums import is_whole, with_checksum
from lfm_ray.datasets.columns import Column, Columns, from_arrow, gather, presence, to_arrow
from lfm_ray.datasets.kinds import Kind, Storage
from lfm_ray.datasets.names import check_name
from lfm_ray.datasets.targets import TargetCard
from lfm_ray.errors import UserError
from lfm_ray.files import check_within, read_json, written_anew
from lfm_ray.settings import Settings, nearest
from lfm_ray.storage import copied, exists, fetch, in_store, name_of, shown, working_folder

FORMAT = "lfm_ray shards 1"
NUMBERS = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")
MOST_NUMBERS = 2**31 - 1  # of a row, in an Arrow column of tensors
CARD = "dataset.json"
CONTACT_SHEET = "contact_sheet.png"
LINEAR_BASELINES = "linear_baselines.json"


class ModalityCard(Settings):
    """Shape, type and statistics of one modality."""

    kind: Kind
    shape: list[PositiveInt] = Field(
        description="shape of one sample as models see it, such as [1, 257, 299] for a spectrogram, [samples] for a"
        " waveform"
    )
    dtype: str = Field(description="NumPy dtype of one sample as models see it, such as float16")
    storage: Storage = Field("tensor", description="how the shards store it; see PrepareConfig")
    stored_shape: list[PositiveInt] = Field(
        [], description="waveform: [samples]; jpeg: [frames]; tensor: empty, since `shape` applies"
    )
    mean: float = Field(description="mean of all entries of the train split")
    std: float = Field(description="standard deviation of all entries of the train split; 0 if they are all equal")
    means: list[float] = Field(
        [], description="mean of each of `entries` over the train split; empty: not measured, as of images and texts"
    )
    stds: list[float] = Field([], description="their standard deviations; empty, as `means`: not measured")
    vocabulary: int | None = Field(None, description="text: number of different tokens, which are 0 to this minus 1")
    padding: int = Field(0, description="text: the token that pads short texts")
    padded: bool = Field(False, description="features: sequences (T, d), in which steps that a sample has not are NaN")
    sample_rate: int | None = Field(None, description="audio that models see as a waveform: samples a second, Hz")
    missing: dict[str, PositiveInt] = Field(
        {},
        exclude_if=lambda counts: not counts,
        description="split -> its rows that lack this modality (`prepare --allow-missing`); a split without is not"
        " named. mean, std, means and stds are those of the rows that have it",
    )

    cut: dict[str, PositiveInt] = Field(
        {},
        exclude_if=lambda counts: not counts,
        description="features: split -> its rows whose sequence had more steps than `shape`, and lost the last of them",
    )
    longest: PositiveInt | None = Field(
        None, exclude_if=lambda steps: steps is None, description="features, where `cut` is not empty: the most steps"
    )
    clipped: dict[str, PositiveInt] = Field(
        {},
        exclude_if=lambda counts: not counts,
        description="16-bit sound: split -> its rows that reached far beyond [-1, 1], and lost what is outside",
    )
    loudest: float | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="16-bit sound, where `clipped` is not empty: the largest value of all",
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.dtype not in NUMBERS:
            raise ValueError(f"dtype must be one of {', '.join(NUMBERS)}, not {self.dtype!r}")
        if self.storage != "tensor" and not self.stored_shape:
            raise ValueError(f"stored_shape is missing; storage {self.storage} needs it")
        for name, shape in {"shape": self.shape, "stored_shape": self.stored_shape}.items():
            if math.prod(shape) > MOST_NUMBERS:
                raise ValueError(f"{name} {shape} is more than Arrow can hold in a row, {MOST_NUMBERS:,} numbers")
        if any(len(one) not in (0, self.entries) for one in (self.means, self.stds)):
            raise ValueError(f"means and stds must have {self.entries} entries, or none")
        return self

    @property
    def entries(self) -> int:
        """How many parts have a mean and deviation of their own: a feature's last dimension, a spectrogram's bands."""
        if self.kind == "feature" and self.shape:
            return self.shape[-1]
        return self.shape[-2] if self.kind == "audio" and self.sample_rate is None and len(self.shape) > 1 else 1

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow type of the column in a shard."""
        if self.storage == "jpeg":
            return pa.list_(pa.binary(), self.stored_shape[0])
        if self.storage == "waveform":
            return pa.fixed_shape_tensor(pa.int16(), self.stored_shape)
        return pa.fixed_shape_tensor(pa.from_numpy_dtype(self.dtype), self.shape)


class ShardFile(Settings):
    """One Arrow file of a split."""

    file: str = Field(pattern=r"^[^/\\]+$", description="file name in the folder")
    rows: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Embedded(Settings):
    """How the features of a modality were made from other shards (`lfm_ray.prepare --embed`)."""

    card: ModalityCard = Field(description="of the modality before that, as raw files give it")
    pretrained: str = Field(description="folder or name of the frozen model")
    pooling: str = Field(description="how its states became one vector, see model.encoders.MODALITY.pooling")
    weights: str = Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of its weights")


class DatasetCard(Settings):
    """The content of `dataset.json`."""

    format: Literal["lfm_ray shards 1"] = "lfm_ray shards 1"
    modalities: dict[str, ModalityCard]
    target: TargetCard = TargetCard()
    classes: list[str] = Field(
        description="a label in the shards is an index into this list, or says which of it a row has; regression: empty"
    )
    splits: dict[str, Annotated[list[ShardFile], Field(min_length=1)]]
    preprocessing: dict[str, Any] = Field(description="the PrepareConfig with every null filled in")
    embedded: dict[str, Embedded] = Field({}, description="modality -> the frozen model that made its features")
    skipped: list[str] = Field([], description="ids of the rows that --skip-bad left out")
    fingerprint: str = Field(description="sha256 of the source manifest and the settings")
    checksum: str | None = Field(None, description="sha256 of all the rest of the card; null: of an earlier version")

    @field_validator("modalities")
    @classmethod
    def _names_of_their_own(cls, modalities: dict[str, ModalityCard]) -> dict[str, ModalityCard]:
        for name in modalities:
            try:
                check_name(repr(name), name)
            except UserError as error:
                raise ValueError(str(error)) from None
        return modalities

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) < len(classes):
            raise ValueError("names a class twice")
        return classes

    def sealed(self) -> Self:
        """The same with its checksum."""
        return self.model_copy(update={"checksum": with_checksum(self.model_dump(mode="json"))["checksum"]})

    def to_json(self) -> str:
        """The content of the file, with its checksum."""
        return json.dumps(self.sealed().model_dump(mode="json"), indent=1) + "\n"

    @property
    def raw(self) -> dict[str, ModalityCard]:
        """The modalities as raw files give them, before a frozen model made features of them."""
        return {
            name: self.embedded[name].card if name in self.embedded else one for name, one in self.modalities.items()
        }

    @property
    def lacking(self) -> list[str]:
        """The modalities that some rows lack."""
        return [name for name, one in self.modalities.items() if one.missing]

    @property
    def outputs(self) -> int:
        """How many logits a model has: one for each class or label, or a number."""
        return len(self.classes) or 1

    def rows(self, split: str) -> int:
        """Number of rows of a split."""
        return sum(shard.rows for shard in self.splits[split])


class Shards:
    """A dataset written by `lfm_ray.prepare`, opened for reading.

    `path` is its folder, `card` says what it holds, `arrays` and `take` read it.

    Files are opened when they are first needed and stay open. A pickled copy opens them afresh. Those
    in an object store are first copied to this machine, once for all its processes.

    path: a folder, or its URI (`lfm_ray.storage`). trusted: links that lead out of the folder are followed.

    Raises:
        UserError: the folder or its `dataset.json` is missing, or has another format; or it has such links.
    """

    def __init__(self, path: str | Path, trusted: bool = False) -> None:
        self.path = working_folder(path) if isinstance(path, str) else path
        if not trusted:
            check_within(self.path)
        self.card = read_card(self.path)
        self._open_files: dict[str, pa.RecordBatch] = {}

    def __repr__(self) -> str:
        rows = ", ".join(f"{self.card.rows(split)} {split}" for split in self.card.splits)
        return f"<shards {shown(self.path)}: {rows} rows; {', '.join(self.card.modalities)}>"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"path": name_of(self.path), "_open_files": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"path": working_folder(state["path"])}  # another machine has its own copies

    def fetch(self, splits: Iterable[str], track: Callable[[list[ShardFile]], Iterable[ShardFile]] = iter) -> None:
        """Copies the files of the given splits from an object store to this machine, unless they are already here."""
        for shard in track([shard for split in splits for shard in self._shards(split)]):
            copied(self.path / shard.file, shard.sha256)

    def arrays(self, split: str, modalities: Sequence[str] | None = None) -> tuple[Columns, np.ndarray]:
        """A whole split: modality -> (N, ...) array as stored, and labels (N,), or (N, C) of several.

        Beside a modality that some rows of the dataset lack there is (N,) bool under `columns.presence` of its name.
        If the split has a single shard, the arrays are read-only views of its memory map.
        """
        batches = [self._open(shard) for shard in self._shards(split)]
        if len(batches) != 1:
            return self.take(split, np.arange(self.card.rows(split)), modalities)
        columns = {name: self._column(batches[0], name) for name in self._names(modalities)}
        columns |= {presence(name): _present(batches[0], name) for name in columns if name in self.card.lacking}
        return columns, _labels(batches[0])

    def take(
        self,
        split: str,
        rows: np.ndarray,
        modalities: Sequence[str] | None = None,
        frames: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[Columns, np.ndarray]:
        """The given rows of a split, in the given order; types as in `arrays`.

        frames: modality -> (len(rows), F) frame numbers to take from each row, for videos.

        Raises:
            IndexError: a row number is negative or too large.
        """
        shards = self._shards(split)
        rows = np.asarray(rows, dtype=np.int64)
        ends = np.cumsum([shard.rows for shard in shards])
        if len(rows) and not 0 <= rows.min() <= rows.max() < ends[-1]:
            raise IndexError(f"{shown(self.path)}: split {split} has rows 0 to {ends[-1] - 1}")
        shard_of_row = np.searchsorted(ends, rows, side="right")
        within = rows - np.concatenate([[0], ends])[shard_of_row]
        numbers, which = np.unique(shard_of_row, return_inverse=True)
        batches = [self._open(shards[number]) for number in numbers] or [self._open(shards[0])]
        columns = {
            name: gather([self._column(batch, name) for batch in batches], which, within, (frames or {}).get(name))
            for name in self._names(modalities)
        }
        for name in [name for name in columns if name in self.card.lacking]:
            columns[presence(name)] = gather([_present(batch, name) for batch in batches], which, within)
        labels = gather([_labels(batch) for batch in batches], which, within)
        assert isinstance(labels, np.ndarray)
        return columns, labels

    def present(self, split: str, modality: str) -> np.ndarray:
        """(N,) bool: whether each row of a split has a modality."""
        return np.concatenate([_present(self._open(shard), modality) for shard in self._shards(split)])

    def usable(self, split: str, modalities: Sequence[str] | None = None) -> np.ndarray:
        """The numbers of a split's rows that have at least one of the modalities, all of them by default.

        Raises:
            UserError: there are none, or none of these modalities has a value.
        """
        names, count = self._names(modalities), self.card.rows(split)
        if any(name not in self.card.lacking for name in names):
            return np.arange(count)
        there = np.stack([self.present(split, name) for name in names])
        for name, one in zip(names, there, strict=True):
            if not one.any():
                raise UserError(f"{shown(self.path)}: no row of split {split} has {name}; leave it out")
        return np.flatnonzero(there.any(axis=0))

    def ids(self, split: str) -> list[str]:
        """The ids of a split's rows, in row order."""
        return [name for shard in self._shards(split) for name in self._open(shard).column("id").to_pylist()]

    def nbytes(self, split: str, modalities: Sequence[str] | None = None) -> int:
        """Bytes that `arrays` needs for a split, labels included."""
        columns = ["label", *self._names(modalities)]
        return sum(self._open(shard).column(name).nbytes for shard in self._shards(split) for name in columns)

    def verify(self) -> None:
        """Reads every file once and compares it with `dataset.json`.

        Raises:
            UserError: names the first file that is missing, truncated or altered.
        """
        for shard in [shard for shards in self.card.splits.values() for shard in shards]:
            path = copied(self.path / shard.file, shard.sha256)
            if not path.is_file():
                raise UserError(f"{path}: this shard is missing; run lfm_ray.prepare again")
            self._open(shard)

    def _shards(self, split: str) -> list[ShardFile]:
        if split not in self.card.splits:
            raise UserError(f"{shown(self.path)}: has no split {split!r}{nearest(split, list(self.card.splits))}")
        return self.card.splits[split]

    def _names(self, modalities: Sequence[str] | None) -> list[str]:
        known = list(self.card.modalities)
        for name in modalities or ():
            if name not in known:
                raise UserError(f"{shown(self.path)}: has no modality {name!r}{nearest(name, known)}")
        return known if modalities is None else list(modalities)

    def _column(self, batch: pa.RecordBatch, name: str) -> Column:
        """One modality of a shard, as a view of the memory map."""
        return from_arrow(batch.column(name))

    def _open(self, shard: ShardFile) -> pa.RecordBatch:
        if shard.file not in self._open_files:
            path = copied(self.path / shard.file, shard.sha256)
            check_shard(path, shard.sha256)
            try:
                batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
                batch.validate(full=True)
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{path}: cannot be read ({reason}); run lfm_ray.prepare again") from None
            if batch.num_rows != shard.rows:
                raise UserError(f"{path}: has {batch.num_rows} rows where {CARD} says {shard.rows}")
            for name, card in self.card.modalities.items():
                wanted = card.arrow_type
                if name not in batch.schema.names or batch.schema.field(name).type != wanted:
                    raise UserError(f"{path}: column {name!r} is missing or not of type {wanted}, as {CARD} says")
            self._check(path, batch)
            self._open_files[shard.file] = batch
        return self._open_files[shard.file]

    def _check(self, path: Path, batch: pa.RecordBatch) -> None:
        """Rejects contents that only an altered file can have and that would make training fail."""
        full = [name for name in batch.schema.names if name not in self.card.lacking]
        empty = next((name for name in full if batch.column(name).null_count), None)
        if empty:
            raise UserError(f"{path}: column {empty!r} has missing values; run lfm_ray.prepare again")
        target, classes = self.card.target, len(self.card.classes)
        if "label" not in batch.schema.names or batch.schema.field("label").type != target.arrow_type(classes):
            raise UserError(f"{path}: column 'label' is missing or not of type {target.arrow_type(classes)}")
        if wrong := target.trouble(_labels(batch), classes):
            raise UserError(f"{path}: {wrong} that {CARD} names" if target.kind == "classes" else f"{path}: {wrong}")


def what_is_told(card: DatasetCard) -> str:
    """What a model of the dataset tells: `10 classes`, `20 labels` or `a number`."""
    count = len(card.classes)
    return {"classes": f"{count} classes", "multilabel": f"{count} labels", "regression": "a number"}[card.target.kind]


def read_card(path: Path) -> DatasetCard:
    """Reads and checks the `dataset.json` of a dataset folder, local or in an object store.

    Raises:
        UserError: it is missing or has another format.
    """
    file = path / CARD
    how = f"make it with: python -m lfm_ray.prepare MANIFEST --audio COLUMN --image COLUMN --out {path}"
    if in_store(path):
        if not exists(file):
            raise UserError(f"{shown(path)}: there is no {CARD}; copy a folder made by lfm_ray.prepare there")
        fetch(file)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such dataset folder; {how}")
    if not file.is_file():
        raise UserError(f"{path}: is not a dataset folder: it has no {CARD}; {how}")
    content = read_json(file)
    try:
        card = DatasetCard.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: {where}: {first['msg']}; the file is not in the format {FORMAT!r}") from None
    if not is_whole(content):
        raise UserError(f"{file}: its checksum differs, so it was altered; run lfm_ray.prepare again")
    return card


def check_shard(path: Path, checksum: str) -> None:
    """Checks a shard against its checksum, once in a process for as long as the file is not changed.

    Raises:
        UserError: it is missing, truncated or altered.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path}: this shard is missing ({error.strerror}); run lfm_ray.prepare again") from None
    if _sha256_once(path, found.st_size, found.st_mtime_ns, found.st_ino) != checksum:
        raise UserError(
            f"{path}: checksum differs from {CARD}, so the file was altered or cut short; run lfm_ray.prepare again"
        )


@functools.cache
def _sha256_once(path: Path, size: int, changed: int, inode: int) -> str:
    return sha256(path)


def write_shard(
    path: Path,
    ids: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    values: Mapping[str, np.ndarray | Sequence[Sequence[bytes]]],
    present: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes one shard. Equal content gives equal bytes, and no reader ever sees a partial file.

    Args:
        path: file to write or replace.
        ids: N sample names.
        labels: N indices into the classes, (N, C) uint8, or N numbers (`lfm_ray.datasets.targets`).
        values: modality -> (N, ...) array, or N lists of F files.
        present: modality -> (N,) bool, whether a row has it; its values are else taken for zeros, and are null in
            the file. A modality that is not named, or that all rows have, is written without nulls.
    """
    label = np.asarray(labels)
    columns: dict[str, pa.Array] = {"id": pa.array(ids, pa.string())}
    columns["label"] = pa.array(label) if label.ndim == 1 else pa.FixedShapeTensorArray.from_numpy_ndarray(label)
    for name, value in values.items():
        columns[name] = to_arrow(value, (present or {}).get(name))
    batch = pa.record_batch(columns)
    with written_anew(path) as file, pa.PythonFile(file, "w") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _present(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """(N,) bool: whether a row has a modality."""
    return batch.column(name).is_valid().to_numpy(zero_copy_only=False)


def _labels(batch: pa.RecordBatch) -> np.ndarray:
    column = batch.column("label")
    return column.to_numpy_ndarray() if isinstance(column, pa.FixedShapeTensorArray) else column.to_numpy()
