"""What one row may take: a file that claims, or has, more is named, and the others are prepared."""

from __future__ import annotations

import io
import resource
import warnings
import zipfile
from pathlib import Path
from typing import Any

import media_files
import numpy as np
import pytest
import soundfile
from PIL import Image

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media import audio, containers, features, pictures, text, video
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.decoding import BrokenMedia, decode, modality_card
from lfm_ray.datasets.preparing.manifest import Row
from lfm_ray.errors import UserError


def test_an_array_whose_header_claims_terabytes_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "huge.npy"
    np.save(file, np.zeros(4, np.float32))
    content = file.read_bytes().replace(b"(4,), }            ", b"(900000000000,), } ")
    assert b"900000000000" in content
    file.write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        features.load(str(file))


def test_rates_without_a_common_divisor_take_little_memory_and_keep_the_tone(tmp_path: Path) -> None:
    file = tmp_path / "odd.wav"
    time = np.arange(44101) / 44101
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * 440 * time), 44101, subtype="FLOAT")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sound = audio.load(str(file), AudioSettings(sample_rate=16000, seconds=1.0), None, None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(sound - wanted)[200:-200].max() < 1e-3


@pytest.mark.parametrize("numbers", [900_000_000_000, 2**28 + 1])
def test_a_compressed_array_is_refused_by_its_header(tmp_path: Path, numbers: int) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (numbers,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", head.getvalue() + bytes(2**20))
    with pytest.raises(ValueError, match=f"holds {numbers:,} numbers, more than"):
        features.load(str(tmp_path / "bomb.npz"))
    assert features.header(str(tmp_path / "bomb.npz")) == [numbers]
    np.savez_compressed(tmp_path / "good.npz", np.arange(3))
    assert features.load(str(tmp_path / "good.npz")).tolist() == [0, 1, 2]


def test_a_long_text_is_not_taken_apart_for_a_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Tokenizer:
        pad_token_id = 0

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            seen.append(len(text))
            return {"input_ids": [1, 2]}

        def __len__(self) -> int:
            return 3

    monkeypatch.setattr(text, "load_tokenizer", lambda name: Tokenizer())
    assert text.tokens("ab " * 10_000_000, text.TextSettings(length=4, tokenizer="mine")).tolist() == [1, 2, 0, 0]
    assert seen == [4000]
    assert text.tokens("é" * 10, text.TextSettings(length=3)).tolist() == [196, 170, 196]


def test_sound_of_too_many_channels_and_frames_of_too_many_pixels_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((1000, 8)), 8000)
    media_files.video(tmp_path / "a.mp4")
    monkeypatch.setattr(containers, "MOST_NUMBERS", 7999)
    monkeypatch.setattr(containers, "MOST_PIXELS", 100)
    settings = AudioSettings(sample_rate=8000, seconds=0.125)
    for read in (lambda: audio.load(str(tmp_path / "a.wav"), settings, None, None),
                 lambda: containers.read_sound(str(tmp_path / "a.wav"), 0.0, 0.125)):  # fmt: skip
        with pytest.raises(ValueError, match="has 8 channels of 8,000 Hz: more than 7,999 numbers in one clip"):
            read()
    with pytest.raises(ValueError, match=r"has frames of \d+ x \d+ pixels, more than the 100; make it smaller"):
        video.load_video(str(tmp_path / "a.mp4"), video.VideoSettings(frames=2, size=8), None, None)


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_a_clip_far_into_a_long_file_does_not_hold_what_comes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / f"a{suffix}", random.normal(0, 0.1, 48000).clip(-1, 1), 8000)
    settings = AudioSettings(sample_rate=8000, seconds=0.5)
    whole = audio.load(str(tmp_path / f"a{suffix}"), settings, 5.0, None)
    monkeypatch.setattr(containers, "MOST_NUMBERS", 10_000)
    np.testing.assert_allclose(audio.load(str(tmp_path / f"a{suffix}"), settings, 5.0, None), whole, atol=2e-3)


