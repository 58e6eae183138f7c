from __future__ import annotations

from pathlib import Path
from typing import get_args

import librosa
import media_files
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media import audio, pictures, video
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.pictures import ImageSettings
from lfm_ray.datasets.media.text import TextSettings
from lfm_ray.datasets.media.video import VideoSettings
from lfm_ray.datasets.preparing import decoding as media
from lfm_ray.datasets.preparing import resolving
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Row
from lfm_ray.errors import UserError

PLAIN = AudioSettings(sample_rate=8000, seconds=0.5, n_fft=256, hop=100)


def row(value: object, start: float | None = None, end: float | None = None) -> Row:
    return Row("a", 0, {"x": str(value)}, start, end)


def decode(value: object, kind: Kind, config: PrepareConfig, start: float | None = None) -> np.ndarray:
    return media.decode(row(value, start), "x", kind, config).seen


@pytest.mark.parametrize("n_mels", [None, 40])
def test_spectrogram_is_librosas(n_mels: int | None) -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)
    settings = AudioSettings(sample_rate=16000, seconds=1, n_mels=n_mels)
    ours = audio.log_spectrogram(torch.from_numpy(wave), settings)[0].numpy()
    magnitude = np.abs(librosa.stft(wave, n_fft=512, hop_length=159, win_length=512, window="hann", center=False))
    if n_mels:
        magnitude = librosa.filters.mel(sr=16000, n_fft=512, n_mels=n_mels) @ magnitude
    # Where hardly anything is left of a sum of 512 samples, the logarithm shows how float32 rounds.
    np.testing.assert_allclose(np.exp(ours), magnitude + 1e-7, rtol=1e-5, atol=1e-5)
    clear = magnitude > 0.05
    assert clear.mean() > 0.95
    np.testing.assert_allclose(ours[clear], np.log(magnitude[clear] + 1e-7), rtol=0, atol=1e-4)
    stored = media.spectrogram(wave, settings)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored[0], ours, rtol=1e-3)


@pytest.mark.parametrize(("seconds", "frames"), [(3, 299), (10, 1004)])
def test_the_papers_sizes(seconds: float, frames: int) -> None:
    settings = AudioSettings(sample_rate=16000, seconds=seconds)
    assert audio.spectrogram_shape(settings) == [1, 257, frames]
    assert media.spectrogram(np.zeros(round(16000 * seconds), np.float32), settings).shape == (1, 257, frames)


def test_a_window_longer_than_the_clip_is_refused() -> None:
    with pytest.raises(UserError, match=r"audio\.n_fft: a window of 512 .* clip of 400"):
        audio.spectrogram_shape(AudioSettings(sample_rate=8000, seconds=0.05))


def test_audio_is_mono_and_cut_to_the_clip(tmp_path: Path) -> None:
    path = media_files.wav(tmp_path / "a.wav", seconds=2, channels=2)
    samples, _ = soundfile.read(path, dtype="float32")
    mono = samples.mean(axis=1)
    np.testing.assert_allclose(audio.load(str(path), PLAIN, None, None), mono[:4000], atol=1e-6)
    np.testing.assert_allclose(audio.load(str(path), PLAIN, 0.25, 9), mono[2000:6000], atol=1e-6)
    short = audio.load(str(path), PLAIN, 0.25, 0.35)
    np.testing.assert_allclose(short[:800], mono[2000:2800], atol=1e-6)
    assert not short[800:].any()
    repeated = audio.load(str(path), PLAIN.model_copy(update={"padding": "repeat"}), 0.25, 0.35)
    np.testing.assert_array_equal(repeated, np.tile(short[:800], 5))


def test_audio_is_resampled(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), 44100)
    wave = audio.load(str(tmp_path / "a.wav"), PLAIN, None, None)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    np.testing.assert_allclose(wave[100:-100], expected[100:-100], atol=5e-3)


def test_the_sound_of_a_video_file(tmp_path: Path) -> None:
    path = str(media_files.video(tmp_path / "a.mp4", sound=True))
    rate, seconds = audio.header(path)
    assert rate == 8000
    assert seconds == pytest.approx(2.0, abs=0.2)
    wave = audio.load(path, PLAIN, 0.5, None)
    assert wave.shape == (4000,)
    assert np.abs(np.fft.rfft(wave)).argmax() == 220  # 440 Hz in 0.5 s


