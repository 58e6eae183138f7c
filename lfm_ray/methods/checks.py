"""Calls of a method's hooks, which may be anybody's, with a look at what they return.

Without it, a loss for each sample or a forgotten `return` would come to light somewhere in PyTorch, with a message that
names nobody. Each function raises a UserError that names the method and the hook.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor, nn

from lfm_ray.errors import UserError
from lfm_ray.methods.base import Losses, Method, Row, State
from lfm_ray.models.classifier import Outputs, is_dense
from lfm_ray.models.evaluation import METRICS
from lfm_ray.own_parts import called, is_number, returned

LATER = ("seconds", "best_epoch", "stopped_early")  # what is added to the row of an epoch after `on_epoch_end`


def forward(method: Method, network: nn.Module, inputs: Mapping[str, Tensor], state: State) -> Outputs:
    """`Method.forward`: outputs, of which each extra has a row for each sample."""
    outputs = method.forward(network, inputs, state)
    _check(method, "forward", outputs, isinstance(outputs, Outputs), "lfm_ray.models.classifier.Outputs")
    for name, extra in outputs.extra.items():
        rows = isinstance(extra, Tensor) and extra.ndim == 2 and len(extra) == len(outputs.fused)
        _check(method, f"forward, as extra {name!r},", extra, rows, f"a tensor of shape ({len(outputs.fused)}, any)")
    return outputs


def loss(method: Method, outputs: Outputs, labels: Tensor, state: State) -> Losses:
    """`Method.loss`: scalars."""
    losses = method.loss(outputs, labels, state)
    _check(method, "loss", losses, isinstance(losses, Losses), "lfm_ray.methods.base.Losses")
    named = {"total": losses.total, "classification": losses.classification, "matching": losses.matching}
    for name, value in [*named.items(), *(("one of terms", term) for term in losses.terms)]:
        scalar = isinstance(value, Tensor) and value.ndim == 0
        _check(method, f"loss, as {name},", value, scalar, "a scalar tensor, such as a mean over the samples")
    return losses


def gradient(method: Method, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
    """`Method.gradient`: gradients of parameters that there are, in their shapes."""
    found = method.gradient(terms, state)
    _check(method, "gradient", found, isinstance(found, dict), "a dict: name of a parameter -> its gradient")
    for name, value in found.items():
        known = terms[0].get(name)
        right = known is not None and isinstance(value, Tensor) and value.shape == known.shape
        must_be = "no such parameter" if known is None else f"a tensor of shape {tuple(known.shape)}"
        _check(method, f"gradient, for {name!r},", value, right, must_be)
    return found


def predict(method: Method, outputs: Outputs) -> Tensor:
    """`Method.predict`: logits (N, C)."""
    logits, shape = method.predict(outputs), tuple(outputs.fused.shape)
    _check(method, "predict", logits, is_dense(logits, shape), f"logits of shape {shape}, floating-point numbers")
    return logits


def measures(method: Method, outputs: Outputs, labels: Tensor, known: Container[str]) -> Row:
    """`Method.measures`: numbers by names other than those that are known."""
    return _row(method, "measures", method.measures(outputs, labels), known)


def on_epoch_end(method: Method, state: State, metrics: Mapping[str, float]) -> Row:
    """`Method.on_epoch_end`: numbers by names other than those of the metrics; what it remembers can be saved."""
    row = _row(method, "on_epoch_end", method.on_epoch_end(state, dict(metrics)), {*metrics, *LATER})
    for name, value in state.memory.items():
        plain = isinstance(name, str) and _is_plain(value)
        must_be = "a tensor, a number, a text, or lists and dicts of these, which a checkpoint can hold"
        _check(method, f"state.memory, as {name!r},", value, plain, must_be)
    return row


def metric(name: str, logits: Tensor, labels: Tensor, outputs: Outputs) -> float:
    """A metric of somebody's own: a number."""
    value = called(f"metric {name}", METRICS[name], logits.clone(), labels.clone(), outputs)
    returned(f"metric {name}", value, is_number(value), "a number")
    return float(value)


def _row(method: Method, hook: str, row: Any, known: Container[str]) -> Row:
    _check(method, hook, row, isinstance(row, Mapping), "a dict: name -> number")
    for name, value in row.items():
        if not isinstance(name, str) or name in known:
            why = "lfm_ray uses it for something else" if isinstance(name, str) else "it is no text"
            raise UserError(f"method {method.name}: {hook} returned the name {name!r}; give it another, as {why}")
        _check(method, f"{hook}, as {name!r},", value, is_number(value), "a number")
    return {name: float(value) if isinstance(value, Tensor) else value for name, value in row.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str | int | float) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, Tensor | str | int | float | None)


def _check(method: Method, hook: str, value: Any, right: bool, must_be: str) -> None:
    if not right:
        returned(f"method {method.name}: {hook}", value, right, must_be)
