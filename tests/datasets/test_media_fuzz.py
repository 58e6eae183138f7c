"""Our decoders against FFmpeg's plain decoding of the whole file, on valid files made at random: equal frames, samples.

pytest tests/datasets/test_media_fuzz.py -m slow                       50 films, sounds and streams
FUZZ_EXAMPLES=5000 pytest tests/datasets/test_media_fuzz.py -m slow    the longer run, of other files each time
"""

from __future__ import annotations

import bisect
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from movies import RATE, movie, mux_sound

from lfm_ray.datasets.media import audio
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.pictures import square
from lfm_ray.datasets.media.video import VideoSettings, load_video

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
FILMS = [
    ("a.mp4", "libx264", "aac"), ("a.mov", "mpeg4", "aac"), ("a.mkv", "libx264", "libopus"), ("b.mkv", "mpeg4", "aac"),
    ("a.webm", "libvpx", "libopus"), ("a.ts", "libx264", "aac"), ("a.mpg", "mpeg2video", "mp2"),
    ("a.flv", "libx264", "aac"), ("b.flv", "flv1", "aac"), ("a.avi", "libx264", "libmp3lame"),
    ("b.avi", "mpeg4", "pcm_s16le"), ("a.3gp", "mpeg4", "aac"), ("a.wmv", "msmpeg4v3", "libmp3lame"),
]  # fmt: skip
SOUNDS = [
    ("a.wav", "PCM_16"), ("b.wav", "FLOAT"), ("c.wav", "PCM_24"), ("d.wav", "PCM_U8"), ("a.flac", "PCM_16"),
    ("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III"), ("a.aiff", "PCM_16"), ("a.au", "PCM_16"), ("a.w64", "PCM_16"),
]  # fmt: skip

STREAMS = [("a.mp3", "libmp3lame"), ("a.mp2", "mp2"), ("a.aac", "aac"), ("a.latm", "aac"), ("a.ac3", "ac3"),
           ("a.eac3", "eac3")]  # fmt: skip


def noise(seconds: float, channels: int, seed: int) -> np.ndarray:
    """Smoothed noise (samples, channels), which codecs keep better than white noise."""
    white = np.random.default_rng(seed).normal(size=(round(seconds * RATE) + 8, channels))
    return (sum(white[shift : len(white) - 8 + shift] for shift in range(8)) * 0.03).astype(np.float32)


def plain_frames(path: Path) -> tuple[list[float], list[Any]]:
    """All frames and when they are shown; in an AVI the k-th frame has the k-th smallest stamp."""
    with av.open(str(path)) as container:
        origin = container.start_time / av.time_base
        shown = [(frame.time, frame) for frame in container.decode(video=0)]
    times = [time - origin for time, _ in shown if time is not None]
    if path.suffix == ".avi":
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        times = sorted(float(packet.dts * packet.time_base) for packet in packets)[: len(shown)]
    return times, [frame for _, frame in shown]


def plain_sound(path: Path, film: bool) -> np.ndarray:
    """All samples, mono; those of a film from the start of the container on."""
    with av.open(str(path)) as container:
        origin = (container.start_time or 0) / av.time_base
        frames = list(container.decode(audio=0))
        rate = container.streams.audio[0].rate
    resampler = av.AudioResampler(format="fltp", layout=frames[0].layout.name, rate=rate)
    samples = [piece.to_ndarray().mean(axis=0) for frame in frames for piece in resampler.resample(frame)]
    lead = round((frames[0].time - origin) * rate) if film and frames[0].time is not None else 0
    return np.concatenate([np.zeros(max(lead, 0), np.float32), *samples])[max(-lead, 0) :]


