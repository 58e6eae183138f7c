"""Parquet manifests whose columns are bytes, structures, lists, or what no manifest can use."""

from __future__ import annotations

import errno
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_files import png, wav
from prepared import prepared

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.preparing.arrow_files import ArrowFile, Cell
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Manifest, check_manifest, read_manifest
from lfm_ray.errors import UserError

CONFIG = PrepareConfig(audio=AudioSettings(n_fft=128, hop=64))
ROWS = 6
LABELS = pa.array(["a", "b"] * 3)
SPLIT = pa.array(["train"] * 4 + ["val"] * 2)


def manifest_of(folder: Path, kinds: dict[str, Kind], **columns: Any) -> Manifest:
    pq.write_table(pa.table({"label": LABELS, "split": SPLIT, **columns}), folder / "m.parquet")
    return read_manifest(folder / "m.parquet", kinds)


def pictures(folder: Path) -> list[bytes]:
    return [png(folder / "x.png", seed=number).read_bytes() for number in range(ROWS)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_are_media_and_text(tmp_path: Path, kind: pa.DataType) -> None:
    sounds = [wav(tmp_path / "x.wav", seconds=0.1, seed=number).read_bytes() for number in range(ROWS)]
    words = [f"w\u00f6rd {number}".encode() for number in range(ROWS)]
    columns = {"i": pictures(tmp_path), "s": sounds, "t": words}
    arrays = {name: pa.array(values, pa.binary()).cast(kind) for name, values in columns.items()}
    manifest = manifest_of(tmp_path, {"i": "image", "s": "audio", "t": "text"}, **arrays)
    assert not manifest.bad
    assert manifest.splits["train"][2].values["t"] == "w\u00f6rd 2"
    found, _ = prepared(manifest, CONFIG, tmp_path / "out").arrays("train")
    files = [png(tmp_path / f"{number}.png", seed=number) for number in range(ROWS)]
    sounds_there = [wav(tmp_path / f"{number}.wav", seconds=0.1, seed=number) for number in range(ROWS)]
    frame = pd.DataFrame(
        {"label": LABELS, "split": SPLIT, "i": map(str, files), "s": map(str, sounds_there), "t": ["x"] * ROWS}
    )
    alike = check_manifest(tmp_path / "m", frame, {"i": "image", "s": "audio"})
    for name, values in prepared(alike, CONFIG, tmp_path / "alike").arrays("train")[0].items():
        np.testing.assert_array_equal(found[name], values)


def test_one_text_that_is_none_is_one_bad_row(tmp_path: Path) -> None:
    words = pa.array([b"a", b"b", b"\xff\xfe", b"d", b"e", b"f"])
    (bad,) = manifest_of(tmp_path, {"t": "text"}, t=words).bad
    assert (bad.id, bad.column) == ("2", "t") and bad.reason.startswith("holds bytes that are not UTF-8")


TENSOR = pa.fixed_shape_tensor(pa.float32(), [3])


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.int16()), TENSOR])
def test_lists_of_numbers_are_features(tmp_path: Path, kind: pa.DataType) -> None:
    numbers = np.arange(3 * ROWS, dtype=np.float32).reshape(ROWS, 3)
    if isinstance(kind, pa.FixedShapeTensorType):
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(numbers)
    else:
        column = pa.array(numbers.astype(kind.value_type.to_pandas_dtype()).tolist(), kind)
    manifest = manifest_of(tmp_path, {"f": "feature"}, f=column)
    found, _ = prepared(manifest, CONFIG, tmp_path / "out").arrays("train")
    np.testing.assert_array_equal(found["f"], numbers[:4])


def test_sequences_in_lists_of_lists_and_what_is_no_array(tmp_path: Path) -> None:
    column = pa.array([[[1.0, 2]] * steps for steps in (1, 2, 3, 4)] + [[[1.0], [1, 2]], [[1.0, None]]])
    manifest = manifest_of(tmp_path, {"f": "feature"}, f=column)
    config = PrepareConfig.model_validate({"feature": {"length": 4}})
    with pytest.raises(UserError, match=r"2 rows.*row 4, f: holds lists of different lengths, which are not an array"):
        prepared(manifest, config, tmp_path / "out")
    assert "row 5, f,holds lists of something else than numbers" in (tmp_path / "out.bad_rows.csv").read_text().replace(
        '"', ""
    )


