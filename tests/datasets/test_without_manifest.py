"""A folder per class, `datasets` on disk, WebDataset: read without a manifest, as if there were one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_files import png, video, wav
from prepared import prepared

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Manifest
from lfm_ray.datasets.preparing.sources import of_folders, of_manifest
from lfm_ray.errors import UserError

CONFIG = PrepareConfig(audio=AudioSettings(n_fft=128, hop=64))
CLASSES = ("cat", "dog")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def folders(root: Path, kinds: dict[str, Kind]) -> Manifest:
    return of_folders(root, kinds, CONFIG)


def of(path: Path, kinds: Mapping[str, Kind], **others: Any) -> Manifest:
    return of_manifest(path, kinds, CONFIG, **others)


def ids(manifest: Manifest) -> dict[str, list[str]]:
    return {split: [row.id for row in rows] for split, rows in manifest.splits.items()}


def labels(manifest: Manifest) -> dict[str, str]:
    return {row.id: manifest.classes[row.label] for rows in manifest.splits.values() for row in rows}


def reasons(manifest: Manifest) -> dict[str, str]:
    return {row.id: row.reason for row in manifest.bad}


def picture(number: int, folder: Path) -> bytes:
    return png(folder / "one.png", seed=number).read_bytes()


# A folder for each class


def class_folders(root: Path, *tops: str, each: int = 4) -> Path:
    for top in tops:
        for label in CLASSES:
            folder = root / top / label
            folder.mkdir(parents=True)
            for number in range(each):
                png(folder / f"{number}.PNG", seed=number)
                wav(folder / f"{number}.wav", seconds=0.1, seed=number)
                (folder / f"{number}.txt").write_text(f"\ufeff a {label} {number}\n")
            (folder / ".DS_Store").write_bytes(b"x")
            (folder / "notes.json").write_text("{}")
    return root


def test_a_folder_for_each_class_is_split_by_class(tmp_path: Path) -> None:
    manifest = folders(class_folders(tmp_path / "raw", "", each=10), {"image": "image"})
    assert manifest.classes == ["cat", "dog"] and not manifest.bad
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 16, "val": 2, "test": 2}
    assert all(name.split("/")[0] == label for name, label in labels(manifest).items())


def test_several_kinds_of_one_name_are_one_sample(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "raw", "train", "Validation", "test")
    kinds: dict[str, Kind] = {"photo": "image", "audio": "audio", "caption": "text"}
    manifest = folders(root, kinds)
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 8, "val": 8, "test": 8}
    row = manifest.splits["val"][5]
    assert row.id == "Validation/dog/1" and row.values["caption"] == "a dog 1"
    assert row.values["photo"] == str(root / "Validation/dog/1.PNG")
    shards = prepared(manifest, CONFIG, tmp_path / "out")
    assert shards.card.rows("train") == 8 and set(shards.card.modalities) == set(kinds)


def test_without_val_a_tenth_of_each_class_of_train_becomes_it_and_one_split_alone_is_none(tmp_path: Path) -> None:
    manifest = folders(class_folders(tmp_path / "a", "train", "test", each=10), {"image": "image"})
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 18, "val": 2, "test": 20}
    manifest = folders(class_folders(tmp_path / "b", "train", each=10), {"image": "image"})
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 16, "val": 2, "test": 2}


def test_a_sample_without_one_of_its_files_and_a_class_without_any_are_bad(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "raw", "train", "val")
    (root / "train/cat/1.wav").unlink()
    png(root / "val/dog/2.bmp")
    (root / "val/cow").mkdir()
    found = reasons(folders(root, {"image": "image", "audio": "audio"}))
    assert found == {
        "train/cat/1": "the sample has only png",
        "val/dog/2": "the sample has 2 files for it (bmp, png); name the column",
        "val/cow": "holds no image or audio",
    }


def test_media_in_no_class_are_bad_and_notes_are_none(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "raw", "train", "val")
    png(root / "all.png")
    wav(root / "val/0.wav", seconds=0.1)
    (root / "README.txt").write_text("what it is")
    found = folders(root, {"image": "image", "audio": "audio", "text": "text"})
    assert reasons(found) == dict.fromkeys(("all.png", "val/0.wav"), "lies in no folder of a class")
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 8, "val": 8}


def test_two_columns_of_a_kind_and_clips_as_folders_of_frames(tmp_path: Path) -> None:
    for label in CLASSES:
        for number in range(3):
            clip = tmp_path / label / f"clip{number}"
            clip.mkdir(parents=True)
            png(clip / "frame_1.jpg", mode="RGB")
            wav(tmp_path / label / f"clip{number}.wav", seconds=0.1)
            for column in ("rgb", "depth"):
                png(tmp_path / label / f"clip{number}.{column}.png")
    kinds: dict[str, Kind] = {"video": "video", "audio": "audio", "rgb": "image", "depth": "image"}
    manifest = folders(tmp_path, kinds)
    assert not manifest.bad
    row = next(row for rows in manifest.splits.values() for row in rows if row.id == "cat/clip0")
    assert {name: Path(str(value)).name for name, value in row.values.items()} == {
        "video": "clip0", "audio": "clip0.wav", "rgb": "clip0.rgb.png", "depth": "clip0.depth.png",
    }  # fmt: skip


def test_the_sound_of_a_video_is_a_sample_of_sound(tmp_path: Path) -> None:
    for label in CLASSES:
        (tmp_path / label).mkdir()
        for number in range(3):
            video(tmp_path / label / f"{number}.mp4", frames=3, sound=True)
    manifest = folders(tmp_path, {"audio": "audio", "video": "video"})
    assert not manifest.bad
    assert manifest.splits["train"][0].values["audio"] == manifest.splits["train"][0].values["video"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "holds no folder; each class has one"),
        (["train/cat", "dog"], "train is a split and dog is none"),
        (["train"], "train is a split, and holds no folder of a class"),
        (["cat", "dog"], "no sample in it can be read; the first: cat: holds no image"),
    ],
)
def test_folders_that_are_no_classes_are_named(tmp_path: Path, names: list[str], said: str) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    for name in names:
        (root / name).mkdir(parents=True)
    with pytest.raises(UserError, match=said):
        folders(root, {"image": "image"})


# `datasets` on disk


def noted(**features: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def rows_of(count: int, folder: Path) -> dict[str, list[Any]]:
    return {
        "img": [{"bytes": picture(number, folder), "path": f"{number}.png"} for number in range(count)],
        "caption": [f"number {number}" for number in range(count)],
        "kind": [number % 2 for number in range(count)],
    }


SCHEMA = pa.schema([("img", IMAGE), ("caption", pa.string()), ("kind", pa.int64())])
CLASS_LABEL = {"kind": {"_type": "ClassLabel", "names": ["zebra", "ant"]}, "img": {"_type": "Image"}}


def write_arrow(path: Path, table: pa.Table, rows: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def saved(folder: Path, **splits: int) -> Path:
    """As DatasetDict.save_to_disk writes it: two files a split, rows in several batches."""
    for split, count in splits.items():
        table = pa.table(rows_of(count, folder.parent), SCHEMA.with_metadata(noted(**CLASS_LABEL)))
        names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
        for name, first in zip(names, (0, count // 2), strict=True):
            write_arrow(folder / split / name, table.slice(first, count // 2 if first == 0 else None))
        state = {"_data_files": [{"filename": name} for name in names], "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
        write_arrow(folder / split / "cache-1.arrow", table)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


KINDS: dict[str, Kind] = {"image": "image", "caption": "text"}


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", train=20, validation=6, test=4)
    manifest = of(folder, KINDS, label="kind")
    assert not manifest.bad and manifest.classes == ["zebra", "ant"]  # in their order, not sorted
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 20, "val": 6, "test": 4}
    assert manifest.splits["train"][10].id == "train/data-00001-of-00002:0"
    assert [row.values["caption"] for row in manifest.splits["val"]] == [f"number {number}" for number in range(6)]
    shards = prepared(manifest, CONFIG, tmp_path / "out")
    arrays, found = shards.arrays("train")
    assert found.tolist() == [0, 1] * 10
    alone = [np.asarray(__import__("PIL.Image").Image.open(png(tmp_path / "x.png", seed=n))) for n in range(20)]
    np.testing.assert_array_equal(arrays["image"][:, 0], np.stack(alone))


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
def test_cells_come_from_any_form_of_file_in_any_order(tmp_path: Path, form: str, rows: int) -> None:
    (tmp_path / "d").mkdir()
    table = pa.table(rows_of(24, tmp_path), SCHEMA)
    path = tmp_path / "d" / f"data.{'parquet' if form == 'parquet' else 'arrow'}"
    if form == "parquet":
        pq.write_table(table, path, row_group_size=rows)
    elif form == "stream":
        write_arrow(path, table, rows)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    manifest = of(path.parent, {"image": "image"}, label="kind")
    assert not manifest.bad
    cells = {row.id: row.values["image"] for found in manifest.splits.values() for row in found}
    for number in (5, 6, 23, 0, 12, 13, 11):
        target = io.BytesIO()
        cells[f"data:{number}"].copy_to(target)  # type: ignore[union-attr]
        assert target.getvalue() == picture(number, tmp_path)


def test_parquet_files_named_after_their_splits_and_those_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    schema = SCHEMA.with_metadata(noted(**CLASS_LABEL))
    for name in ("train-00000-of-00003", "train-00001-of-00003", "test-00000-of-00001"):
        pq.write_table(pa.table(rows_of(20, tmp_path), schema), folder / f"{name}.parquet")
    cut = (folder / "train-00001-of-00003.parquet").read_bytes()
    (folder / "train-00001-of-00003.parquet").write_bytes(cut[: len(cut) // 2])
    pq.write_table(pa.table(rows_of(20, tmp_path), schema), folder / "more.parquet")
    manifest = of(tmp_path / "hub", KINDS, label="kind")
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 18, "val": 2, "test": 20}
    found = reasons(manifest)
    assert found["train-00002-of-00003.parquet"] == "there is no such file"
    assert found["train-00001-of-00003.parquet"].startswith("cannot be read: ")
    assert found["more.parquet"] == "its name states no split, as those of other files do"


def test_rows_without_label_or_picture_are_bad_and_paths_are_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    rows = rows_of(24, tmp_path)
    rows["kind"][3] = -1
    rows["img"][4] = None
    rows["img"][5] = {"bytes": None, "path": "beside.png"}
    rows["img"][6] = {"bytes": None, "path": str(tmp_path / "one.png")}
    rows["img"][7] = {"bytes": b"no picture", "path": None}
    png(tmp_path / "d" / "beside.png")
    pq.write_table(pa.table(rows, SCHEMA.with_metadata(noted(**CLASS_LABEL))), tmp_path / "d" / "all.parquet")
    manifest = of(tmp_path / "d", {"img": "image"}, label="kind")
    found = reasons(manifest)
    assert found["all:3"] == found["all:4"] == "is empty"
    assert "--allow-outside" in found["all:6"] and len(found) == 3
    manifest.bad.clear()
    with pytest.raises(UserError, match=r"1 rows cannot.*all:7: img: .*all\.parquet, row 7, img: is text, not media"):
        prepared(manifest, CONFIG, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("state.json", {"_data_files": [{"filename": "../../x.arrow"}]}, "is not a file or folder beside it"),
        ("dataset_dict.json", {"splits": ["/etc"]}, "is not a file or folder beside it"),
        ("state.json", {"_indices_data_files": [{"filename": "i.arrow"}]}, "flatten_indices"),
        ("state.json", [], "is not a JSON object"),
    ],
)
def test_what_describes_a_dataset_names_nothing_outside(tmp_path: Path, file: str, content: Any, said: str) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        of(tmp_path, KINDS)


def test_a_missing_column_and_an_unknown_split_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", train=20, extra=4)
    assert reasons(of(folder, KINDS, label="kind")) == {"extra": "unknown split; allowed: train, validation, test"}
    with pytest.raises(UserError, match=r"no column 'label'; columns of the file: img, caption, kind; --label COLUMN"):
        of(folder, KINDS)
    with pytest.raises(UserError, match=r"no column 'picture'"):
        of(folder, {"picture": "image"}, label="kind")


# WebDataset


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def samples(folder: Path, count: int) -> list[tuple[str, bytes]]:
    found = []
    for number in range(count):
        sound = wav(folder / "one.wav", seconds=0.1, seed=number).read_bytes()
        known = {"caption": f"number {number}", "label": CLASSES[number % 2]}
        found += [
            (f"./{number:03d}.JPG", picture(number, folder)),
            (f"./{number:03d}.depth.png", picture(number + 1, folder)),
            (f"./{number:03d}.wav", sound),
            (f"./{number:03d}.json", json.dumps(known).encode()),
        ]
    return [("./__meta__.json", b"{}"), ("./.hidden.jpg", b""), *found]


WEB: dict[str, Kind] = {"jpg": "image", "depth": "image", "audio": "audio", "caption": "text"}


def test_tars_are_read_where_they_are(tmp_path: Path) -> None:
    for name in ("train-000.tar", "train-001.tar", "val/000.tar"):
        tar(tmp_path / "web" / name, samples(tmp_path, 6))
    manifest = of(tmp_path / "web", WEB)
    assert not manifest.bad and manifest.classes == ["cat", "dog"]
    assert ids(manifest)["val"] == [f"val/000/{number:03d}" for number in range(6)]
    assert len(manifest.splits["train"]) == 12
    assert manifest.splits["train"][1].values["caption"] == "number 1"
    shards = prepared(manifest, CONFIG, tmp_path / "out")
    arrays, _ = shards.arrays("val")
    np.testing.assert_array_equal(arrays["jpg"][1:], arrays["depth"][:-1])
    assert not list((tmp_path / "web").glob("*/*.JPG"))


def test_one_tar_with_numbers_of_classes(tmp_path: Path) -> None:
    members = [
        (name, content)
        for number in range(24)
        for name, content in (
            (f"a/{number}.png", picture(number, tmp_path)), (f"a/{number}.cls", f"{number % 2 * 10}\n".encode())
        )
    ]  # fmt: skip
    manifest = of(tar(tmp_path / "all.tar", members), {"image": "image"})
    assert manifest.classes == ["0", "10"] and "a/23" in labels(manifest)


def test_samples_that_lack_something_are_bad(tmp_path: Path) -> None:
    members = samples(tmp_path, 30)
    lacking = {"./001.json": None, "./002.JPG": None, "./003.json": b"{", "./004.json": b'{"caption": "x"}'}
    members = [(n, lacking.get(n, c) if n in lacking else c) for n, c in members if lacking.get(n, c) is not None]  # type: ignore[misc]
    members += [(name, content) for name, content in members if name.startswith("./010")]
    members.append(("./005.jpg", b""))
    manifest = of(tar(tmp_path / "all.tar", members), WEB)
    found = Counter(reason for reason in reasons(manifest).values())
    assert reasons(manifest)["003"] == "is not a JSON object"
    assert reasons(manifest)["004"].startswith("the sample has no label: only depth.png")
    assert reasons(manifest)["010"].startswith("repeats that of an earlier row")
    assert found.total() == 6


@pytest.mark.parametrize("kept", [0.5, -512 * 21, -512 * 20])
def test_a_tar_that_is_cut_loses_only_what_is_not_there(tmp_path: Path, kept: float) -> None:
    path = tar(tmp_path / "all.tar", samples(tmp_path, 30))
    whole = path.read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    path.write_bytes(whole[: round(kept * len(whole))] if kept > 0 else whole)
    manifest = of(path, {"jpg": "image"})
    assert any(reason.startswith("is cut short") for reason in reasons(manifest).values())
    assert len(labels(manifest)) >= (14 if kept > 0 else 30)


def test_a_damaged_or_compressed_tar_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "all.tar", samples(tmp_path, 30))
    data = bytearray(path.read_bytes())
    at = data.index(b"./025.JPG")
    data[at : at + 512] = bytes([255]) * 512
    path.write_bytes(data)
    assert f"is damaged at byte {at:,}; what follows is not read" in reasons(of(path, {"jpg": "image"})).values()
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as file:
        file.add(path, "x")
    with pytest.raises(UserError, match="compressed with gzip"):
        of(tmp_path / "all.tar.gz", {"jpg": "image"})
    (tmp_path / "none.tar").write_bytes(b"no tar")
    with pytest.raises(UserError, match="is not a tar file"):
        of(tmp_path / "none.tar", {"jpg": "image"})
    with pytest.raises(UserError, match=r"absent\.tar: cannot be read: no such file"):
        of(tmp_path / "absent.tar", {"jpg": "image"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.parquet, \.arrow or \.tar file.*--folders"):
        of(tmp_path / "empty", {"jpg": "image"})


# Damage


@pytest.mark.parametrize("form", ["parquet", "stream", "file", "tar"])
def test_a_damaged_file_is_refused_in_one_line_or_loses_rows(tmp_path: Path, form: str) -> None:
    """Alters byte ranges: the file is refused in one line, or rows are bad, or it did not matter."""
    folder = tmp_path / "d"
    folder.mkdir()
    path = folder / f"all.{form if form in ('parquet', 'tar') else 'arrow'}"
    table = pa.table(rows_of(24, tmp_path), SCHEMA)
    if form == "tar":
        members = []
        for number in range(24):
            members += [(f"{number}.img", picture(number, tmp_path)), (f"{number}.kind", b"ab"[number % 2 :][:1])]
        tar(path, members)
    elif form == "parquet":
        pq.write_table(table, path, row_group_size=7, write_page_checksum=True)
    elif form == "stream":
        write_arrow(path, table, 7)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    whole, random, lines = path.read_bytes(), np.random.default_rng(0), list[str]()
    for _ in range(int(os.environ.get("FUZZ_EXAMPLES", "25"))):
        data = bytearray(whole)
        at, length = int(random.integers(len(data))), int(random.choice([1, 8, 200]))
        data[at : at + length] = random.bytes(len(data[at : at + length]))
        path.write_bytes(data)
        try:
            manifest = of(folder, {"img": "image"}, label="kind")
        except UserError as error:
            lines.append(str(error))
            continue
        for row in [row for rows in manifest.splits.values() for row in rows]:
            cell, target = row.values["img"], io.BytesIO()
            with contextlib.suppress(ValueError):
                cell.copy_to(target)  # type: ignore[union-attr]
    assert not any("\n" in line for line in lines)
