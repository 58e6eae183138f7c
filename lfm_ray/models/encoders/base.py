"""What an encoder is: its settings, what it accepts, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from pydantic import Field, field_validator, model_validator
from torch import nn

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.registry import Registry, parts_in
from lfm_ray.settings import Settings


class EncoderSettings(Settings):
    """The encoder of one modality. Null settings are those of the section `model`, or as published."""

    name: str | None = Field(
        None,
        validate_default=False,
        description="small: a CNN for spectrograms, images and video, a GRU for text, two layers for features;"
        " ngrams: hashed n-grams of a text; resnet18, resnet50; bert; clip_image, clip_text; sequence; auto: any"
        " pretrained model of transformers or timm (lfm_ray/models/encoders); null: model.encoder",
    )
    pretrained: str | None = Field(
        None, description="a folder written by save_pretrained, or a name on the Hugging Face hub; null: random weights"
    )
    frozen: bool = Field(False, description="train only the layer that makes the embedding")
    learning_rate_factor: float = Field(
        1.0, gt=0, le=1000, description="multiplies optimizer.learning_rate for this encoder, at every step"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout on the embedding; null: model.dropout")
    width: int | None = Field(
        None,
        ge=1,
        description="channels of the first block of a CNN, size of a transformer's states; null: model.width for"
        " small and ngrams, else as published",
    )
    layers: int | None = Field(None, ge=1, description="layers of a transformer; null: as published")

    @classmethod
    def part(cls, name: str) -> type[Settings] | None:
        """See `Settings.part`."""
        return ENCODERS[name].settings_class if name in ENCODERS else None

    @field_validator("name")
    @classmethod
    def _known_encoder(cls, name: str | None) -> str | None:
        return name if name is None else ENCODERS.check(name)

    @model_validator(mode="after")
    def _settings_that_have_an_effect(self) -> Self:
        if self.frozen and self.learning_rate_factor != 1:
            raise ValueError("a frozen encoder has no learning rate; leave out learning_rate_factor")
        if self.pretrained and (self.width or self.layers):
            raise ValueError("a pretrained encoder has its own width and layers; leave them out")
        return self


@dataclass(frozen=True)
class Encoder:
    """How an encoder is built, and what it accepts.

    build: card of the modality, settings and d -> a module. kinds: of modalities that it takes. settings:
    which of `pretrained`, `width` and `layers` it knows. large: whether it computes enough for half
    precision to pay on hardware that has it. settings_class: with settings of its own. waveforms: whether it
    takes audio as a waveform (samples,) instead of as a spectrogram. check: what else must fit, before anything is
    built; it raises a UserError that begins with the name of the setting.
    """

    build: Callable[[ModalityCard, EncoderSettings, int], nn.Module]
    kinds: tuple[Kind, ...]
    settings: tuple[str, ...] = ()
    large: bool = True
    settings_class: type[EncoderSettings] = EncoderSettings
    waveforms: bool = False
    check: Callable[[ModalityCard, EncoderSettings], None] | None = None


ENCODERS: Registry[Encoder] = Registry(
    "encoder",
    parts_in(
        "lfm_ray.models.encoders",
        shared=("base", "inputs", "lora", "needs", "pretrained", "processors", "resnet", "timm_models"),
        attribute="ENCODER",
    ),
    lambda part: isinstance(part, Encoder),
    "an lfm_ray.models.encoders.Encoder",
)
