from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lfm_ray.hypergradient import hypergradient, undisturbed


def quadratic(A: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    return 0.5 * theta @ A @ theta - b @ theta


def problem() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(4, 4, dtype=torch.float64, generator=generator) for _ in range(2)]
    matrices = [draw @ draw.T + torch.eye(4, dtype=torch.float64) for draw in draws]
    vectors = [torch.randn(4, dtype=torch.float64, generator=generator) for _ in range(2)]
    return [matrices[0], vectors[0], matrices[1], vectors[1]], torch.randn(4, dtype=torch.float64, generator=generator)


def test_identity_is_minus_the_product_of_the_two_gradients_in_closed_form() -> None:
    (A, b, M, m), start = problem()
    theta = start.clone().requires_grad_()
    value = hypergradient(quadratic(A, b, theta), quadratic(M, m, theta), quadratic(A, b, theta), [theta])
    g, d = A @ start - b, (M @ start - m) - (A @ start - b)
    assert value == pytest.approx(-float(d @ g), rel=1e-12)


def test_identity_is_the_derivative_through_one_small_step_of_gradient_descent() -> None:
    """d/dalpha L_CLS(theta - eta grad L_Total(alpha)) = eta times the identity solver's value, as eta -> 0."""
    (A, b, M, m), start = problem()
    eta = 1e-7
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    theta = start.clone().requires_grad_()
    total = (1 - alpha) * quadratic(A, b, theta) + alpha * quadratic(M, m, theta)
    (gradient,) = torch.autograd.grad(total, theta, create_graph=True)
    quadratic(A, b, theta - eta * gradient).backward(inputs=[alpha])
    value = hypergradient(quadratic(A, b, theta), quadratic(M, m, theta), quadratic(A, b, theta), [theta])
    assert float(alpha.grad) / eta == pytest.approx(value, rel=1e-5)


def test_a_parameter_that_no_loss_reaches_counts_as_zero() -> None:
    theta, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    assert hypergradient((theta**2).sum(), (3 * theta).sum(), (theta**2).sum(), [theta, unused]) == pytest.approx(
        -float(((3 - 2) * torch.tensor([2.0, 2.0])).sum())
    )


def test_extra_passes_leave_batchnorm_and_dropout_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    torch.manual_seed(1)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    before = torch.get_rng_state()
    with undisturbed(model):
        model(torch.randn(8, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
