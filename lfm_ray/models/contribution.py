"""What each modality contributes to the fused prediction: Shapley values, preferences, missing modalities.

All of it comes from the embeddings of an evaluated split. A modality that is missing has zeros in place of its
embedding, as in `lfm_ray.methods.agm` and in the unimodal logits of the fusion heads, so no encoder runs again:
what is asked is which embeddings the trained head uses. A head that is trained with all modalities has not seen such
zeros; a modality that the head misses much is not for that reason one from which little can be learnt.

Where rows of the dataset lack a modality, the head has learnt to leave it out, and does so here; a modality that a
sample lacks adds nothing to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import torch
from torch import Tensor, nn

from lfm_ray.models.classifier import Outputs

EXACT = 4  # modalities, up to which Shapley values are exact; above, sampled orders
ORDERS = 16  # sampled orders of the modalities, each also taken backwards

Value = Callable[[frozenset[str]], np.ndarray]
"""What the modalities of a set reach together: an array of any shape, the same for all sets."""


def contribution_names(modalities: Iterable[str]) -> list[str]:
    """The keys of `contributions` for these modalities."""
    return [f"{name}/{key}" for name in modalities for key in ("shapley", "preferred", "missing_accuracy")] + [
        "shapley_gap"
    ]


def contributions(
    head: nn.Module, predict: Callable[[Outputs], Tensor], outputs: Outputs, labels: Tensor
) -> dict[str, float]:
    """What each modality contributes on a split.

    head: of the classifier; predict: outputs -> the logits (N, C) that the method predicts by; outputs, labels
    (N,): of the whole split. For each modality

    - `NAME/shapley`: its Shapley value, where a set of modalities is worth the accuracy that it reaches. The
      values add up to the accuracy of all modalities minus that of none (the one class that is then predicted);
    - `NAME/preferred`: the share of the samples for which it is worth the most (`preferences`) of those they have;
    - `NAME/missing_accuracy`: the accuracy without it, of the samples that have another modality;

    and `shapley_gap`, the highest of the Shapley values minus the lowest.
    """
    values = Coalitions(head, predict, outputs, labels)
    everyone = frozenset(outputs.embeddings)
    shares = shapley(list(outputs.embeddings), lambda some: values(some).mean(axis=1))
    preferred = preferences(sample_contributions(values), {name: values.having({name}) for name in everyone})
    found: dict[str, float] = {}
    for name, share in shares.items():
        found[f"{name}/shapley"] = float(share[0])
        found[f"{name}/preferred"] = float(preferred[name].mean())
        others = everyone - {name}
        rows = values.having(others) if others else np.ones(len(labels), dtype=bool)
        found[f"{name}/missing_accuracy"] = float(values(others)[0][rows].mean()) if rows.any() else 0.0
    worth = [found[f"{name}/shapley"] for name in shares]
    return found | {"shapley_gap": max(worth) - min(worth)}


class Coalitions:
    """Set of modalities -> (2, N): of each sample, whether it is recognised, and the probability of its class.

    Arguments as of `contributions`. Every set is computed once.
    """

    def __init__(self, head: nn.Module, predict: Callable[[Outputs], Tensor], outputs: Outputs, labels: Tensor) -> None:
        self.head, self.predict, self.outputs, self.labels = head, predict, outputs, labels
        self._known: dict[frozenset[str], np.ndarray] = {}

    @torch.no_grad()
    def __call__(self, some: frozenset[str]) -> np.ndarray:
        """Of the prediction in which only these modalities are present."""
        if some not in self._known:
            logits = self.logits(some)
            hits = logits.argmax(dim=1) == self.labels
            likelihood = logits.softmax(dim=1).gather(1, self.labels[:, None])[:, 0]
            self._known[some] = torch.stack([hits.double(), likelihood.double()]).cpu().numpy()
        return self._known[some]

    def having(self, some: Iterable[str]) -> np.ndarray:
        """(N,) bool: the samples that have at least one of these modalities."""
        rows = [self.outputs.rows_with(name) for name in some]
        if not all(isinstance(one, Tensor) for one in rows):
            return np.ones(len(self.labels), dtype=bool)
        return torch.stack([one for one in rows if one is not None]).any(dim=0).cpu().numpy()

    def logits(self, some: frozenset[str]) -> Tensor:
        """(N, C), by which the method predicts where only these modalities are present."""
        if len(some) == len(self.outputs.embeddings):
            return self.predict(self.outputs).float()
        embeddings = {
            name: value if name in some else torch.zeros_like(value) for name, value in self.outputs.embeddings.items()
        }
        training = self.head.training
        self.head.eval()
        try:
            if present := self._present(some):
                fused, unimodal = self.head(embeddings, present)
            else:
                fused, unimodal = self.head(embeddings)
        finally:
            self.head.train(training)
        changed = {"fused": fused, "unimodal": unimodal, "embeddings": embeddings, "present": present}
        logits = self.predict(replace(self.outputs, **changed))
        # A head that divides by the length of an embedding, and has none, knows nothing.
        return logits.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _present(self, some: frozenset[str]) -> dict[str, Tensor]:
        """Which samples have which modality, if only these are present; empty where rows of the dataset lack none."""
        if not self.outputs.present:
            return {}
        ones = torch.ones_like(self.outputs.fused[:, :1])
        return {
            name: self.outputs.present.get(name, ones) if name in some else torch.zeros_like(ones)
            for name in self.outputs.embeddings
        }


def shapley(players: Sequence[str], value: Value) -> dict[str, np.ndarray]:
    """Player -> its Shapley value: what it adds to those who are there before it, the mean over all orders.

    Exact for up to `EXACT` players. Above, the mean over `ORDERS` random orders, always the same ones, and these
    backwards (antithetic sampling, Mitchell et al., JMLR 2022); either way the values add up to
    value(all) - value(none). value is called anew for equal sets: let it remember.
    """
    orders: list[Sequence[str]] = [*permutations(players)] if len(players) <= EXACT else _sampled(players)
    added: dict[str, list[np.ndarray]] = {name: [] for name in players}
    for order in orders:
        sets = [frozenset(order[:n]) for n in range(len(order) + 1)]
        for name, (before, after) in zip(order, pairwise(sets), strict=True):
            added[name].append(value(after) - value(before))
    return {name: np.mean(each, axis=0) for name, each in added.items()}


def _sampled(players: Sequence[str]) -> list[Sequence[str]]:
    random = np.random.default_rng(0)
    orders = [[players[i] for i in random.permutation(len(players))] for _ in range(ORDERS)]
    return [one for order in orders for one in (order, order[::-1])]


def sample_contributions(values: Coalitions) -> dict[str, np.ndarray]:
    """Modality -> (N,), its Shapley value for each sample, where a set is worth the probability of the true class."""
    return shapley(list(values.outputs.embeddings), lambda some: values(some)[1])


def preferences(
    contributed: dict[str, np.ndarray], present: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Modality -> (N,), 1 where it contributes the most to a sample, else 0; equals share the 1.

    contributed: of `sample_contributions`. present: modality -> (N,) bool, whether a sample has it, which only then
    can be the one; None: all have all.
    """
    stacked = np.stack([np.where((present or {}).get(name, True), one, -np.inf) for name, one in contributed.items()])
    most = np.isclose(stacked, stacked.max(axis=0), rtol=0, atol=1e-9)
    return dict(zip(contributed, most / most.sum(axis=0), strict=True))
