"""Fusion heads: embeddings -> fused logits, and logits of each modality alone.

A head takes embeddings z_1 ... z_m, each (B, d), and returns fused logits (B, C) and logits (B, C) for
each modality. If a head has no classifier for a single modality, its unimodal logits are the fused
ones with the other embeddings set to zero: no weights are added, and training the fusion trains them.

Where samples lack a modality, its embedding is zero there, and a head that `takes_missing` is told so: the fused
logits are then those of the modalities that are there. The unimodal logits of one that is not mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lfm_ray.errors import UserError
from lfm_ray.registry import Registry
from lfm_ray.settings import Settings

Logits = tuple[Tensor, dict[str, Tensor]]
"""Fused logits (B, C), and modality -> logits (B, C)."""

Present = Mapping[str, Tensor]
"""Modality -> (B, 1), bool or 1 and 0: whether each sample has it. All samples have those that are not named."""


class Head(nn.Module):
    """Base of all fusion heads.

    modalities: their names, in the order in which a head takes them; embedding_size: d; classes: C. A
    head with settings of its own takes them as further keyword arguments.
    """

    settings_class: ClassVar[type[Settings]] = Settings
    """What `model.fusion_settings` may hold: nothing."""

    exactly_two: ClassVar[bool] = False
    """Whether the head is defined for two modalities only."""

    takes_missing: ClassVar[bool] = False
    """Whether `forward` takes, as `present`, which samples have which modality, and leaves the others out."""

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__()
        self.modalities = list(modalities)

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """embeddings: modality -> (B, d); present: given only where a sample lacks a modality."""
        raise NotImplementedError


def sum_of_present(values: Mapping[str, Tensor], present: Present | None) -> Tensor:
    """(B, C): the sum of those values, modality -> (B, C), that a sample has."""
    there = {name: one.bool() for name, one in (present or {}).items()}
    return torch.stack(
        [torch.where(there[name], value, 0) if name in there else value for name, value in values.items()]
    ).sum(dim=0)


def mean_of_present(values: Mapping[str, Tensor], present: Present | None) -> Tensor:
    """(B, C): the mean of those values, modality -> (B, C), that a sample has; 0 where it has none."""
    if not present:
        return torch.stack(list(values.values())).mean(dim=0)
    absent = torch.stack([~one.bool() for name, one in present.items() if name in values]).sum(dim=0)
    return sum_of_present(values, present) / (len(values) - absent).clamp_min(1)


class Sum(Head):
    """Prediction summation: l_j = W_j z_j + b_j, fused = sum_j l_j."""

    takes_missing = True

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.classifiers = nn.ModuleDict({name: nn.Linear(embedding_size, classes) for name in modalities})

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the l_j."""
        unimodal = {name: classifier(embeddings[name]) for name, classifier in self.classifiers.items()}
        return sum_of_present(unimodal, present), unimodal


