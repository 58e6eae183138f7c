"""What a training method is: its settings, and hooks that the run calls, each with a default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lfm_ray.errors import UserError
from lfm_ray.methods.losses import ConvexPart, LossSettings, classification_loss, matching_loss, matching_parts
from lfm_ray.models.classifier import MultimodalClassifier, Outputs
from lfm_ray.registry import Registry
from lfm_ray.settings import Settings, nearest

Row = dict[str, float]


@dataclass(frozen=True)
class Losses:
    """The losses of one global batch, scalars: total is what theta is trained on.

    `parts` gives total as a sum of convex parts, for the Gauss-Newton product; None where the
    method offers none. `terms` are the losses whose gradients `Method.gradient` receives one by
    one; none: total is the only one. `outer` is L_CLS as alpha is judged by it on an outer batch;
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
        """L_CLS of the outer problem."""
        return self.classification if self.outer is None else self.outer

    @staticmethod
    def mean(losses: Sequence[Losses]) -> Losses:
        """The mean over the phases of a step."""
        if len(losses) == 1:
            return losses[0]
        each = [torch.stack([one.total, one.classification, one.matching]) for one in losses]
        total, classification, matching = torch.stack(each).mean(dim=0)
        return Losses(total, classification, matching)


@dataclass(frozen=True)
class State:
    """Where a run stands, as its method sees it.

    model: its encoders and head; settings: the section `loss`; alpha: of this step; epoch: t, from
    1 to epochs; steps: on theta so far, over all epochs; seed: of the run; phase: which of the
    step's phases this is. memory: what the method itself remembers, flat, tensors and plain values
    only. It is saved in checkpoints, and must be the same on every rank: make it of the gathered
    outputs. Only `after_backward` and `on_epoch_end` may change it.
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

    def generator(self, device: torch.device) -> torch.Generator:
        """Random numbers of this step, the same on every rank and in a resumed run."""
        mixed = np.random.SeedSequence((self.seed, self.steps)).generate_state(1)[0]  # torch uses 32 bits on a CPU
        return torch.Generator(device).manual_seed(int(mixed))


class Method(Settings):
    """A training method, and LFM by default: what a method leaves out is as in L_Total of eq. (1).

    Derive from it, add settings as fields, declare what it can do by the class variables, and override
    the hooks that differ (docs/extending.md). Outputs and labels are always those of the global batch,
    gathered from all ranks: fused (B, C), labels (B,) int64.
    """

    name: str

    heads: ClassVar[tuple[str, ...]] = ()
    """Fusion heads (`model.fusion`) that it works with, the first being its default; none: any."""

    exactly_two: ClassVar[bool] = False
    """Whether its definition knows no other number of modalities."""

    combines: ClassVar[bool] = True
    """Whether its loss can be weighed with L_MM by alpha."""

    matches_embeddings: ClassVar[bool] = True
    """Whether `loss.matching: infonce` has an effect; a projection head and a learned tau are built only then."""

    apart: ClassVar[bool] = False
    """Whether it makes theta's gradient itself, in `gradient`: needed by a method with several terms
    or phases, or with losses that do not reach every parameter."""

    cannot_learn_alpha: ClassVar[str] = ""
    """Why no alpha can be learned with it, to follow its name in a message; empty where one can."""

    no_hessian: ClassVar[str] = ""
    """Why solvers other than identity cannot be used with it; empty where they can."""

    follows_samples: ClassVar[bool] = False
    """Whether the inputs of `forward` hold the samples' row numbers too, (B,) int64, under `batches.ROWS`."""

    @classmethod
    def part(cls, name: str) -> type[Settings] | None:
        """See `Settings.part`."""
        return METHODS.get(name)

    def forward(self, network: nn.Module, inputs: Mapping[str, Tensor], state: State) -> Outputs:
        """The outputs for inputs of this rank; what it adds to `Outputs.extra`, (B, any), is gathered too."""
        return network(inputs)

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """L_CLS, a scalar: the method's loss without the matching."""
        return classification_loss(outputs.fused, labels, state.settings.uniform_labels)

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """L_Total = (1 - alpha) L_CLS + alpha L_MM. It changes nothing: it is also taken on other batches."""
        alpha, settings = state.alpha, state.settings
        classification = self.classification(outputs, labels, state)
        matching = matching_loss(outputs, settings) if self.combines else classification.new_zeros(())
        total = (1 - alpha) * classification + alpha * matching
        if self.apart and not alpha:
            total = classification  # the same, without zeros that go back from L_MM through all encoders

        def parts() -> list[ConvexPart]:
            def of_fused(logits: Tensor) -> Tensor:
                return classification_loss(logits, labels, settings.uniform_labels)

            return [ConvexPart(1 - alpha, -1.0, outputs.fused, of_fused), *matching_parts(outputs, alpha, settings)]

        return Losses(total, classification, matching, parts if self.convex else None)

    @property
    def convex(self) -> bool:
        """Whether its total is a sum of convex parts, which the Gauss-Newton product needs: that of LFM is."""
        return type(self).classification is Method.classification and type(self).loss is Method.loss

    def phases(self, state: State) -> Sequence[str]:
        """Names of the steps on theta that one batch is used for, one after the other (`State.phase`)."""
        return ("",)

    def gradient(self, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """theta's gradient, of those of the `Losses.terms`: each is parameter's name -> gradient, mean over ranks.

        Where `apart`. A parameter that is left out stays as it is in this phase.
        """
        return terms[0]

    def gradient_factors(self, outputs: Outputs, labels: Tensor, state: State) -> Mapping[str, Tensor]:
        """Modality -> what the gradient of its encoder is multiplied by (a scalar), before it is clipped."""
        return {}

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Changes the gradients of `state.model`, which are the same on every rank and not yet clipped."""
        named = state.model.named_parameters()
        gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
        scale_encoders(gradients, self.gradient_factors(outputs, labels, state))

    def learning_rate_factors(self, state: State) -> Mapping[str, float]:
        """Modality -> what the learning rate of its parameters is multiplied by in this step; 0 freezes them.

        Its parameters are those of its encoder, its projection and its own classifier in the head.
        """
        return {}

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Called with the row of the epoch (`val/...` of `lfm_ray.models.metrics`); returns values to add to it."""
        return {}

    def predict(self, outputs: Outputs) -> Tensor:
        """Logits (B, C) by which the multimodal model is judged."""
        return outputs.fused

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Refuses a number of modalities that the definition does not know.

        Raises:
            UserError: the method takes two modalities, and there are not two.
        """
        if self.exactly_two and len(modalities) != 2:
            raise UserError(
                f"method: {self.name} is defined for two modalities, and there are {len(modalities)}"
                f" ({', '.join(modalities)}); choose two by data.modalities"
            )

    def check_names(self, setting: str, names: Iterable[str], known: Sequence[str]) -> None:
        """Refuses, by a UserError, a name of one of the method's settings that is none of the known ones."""
        for name in names:
            if name not in known:
                raise UserError(f"method.{setting}.{name}: there is no such modality{nearest(name, known)}")


def scale_encoders(gradients: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
    """Multiplies the gradients of each modality's encoder, in place; gradients: parameter's name -> gradient."""
    for name, gradient in gradients.items():
        owner, modality = [*name.split("."), ""][:2]
        if owner == "encoders" and modality in factors:
            gradient.mul_(factors[modality])


METHODS: Registry[type[Method]] = Registry(
    "method",
    {
        "lfm": "lfm_ray.methods.lfm:LFM",
        "official": "lfm_ray.methods.official:Official",
        "unimodal": "lfm_ray.methods.unimodal:Unimodal",
        "mses": "lfm_ray.methods.mses:MSES",
        "g_blend": "lfm_ray.methods.g_blend:GBlend",
        "ogm_ge": "lfm_ray.methods.ogm_ge:OGMGE",
        "greedy": "lfm_ray.methods.greedy:Greedy",
        "domfn": "lfm_ray.methods.domfn:DOMFN",
        "mslr": "lfm_ray.methods.mslr:MSLR",
        "pmr": "lfm_ray.methods.pmr:PMR",
        "agm": "lfm_ray.methods.agm:AGM",
        "etmc": "lfm_ray.methods.etmc:ETMC",
        "mla": "lfm_ray.methods.mla:MLA",
        "mmpareto": "lfm_ray.methods.mmpareto:MMPareto",
        "qmf": "lfm_ray.methods.qmf:QMF",
        "recon_boost": "lfm_ray.methods.recon_boost:ReconBoost",
        "umt": "lfm_ray.methods.umt:UMT",
    },
    lambda part: isinstance(part, type) and issubclass(part, Method),
    "a subclass of lfm_ray.methods.Method",
)
