"""alpha(t): the weight of the modality-matching loss over training (paper section 3.3, Table 4).

L_Total = (1 - alpha) L_CLS + alpha L_MM, eq. (1); t is the epoch, counted from 1, and T the number
of epochs. Each strategy is one class: its settings, and `alpha(t, T)`. `Learned` and `Official` have no
formula: the loop updates their alpha by a gradient while it trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from operator import mul
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from lfm_ray.registry import Registry
from lfm_ray.settings import Settings

Weight = Annotated[float, Field(ge=0, le=1)]
MOST_AT_FIRST = 0.95  # of a balanced start
UPDATES = 50  # of alpha in a run, about, where nothing else is said


class Schedule(Settings):
    """A strategy for alpha: its settings, and alpha(t) where that is a formula."""

    strategy: str

    @classmethod
    def part(cls, name: str) -> type[Settings] | None:
        """See `Settings.part`."""
        return SCHEDULES.get(name)

    def alpha(self, t: int, T: int) -> float:
        """alpha in [0, 1] at epoch t of T, t from 1."""
        raise NotImplementedError


class Constant(Schedule):
    """alpha = value throughout. 0 is plain joint training, 1 is matching without labels."""

    strategy: Literal["constant"] = "constant"
    value: Weight = Field(0.0, description="alpha at every epoch")

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        return self.value


class Stepwise(Schedule):
    """h(p) of paper section 4.4: alpha = p in the first half of the epochs, 1 - p in the second."""

    strategy: Literal["stepwise"]
    p: Weight = Field(0.95, description="alpha in the first half")

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T; the middle epoch of an odd T belongs to the second half."""
        return self.p if t <= T // 2 else 1 - self.p


class Heuristic(Schedule):
    """omega(t) = 1 - exp(-1 / t), paper section 3.3. It does not depend on T."""

    strategy: Literal["heuristic"]

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        return 1 - math.exp(-1 / t)


class Polynomial(Schedule):
    """A polynomial in the Bernstein basis on s = (t - 1) / (T - 1).

    alpha(s) = sum_i c_i B_{i,n}(s) with B_{i,n}(s) = C(n, i) s^i (1 - s)^(n - i). With every c_i in
    [0, 1] alpha stays in [0, 1] without clipping, and decreasing c_i give a decreasing schedule
    (Farouki, "The Bernstein polynomial basis: a centennial retrospective", CAGD 2012). The same c_i
    serve every T. The paper's cubic omega_hat(t) = at^3 + bt^2 + ct + d is the case n = 3; the
    default coefficients are that cubic up to its minimum at t = 26, fitted within the bounds.

    A monotone polynomial is searched over a box too. `decreasing`: c_i is the product of the first
    i + 1 `coefficients`; `increasing`: 1 - c_i is the product of 1 minus each of them.
    """

    strategy: Literal["polynomial"]
    coefficients: list[Weight] = Field(
        [1.0, 1.0, 0.28, 0.03], min_length=2, description="Bernstein coefficients c_0 ... c_n, first to last epoch"
    )
    monotone: Literal["no", "decreasing", "increasing"] = Field(
        "no", description="decreasing or increasing: the coefficients are factors, which make c_0 ... c_n monotone"
    )

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        s = (t - 1) / (T - 1) if T > 1 else 0.0
        return float(bernstein_matrix(np.array([s]), self.degree)[0] @ self.bernstein)

    @property
    def bernstein(self) -> list[float]:
        """c_0 ... c_n."""
        if self.monotone == "decreasing":
            return list(accumulate(self.coefficients, mul))
        if self.monotone == "increasing":
            return [1 - product for product in accumulate((1 - v for v in self.coefficients), mul)]
        return list(self.coefficients)

    @property
    def degree(self) -> int:
        """n, the degree of the polynomial."""
        return len(self.coefficients) - 1

    def power_basis(self, T: int) -> list[float]:
        """Coefficients of t^0, t^1, ..., t^n such that omega_hat(t) = alpha(t, T) for every t."""
        return to_power(self.bernstein, T)

    @classmethod
    def fit(cls, curve: Sequence[float], degree: int | None = 3) -> tuple[Polynomial, float]:
        """The polynomial nearest to a curve of alpha, one value an epoch.

        Bounded least squares, 0 <= c_i <= 1: how paper section 4.4 turns a learned curve into a
        schedule. Returns the polynomial and the root mean square of the residual. With degree None
        it is the lowest of 1 ... 6 that no other beats by 10 in the Bayesian information criterion,
        which is called very strong evidence (Kass and Raftery, "Bayes factors", JASA 1995).
        """
        from scipy.optimize import lsq_linear  # half a second that most runs need not spend

        values = np.asarray(curve, dtype=float)
        if degree is None:
            fits = [cls.fit(curve, n) for n in range(1, max(2, min(7, len(values) - 1)))]
            criteria = [_information(len(values), fit.degree, residual) for fit, residual in fits]
            return next(fit for fit, value in zip(fits, criteria, strict=True) if value < min(criteria) + 10)
        basis = bernstein_matrix(np.linspace(0, 1, len(values)), degree)
        solution = lsq_linear(basis, values, bounds=(0, 1), tol=1e-12)
        residual = float(np.sqrt(np.mean((basis @ solution.x - values) ** 2)))
        return cls(strategy="polynomial", coefficients=[float(min(max(c, 0), 1)) for c in solution.x]), residual


