"""dL_CLS/dalpha, the hyper-gradient of eq. (3).

    dL_CLS/dalpha = - d . H^-1 g,   g = grad_theta L_CLS (outer batch),
                                    d = grad_theta (L_MM - L_CLS) (inner batch),

where H is the Hessian of L_Total and d the mixed derivative of L_Total by alpha and theta. The
solver says what stands for H^-1:

    identity    g: up to the learning rate, the derivative of L_CLS through one step of gradient
                descent (one-step look-ahead)
    neumann     s sum_{k=0..K} (I - s H)^k g, with step size s (Lorraine et al., AISTATS 2020)
    cg          K steps of conjugate gradients; H must not be indefinite
    nystrom     (H_r + damping I)^-1 g, with H_r of rank r from r products with random vectors
                (Hataya and Yamada, AISTATS 2023)

H is damped, H + damping I, and comes as a product with a vector: of the true Hessian, or of the
Gauss-Newton matrix. Vectors are flat: all of theta in one row. With several ranks, each passes
losses of the gathered global batch (`distributed.gather_rows`), and all receive the same vectors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lfm_ray.methods.losses import ConvexPart
from lfm_ray.optimization.schedules import AlphaGradient, Learned
from lfm_ray.runtime import distributed

Product = Callable[[Tensor], Tensor]
"""v -> H v."""


def hypergradient(d: Tensor, g: Tensor, product: Product, settings: Learned) -> AlphaGradient:
    """- d . H^-1 g. d, g: flat gradients as above; product: H."""
    return look_ahead([d], [solve(product, g, settings)])


def look_ahead(d: Sequence[Tensor], g: Sequence[Tensor]) -> AlphaGradient:
    """- d . g, the identity solver's value, tensor by tensor: no copy of all of theta is made."""
    sums = torch.stack([_products(one.double(), other.double()) for one, other in zip(d, g, strict=True)]).sum(dim=0)
    product, square_of_d, square_of_g = sums.tolist()
    return AlphaGradient(-product, math.sqrt(square_of_d) * math.sqrt(square_of_g))


def _products(d: Tensor, g: Tensor) -> Tensor:
    """d . g, d . d, g . g."""
    return torch.stack([(d * g).sum(), (d * d).sum(), (g * g).sum()])


def solve(product: Product, g: Tensor, settings: Learned) -> Tensor:
    """x, where (H + damping I) x is about g. See the head of this file for the solvers."""
    if settings.solver == "identity":
        return g

    def damped(v: Tensor) -> Tensor:
        return product(v) + settings.damping * v

    if settings.solver == "neumann":
        return neumann(damped, g, settings.solver_steps, settings.step_size)
    if settings.solver == "cg":
        return conjugate_gradients(damped, g, settings.solver_steps)
    return nystrom(product, g, settings.rank, settings.damping)


def neumann(product: Product, g: Tensor, steps: int, step_size: float) -> Tensor:
    """step_size * sum of (I - step_size H)^k g for k = 0 ... steps."""
    term = total = g
    for _ in range(steps):
        term = term - step_size * product(term)
        total = total + term
    return step_size * total


def conjugate_gradients(product: Product, g: Tensor, steps: int) -> Tensor:
    """At most `steps` steps of conjugate gradients on H x = g from x = 0.

    It stops early where the residual is down to rounding, or where H turns out not to be positive.
    """
    x, residual, direction = torch.zeros_like(g), g, g
    square = first = residual @ residual
    for _ in range(steps):
        if square <= first * torch.finfo(g.dtype).eps ** 2:
            break
        image = product(direction)
        curvature = direction @ image
        if curvature <= 0:
            break
        length = square / curvature
        x, residual = x + length * direction, residual - length * image
        square, before = residual @ residual, square
        direction = residual + (square / before) * direction
    return x


