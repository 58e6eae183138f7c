"""Any pretrained model of `transformers` or `timm` as an encoder, from a folder or from the Hugging Face hub.

    model.encoders.image: {name: auto, pretrained: FOLDER_OR_NAME}

The model's own processor decides the size and the scale of pixels, and the rate, the window and the features of
sound; its own tokenizer, which tokens a text has. What it needs and what the shards hold is compared before anything
is built. Code that comes with a model is never run. Families that tests run: ViT, DINOv2, ConvNeXt, Swin, SigLIP (both
towers); AST, wav2vec 2.0, HuBERT, WavLM, Whisper's encoder, CLAP's audio tower; BERT, RoBERTa, DeBERTa, ModernBERT,
MPNet; VideoMAE, TimeSformer, ViViT; of timm ViT, ResNet, ConvNeXt, Swin, MobileNet, BEiT.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.inputs import Pixels
from lfm_ray.models.encoders.lora import LoraSettings, add_adapters, check_installed
from lfm_ray.models.encoders.needs import TOWERS, VIDEO_MODELS, kinds_of, needs_of
from lfm_ray.models.encoders.pretrained import SENTENCE_POOLING, load_any, load_config, read_json
from lfm_ray.models.encoders.processors import PixelProcessor, SoundProcessor
from lfm_ray.models.encoders.timm_models import MODEL_TYPE, channels_last, heights_of, width_of

POOLINGS = ("model", "cls", "mean")
# Families without a pooler that are classified by the state at their first position.
FIRST_POSITION = {
    "bert", "roberta", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "xlm-roberta",
    "camembert", "vit", "deit", "timesformer",
}  # fmt: skip
POOLERS = ("pooler", "head")  # modules that only the model's own pooling uses
UNUSED = ("mask_token", "masked_spec_embed")  # parameters of pretraining alone


class AutoSettings(EncoderSettings):
    """Settings of `auto`."""

    pooling: Literal["auto", "model", "cls", "mean"] = Field(
        "auto",
        description="how states become one vector: model, by its own pooler; cls, the first position; mean, over all"
        " positions but padding. auto: as sentence-transformers' file says, if there is one, else model where the"
        " pooler has weights, else cls or mean, as the family is classified",
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the learning rate of each layer over that of the next one above, the highest has that of the"
        " encoder; null: all have the same",
    )
    gradient_checkpointing: bool = Field(
        False, description="keep the states between layers only and compute the rest again: less memory, more time"
    )
    lora: LoraSettings | None = Field(
        None,
        description="train low-rank adapters (LoRA) in place of the model's weights, beside the layer that makes the"
        " embedding; needs the package peft; null: none",
    )

    @model_validator(mode="after")
    def _something_of_the_model_is_trained(self) -> Self:
        if self.frozen and self.lora:
            raise ValueError("frozen trains nothing of the model, lora its adapters; leave one of them out")
        return self


class AutoEncoder(nn.Module):
    """A batch as the shards hold it -> the model -> one vector -> Linear -> (B, d).

    An image model encodes each frame of a video, and the mean over frames counts. Grey pictures are given to
    models of colour pictures as three equal channels. `pooling` is how the states become one vector.

    Raises:
        UserError: the model cannot be loaded, or does not fit the modality.
    """

    def __init__(self, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> None:
        super().__init__()
        own = settings if isinstance(settings, AutoSettings) else AutoSettings()
        source = _source(settings)
        self.kind, self.padding, self.decay = card.kind, card.padding, own.layer_decay
        whole, missing = load_any(source)
        config = whole.config
        self.body, prefix = _tower(whole, card.kind, source)
        missing = [name.removeprefix(prefix) for name in missing if name.startswith(prefix)]
        missing = [name for name in missing if name.split(".")[-1] not in UNUSED]
        lost_pooler = bool(missing) and all(map(_of_pooler, missing))
        if missing and not lost_pooler:
            raise UserError(f"pretrained: {source} lacks {len(missing)} of the weights, such as {missing[0]}")
        self.pooling = _pooling(own.pooling, source, self.body, config.model_type, lost_pooler)
        self.whole_clips = config.model_type in VIDEO_MODELS
        self.extra: dict[str, Any] = {}
        if card.kind in ("image", "video"):
            self._take_pixels(card, settings, source)
        elif card.kind == "audio":
            self.sound = SoundProcessor(source)
        self.project = nn.Linear(_width(self.body, self.pooling), embedding_size)
        self.adapted = own.lora is not None
        if own.lora:
            add_adapters(self.body, own.lora, config.model_type, POOLERS, partial(self._try, card))
        for name, parameter in self.body.named_parameters():
            if name.split(".")[-1] in UNUSED or (self.pooling != "model" and _of_pooler(name)):
                parameter.requires_grad_(False)
        if own.gradient_checkpointing:
            if not self.body.supports_gradient_checkpointing:
                raise UserError(f"gradient_checkpointing: {config.model_type} has none")
            later = getattr(self.body, "activation_checkpointing_enable", None)  # its name in newer transformers
            (later or self.body.gradient_checkpointing_enable)({"use_reentrant": False})

    def _take_pixels(self, card: ModalityCard, settings: EncoderSettings, source: str) -> None:
        processor, config = PixelProcessor.of(source, self.body.config), self.body.config
        self.channels = getattr(config, "num_channels", 3)
        as_taken = card.model_copy(update={"shape": [self.channels, *card.shape[-2:]], "kind": "image"})
        scaled = settings.model_copy(update={"pretrained": source if processor.mean else None})
        mean, std = processor.mean or (0.0,), processor.std or (1.0,)
        self.pixels = Pixels(as_taken, scaled, mean * (3 // len(mean)), std * (3 // len(std)))
        trained_at = getattr(config, "image_size", None)
        if "interpolate_pos_encoding" in inspect.signature(self.body.forward).parameters:
            self.extra["interpolate_pos_encoding"] = trained_at not in (card.shape[-1], card.shape[-2:])

    @torch.no_grad()
    def _try(self, card: ModalityCard) -> None:
        """Encodes one sample of zeros."""
        training = self.training
        self.eval().pooled(torch.zeros(1, *card.shape, dtype=getattr(torch, card.dtype)))
        self.train(training)

    def forward(self, value: Tensor) -> Tensor:
        """value: as the shards hold it: pixels, an int16 waveform (B, samples), or tokens (B, L)."""
        return self.project(self.pooled(value))

    def pooled(self, value: Tensor) -> Tensor:
        """One vector of the model's own size for each sample, (B, h)."""
        if self.kind == "video" and not self.whole_clips:
            batch, frames = value.shape[:2]
            return self._pooled(value.flatten(0, 1)).view(batch, frames, -1).mean(dim=1)
        return self._pooled(value)

    def tokens(self, value: Tensor) -> Tensor:
        """The states of all positions, (B, T, h), NaN where a text has padding; of a video by frames, a vector each."""
        if self.kind == "video" and not self.whole_clips:
            return self._pooled(value.flatten(0, 1)).view(*value.shape[:2], -1)
        found, present = self._found(value)
        states = found.last_hidden_state
        if states.ndim == 4:
            states = self._map(states).flatten(2).transpose(1, 2)
        return states if present is None else states.masked_fill(~present[:, :, None], torch.nan)

    def _found(self, value: Tensor) -> tuple[Any, Tensor | None]:
        """What the model gives, and which positions of a text are no padding, (B, L)."""
        dtype, present = self.project.weight.dtype, None
        if self.kind == "text":
            tokens = value.long()
            present = tokens != self.padding
            present = torch.cat([torch.ones_like(present[:, :1]), present[:, 1:]], dim=1)  # even in an empty text
            inputs = {"input_ids": tokens, "attention_mask": present.long()}
        elif self.kind == "audio":
            with torch.no_grad():
                inputs = self.sound(value, dtype)
        else:
            if value.shape[-3] != self.channels:
                value = value.expand(*value.shape[:-3], self.channels, *value.shape[-2:])
            inputs = {"pixel_values": self.pixels(value, dtype)}
        return self.body(**inputs, **self.extra), present

    def _map(self, states: Tensor) -> Tensor:
        """A feature map as (B, h, height, width)."""
        return states.permute(0, 3, 1, 2) if channels_last(self.body) else states

    def _pooled(self, value: Tensor) -> Tensor:
        found, present = self._found(value)
        if self.pooling == "model":
            return found.pooler_output.flatten(1)
        states = found.last_hidden_state
        if states.ndim == 4:
            return self._map(states).mean(dim=(2, 3))
        if self.pooling == "cls":
            return states[:, 0]
        if present is None:
            return states.mean(dim=1)
        weight = present[:, :, None].to(states.dtype)
        return (states * weight).sum(dim=1) / weight.sum(dim=1)

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; a model with adapters keeps the statistics of its BatchNorm layers."""
        super().train(mode)
        if self.adapted:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def learning_rate_factors(self) -> dict[str, float]:
        """Parameter -> factor of its learning rate under `layer_decay`; those that are left out have 1."""
        if self.decay is None:
            return {}
        if self.body.config.model_type == MODEL_TYPE:
            heights = {f"timm_model.{name}": height for name, height in heights_of(self.body.timm_model).items()}
        else:
            heights = layer_heights(self.body)
        top = 1 + max(heights.values(), default=0)
        return {f"body.{name}": self.decay ** (top - height) for name, height in heights.items() if height < top}

    def get_extra_state(self) -> Tensor:
        """The pooling, which an exported model cannot find out from weights that the source lacks."""
        return torch.tensor(POOLINGS.index(self.pooling))

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what `get_extra_state` gave."""
        self.pooling = POOLINGS[int(state)]


