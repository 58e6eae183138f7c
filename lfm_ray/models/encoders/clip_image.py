"""The image tower of CLIP (Radford et al., ICML 2021), without its joint projection."""

from __future__ import annotations

from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.bert import heads
from lfm_ray.models.encoders.inputs import Pixels, VideoEncoder
from lfm_ray.models.encoders.pretrained import load

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PATCHES = 7  # per side, as in ViT-B/32 for images of 224 pixels


def clip_image(card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> nn.Module:
    """The image tower; the mean over frames for video."""
    image = ClipImageEncoder(card, settings, embedding_size)
    return VideoEncoder(image) if card.kind == "video" else image


class ClipImageEncoder(nn.Module):
    """(B, C, H, W) -> vision transformer -> its pooled class position -> Linear -> (B, d).

    With random weights: ViT-B/32 with `layers` layers of size `width` (12 and 768 as published); images
    of other sizes than 224 have as many patches, of another size. Pretrained weights take three
    channels, and images of any size: their position embeddings are interpolated.

    Raises:
        UserError: the pretrained model cannot be loaded, or does not take this number of channels.
    """

    def __init__(self, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        channels, *sides = card.shape[-3:]
        if settings.pretrained:
            self.body = load(CLIPVisionModel, settings.pretrained, ("clip", "clip_vision_model"))
            if channels != (known := self.body.config.num_channels):
                raise UserError(f"pretrained: {settings.pretrained} takes {known} channels, and there are {channels}")
        else:
            width = settings.width or 768
            config = CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=settings.layers or 12,
                num_attention_heads=heads(width),
                num_channels=channels,
                image_size=min(sides),
                patch_size=max(1, min(sides) // PATCHES),
            )
            self.body = CLIPVisionModel(config)
        self.other_size = sides != 2 * [self.body.config.image_size]
        self.pixels = Pixels(card, settings, CLIP_MEAN, CLIP_STD)
        self.project = nn.Linear(self.body.config.hidden_size, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, C, H, W) of any real dtype; standardised here."""
        value = self.pixels(value, self.project.weight.dtype)
        return self.project(self.body(value, interpolate_pos_encoding=self.other_size).pooler_output)

    @property
    def last_map(self) -> nn.Module:
        """The layer whose output the last attention reads, (B, 1 + patches, K); then only the first position counts."""
        return self.body.encoder.layers[-1].layer_norm1

    @property
    def patch_size(self) -> int:
        """Pixels per side of a patch."""
        return int(self.body.config.patch_size)


ENCODER = Encoder(clip_image, ("image", "video"), ("pretrained", "width", "layers"))
