"""alpha(t): the weight of the modality-matching loss over training (paper section 3.3, Table 4).

L_Total = (1 - alpha) L_CLS + alpha L_MM, eq. (1); t is the epoch, counted from 1, and T the number
of epochs. Each strategy is one class: its settings, and `alpha(t, T)`. Adding a strategy is adding
a class to this file and to `Alpha` at its end. `Learned` has no formula: the loop updates its
alpha by the hyper-gradient of eq. (3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.polynomial import Polynomial as PowerSeries
from pydantic import Field

from lfm_ray.settings import Settings

Weight = Annotated[float, Field(ge=0, le=1)]


class Constant(Settings):
    """alpha = value throughout. 0 is plain joint training, 1 is matching without labels."""

    strategy: Literal["constant"] = "constant"
    value: Weight = Field(0.0, description="alpha at every epoch")

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        return self.value


class Stepwise(Settings):
    """h(p) of paper section 4.4: alpha = p in the first half of the epochs, 1 - p in the second."""

    strategy: Literal["stepwise"]
    p: Weight = Field(0.95, description="alpha in the first half")

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T; the middle epoch of an odd T belongs to the second half."""
        return self.p if t <= T // 2 else 1 - self.p


class Heuristic(Settings):
    """omega(t) = 1 - exp(-1 / t), paper section 3.3. It does not depend on T."""

    strategy: Literal["heuristic"]

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        return 1 - math.exp(-1 / t)


class Polynomial(Settings):
    """A polynomial in the Bernstein basis on s = (t - 1) / (T - 1).

    alpha(s) = sum_i c_i B_{i,n}(s) with B_{i,n}(s) = C(n, i) s^i (1 - s)^(n - i). With every c_i in
    [0, 1] alpha stays in [0, 1] without clipping, and decreasing c_i give a decreasing schedule
    (Farouki, "The Bernstein polynomial basis: a centennial retrospective", CAGD 2012). The same c_i
    serve every T. The paper's cubic omega_hat(t) = at^3 + bt^2 + ct + d is the case n = 3; the
    default coefficients are that cubic up to its minimum at t = 26, fitted within the bounds.
    """

    strategy: Literal["polynomial"]
    coefficients: list[Weight] = Field(
        [1.0, 1.0, 0.28, 0.03], min_length=2, description="Bernstein coefficients c_0 ... c_n, first to last epoch"
    )

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        s = (t - 1) / (T - 1) if T > 1 else 0.0
        return float(bernstein_matrix(np.array([s]), self.degree)[0] @ self.coefficients)

    @property
    def degree(self) -> int:
        """n, the degree of the polynomial."""
        return len(self.coefficients) - 1

    def power_basis(self, T: int) -> list[float]:
        """Coefficients of t^0, t^1, ..., t^n such that omega_hat(t) = alpha(t, T) for every t."""
        n = self.degree
        in_s = np.zeros(n + 1)
        for i, c in enumerate(self.coefficients):
            for j in range(i, n + 1):
                in_s[j] += c * math.comb(n, i) * math.comb(n - i, j - i) * (-1) ** (j - i)
        in_t = PowerSeries(in_s)(PowerSeries([-1 / (T - 1), 1 / (T - 1)])) if T > 1 else PowerSeries(in_s[:1])
        padded = np.zeros(n + 1)
        padded[: len(in_t.coef)] = in_t.coef
        return [float(a) for a in padded]

    @classmethod
    def fit(cls, curve: Sequence[float], degree: int = 3) -> tuple[Polynomial, float]:
        """The polynomial nearest to a curve of alpha, one value an epoch.

        Bounded least squares, 0 <= c_i <= 1: how paper section 4.4 turns a learned curve into a
        schedule. Returns the polynomial and the root mean square of the residual.
        """
        from scipy.optimize import lsq_linear  # half a second that most runs need not spend

        values = np.asarray(curve, dtype=float)
        basis = bernstein_matrix(np.linspace(0, 1, len(values)), degree)
        solution = lsq_linear(basis, values, bounds=(0, 1), tol=1e-12)
        residual = float(np.sqrt(np.mean((basis @ solution.x - values) ** 2)))
        return cls(strategy="polynomial", coefficients=[float(min(max(c, 0), 1)) for c in solution.x]), residual


class Learned(Settings):
    """alpha by bi-level optimisation: eq. (2), eq. (3), Algorithm 1.

    After every `inner_iters` steps on theta: alpha <- clip(alpha - eta_alpha dL_CLS/dalpha).
    """

    strategy: Literal["learned"]
    initial: Weight = Field(0.95, description="alpha before the first update")
    eta_alpha: float = Field(0.01, ge=0, description="learning rate of alpha")
    inner_iters: int = Field(5, ge=1, description="steps on theta between two updates of alpha")
    solver: Literal["identity"] = Field("identity", description="stands for H^-1 in eq. (3)")
    outer: Literal["held_out", "val", "inner"] = Field(
        "held_out",
        description="where L_CLS of the outer problem is measured: a part of the training split that theta never"
        " sees, the validation split, or the batch that theta was just trained on",
    )
    outer_fraction: float = Field(0.1, gt=0, lt=1, description="size of the held-out part of the training split")
    low: Weight = Field(0.0, description="alpha is clipped to [low, high]")
    high: Weight = Field(1.0, description="alpha is clipped to [low, high]")


Schedule = Constant | Stepwise | Heuristic | Polynomial
Alpha = Annotated[Constant | Stepwise | Heuristic | Polynomial | Learned, Field(discriminator="strategy")]


def bernstein_matrix(s: np.ndarray, degree: int) -> np.ndarray:
    """B_{i,n}(s): one row for each s in [0, 1], one column for each i in 0 ... n."""
    i = np.arange(degree + 1)
    binomials = np.array([math.comb(degree, k) for k in i])
    return binomials * s[:, None] ** i * (1 - s[:, None]) ** (degree - i)


def formula(power_basis: Sequence[float]) -> str:
    """omega_hat(t) as the paper prints it, highest power first."""
    terms: list[str] = []
    for power in range(len(power_basis) - 1, -1, -1):
        value = power_basis[power]
        unit = "" if power == 0 else " t" if power == 1 else f" t^{power}"
        sign = ("- " if value < 0 else "+ ") if terms else ("-" if value < 0 else "")
        terms.append(f"{sign}{abs(value):.4g}{unit}")
    return "omega_hat(t) = " + " ".join(terms)
