"""Text -> tokens: UTF-8 bytes, or those of a `transformers` tokenizer."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
from pydantic import Field

from lfm_ray.errors import UserError
from lfm_ray.settings import Settings


class TextSettings(Settings):
    """Text -> tokens."""

    length: int = Field(128, ge=1, description="tokens per text; longer texts are cut, shorter ones padded")
    tokenizer: str | None = Field(
        None,
        description="folder of a transformers tokenizer, or its name on the Hugging Face hub; null: UTF-8 bytes as 1 to"
        " 256, padded with 0, which need no vocabulary",
    )


LONGEST_TOKEN = 1000  # characters
BYTE_VALUES = 257  # 256 bytes and the padding


def tokens(text: str, settings: TextSettings) -> np.ndarray:
    """(length,) integers of `dtype(settings)`, cut or padded.

    Without a tokenizer: UTF-8 bytes + 1, so 1 to 256, and the padding 0. A tokenizer puts its special
    tokens at both ends of a text even if it cuts it.
    """
    if settings.tokenizer is None:
        found = [byte + 1 for byte in text[: settings.length].encode("utf-8")[: settings.length]]
    else:
        beginning = text[: LONGEST_TOKEN * settings.length]  # or a book would be taken apart for a few tokens
        tokenizer = load_tokenizer(settings.tokenizer)
        found = tokenizer(beginning, truncation=True, max_length=settings.length)["input_ids"]
    _, padding = vocabulary_and_padding(settings)
    return np.array([*found, *[padding] * (settings.length - len(found))], dtype(settings))


def vocabulary_and_padding(settings: TextSettings) -> tuple[int, int]:
    """The number of different tokens, and the token that pads short texts.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    if settings.tokenizer is None:
        return BYTE_VALUES, 0
    tokenizer = load_tokenizer(settings.tokenizer)
    return len(tokenizer), int(tokenizer.pad_token_id)


def dtype(settings: TextSettings) -> np.dtype:
    """int16 for bytes, int32 for a tokenizer's tokens."""
    return np.dtype(np.int16 if settings.tokenizer is None else np.int32)


@functools.lru_cache
def load_tokenizer(name: str) -> Any:
    """Loads a `transformers` tokenizer; code that comes with it is never executed.

    Raises:
        UserError: it cannot be loaded, or has no padding token.
    """
    from transformers import AutoTokenizer

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every attempt to reach the hub
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"text.tokenizer: {name} cannot be loaded, from a folder or from the hub: {reason}") from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"text.tokenizer: {name} has no padding token, which shorter texts need")
    return tokenizer