def test_a_picture_of_too_many_pixels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    Image.new("L", (11, 10)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="has 11 x 10 pixels, more than the 100"):
        pictures.load_image(str(tmp_path / "large.png"), pictures.ImageSettings(size=4, channels=1))


@pytest.mark.parametrize(
    ("rate", "wanted"), [(11_289_857, 16_000), (999_983, 16_000), (15_999_728, 16_000), (7, 999_983)]
)
def test_no_pair_of_rates_needs_a_kernel_of_gigabytes(rate: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []

    def resample(waveform: np.ndarray, up: int, down: int) -> np.ndarray:
        taken.append((up, down))
        return waveform

    monkeypatch.setattr("scipy.signal.resample_poly", resample)
    audio._resampled(np.zeros(10, np.float32), rate, wanted)
    ((up, down),) = taken
    assert max(up, down) <= 500_000 and abs(up / down / (wanted / rate) - 1) < 3e-6


def _npz(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return path


def test_archives_that_cannot_be_unpacked_are_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.arange(4))
    whole = _npz(tmp_path / "whole.npz", file.getvalue()).read_bytes()
    local, central = whole.find(b"PK\3\4"), whole.find(b"PK\1\2")
    changes = {"cut": {}, "altered": {60: whole[60] ^ 255}, "method": {local + 8: 99, central + 10: 99},
               "encrypted": {local + 6: 1, central + 8: 1}}  # fmt: skip
    for name, bytes_at in changes.items():
        altered = bytearray(whole[:-30] if name == "cut" else whole)
        for place, value in bytes_at.items():
            altered[place] = value
        (tmp_path / f"{name}.npz").write_bytes(altered)
        with pytest.raises(ValueError, match=r"is damaged: it is a \.npz archive that cannot be unpacked"):
            features.load(str(tmp_path / f"{name}.npz"))


@pytest.mark.parametrize("kind", ["<U100000", "|V100000", "|S100000", "|O"])
def test_the_type_of_a_compressed_array_is_looked_at_before_it_is_unpacked(tmp_path: Path, kind: str) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": (2**20,)})
    path = _npz(tmp_path / "x.npz", head.getvalue())
    with pytest.raises(ValueError, match=r"holds Python objects|is not a \.npy file with an array of real numbers"):
        features.load(str(path))


def test_a_row_for_which_there_is_not_enough_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(features, "load", load)
    with pytest.raises(BrokenMedia, match=r"x\.npy.*needs more memory than there is"):
        decode(Row("0", 0, {"x": str(tmp_path / "x.npy")}), "x", "feature", PrepareConfig(feature={"shape": [4]}))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_an_array_without_numbers_is_none(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape))
    np.savez(tmp_path / "x.npz", np.zeros(shape))
    for name in ("x.npy", "x.npz"):
        for read in (features.load, features.header):
            with pytest.raises(ValueError, match="holds no numbers: its shape is"):
                read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("image", {"image": {"size": 100_000, "channels": 3}}),
        ("video", {"video": {"frames": 10**9, "size": 224}}),
        ("text", {"text": {"length": 10**12}}),
        ("audio", {"audio": {"sample_rate": 16_000, "seconds": 1e6}}),
        ("audio", {"audio": {"sample_rate": 16_000, "seconds": 1e6, "hop": 10**9}, "storage": {"x": "waveform"}}),
        ("feature", {"feature": {"shape": [2**20, 2**20]}}),
    ],
)
def test_settings_that_make_a_sample_too_large_are_refused(kind: Kind, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"{kind}: a sample of x would take .* GiB .*, more than 1 GiB"):
        modality_card("x", kind, PrepareConfig.model_validate(settings))


def test_what_libraries_say_of_odd_files_is_not_shown(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(100)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    np.save(tmp_path / "x.npy", np.full(4, 1e300))
    config = PrepareConfig.model_validate({"image": {"size": 4, "channels": 3}, "feature": {"shape": [4]}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(Row("0", 0, {"x": str(tmp_path / "x.jpg")}), "x", "image", config)
        with pytest.raises(BrokenMedia, match="not finite"):
            decode(Row("0", 0, {"x": str(tmp_path / "x.npy")}), "x", "feature", config)