def test_image_is_the_resized_centre_square(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = pictures.load_image(str(tmp_path / "a.png"), ImageSettings(size=10, channels=1))
    assert grey.shape == (1, 10, 10)
    assert grey.dtype == np.uint8
    assert (grey[:, :, 1:-1] == 200).all()  # the outer columns blend with their neighbours
    colour = pictures.load_image(str(tmp_path / "a.png"), ImageSettings(size=20, channels=3))
    assert colour.shape == (3, 20, 20)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.flv", "flv1"), ("a.avi", "mpeg4")])
def test_video_frames_are_the_middles_of_equal_parts(tmp_path: Path, name: str, codec: str) -> None:
    path = str(media_files.video(tmp_path / name, codec=codec))
    settings = VideoSettings(frames=4, size=16)
    pixels = video.load_video(path, settings, None, None)
    assert pixels.shape == (4, 3, 16, 16)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.mean(axis=(1, 2, 3)), [20, 70, 120, 170], atol=4)
    clip = video.load_video(path, settings, 1.0, 1.4)
    np.testing.assert_allclose(clip.mean(axis=(1, 2, 3)), [100, 110, 120, 130], atol=4)
    repeated = video.load_video(path, settings, 1.0, 1.2)
    np.testing.assert_allclose(repeated.mean(axis=(1, 2, 3)), [100, 100, 110, 110], atol=4)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_decode_gives_the_announced_shape(tmp_path: Path, kind: Kind) -> None:
    value = {
        "audio": media_files.wav(tmp_path / "a.wav"),
        "image": media_files.png(tmp_path / "a.png"),
        "video": media_files.video(tmp_path / "a.mp4"),
        "text": "some words",
        "feature": media_files.features(tmp_path / "a.npy"),
    }[kind]
    given = PrepareConfig(video=VideoSettings(size=24), text=TextSettings(length=7))
    config = resolving.resolve(given, {"x": kind}, [row(value)])
    array = decode(value, kind, config)
    card = media.modality_card("x", kind, config)
    assert (list(array.shape), array.dtype) == (card.shape, np.dtype(card.dtype))


def test_resolve_reads_what_the_settings_leave_open(tmp_path: Path) -> None:
    rows = [
        Row("bad", 0, {"s": str(tmp_path / "none"), "p": str(tmp_path / "none")}),
        Row(
            "a",
            0,
            {"s": str(media_files.wav(tmp_path / "a.wav", 0.5)), "p": str(media_files.png(tmp_path / "a.png", 30, 12))},
        ),
        Row("b", 0, {"s": str(media_files.wav(tmp_path / "b.wav", 2.0, rate=44100)), "p": "unread"}, 0.5, 1.75),
    ]
    kinds: dict[str, Kind] = {"s": "audio", "p": "image"}
    config = resolving.resolve(PrepareConfig(), kinds, rows)
    assert (config.audio.sample_rate, config.audio.seconds) == (8000, 1.25)
    assert (config.image.size, config.image.channels) == (12, 1)
    assert resolving.resolve(PrepareConfig(), kinds, rows[::-1]).audio.sample_rate == 16000
    given = PrepareConfig(audio=AudioSettings(seconds=0.3), image=ImageSettings(channels=3))
    assert resolving.resolve(given, kinds, rows).audio.seconds == 0.3
    assert resolving.resolve(given, kinds, rows).image.channels == 3
    long = [Row("l", 0, {"s": str(media_files.wav(tmp_path / "l.wav", 12, rate=1000))})]
    assert resolving.resolve(PrepareConfig(), {"s": "audio"}, long).audio.seconds == 10
    for name in ("s", "p"):
        with pytest.raises(UserError, match=f"no training file of {name} can be read"):
            resolving.resolve(PrepareConfig(), {name: kinds[name]}, rows[:1])


@pytest.mark.parametrize(
    ("noise", "message"),
    [({"sonud": 1}, "did you mean sound"), ({"words": 1}, "text takes no noise"), ({"sound": -1}, "must be 0 or more")],
)
def test_noise_is_checked(noise: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolving.resolve(PrepareConfig(noise=noise), {"sound": "audio", "words": "text"}, [])


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ({"sonud": "jpeg"}, "did you mean sound"),
        ({"sound": "jpeg"}, "not.* as jpeg, only as tensor, waveform"),
    ],
)
def test_storage_is_checked(storage: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolving.resolve(PrepareConfig.model_validate({"storage": storage}), {"sound": "audio"}, [])


def test_noise_has_the_size_asked_for_and_depends_on_the_sample_alone(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(-5, 3, (1, 80, 80)).astype(np.float16)
    noisy = media.add_noise(array, 0.5, media.generator(0, "x", "a"))
    assert noisy.dtype == np.float16
    assert (noisy - array).astype(float).std() == pytest.approx(1.5, rel=0.05)
    np.testing.assert_array_equal(noisy, media.add_noise(array, 0.5, media.generator(0, "x", "a")))
    for other in (media.generator(1, "x", "a"), media.generator(0, "y", "a"), media.generator(0, "x", "b")):
        assert (media.add_noise(array, 0.5, other) != noisy).mean() > 0.9
    pixels = np.array([[[0, 255]]], np.uint8)  # what leaves 0..255 is clipped, never wrapped around
    for seed in range(20):
        low, high = media.add_noise(pixels, 0.3, media.generator(seed, "x", "a"))[0, 0].tolist()
        assert low < 128 < high
    path = media_files.png(tmp_path / "a.png")
    config = PrepareConfig(image=ImageSettings(size=8, channels=1))
    with_noise = config.model_copy(update={"noise": {"x": 0.5}})
    assert (decode(path, "image", config) != decode(path, "image", with_noise)).any()
