"""Encoders, (B, ...) -> (B, d), one per modality.

An encoder consists of a module that maps a batch of one modality to embeddings, and an `Encoder` that says how the
module is built and what it accepts (`lfm_ray.models.encoders.base`). The layer that makes the embedding is called
`project`; it is trained even if the rest of the encoder is frozen. A module with feature maps over the image names the
layer of the last one as `last_map` (`lfm_ray/report/gradcam.py`).
"""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import ENCODERS, Encoder, EncoderSettings
from lfm_ray.own_parts import called, returned

__all__ = ["ENCODERS", "Encoder", "EncoderSettings", "build_encoder", "check_encoder", "default_encoder"]


def default_encoder(kind: Kind) -> str:
    """The encoder of a modality where the settings leave it open."""
    return "ngrams" if kind == "text" else "small"


def check_encoder(modality: str, card: ModalityCard, settings: EncoderSettings) -> None:
    """Checks that an encoder accepts the modality's kind and has the settings that are given.

    Raises:
        UserError: it does not; names the setting.
    """
    name, where = settings.name or default_encoder(card.kind), f"model.encoders.{modality}"
    encoder = ENCODERS[name]
    if card.kind not in encoder.kinds:
        fitting = ", ".join(one for one, other in ENCODERS.items() if card.kind in other.kinds)
        raise UserError(
            f"{where}.name: {name} takes {', '.join(encoder.kinds)}, and {modality} is {card.kind};"
            f" choose one of {fitting}"
        )
    for setting in ("pretrained", "width", "layers"):
        if getattr(settings, setting) is not None and setting not in encoder.settings:
            raise UserError(f"{where}.{setting}: {name} has no such setting")
    if card.kind == "audio" and len(card.shape) == 1 and not encoder.waveforms:
        raise UserError(
            f"{where}.name: {name} takes spectrograms, and {modality} holds waveforms; prepare with"
            " --set audio.form=spectrogram, or choose auto with a pretrained model"
        )
    if encoder.check:
        try:
            encoder.check(card, settings)
        except UserError as error:
            raise UserError(f"{where}.{error}") from None


def build_encoder(modality: str, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> nn.Module:
    """The encoder of a modality.

    Raises:
        UserError: its pretrained weights cannot be loaded or do not fit, or it is no module.
    """
    name = settings.name or default_encoder(card.kind)
    part = f"encoder {name} (model.encoders.{modality})"
    try:
        encoder = called(part, ENCODERS[name].build, card, settings, embedding_size)
    except UserError as error:
        raise error if str(error).startswith(part) else UserError(f"model.encoders.{modality}.{error}") from None
    returned(part, encoder, isinstance(encoder, nn.Module), "a torch.nn.Module")
    if lazy := [name for name, one in encoder.named_parameters() if isinstance(one, UninitializedParameter)]:
        raise UserError(f"{part}: its {lazy[0]} has no shape yet; pass it a batch where it is built, or give its size")
    if settings.frozen:
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_("project" in name.split("."))
    return encoder
