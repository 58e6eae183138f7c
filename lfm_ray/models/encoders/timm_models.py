"""Models of `timm`, through the wrapper that `transformers` has for them.

A folder as `timm.models.save_for_hf(model, folder, safe_serialization=True)` writes it, or a name on the hub such as
`timm/vit_small_patch16_224.augreg_in21k`. `config.json` names an architecture that the installed `timm` contains;
its arguments are numbers and names, and those that would load or fetch something else are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from torch import nn

from lfm_ray.errors import UserError

MODEL_TYPE = "timm_wrapper"  # of transformers
CLASSIFIER = "a classifier's weight"  # a name that no pattern for layers matches, as little as a classifier's
# What `timm.create_model` takes beside the arguments of the architecture: other weights, and how to compile.
NOT_OF_THE_ARCHITECTURE = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "checkpoint_path", "cache_dir",
    "scriptable", "exportable", "no_jit", "features_only", "model_name",
}  # fmt: skip


def is_of_timm(content: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is that of a model of `timm`."""
    return content.get("model_type") == MODEL_TYPE or "pretrained_cfg" in content


def check_timm(source: str, content: Mapping[str, Any]) -> None:
    """Checks that a model of `timm` can be built from its config.json alone.

    Raises:
        UserError: `timm` or torchvision is not installed, or the config asks for something else.
    """
    for package in ("timm", "torchvision"):
        if find_spec(package) is None:
            raise UserError(
                f"pretrained: {source} is a model of timm, and {package} is not installed; pip install 'lfm_ray[timm]'"
            )
    import timm

    name, arguments = content.get("architecture"), content.get("model_args") or {}
    if not isinstance(name, str) or ":" in name or not timm.is_model(name):
        raise UserError(f"pretrained: {source} is a model of timm, which has no architecture {name!r}")
    if not isinstance(arguments, dict) or (others := NOT_OF_THE_ARCHITECTURE & arguments.keys()):
        what = min(others) if isinstance(arguments, dict) else "a list"
        raise UserError(f"pretrained: {source}: model_args in config.json has {what}, which is none of an architecture")
    if arguments.get("global_pool") == "":
        raise UserError(f"pretrained: {source} does not pool its features (global_pool in config.json)")


def without_classifier(config: Any) -> Any:
    """The config of `transformers` for a model of `timm`, whose number of classes the wrapper sets itself."""
    config.num_channels = pixels_of(config)[0]
    config.model_args = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}
    return config


def pixels_of(config: Any) -> tuple[int, tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Channels, height and width that a model takes, and mean and deviation of the colours, on a scale of 0 to 1."""
    from timm.data import resolve_data_config

    found = resolve_data_config(pretrained_cfg=config.pretrained_cfg)
    channels, height, width = found["input_size"]
    return channels, (height, width), tuple(found["mean"]), tuple(found["std"])


def width_of(model: Any, pooling: str) -> int:
    """The size of the vector that a pooling gives."""
    return int(model.head_hidden_size if pooling == "model" else model.num_features)


def heights_of(model: Any) -> dict[str, int]:
    """Parameter -> its layer, from 0, as `timm` groups them for layer-wise learning rates.

    What it counts to the layer of the classifier is left out.
    """
    from timm.models import group_parameters

    named = SimpleNamespace(named_parameters=lambda: [*model.named_parameters(), (CLASSIFIER, None)])
    found = group_parameters(named, model.group_matcher(coarse=False), reverse=True)
    return {name: int(layer) for name, layer in found.items() if layer < found[CLASSIFIER]}


def channels_last(body: nn.Module) -> bool:
    """Whether feature maps are (B, height, width, h)."""
    return getattr(getattr(body, "timm_model", None), "output_fmt", "NCHW") == "NHWC"
