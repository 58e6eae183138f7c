"""Files that cannot be decoded are named, each with a reason of one line; odd ones that can be are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import media_files
import numpy as np
import pytest
import soundfile
from movies import chirp
from PIL import Image

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media import audio
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.features import FeatureSettings
from lfm_ray.datasets.media.pictures import ImageSettings
from lfm_ray.datasets.media.video import VideoSettings
from lfm_ray.datasets.preparing import decoding as media
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Row

CONFIG = PrepareConfig(
    audio=AudioSettings(sample_rate=8000, seconds=0.5, n_fft=256, hop=100),
    image=ImageSettings(size=8, channels=3),
    video=VideoSettings(frames=2, size=16),
    feature=FeatureSettings(shape=[4]),
)


def decode(path: Path, kind: Kind, config: PrepareConfig = CONFIG, start: float | None = None) -> np.ndarray:
    return media.decode(Row("a", 0, {"x": str(path)}, start), "x", kind, config).seen


def cut(path: Path, left: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    return path


def renamed(path: Path, suffix: str) -> Path:
    return path.rename(path.with_suffix(suffix))


def features(path: Path, *values: float | str) -> Path:
    np.save(path, np.array(values))
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def several(path: Path) -> Path:
    np.savez(path, a=np.zeros(4), b=np.zeros(4))
    return path


def loud(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        track: Any = container.add_stream("pcm_f32le", rate=8000, layout="mono")
        piece = av.AudioFrame.from_ndarray(chirp()[None] * 2**17, format="flt", layout="mono")
        piece.sample_rate = 8000
        for packet in [*track.encode(piece), *track.encode()]:
            container.mux(packet)
    return path


def objects(path: Path) -> Path:
    np.save(path, np.array([{}, 1], dtype=object), allow_pickle=True)
    return path


def deep(path: Path) -> Path:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    return path


BROKEN: dict[str, tuple[Kind, Callable[[Path], Path], str]] = {
    "missing": ("audio", lambda at: at / "a.wav", "there is no such file"),
    "wav cut short": ("audio", lambda at: cut(media_files.wav(at / "a.wav"), 0.5), "is cut short"),
    "wav, empty": ("audio", lambda at: cut(media_files.wav(at / "a.wav"), 0), "is empty"),
    "wav that is an image": ("audio", lambda at: renamed(media_files.png(at / "a.png"), ".wav"), "holds no sound"),
    "wav of NaN": ("audio", lambda at: media_files.wav_of(at / "a.wav", np.full(4000, np.nan)), "not finite"),
    "video without sound": ("audio", lambda at: media_files.video(at / "a.mp4"), "holds no sound"),
    "image cut short": ("image", lambda at: cut(media_files.png(at / "a.png", 64, 64, "RGB"), 0.3), "is cut short"),
    "image, empty": ("image", lambda at: cut(media_files.png(at / "a.png"), 0), "is empty"),
    "image that is a sound": ("image", lambda at: renamed(media_files.wav(at / "a.wav"), ".png"), "is not a picture"),
    "image of 16 bits": ("image", lambda at: deep(at / "a.png"), "more than 8 bits"),
    "video cut short": ("video", lambda at: cut(media_files.video(at / "a.mp4"), 0.5), "is cut short: it should have"),
    "video without frames": ("video", lambda at: renamed(media_files.wav(at / "a.wav"), ".mp4"), "holds no video"),
    "folder without frames": ("video", lambda at: at, "holds no frame"),
    "a web page after a remark": ("image", lambda at: text(at / "a.jpg", "<!-- x -->\n<HTML>"), "is an HTML page"),
    "a server's words": ("video", lambda at: text(at / "a.mp4", "Not\nFound"), 'is text, .* it begins "Not Found"'),
    "an archive": ("image", lambda at: text(at / "a.png", "PK\x03\x04..."), "is a ZIP archive; unpack it"),
    "a folder": ("audio", lambda at: at, "is a folder, not a file"),
    "features, several": ("feature", lambda at: several(at / "a.npz"), r"holds 2 arrays"),
    "loud sound in a film's container": ("audio", lambda at: loud(at / "a.mka"), r"holds values up to 3.,..., where"),
    "features with NaN": ("feature", lambda at: features(at / "a.npy", 1, 2, np.nan, 4), "not finite"),
    "features of another shape": ("feature", lambda at: features(at / "a.npy", 1, 2), r"shape \[2\] .* \[4\]"),
    "features cut short": ("feature", lambda at: cut(features(at / "a.npy", *range(99)), 0.9), "is cut short"),
    "features cut in the header": ("feature", lambda at: cut(features(at / "a.npy", 1), 0.5), "is cut short"),
    "features that are objects": ("feature", lambda at: objects(at / "a.npy"), "holds Python objects"),
    "features that are words": ("feature", lambda at: features(at / "a.npy", *"abcd"), "real numbers"),
    "features that are a sound": (
        "feature",
        lambda at: renamed(media_files.wav(at / "a.wav"), ".npy"),
        "is not a .npy file",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_decoded_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    kind, make, message = BROKEN[name]
    path = make(tmp_path)
    with pytest.raises(media.BrokenMedia, match=message) as raised:
        decode(path, kind)
    assert raised.value.path == str(path)
    assert "\n" not in raised.value.reason


def test_a_clip_that_begins_after_the_end_is_broken(tmp_path: Path) -> None:
    with pytest.raises(media.BrokenMedia, match="holds no sound from 3 s on"):
        decode(media_files.wav(tmp_path / "a.wav"), "audio", start=3)


def test_files_whose_extension_is_wrong_but_whose_content_is_right_are_read(tmp_path: Path) -> None:
    sound = decode(media_files.wav(tmp_path / "a.wav"), "audio")
    np.testing.assert_array_equal(decode(renamed(tmp_path / "a.wav", ".mp3"), "audio"), sound)
    film = decode(media_files.video(tmp_path / "a.mp4"), "video")
    np.testing.assert_array_equal(decode(renamed(tmp_path / "a.mp4", ".flv"), "video"), film)


def test_a_wav_whose_header_was_written_before_its_length_was_known_is_whole(tmp_path: Path) -> None:
    path = media_files.wav(tmp_path / "a.wav")
    whole = str(media_files.wav(tmp_path / "whole.wav"))
    expected = decode(path, "audio")
    data = bytearray(path.read_bytes())
    for placeholder in (b"\xff" * 4, bytes(4)):  # what ffmpeg sends down a pipe, and what others write at first
        data[4:8] = data[40:44] = placeholder
        path.write_bytes(data)
        np.testing.assert_array_equal(decode(path, "audio"), expected)
        assert audio.header(str(path))[1] == pytest.approx(soundfile.info(whole).duration, abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_channel_or_with_alpha_become_what_was_asked_for(tmp_path: Path, channels: int) -> None:
    config = PrepareConfig.model_validate({"image": {"size": 4, "channels": channels}})
    Image.fromarray(np.full((4, 4), 70, np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode(tmp_path / "grey.png", "image", config), np.full((channels, 4, 4), 70))
    half = np.full((4, 4, 4), 10, np.uint8)
    half[:2, :, 3], half[2:, :, 3] = 0, 255  # transparent above, opaque below
    Image.fromarray(half).save(tmp_path / "alpha.png")
    expected = np.concatenate([np.full((channels, 2, 4), 255), np.full((channels, 2, 4), 10)], axis=1)
    np.testing.assert_array_equal(decode(tmp_path / "alpha.png", "image", config), expected)
    Image.fromarray(half).quantize().save(tmp_path / "palette.png")
    np.testing.assert_array_equal(decode(tmp_path / "palette.png", "image", config), expected)
