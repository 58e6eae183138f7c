"""Small media, made on the fly."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

WORDS = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "[PAD]": 3, "good": 4, "bad": 5, "film": 6}


def wav(path: Path, seconds: float = 0.5, rate: int = 8000, channels: int = 1, seed: int = 0) -> Path:
    """A file of noise, 16 bit."""
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def wav_of(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    """A file of these samples, float32."""
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def features(path: Path, shape: tuple[int, ...] = (4,)) -> Path:
    """A .npy file of random numbers."""
    np.save(path, np.random.default_rng(0).normal(size=shape))
    return path


def png(path: Path, width: int = 8, height: int = 8, mode: str = "L", seed: int = 0) -> Path:
    """An image of random pixels."""
    shape = (height, width) if mode == "L" else (height, width, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return path


def video(
    path: Path, frames: int = 20, codec: str = "mpeg4", side: int = 32, sound: bool = False, seed: int | None = None
) -> Path:
    """Ten frames a second; frame i is grey of brightness 10 i. With sound: a tone, at 8 kHz. With a seed: noise."""
    import av

    random = np.random.default_rng(seed)

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number in range(frames):
            pixels = np.full((side, side, 3), 10 * number if seed is None else 0, np.uint8)
            if seed is not None:
                pixels = random.integers(0, 256, pixels.shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:
            wave = np.sin(np.arange(frames * 800) * 2 * np.pi * 440 / 8000).astype(np.float32)
            if seed is not None:
                wave = random.uniform(-0.5, 0.5, len(wave)).astype(np.float32)
            sound_frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            sound_frame.sample_rate, sound_frame.pts = 8000, 0
            container.mux(audio.encode(sound_frame))
            container.mux(audio.encode())
    return path


def dataset(folder: Path, rows: int = 40, classes: int = 4) -> Path:
    """A manifest of `rows` pairs of sound and image: every fourth row is val, every eighth test."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["id,sound,picture,label,split"]
    for row in range(rows):
        wav(folder / f"{row}.wav", seconds=0.1, seed=row)
        png(folder / f"{row}.png", seed=row)
        split = ("test" if (row // classes) % 2 else "val") if (row // classes) % 4 >= 2 else "train"
        lines.append(f"row{row},{row}.wav,{row}.png,{row % classes},{split}")
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def save_tokenizer(folder: Path, **special: str) -> str:
    """A tokenizer of whole words, in a folder as transformers writes it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    raw.post_processor = BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", **special).save_pretrained(folder)
    return str(folder)
