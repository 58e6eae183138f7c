"""Low-rank adapters of a pretrained model: "LoRA" (Hu et al., ICLR 2022), by the package `peft`.

A layer W of the model becomes W + (alpha / rank) B A with trained A (rank, in) and B (out, rank); W stays as it is.
B begins as zero, so the model begins as it was published. An exported model holds the sums, and needs no `peft`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from pydantic import Field
from torch import nn

from lfm_ray.errors import UserError
from lfm_ray.settings import Settings


class LoraSettings(Settings):
    """Low-rank adapters, in the terms of `peft`."""

    rank: int = Field(8, ge=1, description="r, the rank of B A")
    alpha: float = Field(16, gt=0, description="the adapters' output is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapters' input")
    targets: list[str] | None = Field(
        None,
        min_length=1,
        description="the layers that have adapters, by the ends of their names in the model, such as [query, value];"
        " null: every linear layer but those of the pooler",
    )


def check_installed() -> None:
    """Raises a UserError where `peft` is not installed."""
    if find_spec("peft") is None:
        raise UserError("lora: needs the package peft; pip install 'lfm_ray[lora]'")


def add_adapters(
    body: nn.Module, settings: LoraSettings, model_type: str, pooler: tuple[str, ...], forward: Callable[[], object]
) -> None:
    """Gives layers of a model adapters, in place, which are then all that is trained of it.

    pooler: the names of the modules that pool the states, which have none. forward: a forward pass, which shows
    where adapters have an effect: some models compute with the weights of a layer without calling it (WavLM's
    attention, BEiT's), and those layers stay as they were.

    Raises:
        UserError: `peft` is not installed, or a target is no layer that can have adapters, or has no effect.
    """
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    possible = {name: module for name, module in body.named_modules() if name.split(".")[0] not in pooler}
    for target in settings.targets or ():
        if not any(_ends_with(name, target) for name in possible):
            raise UserError(f"lora.targets: the {model_type} has no layer {target}; {_some_layers(possible)}")
    targets = settings.targets or [name for name, module in possible.items() if type(module) is nn.Linear]
    if not targets:
        raise UserError(f"lora: the {model_type} has no linear layer; set lora.targets; {_some_layers(possible)}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # annotated as an int, used as a factor
        lora_dropout=settings.dropout,
        target_modules=[name for name in possible if any(_ends_with(name, target) for target in targets)],
    )
    try:
        inject_adapter_in_model(config, body)
    except ValueError as error:  # a kind of layer that cannot have any
        raise UserError(f"lora.targets: {str(error).splitlines()[0]}") from None
    called = _called(body, forward)
    for name, module in list(body.named_modules()):
        if has_adapters(module) and name not in called:
            _replace(body, name, module.get_base_layer())  # type: ignore[operator]
    for target in settings.targets or [""]:
        if not any(_ends_with(name, target) or not target for name in called):
            what = target or "all linear layers"
            raise UserError(f"lora.targets: adapters of {what} have no effect, as the {model_type} does not call them")


def _called(body: nn.Module, forward: Callable[[], object]) -> set[str]:
    """The names of the layers with adapters that a forward pass calls."""
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in body.named_modules()
        if has_adapters(module)
    ]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return called


def merge_adapters(model: nn.Module) -> None:
    """Adds every adapter to the weights of its layer, in place: what is left is the model without adapters."""
    for name, module in list(model.named_modules()):
        if has_adapters(module):
            module.merge(safe_merge=True)  # type: ignore[operator]
            _replace(model, name, module.get_base_layer())  # type: ignore[operator]


def has_adapters(module: Any) -> bool:
    """Whether a layer is one of `peft`'s, around a layer of the model."""
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _some_layers(modules: Mapping[str, nn.Module]) -> str:
    """The last parts of the names of a model's linear layers and convolutions."""
    layers = [name.split(".")[-1] for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
    return f"it has {', '.join(dict.fromkeys(one for one in layers if not one.isdigit()))}"