class Power(Schedule):
    """omega_hat(t) = a_0 + a_1 t + ... + a_n t^n, clipped to [0, 1]: a schedule as the paper prints it."""

    strategy: Literal["power"]
    coefficients: list[float] = Field(min_length=1, description="a_0 ... a_n, of t^0 ... t^n")
    of_epochs: int | None = Field(
        None,
        ge=2,
        description="the T that the coefficients were made for; a run of another T passes through the same values,"
        " first epoch to last; null: t is taken as it is",
    )

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        at = 1 + (t - 1) * (self.of_epochs - 1) / (T - 1) if self.of_epochs and T > 1 else t
        return min(max(sum(a * at**i for i, a in enumerate(self.coefficients)), 0.0), 1.0)


class PaperCubic(Schedule):
    """The paper's cubic for Kinetics-Sounds (section 4.4): 1.5e-4 t^3 - 6.5e-3 t^2 + 3.2e-2 t + 1, clipped.

    It has its minimum at t = 26 and is above 1 again from t = 38. The paper does not print its T,
    so t is taken as it is unless `of_epochs` says how much of the curve a run is to pass through.
    """

    strategy: Literal["paper_cubic"]
    of_epochs: int | None = Field(None, ge=2, description="the run passes through epochs 1 ... of_epochs of the curve")

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        cubic = [1, 3.2e-2, -6.5e-3, 1.5e-4]
        return Power(strategy="power", coefficients=cubic, of_epochs=self.of_epochs).alpha(t, T)


