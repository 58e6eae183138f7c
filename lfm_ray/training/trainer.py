"""The trainer: the state of a run, and the two updates of Algorithm 1, of theta and of alpha."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch, Batches
from lfm_ray.datasets.reading.inputs import seen
from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.methods import Losses, State, checks, scale_encoders
from lfm_ray.methods.losses import ConvexPart
from lfm_ray.models.classifier import MultimodalClassifier, Outputs
from lfm_ray.models.contribution import contributions
from lfm_ray.models.evaluation import confusions, evaluate
from lfm_ray.models.targets import target_of
from lfm_ray.optimization.alpha import AlphaController
from lfm_ray.optimization.hypergradient import (
    flat_gradient,
    flatten,
    gauss_newton,
    gradient,
    hessian_product,
    hypergradient,
    look_ahead,
    official_gradient,
    twice_differentiable,
    undisturbed,
)
from lfm_ray.optimization.optimizer import after_epoch, after_step, build_optimizer, scaled_rates
from lfm_ray.optimization.schedules import AlphaGradient, Learned
from lfm_ray.runtime import checkpoint, compute, distributed
from lfm_ray.runtime.profiling import part
from lfm_ray.training.best_epoch import BestEpoch
from lfm_ray.training.gradient_cache import cached_gradient
from lfm_ray.training.run_folder import STOPPED_EARLY

Row = dict[str, float]


def build_model(config: RunConfig, card: DatasetCard) -> MultimodalClassifier:
    """The model of a run, on the CPU, with its initial weights.

    Raises:
        UserError: the method, an encoder or the fusion head does not fit the modalities, or a loss the targets.
    """
    method = config.method
    modalities = seen(card, config.data)
    method.check_modalities(list(modalities))
    config.check_target(card)
    config.check_missing(card)
    infonce = method.matches_embeddings and config.loss.matching == "infonce"
    return MultimodalClassifier(
        modalities,
        card.outputs,
        config.model,
        projection_size=config.model.projection_size if infonce else None,
        tau=config.loss.tau if infonce and config.loss.learn_tau else None,
    )


@dataclass(frozen=True)
class Step:
    """What one training step gave.

    losses: before the step, the mean over its phases. outputs, labels: of the global batch, without a
    graph. d: the gradient of L_MM - L_CLS with respect to theta, one tensor a parameter, where
    `before_alpha` asked for it and the solver is identity; else empty.
    """

    losses: Losses
    outputs: Outputs
    labels: Tensor
    d: list[Tensor] = field(default_factory=list)


class Trainer:
    """The state of a training run: theta, its optimiser, alpha, the epoch and what was measured.

    config: what to run; card: the dataset's description. `wrap` turns the model into what the
    forward pass of training goes through (DistributedDataParallel where there are several ranks).
    """

    def __init__(
        self, config: RunConfig, card: DatasetCard, wrap: Callable[[nn.Module], nn.Module] | None = None
    ) -> None:
        self.config, self.card, self.loss_settings = config, card, config.loss
        self.device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
        if config.device == "cuda" and self.device.type != "cuda":
            raise TrainingFailed("device: cuda was asked for, and there is no usable GPU")
        torch.manual_seed(config.seed)
        self.method = config.method
        self.model = build_model(config, card).to(self.device)
        synchronise = compute.synchronised(
            self.device,
            distributed.rank_and_world_size()[1],
            second_derivatives=config.learns_alpha and not config.looks_ahead,
            micro_batches=config.data.micro_batch_size is not None,
        )
        compute.arrange(self.model, config.compute, config.model, self.device, synchronise)
        self.averaged: AveragedModel | None = None
        if decay := config.optimizer.ema_decay:
            self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=torch.float16 in self.model.autocast.values())
        self.network = wrap(self.model) if wrap else self.model
        self.named = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.parameters = list(self.named.values())
        self.alpha = AlphaController(config.alpha, config.epochs)
        self.epoch = 0
        self.steps = 0
        self.history: list[Row] = []
        self.memory: dict[str, Any] = {}
        self.best = BestEpoch(config.checkpoint, config.epochs)
        self.confusions: dict[str, list[list[int]]] = {}  # of the last evaluation (`models.evaluation.confusions`)
        self._restored: dict[str, Any] | None = None

    def know_classes(self, counts: Sequence[int]) -> None:
        """Tells how many rows each class has in the training split, which `loss.class_weights: balanced` asks for."""
        self.loss_settings = self.loss_settings.balanced(counts)

    def prepare(self, steps_an_epoch: int) -> None:
        """Makes the optimiser, whose schedule needs the number of steps, and restores its state."""
        factors = {name: self.config.model.of(name).learning_rate_factor for name in self.model.encoders}
        self.optimizer, self.scheduler = build_optimizer(
            self.config.optimizer, self.model, steps_an_epoch, self.config.epochs, factors
        )
        if self._restored:
            try:
                self.optimizer.load_state_dict(self._restored["optimizer"])
                self.scheduler.load_state_dict(self._restored["scheduler"])
                self.scaler.load_state_dict(self._restored["scaler"])
                checkpoint.set_random_state(self._restored["random"], self.device)
            except torch.OutOfMemoryError:
                raise
            except (LookupError, ValueError, TypeError, AttributeError, RuntimeError):  # PyTorch checks little
                raise UserError(
                    "the checkpoint's optimiser, schedule or random numbers are not those of its run; put the right"
                    " checkpoint.pt back, or remove it to begin anew"
                ) from None
            self._restored = None

    def state(self, phase: str = "") -> State:
        """Where the run stands, for its method."""
        config = self.config
        return State(
            self.model,
            self.loss_settings,
            self.alpha.value,
            self.epoch + 1,
            config.epochs,
            self.steps,
            config.seed,
            phase,
            self.memory,
            self.card.rows("train") if "train" in self.card.splits else 0,
        )

    def losses(self, batch: Batch, through: nn.Module | None = None, state: State | None = None) -> Losses:
        """The losses of the global batch of which `batch` is this rank's share."""
        return self._passed(batch, through or self.model, state or self.state()).losses

    def _passed(self, batch: Batch, network: nn.Module, state: State) -> Step:
        """The losses of a global batch, with its outputs."""
        with part("data"):
            batch = self._ready(batch)
        with part("forward"):
            outputs = checks.forward(self.method, network, batch.inputs, state)
        return self._judged(outputs, batch.labels, state)

    def training_step(self, batch: Batch, before_alpha: bool = False) -> Step:
        """The optimiser's step on theta, or one for each phase of the method.

        before_alpha: `alpha_gradient` follows. With the identity solver the result then holds d, taken
        from the graph of this step at the cost of one more backward pass.
        """
        with_d = before_alpha and self.config.looks_ahead
        phases = [self._phase(batch, self.state(phase), with_d) for phase in self.method.phases(self.state())]
        with part("optimiser"):
            after_step(self.scheduler)
            self.model.clamp_tau()
            if self.averaged:
                self.averaged.update_parameters(self.model)
        self.steps += 1
        return replace(phases[-1], losses=Losses.mean([one.losses for one in phases]))

    def _phase(self, batch: Batch, state: State, with_d: bool) -> Step:
        """One step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        d: list[Tensor] = []
        if size := self.config.data.micro_batch_size:
            if with_d:
                with part("alpha update"), undisturbed(self.model):
                    _, d = self._cached(batch, size, lambda losses: losses.matching - losses.classification)
            step, gradients = self._cached(batch, size)
            self._set_gradient(dict(zip(self.named, gradients, strict=True)))
        elif self.method.apart:
            step = self._passed(batch, self.model, state)
            with part("backward"):
                terms = [
                    gradient(self.scaler.scale(term), self.parameters, keep=True)
                    for term in step.losses.terms or [step.losses.total]
                ]
                named = [dict(zip(self.named, values, strict=True)) for values in terms]
                self._set_gradient(checks.gradient(self.method, named, state))
        else:
            step = self._passed(batch, self.network, state)
            if with_d:  # before the step's own backward pass, which frees the graph as it goes
                with part("alpha update"):
                    by_alpha = self.scaler.scale(step.losses.matching - step.losses.classification)
                    d = gradient(by_alpha, self.parameters, keep=True)
            with part("backward"):
                self.scaler.scale(step.losses.total).backward()
        with part("optimiser"):
            self.scaler.unscale_(self.optimizer)
            with torch.no_grad():
                if with_d:
                    d = self._unscaled(d)
                    factors = self.method.gradient_factors(step.outputs, step.labels, state)
                    scale_encoders(dict(zip(self.named, d, strict=True)), factors)
                self.method.after_backward(step.outputs, step.labels, state)
            if self.config.optimizer.gradient_clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.gradient_clip)
            with scaled_rates(self.optimizer, self.method.learning_rate_factors(state)):
                self.scaler.step(self.optimizer)
            self.scaler.update()
        return replace(step, d=d)

    def _set_gradient(self, gradients: Mapping[str, Tensor]) -> None:
        for name, value in gradients.items():
            # In the parameter's own memory format, which PyTorch's fused optimisers take for granted.
            self.named[name].grad = torch.empty_like(self.named[name]).copy_(value)

    @part("alpha update")
    def gradient_norms(self, batch: Batch) -> tuple[float, float]:
        """The norms of the gradients of L_MM and of L_CLS with respect to theta, in float32; the same on every rank."""
        kinds: list[Callable[[Losses], Tensor]] = [lambda losses: losses.matching, lambda losses: losses.classification]
        with undisturbed(self.model), self.model.in_float32():
            if size := self.config.data.micro_batch_size:
                found = [self._unscaled(self._cached(batch, size, kind)[1]) for kind in kinds]
            else:
                losses = self.losses(batch)
                found = [
                    self._unscaled(gradient(self.scaler.scale(kind(losses)), self.parameters, keep=True))
                    for kind in kinds
                ]
        norms = [float(flatten(one).double().norm()) for one in found]
        matching, classification = (distributed.from_rank_zero(norm, self.device) for norm in norms)
        return matching, classification

    @part("alpha update")
    def alpha_gradient(self, batch: Batch, outer: Iterator[Batch], d: list[Tensor]) -> AlphaGradient:
        """What alpha is updated by, after a training step on `batch`, the inner batch; the same on every rank.

        d: `Step.d` of that step, which the identity solver needs; the others take none.

        Eq. (3), with d before the step and g after it for the identity solver: so it is the exact
        derivative through that step of gradient descent, in the precision of that step. Other
        solvers take both after it, and all in float32.
        """
        settings, theta = self.config.alpha, self.parameters
        assert isinstance(settings, Learned)
        held_out = batch if settings.outer == "inner" else next(outer)
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self.model))
            if not self.config.looks_ahead:
                stack.enter_context(twice_differentiable(self.model))
                stack.enter_context(self.model.in_float32())
            self.optimizer.zero_grad(set_to_none=True)  # used, and as large as what follows
            if size := self.config.data.micro_batch_size:
                _, g = self._cached(held_out, size, lambda losses: losses.judged)
            else:
                g = gradient(self.scaler.scale(self.losses(held_out).judged), theta)
            g = self._unscaled(g)
            if self.config.looks_ahead:
                value = look_ahead(d, g)
                if self.scaler.is_enabled() and not math.isfinite(value.value):
                    value = AlphaGradient(0.0)  # too large for float16: alpha stays, as theta does at such a step
            else:
                value = self._solved(batch, flatten(g), settings)
        return self._from_rank_zero(value)

    @part("alpha update")
    def alpha_gradient_before_epoch(self, outer: Batch) -> AlphaGradient:
        """What the official code updates alpha by, before an epoch; the same on every rank.

        Of the untrained model in training mode, which moves BatchNorm's running statistics, and of later
        ones in evaluation mode.
        """
        untrained = self.steps == 0
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self.model, buffers=not untrained))
            stack.enter_context(twice_differentiable(self.model))
            stack.enter_context(self.model.in_float32())
            self.model.train(untrained)
            few = self.losses(outer)
            total = (1 - self.alpha.value) * few.classification + self.alpha.value * few.matching
            value = official_gradient(total, few.classification, self.parameters)
            self.model.train()
        return self._from_rank_zero(value)

    def _from_rank_zero(self, found: AlphaGradient) -> AlphaGradient:
        return AlphaGradient(*(distributed.from_rank_zero(one, self.device) for one in found))

    def _solved(self, inner: Batch, g: Tensor, settings: Learned) -> AlphaGradient:
        """Eq. (3) with the product that the settings name."""
        if settings.product == "hessian":
            losses = self.losses(inner)
            d = flat_gradient(losses.matching - losses.classification, self.parameters, keep=True)
            return hypergradient(d, g, hessian_product(losses.total, self.parameters), settings)
        inner, random = compute.on_device(inner, self.device), checkpoint.random_state(self.device)

        def parts_of(theta: Sequence[Tensor]) -> list[ConvexPart]:
            checkpoint.set_random_state(random, self.device)  # the same dropout masks at every call
            outputs = functional_call(self.model, dict(zip(self.named, theta, strict=True)), (inner.inputs,))
            parts = self._judged(outputs, inner.labels, self.state()).losses.parts
            if parts is None:
                method = self.method.name
                raise TrainingFailed(f"method {method} has no Gauss-Newton product; set alpha.product=hessian")
            return parts()

        product, d = gauss_newton(parts_of, self.parameters)
        return hypergradient(d, g, product, settings)

    @part("loss")
    def _judged(self, outputs: Outputs, labels: Tensor, state: State) -> Step:
        """The losses of outputs and labels (of this rank), gathered from all ranks."""
        # In one piece, every loss reaches every parameter, as DDP needs; a method that makes its gradients itself
        # is spared the zeros that would go back through the encoders that its loss does not know.
        gather = outputs.each if self.method.apart else outputs.map
        gathered, labels = gather(distributed.gather_rows), distributed.gather_rows(labels)
        return Step(checks.loss(self.method, gathered, labels, state), gathered.detach(), labels)

    def _cached(
        self, batch: Batch, size: int, what: Callable[[Losses], Tensor] = lambda losses: losses.total
    ) -> tuple[Step, list[Tensor]]:
        """The step and the gradient of one of its losses, with `size` samples in memory at once."""
        batch, state = self._ready(batch), self.state()
        return cached_gradient(
            self.model,
            batch,
            size,
            lambda inputs: checks.forward(self.method, self.model, inputs, state),
            lambda outputs, labels: self._judged(outputs, labels, state),
            self.parameters,
            lambda step: self.scaler.scale(what(step.losses)),
        )

    def _ready(self, batch: Batch) -> Batch:
        return compute.on_device(batch.with_rows() if self.method.follows_samples else batch, self.device)

    def _unscaled(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients of a loss that the scaler of float16 has scaled, as they are without."""
        if not self.scaler.is_enabled():
            return gradients
        return [one / self.scaler.get_scale() for one in gradients]

    def evaluate(self, batches: Batches) -> Row:
        """The metrics of a whole split, the same on every rank.

        Those of `measured`, of classes also `lfm_ray.models.contribution.contributions`, and the user's own.

        Of the moving average of the weights, where there is one (`optimizer.ema_decay`).

        Raises:
            TrainingFailed: the outputs are not finite.
        """
        whole, labels = self.outputs(batches)
        fused = checks.predict(self.method, whole)
        if not torch.isfinite(fused).all():
            raise TrainingFailed("the model's outputs became NaN or infinite; a lower learning rate may help")
        self.confusions = confusions(fused, whole, labels)
        row = self.measured(whole, labels) | self._contributions(whole, labels)
        # Last, as one may alter what it is given.
        return row | {name: checks.metric(name, fused, labels, whole) for name in self.config.metrics}

    def _contributions(self, outputs: Outputs, labels: Tensor) -> Row:
        if target_of(labels).kind != "classes":
            return {}
        head = self.evaluated.get_submodule("head")
        return contributions(head, lambda some: checks.predict(self.method, some), outputs, labels)

    def measured(self, outputs: Outputs, labels: Tensor) -> Row:
        """`lfm_ray.models.evaluation.evaluate` of outputs, and what the method measures."""
        values = evaluate(checks.predict(self.method, outputs), outputs, labels, self.card.target.std)
        return values | checks.measures(self.method, outputs, labels, values)

    def outputs(self, batches: Batches) -> tuple[Outputs, Tensor]:
        """What the evaluated model says of a whole split, and the labels (N,); the same on every rank."""
        model = self.evaluated
        model.eval()
        parts: list[Outputs] = []
        labels: list[Tensor] = []
        with torch.no_grad():
            for batch in batches.epoch(1):
                batch = compute.on_device(batch, self.device)
                outputs: Outputs = model(batch.inputs)
                parts.append(outputs.map(distributed.gather_rows))
                labels.append(distributed.gather_rows(batch.labels))
        model.train()
        return Outputs.join(parts), torch.cat(labels)

    def end_of_epoch(self, row: Row) -> Row:
        """Shows an epoch's row to the learning rate's schedule and to the method, and returns what that adds to it."""
        after_epoch(self.scheduler, distributed.from_rank_zero(row["train/loss"], self.device))
        return checks.on_epoch_end(self.method, self.state(), row)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is measured: that of the averaged weights, where there is one."""
        return self.averaged.module if self.averaged else self.model

    @property
    def ended(self) -> bool:
        """Whether the run has trained all its epochs, or has run out of patience."""
        return self.epoch == self.config.epochs or (bool(self.history) and STOPPED_EARLY in self.history[-1])

    def learned_tau(self) -> Row:
        """`tau`, where it is learned."""
        tau = self.model.tau()
        return {} if tau is None else {"tau": float(tau.detach())}

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit for bit after this epoch."""
        return {
            "config": self.config.model_dump(mode="json"),
            "card": self.card.model_dump(mode="json"),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "random": checkpoint.random_state(self.device),
            "alpha": self.alpha.value,
            "epoch": self.epoch,
            "steps": self.steps,
            "history": self.history,
            "memory": dict(self.memory),
            "best": self.best.kept,
        }

    def weights(self) -> dict[str, Any]:
        """The model that `evaluate` measures, after this epoch, for `checkpoint.save`."""
        config = self.config.model_dump(mode="json")
        return {"config": config, "epoch": self.epoch, "model": self.evaluated.state_dict()}

    def best_weights(self) -> dict[str, Any]:
        """The model after the best epoch, with all that an export needs, for `checkpoint.save`."""
        assert self.best.kept is not None
        config, card, epoch = self.config.model_dump(mode="json"), self.card.model_dump(mode="json"), self.best.epoch
        weights, history = self.best.kept["weights"], self.history[:epoch]
        return {"config": config, "card": card, "epoch": epoch, "model": weights, "averaged": None, "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`; call it before `fit`."""
        self.model.load_state_dict(state["model"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.alpha.value, self.epoch, self.steps = state["alpha"], state["epoch"], state["steps"]
        self.history, self.best.kept = list(state["history"]), state.get("best")
        memory = state["memory"].items()
        self.memory = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in memory}
        self._restored = state