def layer_heights(body: nn.Module) -> dict[str, int]:
    """Parameter -> its layer, from 0: what comes before the first layer, 1: the first, and so on.

    The layers are those of the largest `ModuleList`; of a hierarchy of stages (Swin, ConvNeXt), those of its
    stages. Parameters after the last layer are left out. As in the fine-tuning of BEiT (Bao et al., ICLR 2022),
    where the embeddings are below the first layer.
    """
    lists = {name: module for name, module in body.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        return {}
    stem = max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
    layers = [f"{stem}.{number}" for number in range(len(lists[stem]))]
    if hasattr(getattr(body, "config", None), "depths"):
        inner = [max((n for n in lists if n.startswith(f"{one}.")), key=lambda n: _count(lists[n])) for one in layers]
        layers = [f"{name}.{number}" for name in inner for number in range(len(lists[name]))]
    heights: dict[str, int] = {}
    reached, ended = 0, False
    for name, _ in body.named_parameters():
        within = [number for number, layer in enumerate(layers, 1) if name.startswith(f"{layer}.")]
        if within:
            reached = within[0]
        elif reached == len(layers):
            ended = True
        if not ended or within:
            heights[name] = reached
    return heights


def check(card: ModalityCard, settings: EncoderSettings) -> None:
    """Checks that a pretrained model takes what the shards hold; reads its config and its processor, not its weights.

    Raises:
        UserError: it does not; the line names the settings of `prepare` that would fit.
    """
    source = _source(settings)
    if isinstance(settings, AutoSettings) and settings.lora:
        check_installed()
    config = load_config(source)
    taken = kinds_of(config)
    if card.kind not in taken:
        what = " or ".join(taken) or "nothing that a dataset here can hold"
        raise UserError(f"pretrained: {source} is a {config.model_type}, which takes {what}, not {card.kind}")
    if needs := needs_of(card, source, config):
        said, changes = needs
        how = f"; prepare with {' '.join(f'--set {key}={value}' for key, value in changes.items())}" if changes else ""
        raise UserError(f"pretrained: {source} takes {said}{how}")


def _source(settings: EncoderSettings) -> str:
    if not settings.pretrained:
        raise UserError("pretrained: auto needs a folder written by save_pretrained, or a name on the Hugging Face hub")
    return settings.pretrained


def _tower(whole: Any, kind: Kind, source: str) -> tuple[Any, str]:
    """The part of a model that takes a kind of modality, and what its parameters' names begin with."""
    name = next((f"{name}_model" for name, kinds in TOWERS.items() if kind in kinds), "")
    if hasattr(whole, name):
        return getattr(whole, name), f"{name}."
    if getattr(whole.config, "is_encoder_decoder", False):
        return whole.get_encoder(), "encoder."
    if len(kinds_of(whole.config)) > 2:
        raise UserError(
            f"pretrained: {source} is a {whole.config.model_type}, which has no encoder of its own for {kind}"
        )
    return whole, ""


def _pooling(chosen: str, source: str, body: Any, model_type: str, lost_pooler: bool) -> str:
    """One of `POOLINGS`; lost_pooler: the weights of the model's own are missing."""
    own = not lost_pooler and _has_pooler(body)
    if chosen == "model" and not own:
        raise UserError(f"pooling: {source} has no pooler; use cls, mean or auto")
    if chosen != "auto":
        return chosen
    sentences = read_json(source, SENTENCE_POOLING)
    if sentences.get("pooling_mode_mean_tokens"):
        return "mean"
    if sentences.get("pooling_mode_cls_token"):
        return "cls"
    return "model" if own else "cls" if model_type in FIRST_POSITION else "mean"


def _has_pooler(body: Any) -> bool:
    """Whether the outputs hold a vector that the model pools itself."""
    if hasattr(body, "pooler") or hasattr(body, "use_head"):
        return bool(getattr(body, "pooler", None) or getattr(body, "use_head", False))
    return type(body).__name__ in (
        "Dinov2Model",
        "ConvNextModel",
        "ASTModel",
        "ClapAudioModel",
        "SiglipTextModel",
        "TimmWrapperModel",
    )


def _of_pooler(name: str) -> bool:
    return name.split(".")[0] in POOLERS


def _width(body: Any, pooling: str) -> int:
    """The size of a model's pooled vector."""
    config = body.config
    if config.model_type == MODEL_TYPE:
        return width_of(body.timm_model, pooling)
    for name in ("hidden_size", "d_model", "hidden_sizes"):
        if size := getattr(config, name, None):
            return int(size[-1] if isinstance(size, list | tuple) else size)
    raise UserError(f"pretrained: the config of {config.model_type} has no hidden_size")


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


ENCODER = Encoder(
    AutoEncoder,
    ("audio", "image", "video", "text"),
    ("pretrained",),
    settings_class=AutoSettings,
    waveforms=True,
    check=check,
)
