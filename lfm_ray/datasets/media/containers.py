"""Sound and frame times of what PyAV reads: video files, and sound that libsndfile does not know.

Time counts from the container's start, in sound and pictures alike: the first stamp is 1.4 s in what ffmpeg
writes as MPEG-TS, and anything in a recording of a live stream.
"""

from __future__ import annotations

import bisect
import itertools
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

SOUGHT = ("mov", "matroska")  # containers with an index, in which a seek ends before where it should
PRE_ROLL = 1.0  # s that are decoded and dropped before a clip: AAC, Opus and MP3 need a few packets
WORTH_A_SEEK = 5.0  # s; before it everything is decoded, since a seek to 0 spoils the first packet
ROUNDED = 1e-3  # s: stamps in Matroska and FLV are whole milliseconds
MILLISECOND = Fraction(1, 1000)
JUMP = 0.05  # s by which stamps may differ from the number of samples, as they are rounded
# FFmpeg takes the last stamp in an MPEG stream for the end, after which there can be more frames; of bare frames it
# divides the bytes by those of the first.
ESTIMATED = ("mpeg", "mpegts", "mp3", "aac", "loas", "ac3", "eac3", "dts")
MEASURED = 60.0  # s; an estimated length below it is measured, since it may decide how long all clips are


# Formats that hold all of what they play. FFmpeg goes by a file's content: whatever it is called, it may be a playlist
# (m3u8, ffconcat, DASH, SDP, numbered pictures), which opens other files and addresses. Names of FFmpeg's demuxers.
SELF_CONTAINED = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,apng,asf,au,avi,caf,dts,dv,eac3,flac,flv,g722,g726,gif,gsm,h261,h263,h264,hevc,"
    "ivf,loas,m4v,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mjpeg,mlp,mp3,mpc,mpc8,mpeg,mpegts,mpegtsraw,mpegvideo,mxf,nsv,"
    "nut,obu,oga,ogg,ogv,opus,qcp,rm,shn,smjpeg,sox,spdif,swf,tak,truehd,tta,vc1,voc,w64,wav,wtv,wv,xwma,y4m,"
    "yuv4mpegpipe,bmp_pipe,jpeg_pipe,png_pipe,webp_pipe,tiff_pipe"
)


def opened(path: str) -> Any:
    """A media file, as a container of PyAV, which reads that file and nothing else."""
    import av

    return av.open(path, options={"format_whitelist": SELF_CONTAINED, "protocol_whitelist": "file"})


def start_of(container: Any) -> float:
    """The container's first stamp, in seconds."""
    import av

    return float((container.start_time or 0) / av.time_base)


def opened_at(path: str, seconds: float) -> tuple[Any, bool]:
    """`opened`, at the last key frame before this time, if a seek to it is safe, possible and worth it; else at 0.

    Also returns whether it was sought. Where the pictures begin later than that, it is at their beginning.
    """
    import av

    container = opened(path)
    if seconds < WORTH_A_SEEK or not container.format.name.startswith(SOUGHT):
        return container, False
    try:
        container.seek(int((start_of(container) + seconds - PRE_ROLL) * av.time_base), backward=True)
    except av.error.FFmpegError:  # an index can be missing; where it stands now is not known
        container.close()
        return opened(path), False
    return container, True


def header(path: str) -> tuple[int, float]:
    """Sample rate in Hz, and the seconds from the container's start to the end of its sound, without decoding.

    Raises:
        ValueError: there is no sound. PyAV's errors pass through.
    """
    import av

    with opened(path) as container:
        stream = _sound(container)
        if stream.duration:
            end = float((stream.duration + (stream.start_time or 0)) * stream.time_base)
            measured = container.format.name in ESTIMATED and end - start_of(container) < MEASURED
        else:  # Matroska's duration is that of the pictures too, and counts from 0 where it was sent live
            end = float((container.duration or 0) / av.time_base)
            measured = start_of(container) != 0 or end < MEASURED
        if measured:
            ends = [
                float((packet.pts + (packet.duration or 0)) * packet.time_base)
                for packet in container.demux(stream)
                if packet.pts is not None
            ]
            end = max(ends, default=0.0)
        return stream.rate, end - start_of(container)


def read_sound(path: str, start: float, seconds: float) -> tuple[np.ndarray, int]:
    """Mono float32 samples of the clip, as many as there are until the sound ends, and their rate.

    Where the sound begins after the container does, or has gaps, there is silence.

    Raises:
        ValueError: there is no sound. PyAV's errors pass through.
    """
    found = _read_sound(path, start, seconds, by_seek=True)
    return found or _read_sound(path, start, seconds, by_seek=False)  # type: ignore[return-value]


