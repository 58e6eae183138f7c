"""Samples that lack a modality: what fusion heads, losses, metrics and contributions make of them, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lfm_ray.config import RunConfig
from lfm_ray.datasets.columns import presence
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.methods import LFM, METHODS, State
from lfm_ray.methods.losses import (
    LossSettings,
    classification_loss,
    infonce,
    js_divergence,
    kl_to_mean,
    matching_loss,
    matching_parts,
)
from lfm_ray.models.classifier import ModelSettings, MultimodalClassifier, Outputs
from lfm_ray.models.contribution import contributions
from lfm_ray.models.evaluation import confusions, evaluate
from lfm_ray.models.fusion import FUSION_HEADS
from lfm_ray.settings import load

NAMES = ["a", "b", "c"]
TAKING = [name for name, head in FUSION_HEADS.items() if head.takes_missing]
B, D, C = 6, 5, 4
THERE = {"a": [1, 1, 0, 1, 0, 1], "b": [1, 0, 1, 1, 0, 1], "c": [1, 0, 0, 1, 1, 1]}
CARD = ModalityCard(kind="feature", shape=[7], dtype="float32", mean=0, std=1, missing={"train": 2})


def model(fusion: str = "sum", names: list[str] = NAMES, **more: Any) -> MultimodalClassifier:
    torch.manual_seed(0)
    settings = ModelSettings(embedding_size=D, width=4, fusion=fusion)
    return MultimodalClassifier(dict.fromkeys(names, CARD), C, settings, **more).eval()


def inputs(there: dict[str, list[int]] = THERE) -> dict[str, Tensor]:
    """Where a sample lacks a modality there is something that must not be seen."""
    random = torch.Generator().manual_seed(1)
    values = {name: torch.randn(B, 7, generator=random) for name in there}
    masks = {presence(name): torch.tensor(mask, dtype=torch.bool) for name, mask in there.items()}
    return {name: torch.where(masks[presence(name)][:, None], value, 1e6) for name, value in values.items()} | masks


def outputs(there: dict[str, list[int]] = THERE) -> Outputs:
    """Made up: embeddings and logits of the samples, zeros where a modality is missing."""
    random = torch.Generator().manual_seed(2)
    present = {name: torch.tensor(mask, dtype=torch.float64)[:, None] for name, mask in there.items()}
    embeddings = {name: torch.randn(B, D, generator=random, dtype=torch.float64) * present[name] for name in there}
    unimodal = {name: torch.randn(B, C, generator=random, dtype=torch.float64) * present[name] for name in there}
    return Outputs(torch.stack(list(unimodal.values())).sum(dim=0), unimodal, embeddings, present=present)


@pytest.mark.parametrize("fusion", TAKING)
def test_fused_logits_are_those_of_the_modalities_that_are_there(fusion: str) -> None:
    net, given = model(fusion), inputs()
    whole = net(given)
    fused = whole.fused
    alone = {"a": 1, "b": 2, "c": 4}  # each the only modality of that row
    scale = net.head.rate.detach() if fusion == "boosted" else 1.0
    for name, row in alone.items():
        if fusion in ("multitask", "channel"):  # the l_j are not the parts of the fused logits, or depend on the others
            continue
        torch.testing.assert_close(fused[row], scale * whole.unimodal[name][row])
    complete = net({name: value[[0, 3, 5]] for name, value in given.items()}).fused
    torch.testing.assert_close(fused[[0, 3, 5]], complete)
    changed = {
        name: torch.where(value > 1e5, -3.0, value) if value.dtype != torch.bool else value
        for name, value in given.items()
    }
    assert torch.equal(net(changed).fused, fused)  # what lies in place of a missing value has no effect
    for name in NAMES:
        absent = ~given[presence(name)]
        assert not whole.unimodal[name][absent].any() and not whole.embeddings[name][absent].any()


@pytest.mark.parametrize("fusion", TAKING)
def test_a_batch_without_gaps_gives_bit_for_bit_what_it_gave_without_masks(fusion: str) -> None:
    full = inputs({name: [1] * B for name in NAMES})
    net, values = model(fusion).train(), {name: full[name] for name in NAMES}
    torch.manual_seed(3)
    plain = net(values)
    torch.manual_seed(3)
    masked = net(full)
    assert not plain.present and set(masked.present) == set(NAMES)
    for one, other in ((plain.fused, masked.fused), *((plain.unimodal[n], masked.unimodal[n]) for n in NAMES)):
        assert torch.equal(one, other)
    labels = torch.arange(B) % C
    for form in ("infonce", "js", "kl_to_mean"):
        losses = [
            LFM().loss(one, labels, State(net, LossSettings(matching=form), 0.3)).total for one in (plain, masked)
        ]
        assert torch.equal(*losses)
    assert evaluate(plain.fused.detach(), plain.detach(), labels) == evaluate(
        masked.fused.detach(), masked.detach(), labels
    )


def test_missing_modalities_leave_the_weighted_sum(float64: None) -> None:
    net = model("weight")
    there = THERE | {"c": [1, 1, 0, 1, 1, 1]}
    whole = net({name: value.double() if value.is_floating_point() else value for name, value in inputs(there).items()})
    with torch.no_grad():
        scores = torch.stack([net.head.attention(whole.embeddings[name][1]) for name in "ac"])
    a, c = scores.softmax(dim=0)
    torch.testing.assert_close(whole.fused[1], a * whole.unimodal["a"][1] + c * whole.unimodal["c"][1])


def test_heads_and_methods_that_need_all_modalities_refuse_in_a_line() -> None:
    two = {"a": CARD, "b": CARD}
    card = DatasetCard(modalities=two, classes=["x", "y"], splits={}, preprocessing={}, fingerprint="")
    for settings, message in {
        ("model.fusion=gated",): r"model.fusion: gated needs every modality .* some lack a or b; use one of sum, ",
        ("method=ogm_ge",): r"method: ogm_ge needs every modality .*; use lfm, .*without --allow-missing",
    }.items():
        with pytest.raises(UserError, match=message) as raised:
            load(RunConfig, None, settings).check_missing(card)
        assert "\n" not in str(raised.value)
    for fine in ((), ("method=unimodal",), ("method=official",), ("method=ogm_ge", "data.modalities=[a]")):
        load(RunConfig, None, fine).check_missing(card)
    assert {name for name in METHODS if METHODS[name].takes_missing} == {"lfm", "mslr", "official", "unimodal"}


def test_matching_counts_the_samples_that_have_both() -> None:
    found = outputs()
    both = {("a", "b"): [0, 3, 5], ("a", "c"): [0, 3, 5], ("b", "c"): [0, 3, 5]}
    for form, function, values in (
        ("js", js_divergence, found.unimodal),
        ("kl_to_mean", kl_to_mean, found.unimodal),
        ("infonce", lambda x, y: infonce(x, y, 0.2), found.embeddings),
    ):
        by_hand = np.mean([float(function(values[x][rows], values[y][rows])) for (x, y), rows in both.items()])
        settings = LossSettings(matching=form)
        assert float(matching_loss(found, settings)) == pytest.approx(by_hand, rel=1e-12)
        parts = matching_parts(found, 0.4, settings)
        assert sum(part.weight * float(part.loss(part.stage)) for part in parts) == pytest.approx(0.4 * by_hand)


@pytest.mark.parametrize("form", ["infonce", "js", "kl_to_mean"])
def test_a_pair_that_no_sample_has_is_no_pair(form: str) -> None:
    settings = LossSettings(matching=form)
    never = outputs({"a": [1, 1, 1, 0, 0, 0], "b": [0, 0, 0, 1, 1, 1]})
    assert float(matching_loss(never, settings)) == 0 and matching_parts(never, 0.4, settings) == []
    some = outputs({"a": [1, 1, 1, 0, 0, 0], "b": [0, 0, 0, 1, 1, 1], "c": [1, 1, 0, 1, 1, 0]})
    values = some.embeddings if form == "infonce" else some.unimodal
    function = {"infonce": lambda x, y: infonce(x, y, 0.2), "js": js_divergence, "kl_to_mean": kl_to_mean}[form]
    by_hand = (function(values["a"][:2], values["c"][:2]) + function(values["b"][3:5], values["c"][3:5])) / 2
    torch.testing.assert_close(matching_loss(some, settings), by_hand)


def test_losses_by_hand() -> None:
    found, labels = outputs(), torch.arange(B) % C
    settings = LossSettings(matching="js")
    net = model()
    losses = LFM().loss(found, labels, State(net, settings, 0.3))
    classification = torch.nn.functional.cross_entropy(found.fused, labels)
    torch.testing.assert_close(losses.total, 0.7 * classification + 0.3 * matching_loss(found, settings))
    own = [
        torch.nn.functional.cross_entropy(
            found.unimodal[n][torch.tensor(THERE[n]) > 0], labels[torch.tensor(THERE[n]) > 0]
        )
        for n in NAMES
    ]
    unimodal = METHODS["unimodal"].model_validate({"name": "unimodal"})
    torch.testing.assert_close(unimodal.classification(found, labels, State(net, settings)), torch.stack(own).sum())
    official = METHODS["official"].model_validate({"name": "official"})
    mean = (
        torch.stack(list(found.unimodal.values())).sum(dim=0) / torch.tensor(list(THERE.values())).sum(dim=0)[:, None]
    )
    torch.testing.assert_close(official.predict(found), mean)
    loss = official.loss(found, labels, State(net, settings, 0.3))
    torch.testing.assert_close(loss.classification, classification_loss(mean, labels))


def test_each_parameter_has_a_gradient_where_a_batch_lacks_a_modality() -> None:
    """DistributedDataParallel waits for the gradients of all parameters, on ranks that have them and on others."""
    net = model(projection_size=3, tau=0.2).train()
    given = inputs(THERE | {"b": [0] * B, "a": [1, 1, 1, 1, 0, 1], "c": [0, 0, 0, 0, 1, 0]})
    whole = net(given)
    one_piece = whole.map(lambda columns: columns)  # as it is gathered from all ranks
    LFM().loss(one_piece, torch.arange(B) % C, State(net, LossSettings(learn_tau=True), 0.5)).total.backward()
    assert [name for name, value in net.named_parameters() if value.grad is None] == []
    assert all(not value.grad.any() for value in net.encoders["b"].parameters())


def test_batch_statistics_are_those_of_the_samples_that_are_there() -> None:
    card = ModalityCard(kind="image", shape=[3, 32, 32], dtype="float32", mean=0, std=1, missing={"train": 1})
    torch.manual_seed(0)
    net = MultimodalClassifier(
        {"a": card, "b": card}, C, ModelSettings(embedding_size=D, width=4, encoder="resnet18")
    ).train()
    values = torch.randn(4, 3, 32, 32)
    for mask in ([1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]):
        there = torch.tensor(mask, dtype=torch.bool)
        given = {"a": values, "b": torch.where(there[:, None, None, None], values, 1e6), presence("b"): there}
        assert torch.isfinite(net(given).fused).all()
    assert all(torch.isfinite(value).all() and value.abs().max() < 1e3 for value in net.buffers())


def test_metrics_of_a_modality_count_its_own_samples() -> None:
    found, labels = outputs(), torch.tensor([0, 1, 2, 3, 0, 1])
    values, matrices = evaluate(found.fused, found, labels), confusions(found.fused, found, labels)
    for name in NAMES:
        rows = torch.tensor(THERE[name]) > 0
        own = evaluate(
            found.fused[rows],
            Outputs(found.fused[rows], {name: found.unimodal[name][rows]}, {name: found.embeddings[name][rows]}),
            labels[rows],
        )
        for key in ("accuracy", "loss", "map", "macro_f1", "balanced_accuracy", "calibration_error"):
            assert values[f"{name}/{key}"] == own[f"{name}/{key}"]
        assert np.sum(matrices[name]) == rows.sum()
    assert values["unimodal_accuracy"] == pytest.approx(np.mean([values[f"{name}/accuracy"] for name in NAMES]))
    assert np.sum(matrices["fused"]) == B
    centroids = [
        torch.nn.functional.normalize(found.embeddings[n][torch.tensor(THERE[n]) > 0], dim=1).mean(dim=0) for n in NAMES
    ]
    gaps = [
        float((x - y).norm())
        for x, y in ((centroids[0], centroids[1]), (centroids[0], centroids[2]), (centroids[1], centroids[2]))
    ]
    assert values["modality_gap"] == pytest.approx(np.mean(gaps), rel=1e-5)


def test_what_a_sample_lacks_contributes_nothing() -> None:
    net, labels = model(), torch.arange(B) % C
    whole = net(inputs()).detach()
    found = contributions(net.head, lambda some: some.fused, whole, labels)
    unimodal, there = whole.unimodal, {name: torch.tensor(mask) > 0 for name, mask in THERE.items()}

    def accuracy(*some: str, rows: Tensor) -> float:
        logits = sum((unimodal[name] for name in some), torch.zeros(B, C))
        return float((logits.argmax(dim=1) == labels)[rows].float().mean())

    everyone = torch.ones(B, dtype=torch.bool)
    total = accuracy(*NAMES, rows=everyone) - accuracy(rows=everyone)
    assert sum(found[f"{name}/shapley"] for name in NAMES) == pytest.approx(total)
    assert sum(found[f"{name}/preferred"] for name in NAMES) == pytest.approx(1)
    for name in NAMES:
        others = [other for other in NAMES if other != name]
        rows = torch.stack([there[other] for other in others]).any(dim=0)
        assert found[f"{name}/missing_accuracy"] == pytest.approx(accuracy(*others, rows=rows))
    alone = net(inputs({"a": [1] * B, "b": [0] * B, "c": [0] * B})).detach()
    only_a = contributions(net.head, lambda some: some.fused, alone, labels)
    assert only_a["a/preferred"] == 1 and only_a["b/shapley"] == only_a["c/shapley"] == 0
