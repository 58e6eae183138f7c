"""Samples of the shards as a page shows them: pictures, playable sound, texts; all within the page."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass

import matplotlib
import numpy as np

from lfm_ray.datasets.columns import Column
from lfm_ray.datasets.media import text
from lfm_ray.datasets.media.text import BYTE_VALUES, TextSettings
from lfm_ray.datasets.reading.inputs import Inputs, audio_settings
from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.errors import UserError

SMALLEST = 96  # pixels of the shorter side of a picture, at least; smaller ones are enlarged by whole factors


@dataclass(frozen=True)
class Shown:
    """One modality of a sample. picture, sound: data URIs, or empty; words: of a text, or why nothing is shown."""

    modality: str
    picture: str = ""
    sound: str = ""
    words: str = ""


def shown(name: str, card: DatasetCard, inputs: Inputs, stored: Column, seen: np.ndarray) -> Shown:
    """A modality of one sample; stored: a column with that sample alone; seen: the sample as the model sees it.

    Sound is there where the shards hold a waveform; from a spectrogram of linear frequencies it is made by the
    algorithm of Griffin and Lim, which finds phases that fit.
    """
    one = card.modalities[name]
    if one.kind == "text":
        return Shown(name, words=_words(seen, card, name))
    if one.kind == "feature":
        return Shown(name, words=f"{' x '.join(map(str, one.shape))} numbers")
    if one.kind in ("image", "video"):
        frames = seen if one.kind == "video" else seen[None]
        return Shown(name, picture=_png(np.concatenate([frame.transpose(1, 2, 0) for frame in frames], axis=1)))
    settings = audio_settings(card, name)
    rate = one.sample_rate or settings.sample_rate
    if one.sample_rate is not None or one.storage == "waveform":
        assert isinstance(stored, np.ndarray)
        picture = "" if one.sample_rate is not None else _spectrogram(seen)
        return Shown(name, picture, _wav(stored[0], rate or 16000))
    if settings.n_mels is not None or rate is None:
        return Shown(name, _spectrogram(seen))
    from torch import from_numpy
    from torchaudio.transforms import GriffinLim

    invert = GriffinLim(settings.n_fft, hop_length=settings.hop, power=1, rand_init=False)
    samples = invert(from_numpy(np.exp(seen[0].astype(np.float32)))).numpy()
    return Shown(name, _spectrogram(seen), _wav(samples / max(1e-6, np.abs(samples).max()) * 30000, rate))


def _words(tokens: np.ndarray, card: DatasetCard, name: str) -> str:
    one = card.modalities[name]
    if one.vocabulary == BYTE_VALUES:
        return bytes((tokens[tokens > 0] - 1).astype(np.uint8)).decode("utf-8", errors="replace")
    tokens = tokens[tokens != one.padding]
    own = card.preprocessing.get("columns", {}).get("text", {}).get(name, {})
    settings = TextSettings.model_validate({**card.preprocessing.get("text", {}), **own})
    if settings.tokenizer:
        try:
            return str(text.load_tokenizer(settings.tokenizer).decode(tokens.tolist(), skip_special_tokens=True))
        except UserError:  # it is no longer there
            pass
    return " ".join(map(str, tokens))


def _png(pixels: np.ndarray) -> str:
    """(H, W, C) uint8 -> a data URI."""
    from PIL import Image

    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    factor = -(-SMALLEST // min(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    return _uri("image/png", file)


def _spectrogram(values: np.ndarray) -> str:
    """(1, frequencies, frames) -> a data URI, low frequencies below."""
    flat = values[0, ::-1].astype(np.float32)
    scaled = (flat - flat.min()) / max(1e-6, float(flat.max() - flat.min()))
    return _png((matplotlib.colormaps["magma"](scaled)[:, :, :3] * 255).astype(np.uint8))


def _wav(samples: np.ndarray, rate: int) -> str:
    """(samples,) as 16 bits -> a data URI."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())
    return _uri("audio/wav", file)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
