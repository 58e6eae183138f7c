"""The raw layouts of the field's datasets, made small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from media_files import png, video, wav

from lfm_ray.config import PrepareConfig
from lfm_ray.datasets.cards import names, raw_card, raw_manifest
from lfm_ray.datasets.manifest import Manifest, Row, check_manifest
from lfm_ray.datasets.media import decode, resolve
from lfm_ray.errors import UserError
from lfm_ray.settings import build

EMOTIONS = ("ANG", "HAP")


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def crema_d(root: Path) -> None:
    (root / "AudioWAV").mkdir(parents=True)
    (root / "VideoFlash").mkdir()
    for actor in range(10):
        for emotion in EMOTIONS:
            name = f"10{actor:02d}_DFA_{emotion}_XX"
            wav(root / "AudioWAV" / f"{name}.wav", seconds=0.5, rate=16000)
            video(root / "VideoFlash" / f"{name}.flv", codec="flv1", frames=4)


def kinetics_sounds(root: Path) -> None:
    clips = {split: [f"-{split}_{label}_{i}" for label in "01" for i in range(10)] for split in ("train", "test")}
    for split, stems in clips.items():
        write(root / f"my_{split}.txt", *(f"{stem},10,{stem.split('_')[1]}" for stem in stems))
        for stem in stems:
            folder = root / "clips" / stem.split("_")[1]
            folder.mkdir(parents=True, exist_ok=True)
            video(folder / f"{stem}.mp4", frames=4, sound=True)


def vggsound(root: Path) -> None:
    lines = []
    for split in ("train", "test"):
        for kind in ("people marching", "people clapping"):
            for i in range(10):
                youtube = f"-{split}_{kind[7]}{i}"
                lines.append(f'{youtube},{i},"{kind}",{split}')
                (root / "video").mkdir(parents=True, exist_ok=True)
                video(root / "video" / f"{youtube}_{i:06d}.mp4", frames=4, sound=True)
    write(root / "vggsound.csv", *lines)


def sarcasm(root: Path) -> None:
    (root / "dataset_image").mkdir(parents=True)
    for split, file in (("train", "train"), ("val", "valid2"), ("test", "test2")):
        lines = []
        for i in range(4):
            name = f"{split}{i}"
            extra = "" if split == "train" else f"{1 - i % 2}, "  # the hashtag's label stands before the human one
            lines.append(f"['{name}', 'it\\'s \"fine\" , <user>', {extra}{i % 2}]")
            png(root / "dataset_image" / f"{name}.jpg", mode="RGB")
        write(root / "text" / f"{file}.txt", *lines)


def twitter2015(root: Path) -> None:
    (root / "twitter2015_images").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = [f'{i}\t{i % 3}\t{split}{i}.jpg\t" $T$ wins\tAnn Lee' for i in range(6)]
        write(root / "twitter2015" / f"{split}.tsv", "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String", *rows)
        for i in range(6):
            png(root / "twitter2015_images" / f"{split}{i}.jpg", mode="RGB")


def nvgesture(root: Path) -> None:
    for split in ("train", "test"):
        lines = []
        for label in (1, 2):
            for subject in range(10):
                folder = f"Video_data/class_{label:02d}/{split}{subject}_r0"
                (root / folder).mkdir(parents=True)
                for name in ("sk_color", "sk_depth", "sk_flow"):
                    video(root / folder / f"{name}.avi", frames=20)
                lines.append(
                    f"path:./{folder} depth:sk_depth:15:45 color:sk_color:15:45 duo_left:duo_left:0:80 label:{label}"
                )
        write(root / f"nvgesture_{split}_correct_cvpr2016_v2.lst", *lines)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    maker.__name__: maker for maker in (crema_d, kinetics_sounds, vggsound, sarcasm, twitter2015, nvgesture)
}


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
    assert (float(first["start"]), float(first["end"])) == (0.5, 1.5)


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
