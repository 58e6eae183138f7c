"""The readers of the field's datasets, on raw layouts made small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from media_files import png
from raw_layouts import LAYOUTS, crema_d, nvgesture, sarcasm, twitter2015, write

from lfm_ray.datasets.preparing.cards import names, raw_card, raw_manifest
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.decoding import decode
from lfm_ray.datasets.preparing.manifest import Manifest, Row, check_manifest
from lfm_ray.datasets.preparing.resolving import resolve
from lfm_ray.errors import UserError
from lfm_ray.settings import build


def manifest_of(name: str, root: Path) -> tuple[Manifest, PrepareConfig]:
    LAYOUTS[name](root)
    card = raw_card(name)
    classes = card.classes if isinstance(card.classes, list) else None
    manifest = check_manifest(root / name, raw_manifest(name, root), card.modalities, classes=classes)
    assert not manifest.bad
    config = build(PrepareConfig, card.preprocessing)
    return manifest, resolve(config, manifest.kinds, manifest.splits["train"])


def test_every_card_has_a_layout_here() -> None:
    assert names() == sorted(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_raw_folder_becomes_a_manifest_with_three_splits_and_every_clip_can_be_decoded(
    tmp_path: Path, name: str
) -> None:
    manifest, config = manifest_of(name, tmp_path / "raw")
    assert list(manifest.splits) == ["train", "val", "test"]
    assert set(manifest.kinds) == set(raw_card(name).modalities)
    for rows in manifest.splits.values():
        for modality, kind in manifest.kinds.items():
            decode(rows[0], modality, kind, config)
    again = check_manifest(tmp_path / "raw" / name, raw_manifest(name, tmp_path / "raw"), manifest.kinds)
    assert again.splits == manifest.splits


def test_spectrograms_and_frames_have_the_papers_sizes(tmp_path: Path) -> None:
    for name, frames in (("crema_d", 299), ("kinetics_sounds", 1004)):
        manifest, config = manifest_of(name, tmp_path / name)
        row = manifest.splits["train"][0]
        assert decode(row, "audio", "audio", config).seen.shape == (1, 257, frames)
        assert decode(row, "video", "video", config).seen.shape == (10, 3, 224, 224)


def test_crema_d_takes_the_splits_of_its_lists_and_frames_that_were_extracted(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    crema_d(root)
    stems = sorted(path.stem for path in (root / "AudioWAV").iterdir())
    write(root / "test.csv", *(f"{stem},{stem.split('_')[2]}" for stem in stems[:4]))
    write(root / "train.csv", *(f"{stem},{stem.split('_')[2]}" for stem in stems[4:]))
    for stem in stems:
        for number in range(5):
            (root / "Image-01-FPS" / stem).mkdir(parents=True, exist_ok=True)
            png(root / "Image-01-FPS" / stem / f"{number:05d}.jpg", mode="RGB", seed=number)
    table = raw_manifest("crema_d", root)
    assert sorted(table[table["split"] == "test"]["id"]) == stems[:4]
    assert Counter(table["split"]) == {"train": 14, "val": 2, "test": 4}
    config = build(PrepareConfig, {"video": {"frames": 3, "size": 8}})
    row = Row("x", 0, {"video": str(root / "Image-01-FPS" / stems[0])})
    found = decode(row, "video", "video", config).seen
    alone = build(PrepareConfig, {"image": {"size": 8, "channels": 3}})
    for frame, number in zip(found, (0, 2, 4), strict=True):
        image = Row("x", 0, {"video": str(root / "Image-01-FPS" / stems[0] / f"{number:05d}.jpg")})
        assert frame.tolist() == decode(image, "video", "image", alone).seen.tolist()


def test_text_comes_through_as_it_was_written(tmp_path: Path) -> None:
    sarcasm(tmp_path / "s")
    twitter2015(tmp_path / "t")
    table = raw_manifest("sarcasm", tmp_path / "s")
    assert set(table["text"]) == {'it\'s "fine" , <user>'}
    assert list(table[table["split"] == "val"]["label"]) == ["0", "1", "0", "1"]
    assert set(raw_manifest("twitter2015", tmp_path / "t")["text"]) == {'" Ann Lee wins'}


def test_nvgesture_reads_the_range_of_the_gesture(tmp_path: Path) -> None:
    nvgesture(tmp_path)
    first = raw_manifest("nvgesture", tmp_path).iloc[0]
    for camera in ("", "depth."):  # half a frame before frames 15 and 45, of 30 a second
        assert (float(first[f"{camera}start"]), float(first[f"{camera}end"])) == pytest.approx((14.5 / 30, 44.5 / 30))


@pytest.mark.parametrize(
    ("name", "file", "text", "said"),
    [
        ("kinetics_sounds", "my_train.txt", "-a_0,10\n", "line 1: has 2 fields, not 3"),
        ("sarcasm", "text/train.txt", "['a', 'b'\n", "line 1: is not a list of id, text and label"),
        ("nvgesture", "nvgesture_train_correct_cvpr2016_v2.lst", "path:./x label:1\n", "line 1: lacks path, color"),
    ],
)
def test_a_wrong_raw_folder_is_named(tmp_path: Path, name: str, file: str, text: str, said: str) -> None:
    LAYOUTS[name](tmp_path / "raw")
    (tmp_path / "raw" / file).write_text(text)
    with pytest.raises(UserError, match=said):
        raw_manifest(name, tmp_path / "raw")


def test_an_unknown_dataset_or_an_empty_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean crema_d"):
        raw_card("cremad")
    with pytest.raises(UserError, match="there is no such folder"):
        raw_manifest("crema_d", tmp_path / "absent")
    with pytest.raises(UserError, match="AudioWAV"):
        raw_manifest("crema_d", tmp_path)