class Weight(Sum):
    """Prediction weighting: fused = sum_j w_j l_j with l_j = W_j z_j + b_j, w = softmax over modalities.

    The weight of a modality is learned and depends on the sample: w_j is the softmax of
    v . tanh(U z_j + a), an attention network shared by the modalities, as in Yang et al.,
    "Comprehensive semi-supervised multi-modal learning", IJCAI 2019.
    """

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.attention = nn.Sequential(
            nn.Linear(embedding_size, embedding_size), nn.Tanh(), nn.Linear(embedding_size, 1, bias=False)
        )

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the l_j; the softmax is over the modalities that a sample has."""
        _, unimodal = super().forward(embeddings)
        scores = torch.stack([self.attention(embeddings[name]) for name in unimodal])  # (m, B, 1)
        if present:
            everywhere = torch.ones_like(scores[0])
            there = torch.stack([present.get(name, everywhere).bool() for name in unimodal])
            scores = scores.masked_fill(~there, -torch.inf)
        return (F.softmax(scores, dim=0) * torch.stack(list(unimodal.values()))).sum(dim=0), unimodal


class Concat(Head):
    """One linear classifier on the concatenated embeddings, fused = W [z_1; ...; z_m] + b.

    The logits of modality j are its share W_j z_j + b / m (Peng et al., OGM-GE, CVPR 2022), so the
    shares add up to the fused logits, also where a sample lacks a modality.
    """

    takes_missing = True

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.classifier = nn.Linear(embedding_size * len(self.modalities), classes)

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the shares."""
        return self._joint(embeddings, present), self._shares(embeddings)

    def _joint(self, embeddings: Mapping[str, Tensor], present: Present | None) -> Tensor:
        """The fused logits."""
        if present:
            return sum_of_present(self._shares(embeddings), present)
        return self.classifier(torch.cat([embeddings[name] for name in self.modalities], dim=1))

    def _shares(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        m = len(self.modalities)
        weights = self.classifier.weight.chunk(m, dim=1)
        return {
            name: embeddings[name] @ weight.T + self.classifier.bias / m
            for name, weight in zip(self.modalities, weights, strict=True)
        }


class Multitask(Concat):
    """Concat, and a separate linear classifier for each modality, l_j = V_j z_j + c_j.

    For methods whose loss has a term for each modality; other methods do not train the l_j.
    """

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.classifiers = nn.ModuleDict({name: nn.Linear(embedding_size, classes) for name in modalities})

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the l_j."""
        fused = self._joint(embeddings, present)
        return fused, {name: classifier(embeddings[name]) for name, classifier in self.classifiers.items()}


class CosineSettings(Settings):
    """Settings of the head `cosine`."""

    scale: float = Field(10.0, gt=0, le=1000, description="s, by which the cosines are multiplied (MMCosine: 10)")


class Cosine(Head):
    """Sum of scaled cosines: l_j = s cos(W_j, z_j), class by class, fused = sum_j l_j (MMCosine, ICASSP 2023).

    No modality can gain weight in the sum by longer embeddings or weights.
    """

    settings_class = CosineSettings
    takes_missing = True

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int, scale: float = 10.0) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.scale = scale
        self.classifiers = nn.ModuleDict({name: nn.Linear(embedding_size, classes, bias=False) for name in modalities})

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the l_j."""
        unimodal = {
            name: self.scale * F.normalize(embeddings[name], dim=1) @ F.normalize(self._rows(name), dim=1).T
            for name in self.modalities
        }
        return sum_of_present(unimodal, present), unimodal

    def _rows(self, name: str) -> Tensor:
        return self.get_parameter(f"classifiers.{name}.weight")


class Shared(Head):
    """One classifier serves every modality: l_j = W z_j + b, fused = mean_j l_j (MLA, CVPR 2024)."""

    takes_missing = True

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.classifier = nn.Linear(embedding_size, classes)

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the l_j."""
        unimodal = {name: self.classifier(embeddings[name]) for name in self.modalities}
        return mean_of_present(unimodal, present), unimodal


class BoostedSettings(Settings):
    """Settings of the head `boosted`."""

    hidden: int = Field(256, ge=1, description="size of the hidden layer (ReconBoost: 256)")
    rate: float = Field(1.0, gt=0, le=10, description="c before training (ReconBoost: 1, MView40 0.5; 1.27 at the end)")


class Boosted(Head):
    """One network of two layers serves every modality: l_j = W_2 ReLU(W_1 z_j + b_1) + b_2, fused = c sum_j l_j.

    c is trained. As in ReconBoost (ICML 2024; huacong/ReconBoost at 14ab57a; equal: tests/parity).
    """

    settings_class = BoostedSettings
    takes_missing = True

    def __init__(
        self, modalities: Sequence[str], embedding_size: int, classes: int, hidden: int = 256, rate: float = 1.0
    ) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.classifier = nn.Sequential(nn.Linear(embedding_size, hidden), nn.ReLU(), nn.Linear(hidden, classes))
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the l_j."""
        unimodal = {name: self.classifier(embeddings[name]) for name in self.modalities}
        return self.rate * sum_of_present(unimodal, present), unimodal


class Affine(Head):
    """FiLM (Perez et al., AAAI 2018): the first modality scales and shifts the second, channel by channel.

    [gamma; beta] = U z_1 + a, fused = W (gamma * z_2 + beta) + b. Takes exactly two modalities, in the
    order of `data.modalities`.
    """

    exactly_two = True

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.film = nn.Linear(embedding_size, 2 * embedding_size)
        self.classifier = nn.Linear(embedding_size, classes)

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the fused ones with the other embedding set to zero."""
        first, second = self.modalities
        return _with_zeros(self._fused, embeddings[first], embeddings[second], self.modalities)

    def _fused(self, first: Tensor, second: Tensor) -> Tensor:
        gamma, beta = self.film(first).chunk(2, dim=1)
        return self.classifier(gamma * second + beta)


class Gated(Head):
    """The first modality gates the second: fused = W (sigmoid(U z_1 + a) * (V z_2 + c)) + b.

    Kiela et al., "Efficient large-scale multi-modal classification", AAAI 2018, in the form that
    OGM-GE (CVPR 2022) compares with. Takes exactly two modalities, in the order of `data.modalities`.
    """

    exactly_two = True

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.gate = nn.Linear(embedding_size, embedding_size)
        self.value = nn.Linear(embedding_size, embedding_size)
        self.classifier = nn.Linear(embedding_size, classes)

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the fused ones with the other embedding set to zero."""
        first, second = self.modalities
        return _with_zeros(self._fused, embeddings[first], embeddings[second], self.modalities)

    def _fused(self, first: Tensor, second: Tensor) -> Tensor:
        return self.classifier(self.gate(first).sigmoid() * self.value(second))


class ChannelSettings(Settings):
    """Settings of the head `channel`; `{gate: 2, squeeze: 0.25}` is MMTM as the paper prints it."""

    gate: float = Field(1.0, gt=0, le=10, description="factor of the sigmoid (MMTM's paper: 2; its code: 1)")
    squeeze: float = Field(
        0.5, gt=0, le=10, description="entries of s over those of all embeddings (MMTM's paper: 1/4; its code: 1/2)"
    )


class Channel(Head):
    """Channel-wise fusion by a multimodal transfer module (MMTM, Joze et al., CVPR 2020), on embeddings.

    s = ReLU(U [z_1; ...; z_m] + a) with `squeeze` m d entries; each modality's channels are rescaled by
    g_j = `gate` sigmoid(V_j s + c_j), and l_j = W_j (g_j * z_j) + b_j. The fused logits are the mean of the
    l_j, as in MMTM's late fusion of two streams. The defaults are those of the code that was read,
    haamoon/mmtm at 1c81cfe and nyukat/greedy_multimodal_learning at a190e03 (equal: tests/parity). The
    squeeze over space, a mean, is left to the encoders, so encoders of any kind can be used.
    """

    settings_class = ChannelSettings
    takes_missing = True

    def __init__(
        self, modalities: Sequence[str], embedding_size: int, classes: int, gate: float = 1.0, squeeze: float = 0.5
    ) -> None:
        super().__init__(modalities, embedding_size, classes)
        self.gate = gate
        joint = max(1, int(squeeze * embedding_size * len(self.modalities)))
        self.squeeze = nn.Linear(embedding_size * len(self.modalities), joint)
        self.excite = nn.ModuleDict({name: nn.Linear(joint, embedding_size) for name in modalities})
        self.classifiers = nn.ModuleDict({name: nn.Linear(embedding_size, classes) for name in modalities})

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are the l_j; the other modalities affect them through the scales alone."""
        scales = self.scales(embeddings)
        unimodal = {name: classifier(scales[name] * embeddings[name]) for name, classifier in self.classifiers.items()}
        return mean_of_present(unimodal, present), unimodal

    def scales(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """g_j, (B, d), of each modality."""
        joint = self.squeeze(torch.cat([embeddings[name] for name in self.modalities], dim=1)).relu()
        return {name: self.gate * excite(joint).sigmoid() for name, excite in self.excite.items()}


class MultiLayerLSTM(Head):
    """ML-LSTM: stacked LSTM layers read the embeddings as a sequence of m steps.

    fused = W h + b, where h is the top layer's state after the last step; the steps are in the order of
    `data.modalities`. Two layers of size d. After Nie et al., "Multi-modal feature fusion based on
    multi-layers LSTM for video emotion recognition", MTA 2021, whose steps are utterances; the paper
    that compares with it gives no formula, and this form fits one embedding per modality.
    """

    LAYERS = 2
    takes_missing = True

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__(modalities, embedding_size, classes)
        # Cells, not nn.LSTM: its fused kernels lack the second derivative that the solvers take.
        self.cells = nn.ModuleList(nn.LSTMCell(embedding_size, embedding_size) for _ in range(self.LAYERS))
        self.classifier = nn.Linear(embedding_size, classes)

    def forward(self, embeddings: Mapping[str, Tensor], present: Present | None = None) -> Logits:
        """The unimodal logits are those of a sequence that consists of this modality alone."""
        steps = [embeddings[name] for name in self.modalities]
        alone = self._read([torch.cat(steps)], [None]).chunk(len(steps))
        there = [(present or {}).get(name) for name in self.modalities]
        return self._read(steps, there), dict(zip(self.modalities, alone, strict=True))

    def _read(self, steps: Sequence[Tensor], present: Sequence[Tensor | None]) -> Tensor:
        """A sample whose step is missing leaves it out."""
        states = [(torch.zeros_like(steps[0]), torch.zeros_like(steps[0])) for _ in self.cells]
        for value, there in zip(steps, present, strict=True):
            for layer, cell in enumerate(self.cells):
                hidden, memory = cell(value, states[layer])
                if there is not None:
                    hidden = torch.where(there.bool(), hidden, states[layer][0])
                    memory = torch.where(there.bool(), memory, states[layer][1])
                states[layer], value = (hidden, memory), hidden
        return self.classifier(states[-1][0])


FUSION_HEADS: Registry[type[Head]] = Registry(
    "fusion head",
    {
        "sum": "lfm_ray.models.fusion:Sum",
        "weight": "lfm_ray.models.fusion:Weight",
        "concat": "lfm_ray.models.fusion:Concat",
        "multitask": "lfm_ray.models.fusion:Multitask",
        "cosine": "lfm_ray.models.fusion:Cosine",
        "shared": "lfm_ray.models.fusion:Shared",
        "boosted": "lfm_ray.models.fusion:Boosted",
        "affine": "lfm_ray.models.fusion:Affine",
        "gated": "lfm_ray.models.fusion:Gated",
        "channel": "lfm_ray.models.fusion:Channel",
        "ml_lstm": "lfm_ray.models.fusion:MultiLayerLSTM",
    },
    lambda part: isinstance(part, type) and issubclass(part, Head),
    "a subclass of lfm_ray.models.fusion.Head",
)


def check_head(name: str, modalities: Sequence[str]) -> None:
    """Checks that the head is defined for this number of modalities.

    Raises:
        UserError: the head takes two modalities, and there are not two.
    """
    if FUSION_HEADS[name].exactly_two and len(modalities) != 2:
        others = ", ".join(other for other, head in FUSION_HEADS.items() if not head.exactly_two)
        raise UserError(
            f"model.fusion: {name} is defined for two modalities, and there are {len(modalities)}"
            f" ({', '.join(modalities)}); choose two with data.modalities, or use one of {others}"
        )


def check_missing(name: str, lacking: Sequence[str]) -> None:
    """Checks that the head can leave out the modalities that some samples lack.

    Raises:
        UserError: it cannot.
    """
    if not FUSION_HEADS[name].takes_missing:
        others = ", ".join(other for other, head in FUSION_HEADS.items() if head.takes_missing)
        raise UserError(
            f"model.fusion: {name} needs every modality of every sample, and some lack {' or '.join(lacking)}; use one"
            f" of {others}"
        )


def _with_zeros(
    fused: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, names: Sequence[str]
) -> Logits:
    """The fused logits of two embeddings, and those of each with zeros for the other, in one call."""
    zeros = torch.zeros_like(first)
    both, of_first, of_second = fused(torch.cat([first, first, zeros]), torch.cat([second, zeros, second])).chunk(3)
    return both, {names[0]: of_first, names[1]: of_second}
