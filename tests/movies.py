"""Films with sound in the containers, codecs and time stamps that real files have, made on the fly."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16000


def chirp(seconds: float = 2.0) -> np.ndarray:
    """A tone that rises from 200 Hz by 200 Hz a second, float32 at 16 kHz: its pitch tells the time."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 100 * time) * time)).astype(np.float32)


def movie(
    path: Path,
    frames: int = 50,
    rate: int = 25,
    *,
    codec: str = "libx264",
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    offset: float = 0.0,
    picture: Callable[[int], np.ndarray] | None = None,
    stamps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    size: tuple[int, int] = (32, 32),
    sound_rate: int = RATE,
) -> Path:
    """Frame i is grey of brightness 4 i, or `picture(i)`.

    offset: seconds by which all stamps are late. stamps: of the frames, in units of 1 / (1000 rate) s. size: width
    and height.
    """
    import av

    constant = codec in ("mpeg4", "mpeg2video", "mpeg1video", "flv1", "msmpeg4v3")
    base = Fraction(1, rate if constant else 1000 * rate)
    with av.open(str(path), "w", options=muxer or {}) as container:
        fine = {"qmin": "1", "qmax": "2"} if constant else {}
        film: Any = container.add_stream(codec, rate=rate, options=fine | (options or {}))
        film.width, film.height = size
        film.pix_fmt = "yuv420p"
        film.codec_context.time_base = base
        packets = []
        track: Any = None
        if sound is not None:
            track = container.add_stream(sound_codec, rate=sound_rate, layout="mono")
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 4 * number, np.uint8) if picture is None else picture(number)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            at = (number if constant else 1000 * number) if stamps is None else stamps[number]
            frame.pts, frame.time_base = at + int(offset / base), base
            packets += film.encode(frame)
        packets += film.encode()
        if track is not None and sound is not None:
            sample_format = {"mp2": "s16", "pcm_s16le": "s16", "libopus": "flt"}.get(sound_codec, "fltp")
            wave = (sound * 32767).astype(np.int16) if sample_format == "s16" else sound
            piece = av.AudioFrame.from_ndarray(wave[None], format=sample_format, layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = (
                sound_rate,
                int(offset * sound_rate),
                Fraction(1, sound_rate),
            )
            packets += [*track.encode(piece), *track.encode()]
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def rotated(source: Path, target: Path, degrees: int) -> Path:
    """A copy of an mp4 without sound that a player turns clockwise by 90, 180 or 270 degrees, as of a phone."""
    content = bytearray(source.read_bytes())
    header = content.find(b"tkhd")
    at = header + 8 + (20 if content[header + 4] == 0 else 32) + 16
    one, minus = 1 << 16, -(1 << 16) & 0xFFFFFFFF
    matrix = {
        90: [0, one, 0, minus, 0, 0, 0, 0, 1 << 30],
        180: [minus, 0, 0, 0, minus, 0, 0, 0, 1 << 30],
        270: [0, minus, 0, one, 0, 0, 0, 0, 1 << 30],
    }[degrees]
    content[at : at + 36] = struct.pack(">9I", *matrix)
    target.write_bytes(content)
    return target


def mux_sound(container: Any, track: Any, wave: np.ndarray, rate: int) -> None:
    """Encodes a wave, (samples,) float32, as a track of one channel, in frames of the codec's form and length."""
    import av

    piece = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
    piece.sample_rate, piece.pts = rate, 0
    form, length = track.codec_context.format.name, track.codec_context.frame_size or None
    resampler = av.AudioResampler(format=form, layout="mono", rate=rate, frame_size=length)
    for frame in [*resampler.resample(piece), *resampler.resample(None)]:
        container.mux(track.encode(frame))
    container.mux(track.encode())
