"""Weights and their config from a local folder or from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

import torch

from lfm_ray.errors import UserError


def load(model_class: Any, source: str, model_types: tuple[str, ...]) -> Any:
    """A `transformers` model of `model_class` with the weights of `source`, in the default dtype.

    source: a folder that `save_pretrained` wrote, or a name on the hub; model_types: what its
    config may call itself.

    Raises:
        UserError: it is not there, is of another type, or lacks weights.
    """
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source)
        if config.model_type not in model_types:
            raise UserError(f"pretrained: {source} is a {config.model_type}, not a {model_types[0]}")
        model, found = model_class.from_pretrained(source, dtype=torch.get_default_dtype(), output_loading_info=True)
    except UserError:
        raise
    except Exception as error:  # its kinds are many: no network, no file, a broken file, no such name
        reason = str(error).strip().splitlines()
        raise UserError(
            f"pretrained: {source} cannot be loaded; it must be a folder written by save_pretrained, or a name on the"
            f" Hugging Face hub and the network be there ({reason[0] if reason else type(error).__name__})"
        ) from None
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"pretrained: {source} lacks {len(missing)} of the weights, such as {missing[0]}")
    return model