class OfficialQuintic(Schedule):
    """The quintic of the official code, fitted to a run of 200 epochs, t = 0 ... 199. The code prints 1 - alpha.

    njustkmg/NeurIPS24-LFM at ad44fa0, Crema_epoch.py. In t = 177 ... 188 alpha is below 0, which the
    code lets be; here it is clipped by default. Equal otherwise (tests/parity).
    """

    strategy: Literal["official_quintic"]
    of_epochs: int | None = Field(200, ge=2, description="as for power; 200 is the T that it was fitted to")
    clip: bool = Field(True, description="clip alpha to [0, 1]; the official code does not")

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T."""
        weight = [2.04623704e-01, 3.35472727e-03, 1.22989557e-04, -2.92947416e-06, 2.23835486e-08, -5.39717505e-11]
        at = (t - 1) * (self.of_epochs - 1) / (T - 1) if self.of_epochs and T > 1 else t - 1
        value = 1 - sum(a * at**i for i, a in enumerate(weight))
        return min(max(value, 0.0), 1.0) if self.clip else value


class Table(Schedule):
    """alpha from a list: the epochs are divided evenly over its values. What a population search finds."""

    strategy: Literal["table"]
    values: list[Weight] = Field(min_length=1, description="alpha over equal shares of the epochs, first to last")

    def alpha(self, t: int, T: int) -> float:
        """alpha at epoch t of T; with T values it is the t-th."""
        return self.values[(t - 1) * len(self.values) // T]


class AlphaGradient(NamedTuple):
    """dL_CLS/dalpha = - d . x of eq. (3), with x = H^-1 g, and |d| |x|, the most that it could be."""

    value: float
    bound: float = 1.0

    @property
    def cosine(self) -> float:
        """The value over its bound, between -1 and 1; 0 where d or x is."""
        return self.value / self.bound if self.bound > 0 else 0.0


class Adaptive(Schedule):
    """What strategies that follow a gradient share: alpha <- clip(alpha - eta_alpha gradient)."""

    initial: Weight | Literal["balanced"] = Field(0.95, description="alpha before the first update")
    eta_alpha: float = Field(0.01, ge=0, description="learning rate of alpha")
    halve_every: int | None = Field(None, ge=1, description="epochs after which eta_alpha is halved; null: never")
    low: Weight = Field(0.0, description="alpha is clipped to [low, high]")
    high: Weight = Field(1.0, description="alpha is clipped to [low, high]")

    before_epochs: ClassVar[bool] = False
    """Whether alpha is updated before every epoch, always on the same outer batch with one draw of augmentation,
    instead of after steps on theta."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must not be above high ({self.low} > {self.high})")
        return self

    def due(self, step: int, steps: int) -> bool:
        """Whether alpha is updated after this step on theta, counted from 1, of so many of the run."""
        raise NotImplementedError

    def held_out_rows(self, rows: int) -> int:
        """How many of the training split's rows are kept from theta, for the outer loss."""
        raise NotImplementedError

    def outer_batch_size(self, batch_size: int) -> int:
        """Samples of an outer batch, where an inner one has `batch_size`."""
        return batch_size

    def updated(self, alpha: float, gradient: AlphaGradient, t: int) -> float:
        """alpha after an update in epoch t."""
        rate = self.eta_alpha * 0.5 ** ((t - 1) // self.halve_every if self.halve_every else 0)
        return min(max(alpha - rate * self.slope(gradient), self.low), self.high)

    def slope(self, gradient: AlphaGradient) -> float:
        """What eta_alpha multiplies: the gradient itself."""
        return gradient.value


class Learned(Adaptive):
    """alpha by bi-level optimisation: eq. (2), eq. (3), Algorithm 1 (`lfm_ray.optimization.hypergradient`)."""

    strategy: Literal["learned"]
    initial: Weight | Literal["balanced"] = Field(
        "balanced",
        description="alpha before the first update; balanced: what the gradients of the first batch say, by `balance`",
    )
    balance: float = Field(
        0.25,
        gt=0,
        description="of a balanced start: how large the part of L_MM in the first gradient is against that of L_CLS,"
        " alpha |grad L_MM| = balance (1 - alpha) |grad L_CLS|, as far as alpha is at most 0.95",
    )
    update: Literal["sign", "cosine", "plain"] = Field(
        "sign",
        description="what eta_alpha multiplies: sign, that of the gradient of eq. (3); cosine, the gradient over the"
        " most that it could be, |d| |H^-1 g|; plain, the gradient itself, which falls by orders of magnitude as theta"
        " is trained",
    )
    eta_alpha: float = Field(0.0075, ge=0, description="learning rate of alpha; of update cosine about 0.1")
    inner_iters: int | None = Field(
        None,
        ge=1,
        description=f"steps on theta between two updates of alpha; null: as many as make about {UPDATES} updates of a"
        " run, so that eta_alpha means the same however long it is",
    )
    solver: Literal["identity", "neumann", "cg", "nystrom"] = Field(
        "identity", description="what stands for H^-1 in eq. (3)"
    )
    product: Literal["gauss_newton", "hessian"] = Field(
        "gauss_newton", description="H of the other solvers; gauss_newton is never indefinite, hessian is exact"
    )
    damping: float = Field(0.1, ge=0, description="added to the diagonal of H")
    solver_steps: int = Field(5, ge=0, description="products with H that neumann and cg take, K")
    step_size: float = Field(0.1, gt=0, description="of neumann; it must be below 2 / the largest eigenvalue of H")
    rank: int = Field(5, ge=1, description="products with H that nystrom takes")
    outer: Literal["inner", "held_out", "val"] = Field(
        "inner",
        description="where L_CLS of the outer problem is measured: inner, the batch that theta was just trained on;"
        " held_out, a part of the training split that theta never sees; val, the validation split",
    )
    outer_fraction: float = Field(0.1, gt=0, lt=1, description="size of the held-out part of the training split")

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, values: Any) -> Any:
        """A record of a run says everything; one without `update` was written when there was only plain."""
        if isinstance(values, dict) and "update" not in values and {"solver", "rank", "outer_fraction"} <= set(values):
            return {**values, "update": "plain"}
        return values

    @model_validator(mode="after")
    def _damped(self) -> Self:
        if self.solver == "nystrom" and self.damping == 0:
            raise ValueError("nystrom needs a damping above 0: it inverts a matrix of low rank plus damping")
        return self

    def balanced(self, matching: float, classification: float) -> float:
        """The alpha of a balanced start: by the norms of the gradients of L_MM and L_CLS, and within the bounds.

        L_MM is not of one size: at first the gradient of JS is a tenth of that of L_CLS, InfoNCE's as large as it.
        At most 0.95, the official code's start, so that a model of which all modalities say the same learns.
        """
        both = matching + self.balance * classification
        share = self.balance * classification / both if both > 0 else MOST_AT_FIRST
        return min(max(min(share, MOST_AT_FIRST), self.low), self.high)

    def slope(self, gradient: AlphaGradient) -> float:
        """What eta_alpha multiplies (`update`)."""
        if self.update == "sign":
            return float((gradient.value > 0) - (gradient.value < 0))
        return gradient.cosine if self.update == "cosine" else gradient.value

    def due(self, step: int, steps: int) -> bool:
        """Whether alpha is updated after this step on theta, counted from 1, of so many of the run."""
        return step % (self.inner_iters or max(1, steps // UPDATES)) == 0

    def held_out_rows(self, rows: int) -> int:
        """`outer_fraction` of the rows, where the outer loss is measured on them."""
        return max(1, round(rows * self.outer_fraction)) if self.outer == "held_out" else 0


class Official(Adaptive):
    """alpha as the official code updates it, not by eq. (3): `lfm_ray.optimization.hypergradient.official_gradient`.

    Before every epoch, on 8 samples of 16 that are held out of the training split: always the same 8, with
    one draw of the training augmentation. The first update is of the untrained model in training mode, and
    moves the running statistics of BatchNorm; later ones are in evaluation mode. Use it with `method:
    official`, which has the official code's loss, or start from search_spaces/crema_d_official.yaml. Equal
    to njustkmg/NeurIPS24-LFM at ad44fa0 (tests/parity).
    """

    strategy: Literal["official"]
    initial: Weight = Field(0.95, description="alpha before the first update")
    eta_alpha: float = Field(1e-4, ge=0, description="learning rate of alpha")
    halve_every: int | None = Field(20, ge=1, description="epochs after which eta_alpha is halved; null: never")
    low: Weight = Field(0.05, description="alpha is clipped to [low, high]")
    high: Weight = Field(0.95, description="alpha is clipped to [low, high]")
    before_epochs: ClassVar[bool] = True

    def due(self, step: int, steps: int) -> bool:
        """Never after a step."""
        return False

    def held_out_rows(self, rows: int) -> int:
        """16."""
        return 16

    def outer_batch_size(self, batch_size: int) -> int:
        """8 of the 16."""
        return 8


def to_power(bernstein: Sequence[float], T: int) -> list[float]:
    """Bernstein coefficients on s = (t - 1) / (T - 1) -> coefficients of t^0 ... t^n; exact before rounding."""
    n = len(bernstein) - 1
    c = [Fraction(value) for value in bernstein]
    in_s = [math.comb(n, j) * sum((-1) ** (j - i) * math.comb(j, i) * c[i] for i in range(j + 1)) for j in range(n + 1)]
    if T == 1:
        return [float(in_s[0])] + [0.0] * n
    return [float(a) for a in _substitute(in_s, Fraction(-1, T - 1), Fraction(1, T - 1))]


def to_bernstein(power: Sequence[float], T: int) -> list[float]:
    """Coefficients of t^0 ... t^n -> Bernstein coefficients on s = (t - 1) / (T - 1); exact before rounding.

    They lie in [0, 1] only if the polynomial does, and not always then.
    """
    n = len(power) - 1
    in_s = _substitute([Fraction(a) for a in power], Fraction(1), Fraction(T - 1))
    return [
        float(sum(Fraction(math.comb(i, j), math.comb(n, j)) * in_s[j] for j in range(i + 1))) for i in range(n + 1)
    ]


def _substitute(coefficients: Sequence[Fraction], shift: Fraction, scale: Fraction) -> list[Fraction]:
    """Coefficients of x -> those of the same polynomial in y, where x = shift + scale y."""
    n = len(coefficients) - 1
    return [
        sum((math.comb(i, j) * coefficients[i] * shift ** (i - j) for i in range(j, n + 1)), Fraction(0)) * scale**j
        for j in range(n + 1)
    ]


def _information(points: int, degree: int, residual: float) -> float:
    """The Bayesian information criterion of a least-squares fit; residuals below 1e-6 count as exact."""
    return points * math.log(max(residual, 1e-6) ** 2) + (degree + 1) * math.log(points)


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


SCHEDULES: Registry[type[Schedule]] = Registry(
    "alpha.strategy",
    {
        "constant": "lfm_ray.optimization.schedules:Constant",
        "stepwise": "lfm_ray.optimization.schedules:Stepwise",
        "heuristic": "lfm_ray.optimization.schedules:Heuristic",
        "polynomial": "lfm_ray.optimization.schedules:Polynomial",
        "power": "lfm_ray.optimization.schedules:Power",
        "paper_cubic": "lfm_ray.optimization.schedules:PaperCubic",
        "official_quintic": "lfm_ray.optimization.schedules:OfficialQuintic",
        "table": "lfm_ray.optimization.schedules:Table",
        "learned": "lfm_ray.optimization.schedules:Learned",
        "official": "lfm_ray.optimization.schedules:Official",
    },
    lambda part: isinstance(part, type) and issubclass(part, Schedule),
    "a subclass of lfm_ray.optimization.schedules.Schedule",
)