def _read_sound(path: str, start: float, seconds: float, by_seek: bool) -> tuple[np.ndarray, int] | None:
    """`read_sound`; None: the seek ended after the start of the clip."""
    import av

    container, sought = opened_at(path, start if by_seek else 0.0)
    with container:
        stream = _sound(container)
        rate, origin = stream.rate, start_of(container)
        check_count(seconds * rate, rate, stream.channels)
        resampler = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=rate)
        joined = _joined(path) if sought and stream.time_base == MILLISECOND else None
        wanted, skipped = round(seconds * rate), round(start * rate)
        clip = np.zeros(wanted, np.float32)
        at: int | None = None  # of the next sample, counted from the clip's first
        end = 0
        for frame in container.decode(stream):
            # Rounded apart, so that a clip is exactly a part of the whole, and clips that follow one another join.
            stamp = at if frame.time is None else round((frame.time - origin) * rate) - skipped
            if at is None and sought and (stamp or 0) > 0:
                return None
            if at is None and stamp is not None and joined is not None:
                stamp = joined.exact(stamp + skipped, frame.samples) - skipped
            if at is None or (stamp is not None and abs(stamp - at) > JUMP * rate):
                at = stamp or 0
            if at >= wanted:
                end = wanted  # before this there was silence
                break
            for piece in resampler.resample(frame):
                samples = piece.to_ndarray().mean(axis=0)
                first, last = max(at, 0), min(at + len(samples), wanted)
                if last > first:
                    clip[first:last], end = samples[first - at : last - at], last
                at += len(samples)
    return None if at is None and sought else (clip[:end], rate)


class _Joined(NamedTuple):
    """Sound in frames of one length, each where the one before it ends. Samples from the container's start.

    end: of the first frame, of which a part can be left out; length: of the others.
    """

    end: int
    length: int
    rate: int

    def exact(self, start: int, samples: int) -> int:
        """Where a frame starts whose stamp is a rounded `start`; `start` itself if there was a gap before it."""
        nearest = self.end + round((start + samples - self.end) / self.length) * self.length - samples
        return nearest if abs(nearest - start) <= ROUNDED * self.rate else start


def _joined(path: str) -> _Joined | None:
    """How the sound is laid out, from its first two frames; None: there are fewer, or the second has no samples.

    Stamps of whole milliseconds say only roughly which sample is the first after a seek. The frames say precisely.
    """
    with opened(path) as container:  # by itself, as a decoder leaves out its delay only where it begins
        stream = _sound(container)
        first, second = (*itertools.islice(container.decode(stream), 2), None, None)[:2]
        if second is None or first.time is None or not second.samples:
            return None
        start = round((first.time - start_of(container)) * stream.rate)
        return _Joined(start + first.samples, second.samples, stream.rate)


MOST_NUMBERS = 2**28  # of the sound of a clip, all channels, 1 GiB
MOST_PIXELS = 90_000_000  # of a frame, as of a picture: decoders keep several


def check_count(samples: float, rate: int, channels: int) -> None:
    """Raises a ValueError if a clip of so many samples would take more than a gigabyte."""
    if samples * channels > MOST_NUMBERS:
        raise ValueError(f"has {channels:,} channels of {rate:,} Hz: more than {MOST_NUMBERS:,} numbers in one clip")


def frame_times(path: str, start: float, end: float | None) -> tuple[list[float], float]:
    """When the frames shown from `start` to before `end` begin, in order, and until when the last one is shown.

    From the stamps of the packets, without decoding, since durations in headers are often missing or wrong.
    In an AVI the frames are shown in the order of the decoding stamps, for it has no others. Empty: the video
    ends before `start`.

    Raises:
        ValueError: there is no video. PyAV's errors pass through.
    """

    found: list[tuple[float, float]] = []
    untimed = False
    container, _ = opened_at(path, start)
    with container:
        stream = video(container)
        origin, counted = start_of(container), container.format.name == "avi"
        for packet in container.demux(stream):
            stamp = packet.dts if packet.pts is None or counted else packet.pts
            if packet.size == 0 or packet.is_discard:
                continue
            if stamp is None:
                untimed = True
                continue
            base = packet.time_base
            found.append((float(stamp * base) - origin, float((packet.duration or 0) * base)))
            # Frames are stored in decoding order: one shown before `end` never decodes after it.
            if end is not None and packet.dts is not None and float(packet.dts * base) - origin >= end:
                break
    if not found:
        if untimed:
            raise ValueError(
                "has no times, as a bare stream; put it into a container (ffmpeg -i FILE -c copy FILE.mp4)"
            )
        return [], 0.0
    found.sort()
    times, last = [time for time, _ in found], found[-1][1]
    if (counted or not last) and len(times) > 1:  # AVI's durations are units of its clock
        last = (times[-1] - times[0]) / (len(times) - 1)
    until = times[-1] + last if end is None else min(times[-1] + last, end)
    if until <= start:
        return [], until
    first = bisect.bisect_right(times, start + ROUNDED) - 1  # what is shown at the start can have begun before it
    first = max(first, 0)
    return [times[first], *(time for time in times[first + 1 :] if time < until)], until


def video(container: Any) -> Any:
    """The video stream, which is not the cover of an album.

    Raises:
        ValueError: there is none.
    """
    streams = [one for one in container.streams.video if not _is_cover(one)]
    if not streams:
        raise ValueError("holds no video")
    if streams[0].width * streams[0].height > MOST_PIXELS:
        size = f"{streams[0].width} x {streams[0].height}"
        raise ValueError(f"has frames of {size} pixels, more than the {MOST_PIXELS:,}; make it smaller")
    return streams[0]


def _is_cover(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _sound(container: Any) -> Any:
    if not container.streams.audio:
        raise ValueError("holds no sound")
    return container.streams.audio[0]
