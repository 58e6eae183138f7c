"""Pretrained weights and their config, from a local folder or from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from lfm_ray.errors import UserError

_no_weights = ContextVar("_no_weights", default=False)


@contextmanager
def architecture_only() -> Iterator[None]:
    """Inside, `load` returns models with the architecture of their source and random weights, to be replaced later."""
    token = _no_weights.set(True)
    try:
        yield
    finally:
        _no_weights.reset(token)


def load(model_class: Any, source: str, model_types: tuple[str, ...]) -> Any:
    """A `transformers` model of `model_class` with the weights of `source`, in the default dtype.

    source: a folder that `save_pretrained` wrote, or a name on the hub; model_types: the model types
    that its config may have.

    Raises:
        UserError: it cannot be loaded, is of another type, or lacks weights.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = load_config(source)
    if config.model_type not in model_types:
        raise UserError(f"pretrained: {source} is a {config.model_type}, not a {model_types[0]}")
    try:
        if _no_weights.get():
            return model_class(model_class.config_class.from_pretrained(source))
        model, found = model_class.from_pretrained(source, dtype=torch.get_default_dtype(), output_loading_info=True)
    except Exception as error:  # of many kinds, as for the config
        raise _not_there(source, error) from None
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"pretrained: {source} lacks {len(missing)} of the weights, such as {missing[0]}")
    return model


def load_config(source: str) -> Any:
    """The config of a `transformers` model; code that comes with it is never executed.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # of many kinds: no network, no file, a broken file, no such name
        raise _not_there(source, error) from None


def _not_there(source: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()
    return UserError(
        f"pretrained: {source} cannot be loaded; it must be a folder written by save_pretrained, or a name on the"
        f" Hugging Face hub, which needs the network ({reason[0] if reason else type(error).__name__})"
    )
