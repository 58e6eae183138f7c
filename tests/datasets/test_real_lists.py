"""The published list files of datasets: what is read from them equals an independent parse."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from lfm_ray.datasets.preparing.cards import raw_card, raw_manifest

LISTS = Path(__file__).parents[3] / "shared" / "cases" / "annotations"
DISCARDED = "sarcasm sarcastic reposting <url> joke jokes humour humor irony ironic exgag"

pytestmark = pytest.mark.skipif(not LISTS.is_dir(), reason="the published lists are not here")


def lines(*parts: str) -> list[str]:
    text = LISTS.joinpath(*parts).read_text(encoding="utf-8")
    return [line for line in text.replace("\r", "").split("\n") if line.strip()]


def files(table: pd.DataFrame, column: str) -> list[str]:
    return [Path(value).name for value in table[column]]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_twitter2015_whose_test_list_has_a_header_of_four_fields() -> None:
    table = raw_manifest("twitter2015", LISTS)
    wanted = []
    for file, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        for line in lines("twitter2015", f"{file}.tsv")[1:]:
            number, label, image, text, target = line.split("\t")
            wanted.append((f"{file}-{number}", split, label, image, target.join(text.split("$T$"))))
    found = table.assign(image=files(table, "image"))[["id", "split", "label", "image", "text"]]
    assert list(found.itertuples(index=False, name=None)) == wanted
    assert Counter(table["split"]) == {"train": 2, "val": 1, "test": 2}


def test_sarcasm_without_the_tweets_that_its_authors_leave_out() -> None:
    table = raw_manifest("sarcasm", LISTS / "sarcasm")
    wanted = []
    for file, split in (("train", "train"), ("valid2", "val"), ("test2", "test")):
        for line in lines("sarcasm", "text", f"{file}.txt"):
            name, text, label = re.fullmatch(r"\['(\d+)', '(.*)', (?:\d, )?(\d)\]", line).groups()  # type: ignore[union-attr]
            if not set(text.split()) & set(DISCARDED.split()):
                wanted.append((name, split, label, f"{name}.jpg", text))
    found = table.assign(image=files(table, "image"))[["id", "split", "label", "image", "text"]]
    assert list(found.itertuples(index=False, name=None)) == wanted
    assert Counter(table["split"]) == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize("linked", [False, True])
def test_kinetics_sounds_in_both_forms_of_names_also_behind_a_link(tmp_path: Path, linked: bool) -> None:
    root, clips = tmp_path / "raw", tmp_path / ("elsewhere" if linked else "raw/clips")
    shutil.copytree(LISTS / "kinetics_sounds", root)
    on_disk = {}
    for split in ("train", "test"):
        for line in lines("kinetics_sounds", f"my_{split}.txt"):
            name = line.split(",")[0]
            short = re.fullmatch(r"(.{11})_(\d{1,4})", name)
            stem = name if short is None else f"{short[1]}_{int(short[2]):06d}_{int(short[2]) + 10:06d}"
            on_disk[name] = clips / "a class" / f"{stem}.mp4"
    touch(*on_disk.values())
    if linked:
        (root / "clips").symlink_to(clips)
        (clips / "loop").symlink_to(root)
    table = raw_manifest("kinetics_sounds", root)
    assert {row.id: Path(row.video).resolve() for row in table.itertuples()} == on_disk
    assert set(table["label"]) == {"14", "23"}
    assert Counter(table["split"])["test"] == 2


def test_crema_d_keeps_a_listed_clip_that_lacks_a_file(tmp_path: Path) -> None:
    shutil.copytree(LISTS / "crema_d", tmp_path, dirs_exist_ok=True)
    listed = [line.split(",") for split in ("train", "test") for line in lines("crema_d", f"{split}.csv")]
    touch(*(tmp_path / "AudioWAV" / f"{name}.wav" for name, _ in listed[1:]))
    touch(*(tmp_path / "VideoFlash" / f"{name}.flv" for name, _ in listed))
    table = raw_manifest("crema_d", tmp_path)
    assert [[row.id, row.label] for row in table.itertuples()] == listed
    assert [Path(path).exists() for path in table["audio"]] == [False, *[True] * (len(listed) - 1)]


def test_crema_d_without_lists_keeps_a_clip_that_lacks_its_sound(tmp_path: Path) -> None:
    touch(*(tmp_path / "AudioWAV" / f"1001_DFA_{emotion}_XX.wav" for emotion in ("ANG", "SAD")))
    touch(*(tmp_path / "VideoFlash" / f"1001_DFA_{emotion}_XX.flv" for emotion in ("ANG", "FEA", "SAD")))
    table = raw_manifest("crema_d", tmp_path)
    assert list(table["label"]) == ["ANG", "FEA", "SAD"]


def test_nvgesture_depth_has_its_own_frames_and_none_is_lost_by_rounding(tmp_path: Path) -> None:
    name = "nvgesture_train_correct_cvpr2016_v2.lst"
    for split in ("train", "test"):
        shutil.copy(LISTS / "nvgesture" / name, tmp_path / name.replace("train", split))
    table = raw_manifest("nvgesture", tmp_path)
    train = table[table["split"] != "test"]
    for row, line in zip(train.to_dict("records"), lines("nvgesture", name), strict=True):
        parts = {key: rest for key, _, rest in (part.partition(":") for part in line.split())}
        for column, key in (("", "color"), ("depth.", "depth")):
            _, first, last = parts[key].split(":")
            start, end = float(row[f"{column}start"]), float(row[f"{column}end"])
            shown = [frame for frame in range(400) if start <= frame / 30 < end]
            assert shown == list(range(int(first), int(last)))
        assert row["label"] == parts["label"]


@pytest.mark.parametrize("name", ["twitter2015", "sarcasm", "kinetics_sounds"])
def test_labels_are_those_of_the_card(name: str) -> None:
    root = LISTS if name == "twitter2015" else LISTS / name
    assert set(raw_manifest(name, root)["label"]) <= set(raw_card(name).classes)


@pytest.mark.parametrize("end", [b"\r\n", b" \t\r\n", b"\n\n"], ids=["Windows", "blanks", "empty lines"])
@pytest.mark.parametrize("name", ["twitter2015", "sarcasm", "kinetics_sounds", "crema_d", "nvgesture"])
def test_lists_that_an_editor_has_saved_say_the_same(tmp_path: Path, name: str, end: bytes) -> None:
    tables = []
    for before, after in ((b"", b"\n"), (b"\xef\xbb\xbf", end)):
        root = tmp_path / f"{len(tables)}"
        shutil.copytree(LISTS / name, root / "twitter2015" if name == "twitter2015" else root)
        if name == "nvgesture":
            train = root / "nvgesture_train_correct_cvpr2016_v2.lst"
            shutil.copy(train, root / train.name.replace("train", "test"))
        touch(root / "AudioWAV" / "1001.wav", root / "VideoFlash" / "1001.flv")  # of CREMA-D
        for file in root.rglob("*.*"):
            if file.is_file() and file.stat().st_size:
                file.write_bytes(before + file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", after))
        tables.append(raw_manifest(name, root).map(lambda value, root=root: str(value).replace(str(root), "")))
    pd.testing.assert_frame_equal(*tables)
