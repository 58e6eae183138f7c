"""Several ranks as one: the few collective operations that training needs.

With a single process each function is the identity, so there is one code path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(local: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; differentiable.

    local: (B_r, ...), where B_r may differ between ranks and may be 0. Returns (sum of B_r, ...).
    The gradient of a rank's rows is the sum over ranks of their gradients. So when every rank
    computes the same loss on the gathered rows, and DistributedDataParallel then averages over
    ranks, the parameters receive the gradient of that one global loss.
    """
    if rank_and_world_size()[1] == 1:
        return local
    return _GatherRows.apply(local)  # type: ignore[no-any-return]


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean over ranks of each tensor, in one reduction."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / world_size).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def from_rank_zero(value: float, device: torch.device) -> float:
    """Rank 0's value, on every rank."""
    if rank_and_world_size()[1] == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(tensor, src=0)
    return float(tensor)


class _GatherRows(torch.autograd.Function):
    """Its gradient is `_SumAndTake`, whose gradient is this again, so it can be differentiated twice.

    Being linear, it is its own forward derivative (`jvp`).
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        rank, world_size = rank_and_world_size()
        sizes = torch.zeros(world_size, dtype=torch.int64, device=local.device)
        sizes[rank] = len(local)
        dist.all_reduce(sizes)
        counts = sizes.tolist()
        padded = local.new_zeros((max(counts), *local.shape[1:]))
        padded[: len(local)] = local
        received = [torch.empty_like(padded) for _ in range(world_size)]
        dist.all_gather(received, padded)
        ctx.first, ctx.rows = sum(counts[:rank]), counts[rank]
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _SumAndTake.apply(gradients[0], ctx.first, ctx.rows)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return _GatherRows.apply(tangents[0].contiguous())


class _SumAndTake(torch.autograd.Function):
    """Sums a tensor over ranks, and gives each rank its own rows of the sum."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, first: int, rows: int) -> Tensor:
        total = whole.contiguous().clone()
        dist.all_reduce(total)
        return total[first : first + rows]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _GatherRows.apply(gradients[0].contiguous()), None, None
