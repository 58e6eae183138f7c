from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import small_shards
from small_shards import content

from lfm_ray.datasets.columns import PackedFrames, gather
from lfm_ray.datasets.shards import CARD, Shards, read_card, sha256, write_shard
from lfm_ray.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_shards.write(tmp_path)


def believe(file: Path) -> None:
    """Writes the checksum of an altered shard into the card."""
    card = json.loads((file.parent / CARD).read_text())
    for shard in [shard for shards in card["splits"].values() for shard in shards]:
        shard["sha256"] = sha256(file) if shard["file"] == file.name else shard["sha256"]
    (file.parent / CARD).write_text(json.dumps(card | {"checksum": None}))


def both_shards(name: str) -> np.ndarray:
    return np.concatenate([content(5, 0)[name], content(3, 1)[name]])


def test_a_split_of_several_shards_comes_back_whole_and_in_order(folder: Path) -> None:
    arrays, labels = Shards(folder).arrays("train")
    for name, array in arrays.items():
        assert array.dtype == both_shards(name).dtype
        np.testing.assert_array_equal(array, both_shards(name))
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


def test_one_shard_is_read_without_a_copy(folder: Path) -> None:
    before = pa.total_allocated_bytes()
    arrays, _ = Shards(folder).arrays("val", ["sound"])
    assert list(arrays) == ["sound"]
    assert not arrays["sound"].flags.owndata
    assert not arrays["sound"].flags.writeable
    assert pa.total_allocated_bytes() == before
    np.testing.assert_array_equal(arrays["sound"], content(4, 0)["sound"])


def test_take_keeps_the_order_asked_for_even_after_pickling(folder: Path) -> None:
    shards = Shards(folder)
    shards.arrays("train")
    shards = pickle.loads(pickle.dumps(shards))
    rows = np.array([7, 0, 5, 4, 0])
    arrays, labels = shards.take("train", rows, ["picture", "words"])
    assert list(arrays) == ["picture", "words"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, both_shards(name)[rows])
    assert labels.tolist() == [2, 0, 0, 4, 0]
    empty, none = shards.take("train", np.array([], dtype=np.int64))
    assert empty["sound"].shape == (0, 1, 3, 4)
    assert none.shape == (0,)


def test_frames_of_different_sizes_are_packed_shared_and_gathered(tmp_path: Path) -> None:
    files = [[b"a", b"", b"ccc"], [b"dd", b"e", b"f"]]
    write_shard(tmp_path / "x.arrow", ["0", "1"], [0, 1], {"clip": files})
    column = pa.ipc.open_file(pa.memory_map(str(tmp_path / "x.arrow"))).get_batch(0).column("clip")
    assert column.type == pa.list_(pa.binary(), 3)
    mapped, packed = PackedFrames.from_arrow(column), PackedFrames.pack(files)
    for frames in (mapped, packed, pickle.loads(pickle.dumps(packed)), PackedFrames.from_arrow(column.slice(0))):
        assert [frames.files(sample) for sample in range(len(frames))] == files
    taken = gather([mapped, packed], [1, 0, 0], np.array([1, 0, 1]), np.array([[2, 0], [2, 2], [1, 0]]))
    assert isinstance(taken, PackedFrames)
    assert [taken.files(sample) for sample in range(3)] == [[b"f", b"dd"], [b"ccc", b"ccc"], [b"e", b"dd"]]
    assert PackedFrames.from_arrow(column.slice(1)).files(0) == files[1]
    assert len(gather([mapped], [], np.arange(0))) == 0


def test_frames_are_taken_out_of_arrays_too() -> None:
    clips = np.arange(24).reshape(2, 4, 3)
    taken = gather([clips, -clips], [1, 0], np.array([0, 1]), np.array([[3, 0], [1, 1]]))
    assert isinstance(taken, np.ndarray)
    assert taken.tolist() == [(-clips[0][[3, 0]]).tolist(), clips[1][[1, 1]].tolist()]


@pytest.mark.parametrize("row", [-1, 8])
def test_take_refuses_rows_outside_the_split(folder: Path, row: int) -> None:
    with pytest.raises(IndexError, match="0 to 7"):
        Shards(folder).take("train", np.array([row]))


def test_nbytes_is_what_the_arrays_take(folder: Path) -> None:
    shards = Shards(folder)
    for names in (None, ["words"]):
        arrays, labels = shards.arrays("train", names)
        assert shards.nbytes("train", names) == sum(array.nbytes for array in arrays.values()) + labels.nbytes


def test_equal_content_gives_equal_bytes_in_a_canonical_type(folder: Path) -> None:
    write_shard(folder / "again", [f"0/{row}" for row in range(5)], range(5), content(5, 0))
    assert (folder / "again").read_bytes() == (folder / "train-00000.arrow").read_bytes()
    assert not list(folder.glob(".*"))
    schema = pa.ipc.open_file(pa.memory_map(str(folder / "again"))).schema
    assert schema.field("sound").type == pa.fixed_shape_tensor(pa.float16(), [1, 3, 4])
    assert schema.field("id").type == pa.string()


