"""The gradient of a batch that does not fit into memory at once.

A contrastive loss couples all samples of a batch, so gradients of its parts do not add up to its
gradient. Gradient caching (Gao et al., "Scaling deep contrastive learning batch size under memory
limited setup", RepL4NLP 2021) is exact all the same: the outputs of all micro-batches are computed
without a graph, the loss is differentiated by the outputs, and each micro-batch passes the
encoders again, this time with a graph, to take that gradient on to theta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.models.classifier import MultimodalClassifier, Outputs
from lfm_ray.optimization.hypergradient import undisturbed
from lfm_ray.runtime import distributed
from lfm_ray.runtime.profiling import part

Judged = TypeVar("Judged")


def cached_gradient(
    model: MultimodalClassifier,
    batch: Batch,
    micro_batch_size: int,
    forward: Callable[[Mapping[str, Tensor]], Outputs],
    judge: Callable[[Outputs, Tensor], Judged],
    parameters: Sequence[Tensor],
    what: Callable[[Judged], Tensor],
) -> tuple[Judged, list[Tensor]]:
    """What `judge` says of this rank's batch (B samples), and grad_theta of the scalar `what` of it, mean over ranks.

    forward: inputs -> outputs of the rank, by the model. judge: outputs and labels of the rank
    -> losses of the global batch. It holds the graph of `micro_batch_size` samples at a time. A
    model with BatchNorm has the statistics of each micro-batch; dropout masks are the same in both passes.
    """
    pieces = [
        dict(zip(batch.inputs, values, strict=True))
        for values in zip(*(value.split(micro_batch_size) for value in batch.inputs.values()), strict=True)
    ]
    with part("forward"), undisturbed(model), torch.no_grad():
        outputs = Outputs.join([forward(piece) for piece in pieces])
    leaf = outputs.columns().requires_grad_()
    judged = judge(replace(outputs.map(lambda _: leaf), tau=model.tau()), batch.labels)
    with part("backward"):
        above, *total = torch.autograd.grad(what(judged), [leaf, *parameters], materialize_grads=True)
    for piece, rows in zip(pieces, above.split(micro_batch_size), strict=True):
        with part("forward"):
            columns = forward(piece).columns()
        with part("backward"):
            through = torch.autograd.grad(columns, parameters, rows, materialize_grads=True)
            total = [sum_so_far + one for sum_so_far, one in zip(total, through, strict=True)]
    with part("backward"):
        return judged, distributed.average(total)
