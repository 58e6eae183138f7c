"""Bare frames (MP3, AAC, AC-3, AMR, DTS) and seldom met containers: whole ones are read, cut ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from movies import RATE, chirp, mux_sound

from lfm_ray.datasets.media import audio, video
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.video import VideoSettings
from lfm_ray.datasets.media.whole import check_whole

SOUND = AudioSettings(sample_rate=RATE, seconds=3)
FILM = VideoSettings(frames=2, size=8)
SOUNDS = {
    "a.ac3": ("ac3", 48_000), "a.eac3": ("eac3", 44_100), "a.aac": ("aac", RATE), "a.latm": ("aac", RATE),
    "a.mp2": ("mp2", RATE), "a.mp3": ("libmp3lame", RATE), "a.amr": ("libopencore_amrnb", 8000),
    "a.nut": ("pcm_s16le", RATE), "a.tta": ("tta", RATE), "a.wv": ("wavpack", RATE), "a.voc": ("pcm_u8", RATE),
    "a.sox": ("pcm_s32le", RATE), "a.rm": ("ac3", 48_000),
}  # fmt: skip
FILMS = {
    "a.ivf": ("libvpx", "yuv420p"), "a.y4m": ("wrapped_avframe", "yuv420p"), "deep.y4m": ("rawvideo", "yuv422p10le"),
    "a.apng": ("apng", "rgb24"), "a.mjpeg": ("mjpeg", "yuvj420p"), "a.nut": ("mpeg4", "yuv420p"),
    "a.swf": ("flv1", "yuv420p"),
}  # fmt: skip


def sound(path: Path, codec: str, rate: int, options: dict[str, str] | None = None, **of_codec: str) -> Path:
    """Noise of two seconds that grows, as a stream of such frames."""
    wave = np.random.default_rng(0).normal(size=2 * rate) * np.linspace(0.001, 0.2, 2 * rate)
    with av.open(str(path), "w", options=options or {}) as container:
        track: Any = container.add_stream(codec, rate=rate, layout="mono", options={"strict": "-2"} | of_codec)
        mux_sound(container, track, wave.astype(np.float32), rate)
    return path


def film(path: Path, codec: str, pixels: str) -> Path:
    random = np.random.default_rng(0)
    form = "mjpeg" if codec == "mjpeg" else None
    with av.open(str(path), "w", format=form, options={"strict": "-1"}) as container:
        track: Any = container.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt = 30, 26, pixels
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (26, 30, 3), dtype=np.uint8), format="rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


def refused_where_cut(path: Path, parts: bool = True) -> None:
    """parts: it has some whose ends look like that of the whole."""
    whole = path.read_bytes()
    ends = {len(whole)}
    if parts:
        with av.open(str(path)) as container:
            ends |= {packet.pos for packet in container.demux() if packet.size and packet.pos is not None}
    for cut in np.random.default_rng(0).integers(len(whole) // 2, len(whole) - 100, 8).tolist():
        path.write_bytes(whole[: cut - (cut in ends)])
        with pytest.raises(ValueError, match="is cut short: it should have"):
            check_whole(path)


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds(tmp_path: Path, name: str) -> None:
    path = sound(tmp_path / name, *SOUNDS[name])
    loaded = audio.load(str(path), SOUND, None, None)
    assert np.flatnonzero(loaded)[-1] == pytest.approx(2 * RATE, abs=0.15 * RATE)
    assert audio.header(str(path))[1] == pytest.approx(2, abs=0.15)
    refused_where_cut(path)


@pytest.mark.parametrize("name", FILMS)
def test_films(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name, *FILMS[name])
    assert video.load_video(str(path), FILM, None, None).any()
    refused_where_cut(path)


def test_cut_speech_of_timit(tmp_path: Path) -> None:
    path = tmp_path / "SA1.WAV"
    soundfile.write(path, chirp(), RATE, format="NIST")
    assert audio.load(str(path), SOUND, None, None).any()
    refused_where_cut(path, parts=False)


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"\x7f\xfe\x80\x01\xfc\x3c\x7d\xf0", 2016),  # DTS: 14 bits of the length less one
        (b"\x12\x00\x0a\x0b" + b"\x00" * 11 + b"\x32\xe8\x07", 1018),  # AV1: 1,000 after 2, 13 and 3 bytes
    ],
    ids=["dts", "av1"],
)
def test_streams_that_cannot_be_encoded_here(tmp_path: Path, head: bytes, length: int) -> None:
    path = tmp_path / "a"
    frame = head.ljust(length, b"\x01")
    for more in (b"", b"\x00" * 9):
        path.write_bytes(3 * frame + more)
        check_whole(path)
    for cut in (1, length // 2, length - len(head) - 1):
        path.write_bytes((3 * frame)[:-cut])
        with pytest.raises(ValueError, match=f"it should have {3 * length:,}"):
            check_whole(path)


@pytest.mark.parametrize("tag", [b"", b"TAG".ljust(128, b"\0")], ids=["bare", "ID3v1"])
@pytest.mark.parametrize("bits", [{}, {"flags": "+qscale", "global_quality": "472"}], ids=["constant", "variable"])
def test_mp3_that_does_not_say_how_long_it_is(tmp_path: Path, tag: bytes, bits: dict[str, str]) -> None:
    """libsndfile divides bytes by those of the first frame: too many, or too few, which ends in the midst of it."""
    path = sound(tmp_path / "a.mp3", "libmp3lame", RATE, {"write_xing": "0"}, **bits)
    path.write_bytes(path.read_bytes() + tag)
    with av.open(str(path)) as container:
        expected = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(expected) > 2 * RATE
    loaded = audio.load(str(path), SOUND, None, None)
    np.testing.assert_allclose(loaded[: len(expected)], expected, atol=1e-4)
    assert not loaded[len(expected) :].any()
    assert audio.header(str(path))[1] == pytest.approx(len(expected) / RATE, abs=1e-3)


@pytest.mark.parametrize("foot", [b"", b"3DI\4\0\x10\0\0\1\5"], ids=["without", "with"])
def test_a_tag_before_the_first_frame(tmp_path: Path, foot: bytes) -> None:
    path = sound(tmp_path / "a.aac", "aac", RATE)
    tag = b"ID3\4\0" + (b"\x10" if foot else b"\0") + b"\0\0\1\5" + bytes(128 + 5) + foot
    path.write_bytes(tag + path.read_bytes())
    refused_where_cut(path)


def test_a_frame_of_sound_that_looks_like_a_packet_of_a_stream(tmp_path: Path) -> None:
    """The fifth byte is that which begins packets of MPEG streams."""
    frames = 3 * bytes.fromhex("fff16c4047bffc01").ljust(573, b"\x02")  # AAC
    path = tmp_path / "a.aac"
    path.write_bytes(frames)
    check_whole(path)
    path.write_bytes(frames[:-50])
    with pytest.raises(ValueError, match="cut short"):
        check_whole(path)


def test_pictures_without_times_name_the_way_out(tmp_path: Path) -> None:
    path = film(tmp_path / "a.h264", "libx264", "yuv420p")
    with pytest.raises(ValueError, match="has no times, as a bare stream; put it into a container"):
        video.load_video(str(path), FILM, None, None)
