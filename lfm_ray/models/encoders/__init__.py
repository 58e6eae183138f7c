"""Encoders, (B, ...) -> (B, d), one for each modality.

An encoder is a module that maps a batch of one modality to embeddings, and an `Encoder` that says how it is built and
what it takes (`lfm_ray.models.encoders.base`). The layer that makes the embedding is called `project`: it is trained
where the rest of the encoder is frozen. One that has a map of features over the picture names it by `last_map`
(`lfm_ray/report/gradcam.py`).
"""

from __future__ import annotations

from torch import nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import ENCODERS, Encoder, EncoderSettings

__all__ = ["ENCODERS", "Encoder", "EncoderSettings", "build_encoder", "check_encoder"]


def check_encoder(modality: str, card: ModalityCard, settings: EncoderSettings) -> None:
    """Refuses an encoder that does not take the modality's kind, or a setting it does not know.

    Raises:
        UserError: names the setting.
    """
    assert settings.name is not None
    encoder, where = ENCODERS[settings.name], f"model.encoders.{modality}"
    if card.kind not in encoder.kinds:
        fitting = ", ".join(name for name, other in ENCODERS.items() if card.kind in other.kinds)
        raise UserError(
            f"{where}.name: {settings.name} takes {', '.join(encoder.kinds)}, and {modality} is {card.kind};"
            f" for that there are {fitting}"
        )
    for setting in ("pretrained", "width", "layers"):
        if getattr(settings, setting) is not None and setting not in encoder.settings:
            raise UserError(f"{where}.{setting}: {settings.name} has no such setting")


def build_encoder(modality: str, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> nn.Module:
    """The encoder of a modality.

    Raises:
        UserError: its pretrained weights are not there or do not fit.
    """
    assert settings.name is not None
    try:
        encoder = ENCODERS[settings.name].build(card, settings, embedding_size)
    except UserError as error:
        raise UserError(f"model.encoders.{modality}.{error}") from None
    if settings.frozen:
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_("project" in name.split("."))
    return encoder
