"""Time in sound and pictures counts from the start of the container, whatever its stamps are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from movies import RATE, chirp, movie

from lfm_ray.datasets.media import audio, video
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.video import VideoSettings

FRAMES = VideoSettings(frames=5, size=8, channels=1)
# container -> codecs of pictures and sound, the offset of all stamps, and by how much the pictures lag the sound,
# which is the delay of AAC's encoder where a container cannot leave it out
CONTAINERS = {
    "zero.mp4": ("libx264", "aac", 0.0, 0.0),
    "zero.mkv": ("libx264", "aac", 0.0, 0.0),
    "late.mkv": ("libx264", "aac", 600.0, 0.0),
    "stream.ts": ("libx264", "aac", 1.4, 0.064),
    "disc.mpg": ("mpeg2video", "mp2", 0.0, 0.030),
    "web.flv": ("libx264", "aac", 0.0, 0.064),
    "old.avi": ("mpeg4", "pcm_s16le", 0.0, 0.0),
    "phone.mov": ("libx264", "aac", 3.0, 0.064),
}


def seconds_of(pixels: np.ndarray) -> np.ndarray:
    """The times of frames of `movie`, by their brightness."""
    return pixels.mean(axis=(1, 2, 3)) / 4 / 25


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, (codec, sound_codec, offset, _) in CONTAINERS.items():
        movie(folder / name, codec=codec, sound=chirp(), sound_codec=sound_codec, offset=offset)
    return folder


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("clip", [(None, None), (0.5, 1.5), (1.2, None), (1.2, 9.0)])
def test_pictures_count_from_the_start_of_the_container(
    films: Path, name: str, clip: tuple[float | None, float | None]
) -> None:
    lag = CONTAINERS[name][3]
    first, last = clip[0] or 0.0, min(clip[1] or 9.0, 2.0 + lag)
    middles = first - lag + (np.arange(5) + 0.5) * (last - first) / 5
    pixels = video.load_video(str(films / name), FRAMES, *clip)
    np.testing.assert_allclose(seconds_of(pixels), np.floor(middles * 25 + 1e-6) / 25, atol=0.015)


def pitch(waveform: np.ndarray, at: float) -> float:
    piece = waveform[round(at * RATE) :][: RATE // 10]
    return float(np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 16 * len(piece))).argmax() * 10 / 16)


@pytest.mark.parametrize("name", CONTAINERS)
def test_sound_counts_from_the_start_of_the_container(films: Path, name: str) -> None:
    settings = AudioSettings(sample_rate=RATE, seconds=1)
    for start in (None, 0.5):
        waveform = audio.load(str(films / name), settings, start, None)
        heard = 200 + 200 * ((start or 0) + 0.45 - CONTAINERS[name][3])
        assert pitch(waveform, 0.4) == pytest.approx(heard, abs=4)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_clip_is_the_same_part_of_the_whole_sound(films: Path, name: str) -> None:
    whole = audio.load(str(films / name), AudioSettings(sample_rate=RATE, seconds=1.9), None, None)
    part = audio.load(str(films / name), AudioSettings(sample_rate=RATE, seconds=1), 0.7, None)
    np.testing.assert_allclose(part, whole[11200:27200], atol=1e-6)
    assert audio.header(str(films / name))[1] == pytest.approx(2.0, abs=0.15)


def test_aac_is_what_was_encoded_from_its_first_sample_on(tmp_path: Path) -> None:
    wave = chirp()
    path = movie(tmp_path / "a.mp4", sound=wave)
    decoded = audio.load(str(path), AudioSettings(sample_rate=RATE, seconds=2), None, None)
    assert np.sqrt(np.square(decoded - wave)[:1024].mean()) < 0.02  # 0.15 after a seek


def test_a_late_clip_of_a_long_file_is_what_decoding_all_of_it_gives(tmp_path: Path) -> None:
    import av

    wave = np.tile(chirp(), 36)
    path = movie(tmp_path / "a.m4a.mp4", frames=2, sound=wave)
    part = audio.load(str(path), AudioSettings(sample_rate=RATE, seconds=1), 65.5, None)
    with av.open(str(path)) as container:
        whole = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    np.testing.assert_allclose(part, whole[round(65.5 * RATE) :][:RATE], atol=0.02)


def whole_sound(path: Path) -> np.ndarray:
    """All samples, as FFmpeg decodes them; they begin with the container."""
    import av

    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)])


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec"), [("a.mkv", "libx264", "aac"), ("a.webm", "libvpx", "libopus")]
)
def test_stamps_of_whole_milliseconds_do_not_move_the_sound_after_a_seek(
    tmp_path: Path, name: str, codec: str, sound_codec: str
) -> None:
    sound = np.tile(chirp(), 18)
    path = movie(tmp_path / name, 12, 1, codec=codec, sound=sound, sound_codec=sound_codec, sound_rate=48000,
                 options={"g": "1"})  # fmt: skip
    found = audio.load(str(path), AudioSettings(sample_rate=48000, seconds=1), 9.123, None)
    np.testing.assert_allclose(found, whole_sound(path)[round(9.123 * 48000) :][:48000], atol=0.005)


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec"), [("a.mkv", "libx264", "aac"), ("a.webm", "libvpx", "libopus")]
)
def test_sound_long_before_the_first_picture_is_found(tmp_path: Path, name: str, codec: str, sound_codec: str) -> None:
    # A seek goes to the first picture, or, where none comes early enough, is impossible.
    sound = np.tile(chirp(), 15)
    path = movie(tmp_path / name, 2, codec=codec, sound=sound, sound_codec=sound_codec, sound_rate=48000,
                 stamps=[225_000, 226_000])  # fmt: skip
    found = audio.load(str(path), AudioSettings(sample_rate=48000, seconds=1), 7.0, None)
    np.testing.assert_allclose(found, whole_sound(path)[7 * 48000 :][:48000], atol=0.005)
    assert video.load_video(str(path), FRAMES, 7.0, None).shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec"),
    [("a.vob", "mpeg2video", "ac3"), ("a.mkv", "libx264", "aac"), ("a.ts", "libx264", "ac3")],
)
def test_the_length_of_the_sound_is_neither_that_of_the_pictures_nor_an_estimate(
    tmp_path: Path, name: str, codec: str, sound_codec: str
) -> None:
    path = movie(tmp_path / name, 60 if name == "a.mkv" else 25, codec=codec, sound=np.tile(chirp(), 3),
                 sound_codec=sound_codec, sound_rate=48000)  # fmt: skip
    assert audio.header(str(path))[1] == pytest.approx(len(whole_sound(path)) / 48000, abs=0.03)


def test_sound_that_begins_after_the_pictures_follows_silence(tmp_path: Path) -> None:
    wave = np.concatenate([np.zeros(RATE // 2, np.float32), chirp(1.5)])
    path = movie(tmp_path / "a.mkv", sound=wave)
    loaded = audio.load(str(path), AudioSettings(sample_rate=RATE, seconds=2), None, None)
    assert np.abs(loaded[: RATE // 2 - 1024]).max() < 0.01 < np.abs(loaded[RATE // 2 : RATE]).max()


@pytest.mark.parametrize("start", [None, 0.9])
def test_parts_are_equal_in_time_where_the_frame_rate_varies(tmp_path: Path, start: float | None) -> None:
    # Frame 0 is shown for a second, frames 1 to 8 for a tenth each, and frame 9 until 1.84 s, as its packet says.
    begin = np.array([0, *(1 + number / 10 for number in range(9))])
    path = movie(tmp_path / "a.mp4", frames=10, stamps=(begin * 25000).round().astype(int).tolist())
    end = 1.84 if start is None else 1.6
    pixels = video.load_video(str(path), FRAMES, start, None if start is None else end)
    middles = (start or 0) + (np.arange(5) + 0.5) * (end - (start or 0)) / 5
    shown = np.searchsorted(begin, middles + 1e-6, side="right") - 1
    np.testing.assert_allclose(pixels.mean(axis=(1, 2, 3)) / 4, shown, atol=0.4)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv", "a.ts", "a.flv"])
def test_frames_come_in_the_order_in_which_they_are_shown(tmp_path: Path, name: str) -> None:
    path = movie(tmp_path / name, frames=30, options={"bf": "3", "b_strategy": "0"})
    pixels = video.load_video(str(path), VideoSettings(frames=30, size=8, channels=1), None, None)
    np.testing.assert_allclose(seconds_of(pixels), np.arange(30) / 25, atol=0.015)
    clip = video.load_video(str(path), VideoSettings(frames=5, size=8, channels=1), 0.4, 0.6)
    np.testing.assert_allclose(seconds_of(clip), np.arange(10, 15) / 25, atol=0.025)


def test_a_clip_after_many_key_frames_is_found_by_a_seek(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts", "a.flv"):
        path = movie(tmp_path / name, frames=60, options={"g": "10", "bf": "2"}, offset=1.0)
        clip = video.load_video(str(path), VideoSettings(frames=5, size=8, channels=1), 1.6, 1.8)
        np.testing.assert_allclose(seconds_of(clip), np.arange(40, 45) / 25, atol=0.025)


def test_a_clip_beyond_the_end_is_named(films: Path) -> None:
    with pytest.raises(ValueError, match="holds no frame from 3 s on"):
        video.load_video(str(films / "late.mkv"), FRAMES, 3.0, None)
    with pytest.raises(ValueError, match="holds no sound from 3 s on"):
        audio.load(str(films / "late.mkv"), AudioSettings(sample_rate=RATE, seconds=1), 3.0, None)


def test_a_clip_of_a_sound_is_a_part_of_the_whole(tmp_path: Path) -> None:
    """Also where the first sample does not lie on a multiple of the sample's length, as the stamps of this film say."""
    path = movie(tmp_path / "a.mov", 24, 12, codec="mpeg4", sound=chirp(), sound_codec="aac", offset=1.4)
    settings = AudioSettings(sample_rate=RATE, seconds=0.5)
    whole = audio.load(str(path), settings.model_copy(update={"seconds": 2.0}), 0.0, None)
    for part in (0.0, 0.1, 0.3, 0.45, 0.49, 0.51, 0.55, 0.7, 0.9):
        start = (2187 + part) / RATE
        first = round(start * RATE)
        found = audio.load(str(path), settings, start, None)
        np.testing.assert_allclose(found, whole[first : first + len(found)], atol=2e-4)
