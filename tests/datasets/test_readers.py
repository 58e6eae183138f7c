"""The readers of the field's datasets, on raw layouts made small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from media_files import png
from raw_layouts import LAYOUTS, crema_d, food101, iemocap, nvgesture, sarcasm, twitter2015, ucf101, write

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
    again = check_manifest(
        tmp_path / "raw" / name, raw_manifest(name, tmp_path / "raw"), manifest.kinds, classes=manifest.classes
    )
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


def test_ucf101_keeps_groups_together_and_takes_extracted_frames(tmp_path: Path) -> None:
    ucf101(tmp_path)
    table = raw_manifest("ucf101", tmp_path)
    groups = {split: {name.split("_")[2] for name in rows["id"]} for split, rows in table.groupby("split")}
    assert groups == {"test": {"g01", "g02"}, "val": {"g03"}, "train": {"g04", "g05", "g06", "g07"}}
    assert Path(table["rgb"][0]).suffix == ".avi"
    (tmp_path / "jpegs_256").mkdir()
    assert raw_manifest("ucf101", tmp_path)["rgb"][0] == str(tmp_path / "jpegs_256" / table["id"][0])


@pytest.mark.parametrize(
    ("pairs", "label"),
    [
        ("positive,positive", "positive"),
        ("positive,neutral", "positive"),
        ("neutral,Negative", "negative"),
        ("neutral,neutral", "neutral"),
        ("positive,negative", None),
        ("positive,neutral\tpositive,positive\tnegative,positive", "positive"),
        ("positive,neutral\tneutral,neutral\tnegative,neutral", None),
        ("positive,negative\tpositive,negative\tpositive,neutral", None),
    ],
)
def test_mvsa_makes_one_sentiment_of_those_of_text_and_picture(tmp_path: Path, pairs: str, label: str | None) -> None:
    write(tmp_path / "labelResultAll.txt", "ID\ttext,image", f"7\t{pairs}", "8\tneutral,neutral")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "7.txt").write_bytes(b"caf\xe9")
    table = raw_manifest("mvsa_multiple", tmp_path)
    assert list(table["label"]) == [*([label] if label else []), "neutral"]
    assert list(table["text"]) == [*(["caf\u00e9"] if label else []), ""]


def test_iemocap_counts_excited_as_happy_and_leaves_others_out(tmp_path: Path) -> None:
    iemocap(tmp_path)
    table = raw_manifest("iemocap", tmp_path)
    assert Counter(table["label"]) == {"neu": 4, "hap": 8, "ang": 4, "sad": 4}
    row = table[table["id"] == "Ses05F_impro01_F003"].iloc[0]
    assert (row["split"], row["text"], row["video.start"], row["video.end"]) == (
        "test", "Excuse me: 3.", "0.3000", "0.8000",
    )  # fmt: skip


def test_commas_quotes_and_marks_in_lists_are_text(tmp_path: Path) -> None:
    for name, text in (("ur_funny", "it's, well ### 0"), ("cmu_mosi", 'IT WAS, "GOOD" 0')):
        LAYOUTS[name](tmp_path / name)
        assert raw_manifest(name, tmp_path / name)["text"][0] == text
    food101(tmp_path / "f")
    assert raw_manifest("food101", tmp_path / "f")["text"][0] == "Easy apple_pie, with sugar"


@pytest.mark.parametrize(
    ("name", "file", "text", "said"),
    [
        ("ave", "trainSet.txt", "Bark&x&good\n", "line 1: has 3 parts between &, not 5"),
        ("ucf101", "ucfTrainTestlist/trainlist01.txt", "v_x.avi 1\n", r"line 1: is not CLASS/v_CLASS_g01_c01\.avi"),
        ("food101", "texts/train_titles.csv", "a.jpg,b\n", "line 1: has 2 fields, not 3"),
        ("mvsa_single", "labelResultAll.txt", "1\tgood,bad\n", "line 1: is not an id and pairs"),
        ("ur_funny", "ur_funny_train.txt", "1, MAYBE, ### x\n", "line 1: is not an id, FUNNY or NOTFUNNY"),
        ("cmu_mosi", "label.csv", "video_id,clip_id,text,label\n", "has no column annotation"),
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
