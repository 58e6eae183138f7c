"""Audio file -> waveform -> log spectrogram."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from lfm_ray.datasets.media import containers
from lfm_ray.datasets.media.raw_streams import has_no_count
from lfm_ray.datasets.media.whole import PLACEHOLDER, check_whole
from lfm_ray.errors import UserError
from lfm_ray.settings import Settings


class AudioSettings(Settings):
    """Waveform -> log spectrogram (paper section 4.1; see `lfm_ray.datasets.media.audio.log_spectrogram`)."""

    form: Literal["spectrogram", "waveform"] = Field(
        "spectrogram",
        description="what the model receives: the log spectrogram, or the samples themselves, which pretrained encoders"
        " of sound take (model.encoders.MODALITY: auto)",
    )
    sample_rate: int | None = Field(None, ge=1000, description="Hz; null: that of most files, at most 16000")
    seconds: float | None = Field(
        None, gt=0, description="length of a clip in s; null: that of the longest training clip, at most 10"
    )
    padding: Literal["zeros", "repeat"] = Field("zeros", description="how short clips are padded")
    n_fft: int = Field(512, ge=16, description="samples per window of the Fourier transform")
    hop: int = Field(159, ge=1, description="samples between windows; 159 gives the paper's sizes at 16 kHz")
    center: bool = Field(
        False, description="pad both ends with n_fft / 2 zeros, so that windows are centred on every hop-th sample"
    )
    n_mels: int | None = Field(None, ge=1, description="mel bands; null: the n_fft / 2 + 1 linear frequencies")


FROM_THE_START = ("OGG", "MP3", "MPEG")  # libsndfile 1.2.2 can miss the sample that it seeks in them
STREAMED = 2**40  # from here on, a number of samples only says that it was not known
LOUDEST = 8.0  # of floating point sound; more was never meant to lie between -1 and 1
SHORTER = re.compile(r"^\s*(\w+)(?: Size)?\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
CUT_SHORT = "is cut short: its header promises more sound than there is"

if TYPE_CHECKING:  # imported where it is used: it takes seconds, and commands that decode nothing do without it
    from torch import Tensor


def spectrogram(waveform: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """Waveform (samples,) float32 -> (1, frequencies, frames) float16.

    Raises:
        UserError: the waveform is shorter than one window of `n_fft` samples.
    """
    import torch

    return log_spectrogram(torch.from_numpy(waveform), settings).to(torch.float16).numpy()


def log_spectrogram(waveform: Tensor, settings: AudioSettings) -> Tensor:
    """Waveform (..., samples) -> (..., 1, frequencies, frames) float32: log(magnitude + 1e-7).

    A Hann window of `n_fft` samples and no padding at the ends, which gives the paper's 257 x 299 for
    3 s at 16 kHz. The official LFM code takes the same logarithm of 20 s at 22,050 Hz with a hop of 353
    and librosa's padding, `center`: 257 x 1250 (equal to 1e-4, in float32: tests/parity). With `n_mels`,
    the magnitudes are summed into mel bands (Slaney's scale and norm, as in librosa) before the logarithm.
    """
    import torch

    _check_length(waveform.shape[-1], settings)
    magnitude = _magnitude(settings)(waveform)
    return torch.log(magnitude + 1e-7).unsqueeze(-3)


def to_pcm(waveform: np.ndarray) -> np.ndarray:
    """Waveform -> int16, as in 16-bit sound files; what is beyond [-1, 1] is clipped."""
    return (waveform * 32768).round().clip(-32768, 32767).astype(np.int16)


def from_pcm(waveform: Tensor) -> Tensor:
    """int16 -> float32 in [-1, 1)."""
    import torch

    return waveform.to(torch.float32) / 32768


def spectrogram_shape(settings: AudioSettings) -> list[int]:
    """[1, frequencies, frames] of a clip; no setting may be null."""
    _check_length(samples(settings), settings)
    frames = 1 + (samples(settings) - (0 if settings.center else settings.n_fft)) // settings.hop
    return [1, settings.n_mels or settings.n_fft // 2 + 1, frames]


def samples(settings: AudioSettings) -> int:
    """Number of samples in a clip; no setting may be null."""
    assert settings.seconds is not None and settings.sample_rate is not None
    return round(settings.seconds * settings.sample_rate)


LONGEST_KERNEL = 2000  # torchaudio's, in phases; it has as many as one rate without the common divisor of both
LARGEST_KERNEL = 2**25  # numbers: phases times the other rate without it
LONGEST_FILTER = 500_000  # of SciPy's filter, which has 20 times as many numbers as the larger part of the ratio


def _resampled(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A waveform at another rate.

    torchaudio's kernel grows with the product of both rates without their common divisor: from 44,101 to 16,000 Hz it
    takes gigabytes. For such pairs it is SciPy's polyphase filter, which needs no more than the sound itself; a ratio
    of still larger numbers is rounded, by two millionths at most.
    """
    ratio = Fraction(wanted, rate)
    if ratio.numerator > LONGEST_KERNEL or ratio.numerator * ratio.denominator > LARGEST_KERNEL:
        from scipy.signal import resample_poly

        if ratio.numerator > ratio.denominator:
            ratio = 1 / (1 / ratio).limit_denominator(LONGEST_FILTER)
        else:
            ratio = ratio.limit_denominator(LONGEST_FILTER)
        return resample_poly(waveform, ratio.numerator, ratio.denominator).astype(np.float32)
    import torch
    from torchaudio.functional import resample

    return resample(torch.from_numpy(waveform), rate, wanted).numpy()


def load(path: str, settings: AudioSettings, start: float | None, end: float | None) -> np.ndarray:
    """Reads a clip: mono (the mean of the channels), resampled, cut or padded to `settings.seconds`.

    Returns (samples,) float32. Floating point sound, and what lossy codecs decode, can go beyond [-1, 1], and is not
    clipped here: a spectrogram keeps it. Errors that the libraries raise on a broken file pass through.
    """
    assert settings.seconds is not None and settings.sample_rate is not None
    first = start or 0.0
    length = settings.seconds if end is None else min(settings.seconds, end - first)
    waveform, rate = _read(path, first, length)
    if waveform.size == 0:
        raise ValueError(f"holds no sound from {first:g} s on")
    if (peak := np.abs(waveform).max()) > LOUDEST:
        raise ValueError(
            f"holds values up to {peak:,.0f}, where sound lies between -1 and 1; divide it by the largest value that it"
            " can have, such as 32768"
        )
    if rate != settings.sample_rate:
        waveform = _resampled(waveform, rate, settings.sample_rate)
    wanted = samples(settings)
    if settings.padding == "repeat":
        return np.resize(waveform, wanted)
    return np.pad(waveform[:wanted], (0, max(0, wanted - len(waveform))))


def header(path: str) -> tuple[int, float]:
    """Sample rate in Hz and duration in seconds, without decoding."""
    import soundfile

    try:
        info = soundfile.info(path)
        if 0 < info.frames < STREAMED and not _is_estimated(path, info.format):
            return info.samplerate, info.duration
    except soundfile.LibsndfileError:
        pass
    return containers.header(path)


def _read(path: str, start: float, seconds: float) -> tuple[np.ndarray, int]:
    """Mono float32 samples from `start` on, and their rate."""
    import soundfile

    check_whole(path)
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return containers.read_sound(path, start, seconds)
    with file:
        # From a pipe: a FLAC, which libsndfile 1.2.2 cannot read to its end, or a WAV whose size is still 0.
        if not 0 < file.frames < STREAMED or _is_estimated(path, file.format):
            return containers.read_sound(path, start, seconds)
        _check_promises(file)
        containers.check_count(seconds * file.samplerate, file.samplerate, file.channels)
        first, count = min(round(start * file.samplerate), file.frames), round(seconds * file.samplerate)
        if not file.seekable():  # GSM
            return containers.read_sound(path, start, seconds)
        if file.format in FROM_THE_START and (first + count) * file.channels > containers.MOST_NUMBERS:
            return containers.read_sound(path, start, seconds)  # which drops what comes before as it goes
        try:
            if file.format in FROM_THE_START:
                data = file.read(first + count, dtype="float32", always_2d=True)[first:]  # soundfile seeks after reads
            else:
                file.seek(first)
                data = file.read(count, dtype="float32", always_2d=True)
            if len(data) < min(count, file.frames - first):
                raise ValueError(CUT_SHORT)
            _check_end(file)
        except soundfile.LibsndfileError:
            raise ValueError("is damaged or cut short: it cannot be decoded to its end") from None
        return data.mean(axis=1), file.samplerate


def _check_length(length: int, settings: AudioSettings) -> None:
    if length < settings.n_fft:
        raise UserError(f"audio.n_fft: a window of {settings.n_fft} samples is longer than a clip of {length}")


def _is_estimated(path: str, form: str) -> bool:
    """Whether libsndfile divides the bytes of an MP3 by those of its first frame, and reads no further."""
    return form in ("MP3", "MPEG") and has_no_count(path)


def _check_promises(file: Any) -> None:
    """Refuses a file that is shorter than its header says; libsndfile only logs this and reads a shorter clip."""
    for chunk, promised, there in SHORTER.findall(file.extra_info):
        if int(there) < int(promised) < PLACEHOLDER and (chunk != "RIFF" or file.format != "WAV"):
            raise ValueError(CUT_SHORT)


def _check_end(file: Any) -> None:
    """Reads the last sample of a compressed file, which is not there if the file was cut."""
    if file.format in ("FLAC", "MP3", "MPEG") and file.frames > 0:
        file.seek(file.frames - 1)
        if len(file.read(1)) == 0:
            raise ValueError(CUT_SHORT)


@functools.lru_cache
def _magnitude(settings: AudioSettings) -> Callable[[Tensor], Tensor]:
    """Waveform -> magnitudes (frequencies, frames); cached, since windows and filters are slow to build."""
    import torch
    import torchaudio

    linear = torchaudio.transforms.Spectrogram(
        n_fft=settings.n_fft,
        hop_length=settings.hop,
        power=1,
        center=settings.center,
        pad_mode="constant",
    )
    if settings.n_mels is None:
        return linear
    mel = torchaudio.transforms.MelScale(
        settings.n_mels, settings.sample_rate, n_stft=settings.n_fft // 2 + 1, norm="slaney", mel_scale="slaney"
    )
    return torch.nn.Sequential(linear, mel)
