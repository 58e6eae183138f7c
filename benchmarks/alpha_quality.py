"""How near does each solver come to the exact hyper-gradient? And the official code's "gradient"?

    python benchmarks/alpha_quality.py                     about a minute

Three small problems in float64, whose L_Total is minimised to the last digit for 9 values of alpha
and 3 draws of the data, and whose exact dL_CLS/dalpha = - d . H^-1 g comes from a dense Hessian:

    quadratic   two quadratic losses in 40 dimensions, condition number about 300
    logistic    two linear modalities with fixed embeddings, convex: L_CLS of their sum, ridge
    network     two small networks with a hidden layer, L_CLS and JS matching of this package, ridge

The dense value is itself checked against solving anew at alpha +- 1e-4 (printed as "re-solved").
cosine: of the 27 values with the 27 exact ones; sign: how many have the right sign; error: the
median of |value / exact - 1|. All problems are seen at their optimum and with the whole inner
batch, so only the solver differs. No Ray is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from progress import begin, say
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lfm_ray.methods.losses import ConvexPart, classification_loss, js_divergence, js_of_probabilities
from lfm_ray.optimization.hypergradient import gauss_newton, hessian_product, hypergradient, official_gradient
from lfm_ray.optimization.schedules import Learned

ALPHAS = [0.1 * i for i in range(1, 10)]
DRAWS = 3
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """Losses as functions of theta, a flat vector. `first`: entries of the first parameter tensor.

    few: L_CLS and L_MM of 8 samples, for the official code's update.
    """

    size: int
    first: int
    classification: Loss
    matching: Loss
    outer: Loss
    parts: Callable[[Tensor, float], list[ConvexPart]]
    few: tuple[Loss, Loss]

    def total(self, theta: Tensor, alpha: float) -> Tensor:
        """L_Total."""
        return (1 - alpha) * self.classification(theta) + alpha * self.matching(theta)

    def optimum(self, alpha: float, start: Tensor) -> Tensor:
        """theta that minimises L_Total near `start`: L-BFGS, then Newton's steps."""
        theta = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([theta], lr=1, max_iter=3000, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.total(theta, alpha)
            loss.backward()
            return loss

        optimizer.step(closure)
        best = theta.detach()
        for _ in range(4):
            gradient = torch.autograd.functional.jacobian(lambda x: self.total(x, alpha), best)
            best = best - torch.linalg.solve(self.hessian(best, alpha), gradient)
        return best

    def hessian(self, theta: Tensor, alpha: float) -> Tensor:
        """The dense Hessian of L_Total."""
        return torch.autograd.functional.hessian(lambda x: self.total(x, alpha), theta)


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def quadratic(generator: torch.Generator) -> Problem:
    """Two quadratic losses and a third as the outer one."""
    n = 40

    def loss() -> Loss:
        rotation, _ = torch.linalg.qr(draw(generator, n, n))
        matrix = rotation * torch.logspace(-1.5, 1, n, dtype=torch.float64) @ rotation.T
        center = draw(generator, n)
        return lambda theta: 0.5 * (theta - center) @ matrix @ (theta - center)

    classification, matching, outer = loss(), loss(), loss()

    def parts(theta: Tensor, alpha: float) -> list[ConvexPart]:
        return [ConvexPart(1 - alpha, -1.0, theta, classification), ConvexPart(alpha, 1.0, theta, matching)]

    return Problem(n, n // 4, classification, matching, outer, parts, (classification, matching))


def multimodal(generator: torch.Generator, hidden: int) -> Problem:
    """Two modalities of 6 numbers, 3 classes, 60 samples; the logits are summed. hidden = 0: linear."""
    classes, width, rows = 3, 6, 60
    means = draw(generator, 2, classes, width)

    def samples(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % classes
        return means[:, labels] + 1.5 * draw(generator, 2, count, width), labels

    shapes = [(width, hidden), (hidden, classes)] * 2 if hidden else [(width, classes)] * 2
    sizes = [a * b for a, b in shapes]
    inner, held_out = samples(rows), samples(rows)
    few = samples(8)

    def logits(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = [part.view(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
        if not hidden:
            return x[0] @ weights[0], x[1] @ weights[1]
        return torch.tanh(x[0] @ weights[0]) @ weights[1], torch.tanh(x[1] @ weights[2]) @ weights[3]

    def ridge(theta: Tensor) -> Tensor:
        return 0.02 * (theta**2).sum()

    def classification(data: tuple[Tensor, Tensor]) -> Loss:
        return lambda theta: classification_loss(sum_of(logits(theta, data[0])), data[1]) + ridge(theta)

    def matching(data: tuple[Tensor, Tensor]) -> Loss:
        if not hidden:  # JS is not convex in the logits: the convex problem matches them by their squared distance
            return lambda theta: F.mse_loss(*logits(theta, data[0])) + ridge(theta)
        return lambda theta: js_divergence(*logits(theta, data[0])) + ridge(theta)

    def parts(theta: Tensor, alpha: float) -> list[ConvexPart]:
        both = torch.stack(logits(theta, inner[0]))
        matched = (
            ConvexPart(alpha, 1.0, both.softmax(dim=2), js_of_probabilities)
            if hidden
            else ConvexPart(alpha, 1.0, both, lambda z: F.mse_loss(z[0], z[1]))
        )
        fused = ConvexPart(1 - alpha, -1.0, both.sum(dim=0), lambda z: classification_loss(z, inner[1]))
        return [fused, matched, ConvexPart(1.0, 0.0, theta, ridge)]

    def outer(theta: Tensor) -> Tensor:
        return classification_loss(sum_of(logits(theta, held_out[0])), held_out[1])

    return Problem(
        sum(sizes), sizes[0], classification(inner), matching(inner), outer, parts, (classification(few), matching(few))
    )


def sum_of(logits: tuple[Tensor, Tensor]) -> Tensor:
    """The fused logits."""
    return logits[0] + logits[1]


SOLVERS: dict[str, dict[str, object]] = {
    "identity": {"solver": "identity"},
    "neumann K=5": {"solver": "neumann", "solver_steps": 5, "step_size": 0.1},
    "neumann K=50": {"solver": "neumann", "solver_steps": 50, "step_size": 0.1},
    "cg K=5": {"solver": "cg", "solver_steps": 5},
    "cg K=20": {"solver": "cg", "solver_steps": 20},
    "nystrom rank 5": {"solver": "nystrom", "rank": 5, "damping": 0.05},
    "nystrom rank 20": {"solver": "nystrom", "rank": 20, "damping": 0.05},
}
PROBLEMS: dict[str, Callable[[torch.Generator], Problem]] = {
    "quadratic": quadratic,
    "logistic": lambda generator: multimodal(generator, hidden=0),
    "network": lambda generator: multimodal(generator, hidden=4),
}


def estimates(problem: Problem, alpha: float, start: Tensor) -> dict[str, float]:
    """The exact hyper-gradient and what stands for it, by name."""
    theta, h = problem.optimum(alpha, start), 1e-4
    d = torch.autograd.functional.jacobian(lambda x: problem.matching(x) - problem.classification(x), theta)
    g = torch.autograd.functional.jacobian(problem.outer, theta)
    found = {"exact": -float(d @ torch.linalg.solve(problem.hessian(theta, alpha), g))}
    ahead, behind = (problem.outer(problem.optimum(alpha + side, theta)) for side in (h, -h))
    found["re-solved"] = float(ahead - behind) / (2 * h)
    theta.requires_grad_()
    for name, settings in SOLVERS.items():
        products = ("gauss_newton", "hessian") if name != "identity" else ("hessian",)
        for product in products:
            learned = Learned.model_validate({"strategy": "learned", "damping": 1e-6, **settings, "product": product})
            if product == "hessian":
                H = hessian_product(problem.total(theta, alpha), [theta])
            else:
                H, _ = gauss_newton(lambda moved: problem.parts(moved[0], alpha), [theta])
            label = name if name == "identity" else f"{name}, {product}"
            found[label] = hypergradient(flat(d), flat(g), H, learned).value
    first, rest = (
        part.detach().requires_grad_() for part in theta.split([problem.first, problem.size - problem.first])
    )
    whole = torch.cat([first, rest])
    classification, matching = (loss(whole) for loss in problem.few)
    total = 2 * ((1 - alpha) * classification + alpha * matching)
    found["official"] = official_gradient(total, classification, [first, rest]).value
    return found


def flat(vector: Tensor) -> Tensor:
    """Without a graph."""
    return vector.detach()


def main() -> None:
    """Prints one table for each problem."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    begin("about a minute")
    console = Console(width=100, highlight=False)
    for name, make in PROBLEMS.items():
        rows: list[dict[str, float]] = []
        for seed in range(DRAWS):
            generator = torch.Generator().manual_seed(seed)
            problem = make(generator)
            start = 0.5 * draw(generator, problem.size)
            rows += [estimates(problem, alpha, start) for alpha in ALPHAS]
            exact, solved = (rows[-1][key] for key in ("exact", "cg K=20, hessian"))
            say(f"{name}, draw {seed + 1} of {DRAWS}, alpha {ALPHAS[-1]:.1f}: exact {exact:.3g}, cg K=20 {solved:.3g}")
        exact = np.array([row["exact"] for row in rows])
        table = Table(title=f"{name}: {len(rows)} hyper-gradients", title_justify="left")
        for column in ("", "cosine", "right sign", "median relative error"):
            table.add_column(column, justify="right" if column else "left")
        for label in [key for key in rows[0] if key != "exact"]:
            values = np.array([row[label] for row in rows])
            norms = np.linalg.norm(values) * np.linalg.norm(exact)
            cosine = values @ exact / norms if norms else 0.0
            error = float(np.median(np.abs(values / exact - 1)))
            sign = int(np.sum(np.sign(values) == np.sign(exact)))
            table.add_row(label, f"{cosine:.4f}", f"{sign} of {len(rows)}", f"{error:.2g}")
        console.print(table)


if __name__ == "__main__":
    main()
