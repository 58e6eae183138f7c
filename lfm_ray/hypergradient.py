"""dL_CLS/dalpha, the hyper-gradient of eq. (3).

    dL_CLS/dalpha = - d . H^-1 g,   g = grad_theta L_CLS (outer batch),
                                    d = grad_theta (L_MM - L_CLS) (inner batch),

where H is the Hessian of L_Total and d the mixed derivative of L_Total by alpha and theta. The
solver says what stands for H^-1. `identity` takes H^-1 g = g: up to the learning rate this is
the derivative of L_CLS through one step of gradient descent (one-step look-ahead).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lfm_ray import distributed


def hypergradient(
    inner_classification: Tensor,
    inner_matching: Tensor,
    outer_classification: Tensor,
    parameters: Sequence[Tensor],
) -> float:
    """dL_CLS/dalpha with the identity for H^-1.

    The losses are scalars with a graph down to `parameters` (theta); a parameter that a loss does
    not reach counts as zero. With several ranks, each passes losses of the gathered global batch
    (see `distributed.gather_rows`) and all receive the same number.
    """
    g = torch.autograd.grad(outer_classification, parameters, retain_graph=True, materialize_grads=True)
    d = torch.autograd.grad(inner_matching - inner_classification, parameters, materialize_grads=True)
    reduced = distributed.average([*g, *d])
    g_all, d_all = reduced[: len(g)], reduced[len(g) :]
    return -sum(float((one.double() * other.double()).sum()) for one, other in zip(d_all, g_all, strict=True))


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Extra passes inside leave the model's buffers (BatchNorm) and the random state as they were."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    devices = sorted({value.device.index or 0 for value in model.parameters() if value.is_cuda})
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
