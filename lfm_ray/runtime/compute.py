"""How a model is computed on a device: precision, memory format, compilation, several GPUs, copies.

Measured on ResNet-18 for spectrograms (257 x 299) and images (224 x 224), 2 cores, batch 16
(`benchmarks/step.py`): channels_last makes a step 1.15 times as fast. bf16 makes it twice as fast
if the CPU has instructions for it, and twelve times as slow if it has not; small encoders become
slower, since they spend little of their time on multiplication.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.errors import UserError
from lfm_ray.models.classifier import ModelSettings, MultimodalClassifier
from lfm_ray.models.encoders import ENCODERS
from lfm_ray.settings import Settings


class ComputeSettings(Settings):
    """How the model is computed: affects speed and memory, and results only up to rounding.

    Gradients are not accumulated over several batches: InfoNCE would see only the negatives of each.
    `data.batch_size` is the batch of one update of theta, and `data.micro_batch_size` the part of it
    that is in memory at once; negatives come from the whole batch, however many workers share it.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of the encoders, by autocast; weights, heads and losses stay in float32. auto: bf16 for all but"
        " small encoders on hardware that computes in it (GPU, AVX512_BF16, AMX) and does so correctly, else fp32."
        " fp16: with gradient scaling, on a GPU only",
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto",
        description="of convolutions; auto: channels_last, or contiguous where a CPU would compute wrong gradients",
    )
    compile: bool = Field(False, description="compile the encoders (torch.compile); gained nothing on a CPU")


def arrange(
    model: MultimodalClassifier,
    settings: ComputeSettings,
    encoders: ModelSettings,
    device: torch.device,
    synchronise: bool = False,
) -> None:
    """Applies `compute` to a model on its device, before it is wrapped for several ranks.

    encoders: the section `model`. synchronise: whether BatchNorm takes its statistics over all ranks.

    Raises:
        UserError: fp16 is set on a CPU, or bf16 or channels_last where the CPU computes wrong gradients.
    """
    model.autocast = {
        name: dtype for name in model.encoders if (dtype := precision(settings, encoders, name, device)) is not None
    }
    for name, encoder in model.encoders.items():
        if device.type == "cpu" and name in model.autocast and not bfloat16_is_right(encoder, model.shapes[name][-1]):
            if settings.precision == "bf16":
                raise UserError(
                    f"compute.precision: bf16 gives wrong gradients on a CPU for model.encoders.{name}, which reduces"
                    f" inputs {model.shapes[name][-1]} wide to a width of 1; use auto or fp32"
                )
            del model.autocast[name]
        if any(parameter.ndim == 5 for parameter in encoder.parameters()):
            continue  # kernels over time, for which there is no channels_last
        if settings.memory_format != "contiguous" and (device.type != "cpu" or channels_last_is_right(encoder)):
            encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif settings.memory_format == "channels_last":
            raise UserError(
                f"compute.memory_format: channels_last gives wrong gradients on a CPU for model.encoders.{name}, whose"
                " strided 1 x 1 convolutions do not have a multiple of 16 channels; use auto or contiguous"
            )
    if synchronise:
        for name, encoder in model.encoders.items():
            model.encoders[name] = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
    if settings.compile:
        for encoder in model.encoders.values():
            encoder.compile()


def precision(
    settings: ComputeSettings, model: ModelSettings, modality: str, device: torch.device
) -> torch.dtype | None:
    """The half-precision type that a modality's encoder computes in, or None."""
    if settings.precision == "auto":
        name = model.of(modality).name
        return torch.bfloat16 if name and ENCODERS[name].large and computes_in_bfloat16(device) else None
    if settings.precision == "fp16":
        if device.type != "cuda":
            raise UserError(f"compute.precision: fp16 needs a GPU, and the device is {device.type}; use bf16 or fp32")
        return torch.float16
    return torch.bfloat16 if settings.precision == "bf16" else None


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has instructions for bfloat16; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def bfloat16_is_right(encoder: nn.Module, width: int) -> bool:
    """Whether a CPU computes an encoder's gradients correctly in bfloat16, for inputs of that width.

    If the input of a strided convolution larger than 1 x 1 is 1 wide, oneDNN computes the gradient of
    its weights from uninitialised memory: it differs from call to call and can be NaN (seen with
    PyTorch 2.14 and AVX512_BF16). In a ResNet this happens for inputs at most 16 wide.
    """
    layers = [module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d)]
    sizes = [(_last(layer.kernel_size), _last(layer.stride)) for layer in layers]
    strides = [stride for kernel, stride in sizes if kernel > 1 and stride > 1]
    return width > math.prod(strides[:-1]) or not strides


def _last(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[-1]


def channels_last_is_right(encoder: nn.Module) -> bool:
    """Whether a CPU computes an encoder's gradients correctly in channels_last.

    oneDNN's kernel for the weight gradient of a strided 1 x 1 convolution writes past its workspace if
    the input has fewer channels than a vector holds (uxlfoundation/oneDNN issue 6035): gradients are
    wrong and differ from call to call. Published sizes are not affected.
    """
    return all(
        module.in_channels % 16 == 0
        for module in encoder.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
    )


def synchronised(device: torch.device, world_size: int, second_derivatives: bool, micro_batches: bool) -> bool:
    """Whether BatchNorm takes its statistics over all ranks.

    PyTorch does so on GPUs only, and without a second derivative, so not with solvers that need one;
    nor with `data.micro_batch_size`, where ranks may have different numbers of micro-batches.
    """
    return device.type == "cuda" and world_size > 1 and not second_derivatives and not micro_batches


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Moves the batch to `device`; to a GPU from pinned memory, so that the process need not wait for the copy."""
    if device.type == "cuda" and batch.labels.device.type == "cpu":
        pinned = {name: value.pin_memory() for name, value in batch.inputs.items()}
        batch = replace(batch, inputs=pinned, labels=batch.labels.pin_memory())
    return batch.to(device)
