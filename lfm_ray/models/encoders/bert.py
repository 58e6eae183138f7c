"""BERT (Devlin et al., NAACL 2019) for text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.pretrained import load


class BertEncoder(nn.Module):
    """Tokens (B, L) -> BERT -> its pooled first position -> Linear -> (B, d).

    Positions with the card's padding are not attended to. With random weights: `layers` layers of
    size `width` (12 and 768 as published), with the card's vocabulary and BERT's own dropout of 0.1.

    Raises:
        UserError: the pretrained model cannot be loaded, or has too few tokens or positions.
    """

    def __init__(self, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        assert card.vocabulary is not None
        self.padding = card.padding
        if settings.pretrained:
            self.body = load(BertModel, settings.pretrained, ("bert",))
            check_tokens(card, self.body.config, settings.pretrained)
        else:
            width = settings.width or 768
            config = BertConfig(
                vocab_size=card.vocabulary,
                hidden_size=width,
                num_hidden_layers=settings.layers or 12,
                num_attention_heads=heads(width),
                intermediate_size=4 * width,
                max_position_embeddings=max(512, card.shape[-1]),
                pad_token_id=card.padding,
            )
            self.body = BertModel(config)
        self.project = nn.Linear(self.body.config.hidden_size, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, L) integers, at least 0 and less than the vocabulary."""
        tokens = value.long()
        present = tokens != self.padding
        present = torch.cat([torch.ones_like(present[:, :1]), present[:, 1:]], dim=1)  # even in an empty text
        return self.project(self.body(input_ids=tokens, attention_mask=present).pooler_output)


def heads(width: int) -> int:
    """Number of attention heads for a width: each of size 64 as published, or the next larger size that divides it."""
    return next(count for count in range(max(1, width // 64), 0, -1) if width % count == 0)


def check_tokens(card: ModalityCard, config: object, source: str) -> None:
    """Checks that a pretrained text model has enough tokens and positions for the card."""
    limits = {"vocab_size": card.vocabulary, "max_position_embeddings": card.shape[-1]}
    for name, needed in limits.items():
        known = getattr(config, name)
        if needed is not None and needed > known:
            what, hint = "positions", ""
            if name == "vocab_size":
                what, hint = "tokens", "; prepare the text with the model's own tokenizer"
            raise UserError(f"pretrained: {source} has {known} {what}, and the dataset has {needed}{hint}")


ENCODER = Encoder(BertEncoder, ("text",), ("pretrained", "width", "layers"))
