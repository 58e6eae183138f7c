"""The image and text towers of CLIP (Radford et al., ICML 2021), without its joint projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.bert import check_tokens, heads
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


class ClipTextEncoder(nn.Module):
    """Tokens (B, L) -> causal transformer -> its state at the text's last token -> Linear -> (B, d).

    With random weights: `layers` layers of size `width` (12 and 512 as published) and the card's
    vocabulary. CLIP's own tokenizer ends a text with the token that it also pads with; then the first
    such token is the text's last.

    Raises:
        UserError: the pretrained model cannot be loaded, or has too few tokens or positions.
    """

    def __init__(self, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        assert card.vocabulary is not None
        self.padding = card.padding
        if settings.pretrained:
            self.body = load(CLIPTextModel, settings.pretrained, ("clip", "clip_text_model"))
            check_tokens(card, self.body.config, settings.pretrained)
        else:
            width = settings.width or 512
            config = CLIPTextConfig(
                vocab_size=card.vocabulary,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=settings.layers or 12,
                num_attention_heads=heads(width),
                max_position_embeddings=max(77, card.shape[-1]),
                pad_token_id=card.padding,
            )
            self.body = CLIPTextModel(config)
        config = self.body.config
        end = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id  # 2: configs from before 2023
        self.ends_by_padding = settings.pretrained is not None and end == card.padding
        self.project = nn.Linear(self.body.config.hidden_size, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, L) integers, at least 0 and less than the vocabulary."""
        tokens = value.long()
        length = (tokens != self.padding).sum(dim=1)
        last = (length if self.ends_by_padding else length - 1).clamp(0, tokens.shape[1] - 1)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        present = positions <= last[:, None]
        states = self.body(input_ids=tokens, attention_mask=present).last_hidden_state
        return self.project(states[torch.arange(len(tokens), device=tokens.device), last])


CLIP_IMAGE = Encoder(clip_image, ("image", "video"), ("pretrained", "width", "layers"))
CLIP_TEXT = Encoder(ClipTextEncoder, ("text",), ("pretrained", "width", "layers"))
