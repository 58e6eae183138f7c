"""Time, orientation and order in real containers; files that hold less than they promise."""

from __future__ import annotations

import functools
import os
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media import audio, pictures, video
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.content import reason_of
from lfm_ray.datasets.media.pictures import ImageSettings
from lfm_ray.datasets.media.video import VideoSettings

RATE, FPS, SECONDS = 16000, 25, 4
SOUND = AudioSettings(sample_rate=RATE, seconds=SECONDS)
GREY = VideoSettings(frames=5, size=32, channels=1)
CHIRP = (0.3 * np.sin(2 * np.pi * (200 + 100 * (t := np.arange(SECONDS * RATE) / RATE)) * t)).astype(np.float32)
# Container -> codecs of picture and sound, and by how much an encoder's delay moves the sound, in samples.
MADE = {
    "a.mp4": ("libx264", "aac", 0), "a.mkv": ("libx264", "aac", 0), "a.ts": ("libx264", "aac", 1024),
    "a.flv": ("libx264", "aac", 1024), "a.mpg": ("mpeg2video", "mp2", 481), "a.avi": ("libx264", "mp3", 1105),
    "a.webm": ("libvpx", "libopus", 0),
}  # fmt: skip


def movie(path: Path, offset: float = 0.0, stamps: list[float] | None = None, sound: bool = True, **muxer: str) -> Path:
    """Frame i is grey 2 i; frames and sound begin at `offset` seconds, or the frames at the given times."""
    codec, sound_codec, _ = MADE[f"a{path.suffix}"]
    tick = Fraction(1, FPS) if codec == "mpeg2video" else Fraction(1, 1000 * FPS)
    with av.open(str(path), "w", options=muxer) as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        packets = []
        for number in range(SECONDS * FPS if stamps is None else len(stamps)):
            grey = np.full((64, 64, 3), 2 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            time = number / FPS if stamps is None else stamps[number]
            frame.pts, frame.time_base = round((time + offset) / tick), tick
            packets += stream.encode(frame)
        packets += stream.encode()
        if sound:
            rate = 48000 if sound_codec == "libopus" else RATE
            wave = CHIRP if rate == RATE else np.interp(np.arange(SECONDS * rate) / 3, np.arange(len(CHIRP)), CHIRP)
            voice: Any = container.add_stream(sound_codec, rate=rate, layout="mono")
            piece = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = rate, round(offset * rate), Fraction(1, rate)
            resampler = av.AudioResampler(format=voice.format.name, layout="mono", rate=rate, frame_size=0)
            for ready in resampler.resample(piece):
                packets += voice.encode(ready)
            packets += voice.encode()
        for packet in sorted(packets, key=lambda one: float(one.dts * one.time_base)):
            container.mux(packet)
    return path


def greys(path: Path, settings: VideoSettings = GREY, start: float | None = None, end: float | None = None) -> list:
    return (video.load_video(str(path), settings, start, end).mean(axis=(1, 2, 3)) / 2 / FPS).tolist()


@pytest.mark.parametrize("offset", [0.0, 2.0, 600.0])
@pytest.mark.parametrize("name", MADE)
def test_time_counts_from_the_start_of_the_container(tmp_path: Path, name: str, offset: float) -> None:
    if offset and name in ("a.avi", "a.mpg"):
        pytest.skip("has no stamps that could begin later")
    path, delay = movie(tmp_path / name, offset), 1024 if offset and name == "a.mp4" else MADE[name][2]
    for start, end in ((None, None), (1.0, 3.0)):
        first, last = start or 0.0, end or SECONDS
        # Where an encoder's delay is not taken off, the container starts with it, and pictures come later by as much.
        wanted = [first + (part + 0.5) * (last - first) / GREY.frames for part in range(GREY.frames)]
        late = 0 if name == "a.avi" else delay / RATE
        np.testing.assert_allclose(greys(path, GREY, start, end), np.array(wanted) - late, atol=0.065)
        heard = audio.load(str(path), SOUND, start, end)
        begin = round(first * RATE) + 4000
        wrong = [  # stamps in WebM are rounded to 16 samples
            np.abs(heard[4000 + delay : 28_000 + delay] - CHIRP[begin + shift : begin + 24_000 + shift]).max()
            for shift in range(-16, 17)
        ]
        assert min(wrong) < 0.03


def test_the_first_samples_of_sound_are_not_spoilt_by_a_seek(tmp_path: Path) -> None:
    heard = audio.load(str(movie(tmp_path / "a.mp4")), SOUND, None, None)
    assert np.sqrt(np.mean((heard[:1024] - CHIRP[:1024]) ** 2)) < 0.02


def test_a_clip_that_is_sought_equals_one_that_is_decoded_from_the_start(tmp_path: Path) -> None:
    path, long = tmp_path / "a.m4a", np.tile(CHIRP, 6)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=RATE, layout="mono")
        piece = av.AudioFrame.from_ndarray(long[None], format="fltp", layout="mono")
        piece.sample_rate, piece.pts, piece.time_base = RATE, 0, Fraction(1, RATE)
        container.mux([*stream.encode(piece), *stream.encode()])
    with av.open(str(path)) as container:
        plain = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    for start in (0.0, 4.9, 5.0, 13.337, 21.0):
        first = round(start * RATE)
        heard = audio.load(str(path), SOUND, start, start + 2)[: 2 * RATE]
        np.testing.assert_allclose(heard, plain[first : first + 2 * RATE], atol=1e-4)


