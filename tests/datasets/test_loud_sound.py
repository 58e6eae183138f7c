"""Sound beyond [-1, 1]: spectrograms keep it, 16-bit sound is clipped, and how many rows are is said and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run
from media_files import png
from movies import RATE, chirp

from lfm_ray.datasets.media import audio
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.preparing import decoding
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Row
from lfm_ray.datasets.shards import Shards

SOUND = AudioSettings(sample_rate=RATE, seconds=1)


def decoded(path: Path, factor: float, **settings: object) -> decoding.Sample:
    soundfile.write(path, chirp(1) * factor, RATE, subtype="FLOAT")
    config = PrepareConfig.model_validate({"audio": SOUND.model_dump(), **settings})
    return decoding.decode(Row("a", 0, {"x": str(path)}), "x", "audio", config)


@pytest.mark.parametrize("rate", [RATE, 8000])
def test_a_spectrogram_keeps_it(tmp_path: Path, rate: int) -> None:
    """Of a sound five times as loud, log magnitudes are larger by log 5 wherever they are not next to nothing."""
    settings = {"audio": {**SOUND.model_dump(), "sample_rate": rate}}
    quiet, loud = (decoded(tmp_path / "a.wav", factor, **settings).stored for factor in (1, 5))
    assert isinstance(quiet, np.ndarray) and isinstance(loud, np.ndarray)
    heard = quiet > -4
    assert heard.mean() > 0.05
    np.testing.assert_allclose(loud[heard] - quiet[heard], np.log(5), atol=0.02)


@pytest.mark.parametrize(
    "settings", [{"storage": {"x": "waveform"}}, {"audio": {**SOUND.model_dump(), "form": "waveform"}}]
)
def test_sixteen_bits_are_clipped_and_say_how_loud_it_was(tmp_path: Path, settings: dict[str, object]) -> None:
    sample = decoded(tmp_path / "a.wav", 5, **settings)
    expected = (chirp(1) * 5 * 32768).round().clip(-32768, 32767)
    np.testing.assert_array_equal(sample.stored, expected.astype(np.int16))
    assert sample.loudest == pytest.approx(1.5, abs=1e-3)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Of ten training rows three are loud, one of two validation rows; one more is hardly louder than 1."""
    png(tmp_path / "a.png")
    lines = ["sound,image,label,split"]
    for number in range(12):
        factor = {1: 5, 2: 12, 3: 25, 4: 3.4, 11: 5}.get(number, 1)
        soundfile.write(tmp_path / f"{number}.wav", chirp(1) * factor, RATE, subtype="FLOAT")
        lines.append(f"{number}.wav,a.png,{number % 2},{'train' if number < 10 else 'val'}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "m.csv"


def prepare(folder: Path, manifest: Path, out: str, *settings: str) -> str:
    """What the command says."""
    chosen = [part for one in settings for part in ("--set", one)]
    done = run(folder, "prepare", manifest, "--audio", "sound", "--image", "image", "--out", out, *chosen)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prepare_says_how_many_rows(manifest: Path, tmp_path: Path) -> None:
    shown = prepare(tmp_path, manifest, "short", "storage.sound=waveform")
    said = (
        "sound: 3 of 10 train, 1 of 2 val rows go beyond -1 and 1, up to 7.5, and were clipped, as 16-bit sound holds"
    )
    assert said in shown.replace("\n", " ")
    card = Shards(tmp_path / "short").card.modalities["sound"]
    assert (card.clipped, card.loudest) == ({"train": 3, "val": 1}, pytest.approx(7.5, abs=1e-3))
    assert "clipped" not in prepare(tmp_path, manifest, "whole")
    assert "clipped" not in json.loads((tmp_path / "whole" / "dataset.json").read_text())["modalities"]["sound"]


def test_what_was_never_sound_is_still_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", chirp(1) * 32768, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match="holds values up to 9,8"):
        audio.load(str(tmp_path / "a.wav"), SOUND, None, None)