STRUCT = pa.array([{"array": [0.1], "sampling_rate": 8000}] * ROWS)


@pytest.mark.parametrize(
    ("kind", "column", "said"),
    [
        ("audio", STRUCT, "holds structures of array, sampling_rate; audio is read from paths, bytes, or"),
        ("image", pa.array([[1, 2]] * ROWS), "holds lists; image is read from"),
        ("feature", pa.array([["a"]] * ROWS), "holds lists; feature is read from"),
        ("text", pa.array([["a"]] * ROWS), "holds lists, not one text or number a row"),
        ("text", pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())), "holds maps, not one text"),
    ],
)
def test_what_cannot_be_a_modality_is_refused(tmp_path: Path, kind: Kind, column: pa.Array, said: str) -> None:
    with pytest.raises(UserError, match=rf"m\.parquet: column 'x' {said}"):
        manifest_of(tmp_path, {"x": kind}, x=column)


@pytest.mark.parametrize("name", ["label", "split", "id"])
def test_lists_are_no_label_split_or_id(tmp_path: Path, name: str) -> None:
    columns = {"label": LABELS, "split": SPLIT, "t": pa.array(["x"] * ROWS), name: pa.array([["x"]] * ROWS)}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=f"column '{name}' holds lists, not one text or number a row"):
        read_manifest(tmp_path / "m.parquet", {"t": "text"})


def test_two_columns_of_one_name_are_refused_and_unused_ones_do_not_matter(tmp_path: Path) -> None:
    columns = [LABELS, SPLIT, pa.array(["x"] * ROWS), pa.array([[1]] * ROWS), LABELS]
    pq.write_table(pa.table(columns, ["label", "split", "t", "other", "t"]), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="has 2 columns named 't'; rename or remove all but one"):
        read_manifest(tmp_path / "m.parquet", {"t": "text"})
    pq.write_table(pa.table(columns, ["label", "split", "t", "other", "other"]), tmp_path / "m.parquet")
    assert not read_manifest(tmp_path / "m.parquet", {"t": "text"}).bad


def test_another_column_can_hold_the_classes(tmp_path: Path) -> None:
    columns = {"emotion": LABELS, "label": pa.array(["x"] * ROWS), "split": SPLIT, "t": pa.array(["x"] * ROWS)}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet", {"t": "text"}, label="emotion").classes == ["a", "b"]