def test_frames_of_variable_rate_are_taken_in_time(tmp_path: Path) -> None:
    stamps = [*np.arange(0, 1, 0.02), *np.arange(1, 4, 0.2)]
    path = movie(tmp_path / "a.mkv", stamps=stamps, sound=False)
    shown = np.array(greys(path, VideoSettings(frames=4, size=32, channels=1))) * FPS
    np.testing.assert_allclose(shown, [25, 52, 57, 62], atol=2)  # at 0.5, 1.5, 2.5 and 3.5 s


def test_frames_of_an_avi_with_b_frames_are_counted(tmp_path: Path) -> None:
    with av.open(str(path := tmp_path / "b.avi"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"bf": "2", "g": "25"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = video.load_video(str(path), VideoSettings(frames=50, size=32, channels=1), None, None).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(shown, 4 * np.arange(50), atol=5)


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_a_video_with_a_display_matrix_is_turned_upright(tmp_path: Path, degrees: int, corner: tuple[int, int]) -> None:
    with av.open(str(path := tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        pixels = np.full((96, 128, 3), 40, np.uint8)
        pixels[:48, :64] = 230
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    turned = bytearray(path.read_bytes())
    at = turned.find(b"tkhd") + 4 + 4 + 20 + 16  # of the matrix, in a header of version 0
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    turned[at : at + 36] = struct.pack(">9i", one * cosine, one * sine, 0, -one * sine, one * cosine, 0, 0, 0, 1 << 30)
    path.write_bytes(turned)
    (shown,) = video.load_video(str(path), VideoSettings(frames=1, size=64, channels=1), None, None)[:, 0]
    corners = shown.reshape(2, 32, 2, 32).mean(axis=(1, 3))
    assert np.unravel_index(corners.argmax(), (2, 2)) == corner


def test_frames_in_a_folder_are_upright_in_the_order_of_their_numbers_and_of_16_bits_with_a_scale(
    tmp_path: Path,
) -> None:
    plain, deep = tmp_path / "plain", tmp_path / "deep"
    plain.mkdir(), deep.mkdir()
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn clockwise to be upright
    for number in range(1, 13):
        pixels = np.full((32, 32), 10 * number, np.uint8)
        pixels[:16, :16] = 255
        Image.fromarray(pixels).save(plain / f"frame_{number}.png", exif=exif)
        depth = np.full((32, 32), 500 * number, np.uint16)
        Image.fromarray(depth).save(deep / f"{number:03d}.png")
    settings = VideoSettings(frames=12, size=32, channels=1)
    frames = video.load_video(str(plain), settings, None, None)[:, 0]
    assert frames[:, 20, 5].tolist() == [10 * number for number in range(1, 13)]
    assert frames[:, 5, 25].tolist() == [255] * 12
    still = pictures.load_image(str(plain / "frame_7.png"), ImageSettings(size=32, channels=1))[0]
    assert np.array_equal(frames[6], still)
    with pytest.raises(ValueError, match=r"its frame 001\.png has more than 8 bits per channel; set scale"):
        video.load_video(str(deep), settings, None, None)
    scaled = settings.model_copy(update={"scale": 0.032})
    found = video.load_video(str(deep), scaled, None, None).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found, 0.032 * 500 * np.arange(1, 13), atol=0.5)


def test_a_dangling_link_and_a_pipe_among_frames_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"its frame 1\.png is not a file, or a link to one that is gone"):
            video.load_video(str(tmp_path), GREY, None, None)
        (tmp_path / "1.png").unlink(missing_ok=True)
        os.mkfifo(tmp_path / "1.png")


WHOLE = [*MADE, *(f"s.{suffix}" for suffix in ("wav", "aiff", "w64", "flac", "ogg", "mp3", "au", "caf"))]


READERS: dict[Kind, Any] = {"audio": audio.load, "video": video.load_video}


def made(folder: Path, name: str) -> Path:
    path = folder / name
    if name.startswith("a."):
        return movie(path)
    soundfile.write(path, CHIRP, RATE)
    return path


@pytest.mark.parametrize("name", [name for name in WHOLE if name not in ("a.ts", "a.mpg")])
def test_a_file_that_was_cut_anywhere_is_no_shorter_clip(tmp_path: Path, name: str) -> None:
    whole = made(tmp_path, name).read_bytes()
    audio.load(str(tmp_path / name), SOUND, 0.0, 1.0)
    for share in (0.3, 0.5, 0.8, 0.95, 0.99):
        path = tmp_path / f"{share}{Path(name).suffix}"
        path.write_bytes(whole[: int(share * len(whole))])
        kinds: tuple[Kind, ...] = ("audio", "video") if name.startswith("a.") else ("audio",)
        for kind in kinds:
            read = functools.partial(READERS[kind], str(path), SOUND if kind == "audio" else GREY, 0.0, 1.0)
            with pytest.raises(Exception) as raised:
                read()
            reason = reason_of(raised.value, str(path), kind)
            assert "cut short" in reason or "damaged" in reason


def test_a_size_that_was_written_before_it_was_known_is_no_promise(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", CHIRP, RATE)
    content = (tmp_path / "a.wav").read_bytes()
    at = content.index(b"data") + 4
    for size in (0x7FFFF000, 2_000_000_000, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFF00):
        streamed = bytearray(content)
        streamed[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
        streamed[at : at + 4] = struct.pack("<I", size)
        (tmp_path / "b.wav").write_bytes(streamed)
        found = audio.load(str(tmp_path / "b.wav"), SOUND, None, None)
        np.testing.assert_allclose(found, CHIRP, atol=1e-4)


def test_live_matroska_of_unknown_size_is_whole(tmp_path: Path) -> None:
    path = movie(tmp_path / "a.mkv", live="1")
    assert len(greys(path)) == GREY.frames


def test_loud_floating_point_sound_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", CHIRP * 32768, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"holds values up to 9,8.* between -1 and 1"):
        audio.load(str(tmp_path / "a.wav"), SOUND, None, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:c6f9\nsize 72862\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is an HTML page"),
        (b"\n <html lang=en>", "is an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML document"),
        (b"", "is empty"),
        (b"\0" * 4096, "zeros only"),
        (b"nothing that anybody knows", r'is text, not media; it begins "nothing that anybody knows"'),
    ],
)
def test_what_lies_in_place_of_media_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    readers: dict[Kind, Callable[[], object]] = {
        "audio": lambda: audio.load(str(path), SOUND, None, None),
        "video": lambda: video.load_video(str(path), GREY, None, None),
        "image": lambda: pictures.load_image(str(path), ImageSettings(size=8, channels=1)),
    }
    for kind, read in readers.items():
        with pytest.raises(Exception) as raised:
            read()
        reason = reason_of(raised.value, str(path), kind)
        assert re.search(words, reason), reason
        assert not re.search(r"Errno|Error|NoneType|\n", reason)
