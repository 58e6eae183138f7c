"""Pretrained weights and their config, from a local folder or from the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from lfm_ray import files
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.timm_models import MODEL_TYPE, check_timm, is_of_timm, without_classifier

PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
SENTENCE_POOLING = "1_Pooling/config.json"  # of sentence-transformers
BESIDE = (*PROCESSORS, SENTENCE_POOLING)

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
    _be_quiet()
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


def load_any(source: str) -> tuple[Any, list[str]]:
    """The `transformers` model without a head that `source` holds, in the default dtype, and the weights that it lacks.

    What a model does at random beside dropout is left out (SpecAugment, LayerDrop): it draws from NumPy, which a
    resumed run could not repeat, or leaves parameters without a gradient, which several workers cannot share.

    Raises:
        UserError: it cannot be loaded, or `transformers` has no model without a head for it.
    """
    from transformers import AutoModel

    _be_quiet()
    config = load_config(source)
    for name, off in {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}.items():
        if hasattr(config, name):
            setattr(config, name, off)
    try:
        if _no_weights.get():
            return AutoModel.from_config(config, trust_remote_code=False), []
        model, found = AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.get_default_dtype(),
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:  # of many kinds, as for the config
        raise _not_there(source, error) from None
    return model, sorted(found["missing_keys"])


def read_json(source: str, name: str) -> dict[str, Any]:
    """A JSON file that lies beside the weights, from the folder or from the hub; empty where there is none.

    Raises:
        UserError: it is not JSON.
    """
    from transformers.utils.hub import cached_file

    path = Path(source, name)
    if not Path(source).is_dir():
        found = cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
        path = Path(found or path)
    try:
        content = files.read_json(path) if path.is_file() else {}
    except UserError as error:
        raise UserError(f"pretrained: {error}") from None
    return content if isinstance(content, dict) else {}


def save_architecture(source: str, folder: Path) -> None:
    """Writes what a model is built from into a folder, all but the weights: its config, its processor, its pooling.

    Raises:
        UserError: it cannot be loaded.
    """
    config = load_config(source)
    if config.model_type == MODEL_TYPE:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        config.save_pretrained(folder)
    for name in BESIDE if config.model_type != MODEL_TYPE else ("config.json",):
        if content := read_json(source, name):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_config(source: str) -> Any:
    """The config of a `transformers` model; code that comes with it is never executed.

    Raises:
        UserError: it cannot be loaded, or is what other libraries than `transformers` and `timm` load.
    """
    from transformers import AutoConfig

    if Path(source, "adapter_config.json").is_file():
        raise UserError(
            f"pretrained: {source} is an adapter of peft, such as LoRA's, not a whole model; add it to its model with"
            " merge_and_unload(), and save that"
        )
    content: dict[str, Any] = {}
    with suppress(UserError, OSError):  # a broken file or no such name, of which AutoConfig says the same
        content = read_json(source, "config.json")
    if is_of_timm(content):
        check_timm(source, content)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # of many kinds: no network, no file, a broken file, no such name
        raise _not_there(source, error) from None
    return without_classifier(config) if is_of_timm(content) else config


def _be_quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _not_there(source: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()
    return UserError(
        f"pretrained: {source} cannot be loaded; it must be a folder written by save_pretrained, or a name on the"
        f" Hugging Face hub, which needs the network ({reason[0] if reason else type(error).__name__})"
    )