def test_categories_keep_their_order(tmp_path: Path) -> None:
    labels = pa.array(["hi", "lo"] * 3).cast(pa.dictionary(pa.int8(), pa.string()))
    frame = pa.table({"label": labels, "split": SPLIT, "t": pa.array(["x"] * ROWS)}).to_pandas()
    frame["label"] = frame["label"].cat.set_categories(["lo", "mid", "hi"], ordered=True)
    frame.to_parquet(tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet", {"t": "text"}).classes == ["lo", "hi"]


@pytest.mark.parametrize("cell", [b"\xff", {"bytes": b"x"}, [1, 2], np.zeros(2)])
def test_a_cell_of_a_data_frame_that_is_no_text_is_a_bad_row(tmp_path: Path, cell: Any) -> None:
    frame = pd.DataFrame({"label": list("abab"), "split": ["train", "train", "val", "val"]})
    frame["t"] = pd.Series(["x", "y", "z", cell], dtype=object)
    (bad,) = check_manifest(tmp_path / "x", frame, {"t": "text"}).bad
    assert bad.id == "3" and "where a path, a text or a number belongs" in bad.reason


@pytest.mark.parametrize("form", ["parquet", "stream"])
def test_media_never_lie_in_memory_together(tmp_path: Path, form: str) -> None:
    """Arrow's own memory while 64 MB in one row group are listed and read one by one."""
    count, size = 256, 2**18
    table = pa.table({"i": pa.array([bytes([number % 256]) * size for number in range(count)])})
    path = tmp_path / "big"
    if form == "parquet":
        pq.write_table(table, path, compression="none", use_dictionary=False, write_batch_size=4, data_page_size=2**20)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=64)
    del table
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    cells = ArrowFile(path).media("i", "image")
    most = 0
    for number, cell in enumerate(cells):
        with (tmp_path / "copy").open("wb") as copy:
            cell.copy_to(copy)  # type: ignore[attr-defined]
        assert (tmp_path / "copy").read_bytes() == bytes([number % 256]) * size
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 16 * 2**20 and tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def test_a_full_disk_is_not_the_fault_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(tmp_path, {"i": "image"}, i=pa.array(pictures(tmp_path)))

    def full(self: Cell, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = PrepareConfig.model_validate({"image": {"size": 8, "channels": 1}})
    monkeypatch.setattr(Cell, "copy_to", full)
    with pytest.raises(UserError, match="is full; let TMPDIR name a folder with more space"):
        prepared(manifest, config, tmp_path / "out")


def test_bytes_in_a_dictionary_are_bytes(tmp_path: Path) -> None:
    words = pa.array([f"w{number}".encode() for number in range(ROWS)]).dictionary_encode()
    images = pa.array(pictures(tmp_path)).dictionary_encode()
    manifest = manifest_of(tmp_path, {"t": "text", "i": "image"}, t=words, i=images)
    assert not manifest.bad and manifest.splits["train"][2].values["t"] == "w2"
    assert prepared(manifest, CONFIG, tmp_path / "out").arrays("train")[0]["i"].shape == (4, 1, 8, 8)


def test_whole_numbers_beside_nulls_stay_what_they_are(tmp_path: Path) -> None:
    ids = pa.array([2**53, 2**53 + 1, 2**53 + 2, None, 1, 2])
    manifest = manifest_of(tmp_path, {"t": "text"}, id=ids, t=pa.array(["x"] * ROWS))
    assert [row.id for row in manifest.splits["train"]] == [str(2**53), str(2**53 + 1), str(2**53 + 2)]
    assert [bad.reason for bad in manifest.bad] == ["is empty"]


GAPS = pa.ExtensionArray.from_storage(TENSOR, pa.array([[1.0, None, 3.0]] * ROWS, pa.list_(pa.float32(), 3)))


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (GAPS, "holds lists of something else than numbers, or gaps in them"),
        (pa.array([[1.0, None]] * ROWS), "holds lists of something else than numbers, or gaps in them"),
        (pa.array([[]] * ROWS, pa.list_(pa.float32())), r"holds no numbers: its shape is \[0\]"),
        (pa.array([b"no array"] * ROWS), 'is text, not media; it begins "no array"'),
    ],
)
def test_numbers_that_are_not_there_are_named(tmp_path: Path, column: pa.Array, reason: str) -> None:
    with pytest.raises(UserError, match=rf"no training file of f can be read as .npy; .*row 0, f, {reason}"):
        prepared(manifest_of(tmp_path, {"f": "feature"}, f=column), CONFIG, tmp_path / "out")


def test_structures_with_two_fields_of_bytes_are_refused(tmp_path: Path) -> None:
    images = pa.array(pictures(tmp_path))
    column = pa.StructArray.from_arrays([images, images], ["bytes", "bytes"])
    with pytest.raises(UserError, match="column 'i' holds structures of bytes, bytes; image is read from"):
        manifest_of(tmp_path, {"i": "image"}, i=column)


SEVERAL = [["a", "b"], ["a"], ["b"], [], ["a"], ["b"]]
OF_LISTS = [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_view(pa.string()), pa.list_(pa.binary()),
            pa.list_(pa.dictionary(pa.int8(), pa.string()))]  # fmt: skip


@pytest.mark.parametrize("kind", OF_LISTS)
def test_several_labels_in_lists_of_all_kinds(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(
        pa.table({"label": pa.array(SEVERAL, kind), "split": SPLIT, "t": ["x"] * ROWS}), tmp_path / "m.parquet"
    )
    manifest = read_manifest(tmp_path / "m.parquet", {"t": "text"}, target="multilabel")
    assert manifest.classes == ["a", "b"] and not manifest.bad
    assert [np.asarray(row.label).tolist() for row in manifest.splits["train"]] == [[1, 1], [1, 0], [0, 1], [0, 0]]


def test_an_unknown_time_zone_is_named(tmp_path: Path) -> None:
    times = pa.array(range(ROWS), pa.timestamp("us", tz="Nowhere/There"))
    with pytest.raises(UserError, match="a column of times has an unknown time zone"):
        manifest_of(tmp_path, {"t": "text"}, t=times)
