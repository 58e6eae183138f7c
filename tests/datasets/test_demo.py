"""The demo data: what lies in `data/demo`, and the manifest made from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

from lfm_ray import settings
from lfm_ray.datasets.preparing import demo
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import read_manifest
from lfm_ray.errors import UserError

COUNTS = {"train": 800, "val": 300, "test": 400}


@pytest.fixture(scope="module")
def utterances() -> pd.DataFrame:
    return pd.read_csv(demo.DEMO_FOLDER / "utterances.csv")


@pytest.fixture(scope="module")
def manifest_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_raw_demo(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def manifest(manifest_path: Path) -> pd.DataFrame:
    return pd.read_csv(manifest_path)


def assert_no_overlap(table: pd.DataFrame, column: str) -> None:
    assert (table.groupby(column)["split"].nunique() == 1).all()


def test_counts_and_balance(utterances: pd.DataFrame, manifest: pd.DataFrame) -> None:
    for table, label in ((utterances, "digit"), (manifest, "label")):
        assert table["split"].value_counts().to_dict() == COUNTS
        for split, count in COUNTS.items():
            digits = table.loc[table["split"] == split, label]
            assert digits.value_counts().to_dict() == dict.fromkeys(range(10), count // 10)


def test_speakers_and_pictures_are_in_one_split_only(utterances: pd.DataFrame, manifest: pd.DataFrame) -> None:
    assert_no_overlap(utterances.assign(variant=utterances["voice"].str.split("+").str[1]), "variant")
    assert_no_overlap(manifest, "audio")
    assert_no_overlap(manifest, "image")


def test_segments_lie_in_their_files_and_do_not_overlap(utterances: pd.DataFrame) -> None:
    for file, rows in utterances.groupby("file"):
        info = soundfile.info(demo.DEMO_FOLDER / str(file))
        assert (info.samplerate, info.channels) == (8000, 1)
        assert rows["end"].max() < info.duration
        assert (rows["start"] < rows["end"]).all()
        assert (rows["start"].to_numpy()[1:] > rows["end"].to_numpy()[:-1]).all()
    seconds = utterances["end"] - utterances["start"]
    assert seconds.between(0.1, 1.0).all()


def test_reading_a_segment_gives_precisely_the_utterance(utterances: pd.DataFrame) -> None:
    for file, rows in utterances.groupby("file"):
        path = demo.DEMO_FOLDER / str(file)
        whole, rate = soundfile.read(path)
        for start, end in zip(rows["start"], rows["end"], strict=True):
            first, last = round(start * rate), round(end * rate)
            segment, _ = soundfile.read(path, start=first, stop=last)
            np.testing.assert_array_equal(segment, whole[first:last])
            assert np.abs(segment).max() > 0.2  # there is speech in it
            assert np.abs(whole[first - rate // 20 : first]).max() < 0.1  # and silence before it


def test_the_demo_is_small() -> None:
    assert sum(path.stat().st_size for path in demo.DEMO_FOLDER.rglob("*") if path.is_file()) < 8e6


def test_every_file_is_used(utterances: pd.DataFrame) -> None:
    files = {f"speech/{path.name}" for path in (demo.DEMO_FOLDER / "speech").iterdir()}
    assert files == set(utterances["file"])


def test_a_picture_shows_the_digit_that_is_spoken(manifest: pd.DataFrame, manifest_path: Path) -> None:
    digits = load_digits()
    for file, label in zip(manifest["image"], manifest["label"], strict=True):
        index = int(Path(file).stem)
        assert digits.target[index] == label
        with Image.open(manifest_path.parent / file) as image:
            assert image.mode == "L"
            np.testing.assert_allclose(np.asarray(image), digits.images[index] * 255 / 16, atol=0.5)


def test_the_audio_is_of_the_digit(utterances: pd.DataFrame, manifest: pd.DataFrame) -> None:
    files = [str(demo.DEMO_FOLDER / file) for file in utterances["file"]]
    spoken = sorted(zip(files, utterances["start"], utterances["end"], utterances["digit"], strict=True))
    said = zip(manifest["audio"], manifest["start"], manifest["end"], manifest["label"], strict=True)
    assert sorted(said) == spoken


def test_made_twice_it_is_the_same(manifest_path: Path, tmp_path: Path) -> None:
    again = demo.write_raw_demo(tmp_path)
    assert again.read_bytes() == manifest_path.read_bytes()
    pictures = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert pictures == sorted(path.name for path in (manifest_path.parent / "images").iterdir())


def test_prepare_accepts_the_manifest_and_the_settings(manifest_path: Path) -> None:
    manifest = read_manifest(manifest_path, {"audio": "audio", "image": "image"}, allow_outside=True)
    assert manifest.classes == [str(digit) for digit in range(10)]
    config = settings.build(PrepareConfig, settings.merge({}, demo.DEMO_SETTINGS))
    assert set(config.noise) == {"audio", "image"}


def test_without_the_speech_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "DEMO_FOLDER", tmp_path / "data" / "demo")
    with pytest.raises(UserError, match="which comes with lfm_ray; install it anew"):
        demo.write_raw_demo(tmp_path / "raw")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        demo.write_raw_demo(tmp_path / "file" / "raw")
