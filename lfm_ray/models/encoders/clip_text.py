"""The text tower of CLIP (Radford et al., ICML 2021), without its joint projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.bert import check_tokens, heads
from lfm_ray.models.encoders.pretrained import load


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


ENCODER = Encoder(ClipTextEncoder, ("text",), ("pretrained", "width", "layers"))
