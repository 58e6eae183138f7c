"""What one row may take: a file that claims, or has, more is named, and the others are prepared."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from lfm_ray.datasets.media import audio, features, pictures
from lfm_ray.datasets.media.audio import AudioSettings


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


def test_a_picture_of_too_many_pixels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    Image.new("L", (11, 10)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="has 11 x 10 pixels, more than the 100"):
        pictures.load_image(str(tmp_path / "large.png"), pictures.ImageSettings(size=4, channels=1))
