from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lfm_ray.methods.losses import ConvexPart, infonce_of_similarities, js_of_probabilities, kl_to_mean_of_probabilities
from lfm_ray.optimization.hypergradient import (
    conjugate_gradients,
    flat_gradient,
    gauss_newton,
    hessian_product,
    hypergradient,
    look_ahead,
    neumann,
    nystrom,
    official_gradient,
    undisturbed,
)
from lfm_ray.optimization.schedules import Learned

N = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positive(seed: int) -> Tensor:
    matrix = draw(N, N, seed=seed)
    return matrix @ matrix.T + torch.eye(N, dtype=torch.float64)


class Quadratic:
    """L_CLS = quadratic of A, b; L_MM of M, m; the outer loss of Q, q. theta*(alpha) is a linear system."""

    def __init__(self) -> None:
        self.A, self.M, self.Q = positive(1), positive(2), positive(3)
        self.b, self.m, self.q = draw(N, seed=4), draw(N, seed=5), draw(N, seed=6)

    @staticmethod
    def loss(A: Tensor, b: Tensor, theta: Tensor) -> Tensor:
        return 0.5 * theta @ A @ theta - b @ theta

    def classification(self, theta: Tensor) -> Tensor:
        return self.loss(self.A, self.b, theta)

    def matching(self, theta: Tensor) -> Tensor:
        return self.loss(self.M, self.m, theta)

    def outer(self, theta: Tensor) -> Tensor:
        return self.loss(self.Q, self.q, theta)

    def solution(self, alpha: Tensor) -> Tensor:
        return torch.linalg.solve((1 - alpha) * self.A + alpha * self.M, (1 - alpha) * self.b + alpha * self.m)


def value(problem: Quadratic, theta: Tensor, alpha: float, settings: Learned) -> float:
    g = flat_gradient(problem.outer(theta), [theta])
    classification, matching = problem.classification(theta), problem.matching(theta)
    d = flat_gradient(matching - classification, [theta], keep=True)
    product = hessian_product((1 - alpha) * classification + alpha * matching, [theta])
    return hypergradient(d, g, product, settings).value


def test_cg_is_the_derivative_of_the_solved_quadratic_problem() -> None:
    problem = Quadratic()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    problem.outer(problem.solution(alpha)).backward()
    theta = problem.solution(torch.tensor(0.3, dtype=torch.float64)).requires_grad_()
    settings = Learned(strategy="learned", solver="cg", solver_steps=2 * N, damping=0)
    assert value(problem, theta, 0.3, settings) == pytest.approx(float(alpha.grad), rel=1e-8)


def test_neumann_approaches_the_solution_at_its_rate() -> None:
    """x_K - H^-1 g = - (I - s H)^(K+1) H^-1 g."""
    H, g = positive(1), draw(N)
    step = 1 / float(torch.linalg.eigvalsh(H)[-1])
    exact = torch.linalg.solve(H, g)
    for K in (0, 3, 50):
        rest = torch.linalg.matrix_power(torch.eye(N, dtype=torch.float64) - step * H, K + 1) @ exact
        torch.testing.assert_close(neumann(lambda v: H @ v, g, K, step), exact - rest, rtol=1e-10, atol=1e-12)


def test_damping_is_added_to_the_diagonal() -> None:
    problem, theta = Quadratic(), draw(N, seed=9).requires_grad_()
    H = 0.7 * problem.A + 0.3 * problem.M + 2.5 * torch.eye(N, dtype=torch.float64)
    g, d = problem.Q @ theta - problem.q, (problem.M @ theta - problem.m) - (problem.A @ theta - problem.b)
    exact = -float(d @ torch.linalg.solve(H, g))
    for settings in (
        {"solver": "cg", "solver_steps": 2 * N},
        {"solver": "neumann", "solver_steps": 4000, "step_size": 0.02},
        {"solver": "nystrom", "rank": N},
    ):
        found = value(problem, theta, 0.3, Learned(strategy="learned", damping=2.5, **settings))
        assert found == pytest.approx(exact, rel=1e-8), settings


def test_nystrom_is_exact_for_a_matrix_of_its_rank() -> None:
    factor, g = draw(N, 2, seed=7), draw(N)
    H = factor @ factor.T
    exact = torch.linalg.solve(H + 0.1 * torch.eye(N, dtype=torch.float64), g)
    torch.testing.assert_close(nystrom(lambda v: H @ v, g, 2, 0.1), exact, rtol=1e-8, atol=1e-10)