def test_verify_names_the_file_that_was_altered(folder: Path) -> None:
    Shards(folder).verify()
    path = folder / "train-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00001\.arrow: checksum"):
        Shards(folder).verify()


def test_verify_names_a_wrong_row_count_and_a_missing_file(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    card["splits"]["val"][0]["rows"] = 3
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"val-00000\.arrow: has 4 rows"):
        Shards(folder).verify()
    (folder / "train-00000.arrow").unlink()
    with pytest.raises(UserError, match=r"train-00000\.arrow: this shard is missing"):
        Shards(folder).verify()


@pytest.mark.parametrize("left", [0, 10, 300])
def test_a_truncated_shard_is_named_without_verify(folder: Path, left: int) -> None:
    path = folder / "train-00001.arrow"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=r"train-00001\.arrow: checksum differs .* altered or cut short"):
        Shards(folder).arrays("train")


def test_unknown_names_get_the_nearest(folder: Path) -> None:
    shards = Shards(folder)
    with pytest.raises(UserError, match="did you mean train"):
        shards.arrays("trian")
    with pytest.raises(UserError, match="did you mean sound"):
        shards.take("train", np.array([0]), ["sounds"])


def test_a_missing_folder_or_card_says_what_to_run(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no such dataset folder; make it with: python -m lfm_ray\.prepare"):
        Shards(folder / "nowhere")
    (folder / CARD).unlink()
    with pytest.raises(UserError, match=r"has no dataset\.json; make it with"):
        Shards(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read"), ("{}", "modalities"), ('{"format": "lfm_ray shards 9"}', "format")]
)
def test_a_wrong_card_is_named(folder: Path, text: str, message: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(UserError, match=rf"dataset\.json: .*{message}"):
        Shards(folder)


def admit(path: Path) -> None:
    """Gives the card the checksum of an altered file, as somebody who altered it on purpose could."""
    card = json.loads((path.parent / CARD).read_text())
    for shard in [shard for shards in card["splits"].values() for shard in shards]:
        if shard["file"] == path.name:
            shard["sha256"] = sha256(path)
    (path.parent / CARD).write_text(json.dumps(card))


def test_a_flipped_byte_is_named_at_the_first_touch_also_if_the_file_is_altered_later(folder: Path) -> None:
    path = folder / "train-00000.arrow"
    whole = path.read_bytes()
    Shards(folder).arrays("train")
    path.write_bytes(whole[:-300] + bytes([whole[-300] ^ 1]) + whole[-299:])
    with pytest.raises(UserError, match=r"train-00000\.arrow: checksum differs"):
        Shards(folder).arrays("train")
    path.write_bytes(whole)
    Shards(folder).arrays("train")


def test_an_altered_card_is_named(folder: Path) -> None:
    sealed = read_card(folder).sealed().model_dump(mode="json")
    for where, value in ((("classes", 0), "another"), (("modalities", "sound", "mean"), 1e-9)):
        altered = json.loads(json.dumps(sealed))
        inner = altered
        for key in where[:-1]:
            inner = inner[key]
        (folder / CARD).write_text(json.dumps(altered))
        read_card(folder)
        inner[where[-1]] = value
        (folder / CARD).write_text(json.dumps(altered))
        with pytest.raises(UserError, match="its checksum differs, so it was altered"):
            read_card(folder)


def test_a_label_that_is_no_class_and_a_missing_value_are_named(folder: Path) -> None:
    path = folder / "val-00000.arrow"
    for label in (5, -1):
        write_shard(path, list("abcd"), [0, 1, 2, label], content(4, 0))
        admit(path)
        with pytest.raises(UserError, match="a label is outside the 5 classes"):
            Shards(folder).arrays("val")
    batch = pa.ipc.open_file(pa.memory_map(str(folder / "train-00000.arrow"))).get_batch(0)
    columns = {name: batch.column(name) for name in batch.schema.names} | {"id": pa.array([None, *"bcde"])}
    with pa.OSFile(str(folder / "train-00000.arrow"), "wb") as sink:
        lacking = pa.record_batch(columns)
        with pa.ipc.new_file(sink, lacking.schema) as writer:
            writer.write_batch(lacking)
    admit(folder / "train-00000.arrow")
    with pytest.raises(UserError, match="column 'id' has missing values"):
        Shards(folder).arrays("train")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("splits", "val", 0, "file"), "../val-00000.arrow", "file"),
        (("splits", "val", 0, "file"), "/etc/passwd", "file"),
        (("splits", "val"), [], "splits.val"),
        (("modalities", "sound", "shape"), [2**16, 2**15], "more than Arrow can hold in a row, 2,147,483,647 numbers"),
        (("modalities", "sound", "dtype"), "object", "dtype must be one of float16"),
        (("modalities", "sound", "shape"), [1, -3], "shape"),
        (("modalities", "sound", "storage"), "jpeg", "stored_shape is missing"),
    ],
)
def test_a_card_cannot_name_files_elsewhere_nor_what_no_shard_holds(
    folder: Path, where: tuple[Any, ...], value: Any, message: str
) -> None:
    node = card = json.loads((folder / CARD).read_text())
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match=rf"dataset\.json: .*{message}"):
        Shards(folder)