@pytest.mark.slow
@fuzz
@given(
    film=st.sampled_from(FILMS),
    frames=st.integers(2, 60),
    rate=st.sampled_from([10, 12, 24, 25, 30]),
    distance=st.integers(1, 30),
    between=st.integers(0, 3),
    offset=st.sampled_from([0.0, 0.0, 1.4, 33.0]),
    parts=st.integers(1, 12),
    place=st.floats(0, 0.9),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 2**31),
)
def test_films(
    tmp_path: Path, film: tuple[str, str, str], frames: int, rate: int, distance: int, between: int, offset: float,
    parts: int, place: float, share: float, seed: int,
) -> None:  # fmt: skip
    name, codec, sound_codec = film
    random = np.random.default_rng(seed)
    options = {"g": str(distance)} | ({"bf": str(between)} if codec == "libx264" else {})
    sound_rate = 48000 if sound_codec == "libopus" else RATE
    length = frames / rate
    if codec == "mpeg2video":
        rate = 25
    path = movie(
        tmp_path / name, frames, rate, codec=codec, sound=noise(length * sound_rate / RATE, 1, seed)[:, 0],
        sound_codec=sound_codec, offset=0.0 if name.endswith("avi") else offset, options=options,
        picture=lambda _: random.integers(0, 256, (32, 32, 3), dtype=np.uint8), sound_rate=sound_rate,
    )  # fmt: skip
    times, shown = plain_frames(path)
    start = place * times[-1]
    end = start + share * (times[-1] - start) + 0.01
    if end > times[-1]:
        end = (start + times[-1]) / 2 + 0.001
    pixels = load_video(str(path), VideoSettings(frames=parts, size=32), start, end)
    for part, found in enumerate(pixels):
        middle = start + (part + 0.5) * (end - start) / parts
        which = [max(0, bisect.bisect_right(times, middle + rounded) - 1) for rounded in (0, 1e-3)]
        # Some MPEG streams give two frames one stamp.
        candidates = [
            frame
            for time, frame in zip(times, shown, strict=False)
            if min(abs(time - times[one]) for one in which) < 1e-4
        ]
        assert any(np.array_equal(found, square(frame.to_image(), 32, 3)) for frame in candidates), (part, which)
    check_sound(path, start, seed, film=True)


@pytest.mark.slow
@fuzz
@given(
    sound=st.sampled_from(SOUNDS),
    seconds=st.floats(0.15, 4),
    channels=st.integers(1, 2),
    place=st.floats(0, 0.9),
    seed=st.integers(0, 2**31),
)
def test_sounds(tmp_path: Path, sound: tuple[str, str], seconds: float, channels: int, place: float, seed: int) -> None:
    name, subtype = sound
    samples = noise(seconds, channels, seed)
    soundfile.write(tmp_path / name, samples, RATE, subtype=subtype)
    # FFmpeg does not drop what Vorbis and MP3 add to the end.
    check_sound(tmp_path / name, place * seconds, seed, film=False, length=len(samples))


def check_sound(path: Path, start: float, seed: int, film: bool, length: int | None = None) -> None:
    """A clip from `start` on equals that part of the whole."""
    whole = plain_sound(path, film)[:length]
    rate, _ = audio.header(str(path))
    first = round(start * rate)
    seconds = max(0.05, (seed % 100) / 50)
    expected = whole[first : first + round(seconds * rate)]
    if not len(expected):
        return
    found = audio.load(str(path), AudioSettings(sample_rate=rate, seconds=seconds), start, None)
    if length is None or len(whole) == length:  # FFmpeg loses the last block of some short Vorbis files
        assert not found[len(expected) :].any()
    np.testing.assert_allclose(found[: len(expected)], expected, atol=2e-4)


@pytest.mark.slow
@fuzz
@given(
    stream=st.sampled_from(STREAMS),
    rate=st.sampled_from([32000, 44100, 48000]),
    seconds=st.floats(0.3, 4),
    counted=st.booleans(),
    place=st.floats(0, 0.9),
    seed=st.integers(0, 2**31),
)
def test_streams(
    tmp_path: Path, stream: tuple[str, str], rate: int, seconds: float, counted: bool, place: float, seed: int
) -> None:
    """Bare frames of sound, of which MP3 may say how many there are."""
    name, codec = stream
    path = tmp_path / name
    with av.open(str(path), "w", options={} if counted or codec != "libmp3lame" else {"write_xing": "0"}) as container:
        track: Any = container.add_stream(codec, rate=rate, layout="mono", options={"strict": "-2"})
        wave = noise(seconds * rate / RATE, 1, seed)[:, 0]
        mux_sound(container, track, wave, rate)
    check_sound(path, place * seconds, seed, film=False)
