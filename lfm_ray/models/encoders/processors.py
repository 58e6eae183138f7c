"""What a pretrained model's own processor does to pixels and sound, and what it needs of the shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lfm_ray.datasets.media.audio import from_pcm
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.pretrained import PROCESSORS, read_json
from lfm_ray.models.encoders.timm_models import MODEL_TYPE, pixels_of

AST_SHIFT, AST_WINDOW = 0.010, 0.025  # s, of the frames of its Kaldi filter bank


@dataclass(frozen=True)
class PixelProcessor:
    """What an image or video processor does to pixels of 0 to 255.

    size: height and width that it makes, None where it makes none. mean, std: of red, green and blue on a
    scale of 0 to 1, with its own scale and offset in them; None where the model has no processor.
    """

    size: tuple[int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def of(cls, source: str, config: Any) -> PixelProcessor:
        """That of a model; without one, the size is that of its config. Models of timm have theirs in the config."""
        if config.model_type == MODEL_TYPE:
            return cls(*pixels_of(config)[1:])
        said = _settings(source, ("video_processor", "image_processor"))
        if "image_mean" not in said and "size" not in said:
            return cls(_sides(getattr(config, "image_size", None)), None, None)
        size = _sides(said.get("size"))
        if said.get("do_center_crop", "crop_size" in said):
            size = _sides(said.get("crop_size")) or size
        scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
        offset = 1.0 if said.get("offset", False) else 0.0  # ViViT: x / 127.5 - 1
        mean: tuple[float, ...] = (0.0,)
        std: tuple[float, ...] = (1.0,)
        if said.get("do_normalize", True):
            mean, std = _colours(said.get("image_mean", 0.0)), _colours(said.get("image_std", 1.0))
        return cls(
            size if said.get("do_resize", True) else None,
            tuple((offset + value) / scale / 255 for value in mean),
            tuple(value / scale / 255 for value in std),
        )


class SoundProcessor:
    """A model's feature extractor: waveforms -> what the model takes, such as a log-mel spectrogram.

    rate: in Hz. longest: samples of the longest clip that it does not cut, None if it takes any.

    Raises:
        UserError: the model has none, which only its own files can tell.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoFeatureExtractor

        try:
            self.extractor = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
        except Exception:  # of many kinds, as for a config
            raise UserError(
                f"pretrained: {source} has no preprocessor_config.json, which says how it takes sound; save the model's"
                " feature extractor there with save_pretrained"
            ) from None
        self.rate = int(self.extractor.sampling_rate)
        self.longest: int | None = None
        for name in ("n_samples", "nb_max_samples"):  # Whisper, CLAP
            self.longest = self.longest or getattr(self.extractor, name, None)
        if type(self.extractor).__name__ == "ASTFeatureExtractor":
            self.longest = round((AST_WINDOW + (self.extractor.max_length - 1) * AST_SHIFT) * self.rate)

    def __call__(self, waveforms: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """waveforms: (B, samples) int16. Returns the model's inputs, in `dtype` and on the same device."""
        sound = [one.numpy() for one in from_pcm(waveforms.cpu())]
        # In half precision the spectra would be others, and NumPy has no bfloat16.
        with torch.autocast("cpu", enabled=False):
            found = self.extractor(sound, sampling_rate=self.rate, return_tensors="pt")
        inputs = {
            name: value.to(waveforms.device, dtype)
            for name, value in found.items()
            if name in ("input_values", "input_features")
        }
        if "is_longer" in found:  # CLAP: none is, which its extractor draws at random
            inputs["is_longer"] = torch.zeros(len(waveforms), 1, dtype=torch.bool, device=waveforms.device)
        return inputs


def _settings(source: str, sections: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a processor, from whichever file has them."""
    for file in reversed(PROCESSORS):
        content = read_json(source, file)
        for section in sections:
            if isinstance(content.get(section), dict):
                return content[section]
        if "image_mean" in content or "size" in content:
            return content
    return {}


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width, from one of the ways in which processors and configs write a size; None: not said."""
    if isinstance(size, dict):
        side = size.get("shortest_edge") or size.get("longest_edge")
        size = [size.get("height") or side, size.get("width") or side]
    pair = [size, size] if isinstance(size, int) else list(size or [])
    return (int(pair[0]), int(pair[1])) if len(pair) == 2 and all(pair) else None


def _colours(value: Any) -> tuple[float, ...]:
    return tuple(float(one) for one in value) if isinstance(value, list | tuple) else (float(value),)
