"""The settings of one training run, each section beside the code that reads it.

How raw media become shards is `lfm_ray.datasets.preparing.config`. A search space (`lfm_ray.search.spaces.space`) is a
run some of whose settings are distributions.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from lfm_ray.datasets.reading.inputs import DataSettings
from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.methods import LFM, METHODS, Method
from lfm_ray.methods.losses import LossSettings
from lfm_ray.models.classifier import ModelSettings
from lfm_ray.models.evaluation import METRICS
from lfm_ray.models.fusion import check_missing
from lfm_ray.optimization.optimizer import OptimizerSettings
from lfm_ray.optimization.schedules import SCHEDULES, Adaptive, Constant, Learned, Schedule
from lfm_ray.registry import choose
from lfm_ray.runtime.checkpoint import CheckpointSettings
from lfm_ray.runtime.compute import ComputeSettings
from lfm_ray.settings import Settings


class RunConfig(Settings):
    """One training run."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    method: SerializeAsAny[Method] = Field(
        LFM(),
        description="training method, a file of lfm_ray/methods: its name, or its name and its own settings",
    )
    alpha: SerializeAsAny[Schedule] = Field(
        Constant(), description="alpha(t), a strategy of lfm_ray/optimization/schedules.py: its name and its settings"
    )
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    compute: ComputeSettings = ComputeSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    metrics: list[str] = Field(
        [], description="metrics of your own, package.module:function, that every evaluation computes too"
    )
    epochs: int = Field(20, ge=1, description="T, passes over the training split")
    seed: int = Field(0, ge=0, lt=2**31, description="decides initial weights, order of samples, dropout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is a GPU")

    @model_validator(mode="before")
    @classmethod
    def _head_of_the_method(cls, values: Any) -> Any:
        """A method that needs a fusion head brings it, unless `model.fusion` says otherwise."""
        if isinstance(values, dict) and isinstance(model := values.get("model", {}), dict) and "fusion" not in model:
            heads = _heads(values.get("method"))
            return {**values, "model": {**model, "fusion": heads[0]}} if heads else values
        return values

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str]) -> list[str]:
        return [METRICS.check(name) for name in value]

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        return choose(METHODS, "name", "lfm", value)

    @field_validator("alpha", mode="before")
    @classmethod
    def _schedule_by_name(cls, value: Any) -> Any:
        return choose(SCHEDULES, "strategy", "constant", value)

    @model_validator(mode="after")
    def _what_the_method_can_do(self) -> Self:
        method, alpha = self.method, self.alpha
        if method.heads and self.model.fusion not in method.heads:
            heads = " or ".join(method.heads)
            raise ValueError(f"method {method.name} needs model.fusion {heads}, not {self.model.fusion}")
        if not method.combines and alpha != Constant():
            raise ValueError(f"method {method.name} cannot be combined with the matching loss; leave out alpha")
        if self.loss.weighs and method.cannot_weigh:
            raise ValueError(
                f"method {method.name} {method.cannot_weigh}; leave out loss.class_weights, focal and label_smoothing"
            )
        if self.learns_alpha and method.cannot_learn_alpha:
            raise ValueError(f"method {method.name} {method.cannot_learn_alpha}; choose another alpha.strategy")
        if isinstance(alpha, Learned) and alpha.solver != "identity":
            if method.no_hessian:
                raise ValueError(f"method {method.name} works with alpha.solver identity only: {method.no_hessian}")
            if alpha.product == "gauss_newton" and self.loss.focal:
                raise ValueError("loss.focal is not convex; set alpha.product=hessian or alpha.solver=identity")
            if alpha.product == "gauss_newton" and not method.convex:
                raise ValueError(
                    f"method {method.name} has no Gauss-Newton product; set alpha.product=hessian or"
                    " alpha.solver=identity"
                )
        if method.apart and self.learns_alpha:
            raise ValueError(f"method {method.name} has no gradient of alpha; choose another alpha.strategy")
        if method.apart and self.data.micro_batch_size:
            raise ValueError(f"method {method.name} needs the whole batch at once; leave out data.micro_batch_size")
        return self

    @model_validator(mode="after")
    def _products_need_the_whole_batch(self) -> Self:
        if self.data.micro_batch_size and isinstance(self.alpha, Learned) and self.alpha.solver != "identity":
            raise ValueError(
                f"data.micro_batch_size works with alpha.solver identity only: {self.alpha.solver} needs the graph of"
                " the whole batch"
            )
        return self

    @model_validator(mode="after")
    def _products_need_what_is_not_compiled(self) -> Self:
        if self.compute.compile and self.learns_alpha and not self.looks_ahead:
            raise ValueError(
                "compute.compile works with alpha.solver identity only: a compiled encoder has no second derivative"
            )
        return self

    def check_target(self, card: DatasetCard) -> None:
        """Checks that the method and the losses are defined for what the rows of a dataset are labelled with.

        Raises:
            UserError: one is not.
        """
        self.method.check_target(card.target.kind)
        self.loss.check_target(card.target.kind, len(card.classes))

    def check_missing(self, card: DatasetCard) -> None:
        """Checks that the method and the fusion head are defined where rows of a dataset lack a modality.

        Raises:
            UserError: one is not.
        """
        names = self.data.modalities or list(card.modalities)
        lacking = [name for name in names if name in card.lacking]
        if lacking and len(names) > 1:  # of a single modality, rows that lack it are not read
            self.method.check_missing(lacking)
            check_missing(self.model.fusion, lacking)

    @property
    def learns_alpha(self) -> bool:
        """Whether alpha is updated by a gradient."""
        return isinstance(self.alpha, Adaptive)

    @property
    def fits_validation(self) -> bool:
        """Whether alpha is fitted to the validation split, on which the run cannot be measured then."""
        return isinstance(self.alpha, Learned) and self.alpha.outer == "val"

    @property
    def looks_ahead(self) -> bool:
        """Whether the hyper-gradient is that of the identity solver, which takes no second derivative."""
        return isinstance(self.alpha, Learned) and self.alpha.solver == "identity"


def _heads(method: Any) -> tuple[str, ...]:
    """The fusion heads of a method, as the user named it; none of what is no method, which is refused later."""
    if isinstance(method, Method):
        return method.heads
    name = method.get("name") if isinstance(method, dict) else method
    try:
        return METHODS[name].heads if isinstance(name, str) and name in METHODS else ()
    except ValueError:  # it cannot be imported: the section `method` says so, with its place
        return ()
