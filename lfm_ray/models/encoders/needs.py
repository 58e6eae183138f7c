"""What a pretrained model takes, as its config, its processor and its tokenizer say, and what shards hold instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media.text import TextSettings, vocabulary_and_padding
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.models.encoders.pretrained import read_json
from lfm_ray.models.encoders.processors import PixelProcessor, SoundProcessor

TOWERS: dict[str, tuple[Kind, ...]] = {"vision": ("image", "video"), "audio": ("audio",), "text": ("text",)}
BY_INPUT: dict[str, tuple[Kind, ...]] = {
    "pixel_values": ("image", "video"),
    "input_values": ("audio",),
    "input_features": ("audio",),
    "input_ids": ("text",),
}
VIDEO_MODELS = ("videomae", "timesformer", "vivit")
SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")  # begin after that of the padding
Needs = tuple[str, Mapping[str, Any]] | None  # what a model takes instead, and the settings of prepare for it


def kinds_of(config: Any) -> tuple[Kind, ...]:
    """The kinds of modality that the model of a config takes: those of its towers, or of its main input."""
    from transformers import MODEL_MAPPING

    towers = [kinds for name, kinds in TOWERS.items() if getattr(config, f"{name}_config", None) is not None]
    if towers:
        return tuple(kind for kinds in towers for kind in kinds)
    if config.model_type in VIDEO_MODELS:
        return ("video",)
    model = MODEL_MAPPING.get(type(config), None)
    return BY_INPUT.get(getattr(model, "main_input_name", ""), ())


def needs_of(card: ModalityCard, source: str, config: Any) -> Needs:
    """What the model of a config takes where a modality of a kind that it takes has something else; None: it fits."""
    own = next((getattr(config, f"{name}_config", None) for name, kinds in TOWERS.items() if card.kind in kinds), None)
    of_its_kind = {"image": _pixels, "video": _pixels, "audio": _sound, "text": _tokens}[card.kind]
    return of_its_kind(card, source, own or config)


def _pixels(card: ModalityCard, source: str, config: Any) -> Needs:
    said: list[str] = []
    changes: dict[str, Any] = {}
    size, channels = PixelProcessor.of(source, config).size, getattr(config, "num_channels", 3)
    if size is not None and list(size) != card.shape[-2:]:
        said.append(f"{size[0]} x {size[1]} pixels, and there are {card.shape[-2]} x {card.shape[-1]}")
        changes[f"{card.kind}.size"] = size[0]
    if card.shape[-3] not in (1, channels):
        said.append(f"{channels} channels, and there are {card.shape[-3]}")
        changes[f"{card.kind}.channels"] = channels
    frames = getattr(config, "num_frames", None)
    if config.model_type in VIDEO_MODELS and frames not in (None, card.shape[0]):
        said.append(f"{frames} frames, and the model would receive {card.shape[0]} (data.frames)")
        changes["video.frames"] = f"{frames} and train with --set data.frames={frames}"
    return (", and ".join(said), changes) if said else None


def _sound(card: ModalityCard, source: str, config: Any) -> Needs:
    processor = SoundProcessor(source)
    if len(card.shape) != 1:
        changes = {"audio.form": "waveform", "audio.sample_rate": processor.rate}
        return f"waveforms of {processor.rate} Hz, and there are spectrograms", changes
    if card.sample_rate != processor.rate:
        return f"{processor.rate} Hz, and there are {card.sample_rate}", {"audio.sample_rate": processor.rate}
    if processor.longest is not None and card.shape[0] > processor.longest:
        most, is_now = processor.longest / processor.rate, card.shape[0] / processor.rate
        return f"at most {most:g} s, and clips have {is_now:g}", {"audio.seconds": f"{most:g}"}
    left = card.shape[0]
    for kernel, stride in zip(getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ()), strict=False):
        left = (left - kernel) // stride + 1
    return None if left > 0 else ("longer clips than these", {"audio.seconds": 1})


def _tokens(card: ModalityCard, source: str, config: Any) -> Needs:
    said: list[str] = []
    changes: dict[str, Any] = {}
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in SHIFTED_POSITIONS:
        positions -= config.pad_token_id + 1
    if positions is not None and 0 < positions < card.shape[-1]:
        said.append(f"at most {positions} tokens, and texts have {card.shape[-1]}")
        changes["text.length"] = positions
    vocabulary, padding = None, config.pad_token_id
    if read_json(source, "tokenizer_config.json"):  # else transformers makes up an empty one
        vocabulary, padding = vocabulary_and_padding(TextSettings(tokenizer=source))
    fits = (card.vocabulary or 0) <= config.vocab_size if vocabulary is None else card.vocabulary == vocabulary
    if not fits or padding not in (None, card.padding):
        said.append(
            f"{vocabulary or config.vocab_size} different tokens padded with {padding}, and there are {card.vocabulary}"
            f" padded with {card.padding}"
        )
        changes["text.tokenizer"] = source
    return (", and ".join(said), changes) if said else None
