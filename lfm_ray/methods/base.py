"""The interface of a training method: its settings, and hooks that the trainer calls, each with a default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.errors import UserError
from lfm_ray.methods.losses import ConvexPart, LossSettings, classification_loss, matching_loss, matching_parts
from lfm_ray.models.classifier import MultimodalClassifier, Outputs
from lfm_ray.registry import Registry, parts_in
from lfm_ray.settings import Settings, nearest

Row = dict[str, float]


@dataclass(frozen=True)
class Losses:
    """The losses of one global batch, scalars: theta is trained on `total`.

    `parts` returns the total as a sum of convex parts, for the Gauss-Newton product; None if the
    method has no such form. `terms` are the losses whose gradients `Method.gradient` receives
    separately; empty: only the total. `outer` is the outer loss of alpha (L_CLS on an outer batch);
    None: it is `classification`.
    """

    total: Tensor
    classification: Tensor
    matching: Tensor
    parts: Callable[[], list[ConvexPart]] | None = None
    terms: tuple[Tensor, ...] = ()
    outer: Tensor | None = None

    @property
    def judged(self) -> Tensor:
        """The outer loss: L_CLS of the outer problem."""
        return self.classification if self.outer is None else self.outer

    @staticmethod
    def mean(losses: Sequence[Losses]) -> Losses:
        """The mean over the phases of a training step."""
        if len(losses) == 1:
            return losses[0]
        each = [torch.stack([one.total, one.classification, one.matching]) for one in losses]
        total, classification, matching = torch.stack(each).mean(dim=0)
        return Losses(total, classification, matching)


@dataclass(frozen=True)
class State:
    """The state of a run that its method can use.

    model: encoders and head; settings: the section `loss`; alpha: of this step; epoch: t, from 1 to
    epochs; steps: training steps on theta so far, over all epochs; seed: of the run; phase: the current
    phase of the step; samples: rows of the training split, 0 if unknown. memory: the method's own state,
    a flat dict of tensors and plain values. It is saved in checkpoints and must be the same on every
    rank, so compute it from the gathered outputs. Only `after_backward` and `on_epoch_end` may change it.
    """

    model: MultimodalClassifier
    settings: LossSettings
    alpha: float = 0.0
    epoch: int = 1
    epochs: int = 1
    steps: int = 0
    seed: int = 0
    phase: str = ""
    memory: dict[str, Any] = field(default_factory=dict)
    samples: int = 0

    def generator(self, device: torch.device) -> torch.Generator:
        """A random generator for this step, the same on every rank and in a resumed run."""
        mixed = np.random.SeedSequence((self.seed, self.steps)).generate_state(1)[0]  # torch uses 32 bits on a CPU
        return torch.Generator(device).manual_seed(int(mixed))


class Method(Settings):
    """A training method. Hooks that a method does not override behave as in LFM, L_Total of eq. (1).

    Derive from it, add settings as fields, declare capabilities in the class variables, and override
    the hooks that differ (docs/extending.md). Outputs and labels are always those of the global batch,
    gathered from all ranks: fused (B, C), labels (B,) int64, or what `lfm_ray.models.targets` says of other targets.
    """

    name: str

    source: ClassVar[str]
    """Where it was published, such as "CVPR 2023"."""

    passes: ClassVar[tuple[str, str]] = ("1", "1")
    """Forward and backward passes of each encoder in a training step, at most; m: the number of modalities."""

    heads: ClassVar[tuple[str, ...]] = ()
    """Fusion heads (`model.fusion`) that it supports, the default first; empty: any."""

    exactly_two: ClassVar[bool] = False
    """Whether it is defined only for two modalities."""

    combines: ClassVar[bool] = True
    """Whether alpha can combine its loss with L_MM."""

    matches_embeddings: ClassVar[bool] = True
    """Whether `loss.matching: infonce` has an effect; projection heads and a learned tau are built only then."""

    apart: ClassVar[bool] = False
    """Whether it computes theta's gradient itself, in `gradient`: required for several terms or phases,
    or for losses that do not reach every parameter."""

    cannot_learn_alpha: ClassVar[str] = ""
    """Why alpha cannot be learned with it, as a phrase after its name in an error; empty if it can."""

    cannot_weigh: ClassVar[str] = ""
    """Why `loss.class_weights`, `loss.focal` and `loss.label_smoothing` have no meaning with it, as a phrase after its
    name in an error; empty if they have."""

    only_classes: ClassVar[str] = ""
    """Why targets must be classes, neither several labels nor numbers, as a phrase after its name in an error; empty
    if they need not."""

    no_hessian: ClassVar[str] = ""
    """Why only the solver identity can be used with it; empty if all can."""

    takes_missing: ClassVar[bool] = False
    """Whether it is defined where samples lack a modality: whatever it takes from `Outputs.unimodal` and
    `Outputs.embeddings` is then of the samples that have it (`Outputs.rows_with`)."""

    follows_samples: ClassVar[bool] = False
    """Whether the inputs of `forward` include the samples' row numbers, (B,) int64, under `batches.ROWS`."""

    @classmethod
    def part(cls, name: str) -> type[Settings] | None:
        """See `Settings.part`."""
        return METHODS.get(name)

    def forward(self, network: nn.Module, inputs: Mapping[str, Tensor], state: State) -> Outputs:
        """The outputs for this rank's inputs; anything added to `Outputs.extra`, (B, any), is gathered as well."""
        return network(inputs)

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """L_CLS, a scalar: the method's loss without the matching loss."""
        return classification_loss(outputs.fused, labels, state.settings)

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """L_Total = (1 - alpha) L_CLS + alpha L_MM. Must have no side effects: it is also computed on other batches."""
        alpha, settings = state.alpha, state.settings
        classification = self.classification(outputs, labels, state)
        matching = matching_loss(outputs, settings) if self.combines else classification.new_zeros(())
        total = (1 - alpha) * classification + alpha * matching
        if self.apart and not alpha:
            total = classification  # equal, without backpropagating zeros from L_MM through all encoders

        def parts() -> list[ConvexPart]:
            def of_fused(logits: Tensor) -> Tensor:
                return classification_loss(logits, labels, settings)

            return [ConvexPart(1 - alpha, -1.0, outputs.fused, of_fused), *matching_parts(outputs, alpha, settings)]

        return Losses(total, classification, matching, parts if self.convex else None)

    @property
    def convex(self) -> bool:
        """Whether the total is a sum of convex parts, as the Gauss-Newton product requires; true if it is LFM's."""
        return type(self).classification is Method.classification and type(self).loss is Method.loss

    def phases(self, state: State) -> Sequence[str]:
        """Names of the consecutive training steps on theta made with one batch (`State.phase`)."""
        return ("",)

    def gradient(self, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """theta's gradient from those of `Losses.terms`, each parameter name -> gradient, mean over ranks.

        Only called if `apart`. A parameter that is left out is not updated in this phase.
        """
        return terms[0]

    def gradient_factors(self, outputs: Outputs, labels: Tensor, state: State) -> Mapping[str, Tensor]:
        """Modality -> scalar factor of its encoder's gradient, applied before clipping."""
        return {}

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Modifies the gradients of `state.model`, which are the same on every rank and not yet clipped."""
        named = state.model.named_parameters()
        gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
        scale_encoders(gradients, self.gradient_factors(outputs, labels, state))

    def learning_rate_factors(self, state: State) -> Mapping[str, float]:
        """Modality -> factor of the learning rate of its parameters in this step; 0 freezes them.

        Its parameters are those of its encoder, its projection and its own classifier in the head.
        """
        return {}

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Called with the row of the epoch (`val/...` of `lfm_ray.models.evaluation`); returns values to add to it.

        `measures` are in it as well, as `train/...` and `val/...`.
        """
        return {}

    def measures(self, outputs: Outputs, labels: Tensor) -> Row:
        """Values of all outputs of a split, or of the training steps of an epoch, added to its metrics."""
        return {}

    def predict(self, outputs: Outputs) -> Tensor:
        """Logits (B, C) that the multimodal model is evaluated by."""
        return outputs.fused

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Checks that the method is defined for these modalities.

        Raises:
            UserError: the method requires two modalities, and there are not two.
        """
        if self.exactly_two and len(modalities) != 2:
            raise UserError(
                f"method: {self.name} is defined for two modalities, and there are {len(modalities)}"
                f" ({', '.join(modalities)}); choose two by data.modalities"
            )

    def check_target(self, kind: TargetKind) -> None:
        """Checks that the method is defined for targets of this kind.

        Raises:
            UserError: it is not.
        """
        if self.only_classes and kind != "classes":
            raise UserError(f"method: {self.name} {self.only_classes}, and the dataset's targets are {kind}")

    def check_missing(self, lacking: Sequence[str]) -> None:
        """Checks that the method is defined where samples lack these modalities.

        Raises:
            UserError: it is not.
        """
        if not self.takes_missing:
            others = ", ".join(name for name in METHODS if METHODS[name].takes_missing)
            raise UserError(
                f"method: {self.name} needs every modality of every sample, and some lack {' or '.join(lacking)}; use"
                f" {others}, or shards that were prepared without --allow-missing"
            )

    def check_names(self, setting: str, names: Iterable[str], known: Sequence[str]) -> None:
        """Raises a UserError if a name in one of the method's settings is unknown."""
        for name in names:
            if name not in known:
                raise UserError(f"method.{setting}.{name}: there is no such modality{nearest(name, known)}")


def scale_encoders(gradients: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
    """Multiplies the gradients of each modality's encoder in place; gradients: parameter name -> gradient."""
    for name, gradient in gradients.items():
        owner, modality = [*name.split("."), ""][:2]
        if owner == "encoders" and modality in factors:
            gradient.mul_(factors[modality])


def are_texts(names: object) -> bool:
    """Whether something is a tuple of texts."""
    return isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)


METHODS: Registry[type[Method]] = Registry(
    "method",
    parts_in("lfm_ray.methods", shared=("base", "checks", "losses")),
    lambda part: isinstance(part, type) and issubclass(part, Method) and are_texts(part.heads),
    "a subclass of lfm_ray.methods.Method, whose heads, if it names some, are a tuple of names",
)