def test_identity_is_the_derivative_through_one_step_of_gradient_descent() -> None:
    """d/dalpha L_CLS(theta - eta grad L_Total(theta, alpha)) = eta times - d(theta) . g(theta after the step)."""
    problem, start, eta = Quadratic(), draw(N, seed=9).requires_grad_(), 0.05
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    total = (1 - alpha) * problem.classification(start) + alpha * problem.matching(start)
    (gradient,) = torch.autograd.grad(total, start, create_graph=True)
    after = start - eta * gradient
    problem.outer(after).backward(inputs=[alpha])
    theta = after.detach().requires_grad_()
    g = flat_gradient(problem.outer(theta), [theta])
    d = flat_gradient(problem.matching(start) - problem.classification(start), [start])
    assert eta * look_ahead([d], [g]).value == pytest.approx(float(alpha.grad), rel=1e-10)
    by_name = hypergradient(d, g, lambda v: v, Learned(strategy="learned", solver="identity"))
    assert by_name == pytest.approx(look_ahead([d], [g]), rel=1e-12)
    assert by_name.cosine == pytest.approx(-float(torch.cosine_similarity(d, g, dim=0)), rel=1e-10)


def solved(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimum of a smooth convex function, by Newton steps to the last digit."""
    theta = start
    for _ in range(50):
        gradient = torch.autograd.functional.jacobian(objective, theta)
        theta = theta - torch.linalg.solve(torch.autograd.functional.hessian(objective, theta), gradient)
    assert float(torch.autograd.functional.jacobian(objective, theta).norm()) < 1e-12
    return theta


@pytest.mark.parametrize("product", ["hessian", "gauss_newton"])
def test_cg_is_the_derivative_of_a_logistic_regression_that_is_solved_again(product: str) -> None:
    x, y = draw(40, N, seed=1), (draw(40, seed=2) > 0).double()
    x_mm, y_mm = draw(40, N, seed=3), (draw(40, seed=4) > 0).double()
    x_out, y_out = draw(40, N, seed=5), (draw(40, seed=6) > 0).double()

    def ridge(theta: Tensor) -> Tensor:
        return 0.05 * (theta**2).sum()

    def classification(theta: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x @ theta, y) + ridge(theta)

    def matching(theta: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x_mm @ theta, y_mm) + ridge(theta)

    def outer(theta: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x_out @ theta, y_out)

    def optimum(alpha: float) -> Tensor:
        return solved(lambda theta: (1 - alpha) * classification(theta) + alpha * matching(theta), draw(N) * 0)

    alpha, h = 0.4, 1e-4
    expected = float(outer(optimum(alpha + h)) - outer(optimum(alpha - h))) / (2 * h)
    theta = optimum(alpha).requires_grad_()
    if product == "hessian":
        H = hessian_product((1 - alpha) * classification(theta) + alpha * matching(theta), [theta])
    else:
        H, own_d = gauss_newton(
            lambda moved: [
                ConvexPart(1 - alpha, -1.0, x @ moved[0], lambda z: F.binary_cross_entropy_with_logits(z, y)),
                ConvexPart(alpha, 1.0, x_mm @ moved[0], lambda z: F.binary_cross_entropy_with_logits(z, y_mm)),
                ConvexPart(1.0, 0.0, moved[0], ridge),
            ],
            [theta],
        )
    g, d = flat_gradient(outer(theta), [theta]), flat_gradient(matching(theta) - classification(theta), [theta])
    if product == "gauss_newton":
        torch.testing.assert_close(own_d, d, rtol=1e-10, atol=1e-12)
    settings = Learned(strategy="learned", solver="cg", solver_steps=3 * N, damping=0)
    assert hypergradient(d, g, H, settings).value == pytest.approx(expected, rel=1e-3)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double() for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.two(x)


def stage_of(kind: str, outputs: tuple[Tensor, Tensor]) -> Tensor:
    if kind == "infonce":
        return F.normalize(outputs[0], dim=1) @ F.normalize(outputs[1], dim=1).T / 0.5
    return torch.stack([F.softmax(output, dim=1) for output in outputs])


LOSSES = {
    "infonce": infonce_of_similarities,
    "js": js_of_probabilities,
    "kl_to_mean": kl_to_mean_of_probabilities,
}


@pytest.mark.parametrize("kind", LOSSES)
def test_gauss_newton_product_is_the_product_of_the_three_matrices(kind: str) -> None:
    model, x = Network(), draw(5, 3, seed=8)
    parameters = dict(model.named_parameters())
    stage = stage_of(kind, model(x))

    def parts_of(theta: Sequence[Tensor]) -> list[ConvexPart]:
        outputs = functional_call(model, dict(zip(parameters, theta, strict=True)), x)
        return [ConvexPart(0.7, 2.0, stage_of(kind, outputs), LOSSES[kind])]

    G, d = gauss_newton(parts_of, list(parameters.values()))
    expected = flat_gradient(2 * LOSSES[kind](stage_of(kind, model(x))), list(parameters.values()))
    torch.testing.assert_close(d, expected, rtol=1e-10, atol=1e-12)

    def flat_stage(values: dict[str, Tensor]) -> Tensor:
        return stage_of(kind, functional_call(model, values, x)).reshape(-1)

    detached = {name: value.detach() for name, value in parameters.items()}
    jacobians = torch.func.jacrev(flat_stage)(detached)
    J = torch.cat([jacobians[name].reshape(stage.numel(), -1) for name in parameters], dim=1)
    B = torch.autograd.functional.hessian(lambda z: LOSSES[kind](z.view_as(stage)), stage.detach().reshape(-1))
    dense = 0.7 * J.T @ B @ J
    found = torch.stack([G(row) for row in torch.eye(J.shape[1], dtype=torch.float64)])
    torch.testing.assert_close(found, dense, rtol=1e-8, atol=1e-10)
    assert float(torch.linalg.eigvalsh(found)[0]) > -1e-10
    H = hessian_product(LOSSES[kind](stage_of(kind, model(x))), list(parameters.values()))
    hessian = torch.stack([H(row) for row in torch.eye(J.shape[1], dtype=torch.float64)])
    assert float(torch.linalg.eigvalsh(hessian)[0]) < -1e-4  # the Hessian itself is indefinite here


def test_the_official_gradient_is_the_mean_of_the_first_tensors_rows_of_the_dense_product() -> None:
    first, second = draw(2, 2, seed=1).requires_grad_(), draw(3, seed=2).requires_grad_()

    def total(a: Tensor, b: Tensor) -> Tensor:
        return (a.sum() * b).pow(3).sum() + (a**4).sum()

    def classification(a: Tensor, b: Tensor) -> Tensor:
        return (a**2).sum() * b.sum()

    found = official_gradient(total(first, second), classification(first, second), [first, second])
    row = torch.autograd.functional.hessian(total, (first, second))[0]
    ga, gb = torch.autograd.functional.jacobian(classification, (first, second))
    product = torch.einsum("ijkl,kl->ij", row[0], ga) + torch.einsum("ijk,k->ij", row[1], gb)
    assert found.value == pytest.approx(float(product.mean()), rel=1e-10)


def test_cg_stops_where_the_matrix_is_not_positive() -> None:
    H, g = torch.diag(torch.tensor([2.0, -1.0])).double(), torch.tensor([1.0, 2.0]).double()
    settings = Learned(strategy="learned", solver="cg", solver_steps=10, damping=0)
    assert hypergradient(g, g, lambda v: H @ v, settings) == (0.0, 0.0)


def test_a_parameter_that_no_loss_reaches_counts_as_zero() -> None:
    theta, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    assert flat_gradient((theta**2).sum(), [theta, unused]).tolist() == [2, 2, 0, 0, 0]


def test_extra_passes_leave_batchnorm_and_dropout_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    torch.manual_seed(1)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    before = torch.get_rng_state()
    with undisturbed(model):
        model(torch.randn(8, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_the_steps_of_cg_worked_out_by_hand() -> None:
    """H = diag(1, 3), g = (1, 1): g.g / g.Hg = 1/2, then the solution (1, 1/3)."""
    diagonal, g = torch.tensor([1.0, 3.0]).double(), torch.tensor([1.0, 1.0]).double()
    for steps, expected in ((0, [0, 0]), (1, [1 / 2, 1 / 2]), (2, [1, 1 / 3]), (9, [1, 1 / 3])):
        found = conjugate_gradients(lambda v: diagonal * v, g, steps)
        assert found.tolist() == pytest.approx(expected, rel=1e-14)


def test_cg_takes_no_product_once_nothing_is_left_to_solve() -> None:
    products = 0

    def product(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return 4 * v

    assert conjugate_gradients(product, torch.tensor([2.0, -8.0]), 7).tolist() == [0.5, -2]
    assert products == 1
    assert conjugate_gradients(product, torch.zeros(2), 7).tolist() == [0, 0]
    assert products == 1


def test_cg_goes_on_to_the_last_digit_whatever_the_size_of_g() -> None:
    H, g = positive(1), draw(N)
    exact = torch.linalg.solve(H, g)
    for size in (1e-6, 1.0, 1e6):
        found = conjugate_gradients(lambda v: H @ v, size * g, 3 * N)
        torch.testing.assert_close(found / size, exact, rtol=1e-10, atol=1e-12)


def test_cg_stops_where_the_matrix_has_no_curvature() -> None:
    assert conjugate_gradients(lambda v: 0 * v, draw(2), 3).tolist() == [0, 0]


def test_nystrom_of_a_low_rank_lies_between_no_curvature_and_all_of_it() -> None:
    """0 <= H_r <= H as matrices, so g (H + damping)^-1 g <= g (H_r + damping)^-1 g <= g g / damping."""
    H, damping = positive(1), 0.5
    for g in draw(5, N, seed=3):
        bounds = [(g @ torch.linalg.solve(H + damping * torch.eye(N), g)).item(), (g @ g).item() / damping]
        values = [(g @ nystrom(lambda v: H @ v, g, rank, damping)).item() for rank in range(1, N + 1)]
        assert all(bounds[0] * (1 - 1e-9) <= value < bounds[1] for value in values)
        assert values[-1] == pytest.approx(bounds[0])
        assert values[0] > 1.01 * bounds[0]


def test_nystrom_draws_the_same_vectors_at_every_call_as_many_as_its_rank() -> None:
    H, g, seen = positive(1), draw(N), []

    def product(v: Tensor) -> Tensor:
        seen.append(v)
        return H @ v

    state = torch.get_rng_state()
    first = nystrom(product, g, 3, 0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(seen) == 3
    torch.manual_seed(5)
    assert torch.equal(nystrom(product, g, 3, 0.1), first)
    seen.clear()
    nystrom(product, g, 100, 0.1)
    assert len(seen) == N
    assert torch.stack([v.norm() for v in seen]).mean().item() == pytest.approx(1, abs=0.5)


def test_the_solvers_take_as_many_steps_as_the_settings_say() -> None:
    """H = 2, damping 1, g = 6, d = 1: damped 3, so neumann of K = 1 and s = 0.1 gives 0.1 (6 + 0.7 * 6)."""
    d, g = torch.tensor([1.0]), torch.tensor([6.0])
    for settings, expected in (
        ({"solver": "identity"}, -6.0),
        ({"solver": "neumann", "solver_steps": 1, "step_size": 0.1}, -1.02),
        ({"solver": "neumann", "solver_steps": 0, "step_size": 0.1}, -0.6),
        ({"solver": "cg", "solver_steps": 1}, -2.0),
        ({"solver": "cg", "solver_steps": 0}, 0.0),
        ({"solver": "nystrom", "rank": 1}, -2.0),
    ):
        found = hypergradient(d, g, lambda v: 2 * v, Learned(strategy="learned", damping=1, **settings))
        assert found.value == pytest.approx(expected, rel=1e-6), settings


def test_look_ahead_sums_over_all_tensors() -> None:
    d, g = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])], [torch.tensor([4.0, 5.0]), torch.tensor([[-6.0]])]
    assert look_ahead(d, g) == (-(4 + 10 - 18), pytest.approx(math.sqrt((1 + 4 + 9) * (16 + 25 + 36))))


def test_a_part_that_a_parameter_does_not_reach_bends_nothing_along_it() -> None:
    """Parts 3 a^2 and b^2 / 2 of weights 0.5 and 2, and one that is constant: the product is (3 v, 2 w)."""
    theta = [torch.tensor([1.0], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    constant = torch.ones(2, dtype=torch.float64)

    def parts_of(moved: Sequence[Tensor]) -> list[ConvexPart]:
        return [
            ConvexPart(0.5, 1.0, moved[0], lambda z: 3 * z.square().sum()),
            ConvexPart(2.0, -1.0, moved[1], lambda z: z.square().sum() / 2),
            ConvexPart(7.0, 5.0, constant, lambda z: z.square().sum()),
        ]

    product, d = gauss_newton(parts_of, theta)
    assert d.tolist() == [6, -1]
    for _ in range(2):
        assert product(torch.tensor([5.0, 7.0], dtype=torch.float64)).tolist() == [15, 14]


def test_the_official_gradient_of_losses_that_share_a_graph() -> None:
    """z = e^a: L_CLS = z^2 has the slope 2 e^2a, total = z^3 / 3 the curvature 3 e^3a."""
    a = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    z = a.exp()
    found = official_gradient((z**3 / 3).sum(), (z**2).sum(), [a])
    assert found.value == pytest.approx(6 * math.exp(0.5), rel=1e-12)