def nystrom(product: Product, g: Tensor, rank: int, damping: float) -> Tensor:
    """(C W^-1 C^T + damping I)^-1 g by Woodbury's identity, C = H Omega, W = Omega^T H Omega.

    Omega: `rank` Gaussian vectors, the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    omega = torch.randn(min(rank, len(g)), len(g), generator=generator, dtype=g.dtype).to(g.device) / len(g) ** 0.5
    C = torch.stack([product(row) for row in omega]).double()
    W = C @ omega.T.double()
    core = (W + W.T) / 2 + C @ C.T / damping
    return ((g.double() - C.T @ torch.linalg.lstsq(core, C @ g.double()[:, None])[0][:, 0] / damping) / damping).to(g)


def gradient(loss: Tensor, parameters: Sequence[Tensor], keep: bool = False) -> list[Tensor]:
    """grad_theta of a scalar, mean over ranks; a parameter that it does not reach counts as zero.

    keep: leave the graph of `loss` in place for another call.
    """
    return distributed.average(torch.autograd.grad(loss, parameters, retain_graph=keep, materialize_grads=True))


def flat_gradient(loss: Tensor, parameters: Sequence[Tensor], keep: bool = False) -> Tensor:
    """`gradient` in one row."""
    return flatten(gradient(loss, parameters, keep))


def hessian_product(loss: Tensor, parameters: Sequence[Tensor]) -> Product:
    """v -> H v with the Hessian of `loss`, by differentiating its gradient once more."""
    slope = flatten(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True))

    def product(v: Tensor) -> Tensor:
        return flat_vjp(slope, parameters, v)

    return product


def gauss_newton(
    parts_of: Callable[[Sequence[Tensor]], Sequence[ConvexPart]], parameters: Sequence[Tensor]
) -> tuple[Product, Tensor]:
    """The product v -> J^T B J v, and d: J the derivative of all stages by theta, B the Hessian by the stages.

    parts_of: theta -> L_Total as a sum of convex parts; called once with `parameters`, for J^T u by
    a backward pass, and again for each J v, by forward-mode differentiation. On a CPU that costs a
    third of the usual way, which differentiates a backward pass, and it stores no graph.
    """
    parts = parts_of(parameters)
    stages = flatten([part.stage.double() for part in parts])
    point = stages.detach().requires_grad_()
    pieces = point.split([part.stage.numel() for part in parts])
    losses = [part.loss(piece.view_as(part.stage)) for part, piece in zip(parts, pieces, strict=True)]
    total = torch.stack([part.weight * loss for part, loss in zip(parts, losses, strict=True)]).sum()
    by_alpha = torch.stack([part.by_alpha * loss for part, loss in zip(parts, losses, strict=True)]).sum()
    (slope,) = torch.autograd.grad(total, point, create_graph=True)
    (u,) = torch.autograd.grad(by_alpha, point, retain_graph=True)

    def push(v: Tensor) -> Tensor:
        tangents = v.split([parameter.numel() for parameter in parameters])
        with torch.no_grad(), forward_ad.dual_level():
            theta = [
                forward_ad.make_dual(parameter.detach(), tangent.view_as(parameter))
                for parameter, tangent in zip(parameters, tangents, strict=True)
            ]
            moved = [forward_ad.unpack_dual(part.stage.double()) for part in parts_of(theta)]
            return flatten([torch.zeros_like(one.primal) if one.tangent is None else one.tangent for one in moved])

    def product(v: Tensor) -> Tensor:
        (bent,) = torch.autograd.grad(slope, point, push(v), retain_graph=True)
        return flat_vjp(stages, parameters, bent)

    return product, flat_vjp(stages, parameters, u)


def official_gradient(total: Tensor, classification: Tensor, parameters: Sequence[Tensor]) -> AlphaGradient:
    """What the official code subtracts from alpha in place of eq. (3).

    The mean of the entries of H v for the first parameter tensor alone, with H the Hessian of
    L_Total (half of what that code trains on) and v = grad_theta L_CLS, on the same few samples. It has
    neither the sign nor the scale of dL_CLS/dalpha (benchmarks/alpha_quality.py); it is here to reproduce
    that code.
    """
    v = flat_gradient(classification, parameters, keep=True)
    return AlphaGradient(float(hessian_product(total, parameters)(v)[: parameters[0].numel()].double().mean()))


def flat_vjp(values: Tensor, parameters: Sequence[Tensor], weights: Tensor) -> Tensor:
    """grad_theta (values . weights), mean over ranks; the graph stays."""
    gradients = torch.autograd.grad(values, parameters, weights, retain_graph=True, materialize_grads=True)
    return distributed.average([flatten(gradients)])[0]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """All entries in one row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@contextlib.contextmanager
def undisturbed(model: nn.Module, buffers: bool = True) -> Iterator[None]:
    """Extra passes inside leave the random state as it was, and the model's buffers (BatchNorm) if `buffers`."""
    kept = {name: value.clone() for name, value in model.named_buffers() if buffers}
    devices = sorted({value.device.index or 0 for value in model.parameters() if value.is_cuda})
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for name, value in kept.items():
            model.get_buffer(name).copy_(value)


@contextlib.contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Passes inside use kernels with a second and a forward derivative; cuDNN's RNNs and fused attention lack them."""
    recurrent = any(isinstance(module, nn.RNNBase) and next(module.parameters()).is_cuda for module in model.modules())
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
