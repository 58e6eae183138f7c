from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, in_model

from lfm_ray.methods.valuation import Valuation, contributions, copies

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


@pytest.mark.parametrize(
    ("both", "audio", "image", "values"),
    [
        (RIGHT, RIGHT, RIGHT, (1, 1)),
        (RIGHT, RIGHT, WRONG, (1.5, 0.5)),
        (RIGHT, WRONG, WRONG, (1, 1)),
        (WRONG, RIGHT, WRONG, (0.5, -0.5)),
        (WRONG, RIGHT, RIGHT, (0, 0)),
        (WRONG, WRONG, WRONG, (0, 0)),
    ],
)
def test_values_are_the_mean_over_both_orders_of_joining(
    both: list[float], audio: list[float], image: list[float], values: tuple[float, float]
) -> None:
    found = contributions(torch.tensor([both]), torch.tensor([[audio], [image]]), torch.tensor([0]))
    assert found[:, 0].tolist() == list(values)


def test_the_less_a_modality_adds_the_more_copies() -> None:
    assert copies(torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])).tolist() == [3, 2, 1, 0, 0]


def test_the_loss_is_the_mean_over_samples_and_copies() -> None:
    made, now = in_model(6)
    head, (audio, image) = now.model.head, made.embeddings.values()
    alone = Valuation().alone(made, now)
    logits, labels = list(made.fused), LABELS.tolist()
    for row, (first, second) in enumerate(copies(contributions(made.fused, alone, LABELS)).T.tolist()):
        logits += int(first) * [head({"audio": audio, "image": 0 * image})[0][row]]
        logits += int(second) * [head({"audio": 0 * audio, "image": image})[0][row]]
        labels += int(first + second) * [int(LABELS[row])]
    assert len(logits) > 4
    expected = F.cross_entropy(torch.stack(logits), torch.tensor(labels))
    torch.testing.assert_close(Valuation().classification(made, LABELS, now), expected)


def test_copies_start_in_the_epoch_given() -> None:
    made, now = in_model(5)
    joint = F.cross_entropy(made.fused, LABELS)
    assert torch.equal(Valuation().classification(made, LABELS, now), joint)
    assert torch.equal(Valuation(first_epoch=None).classification(made, LABELS, replace(now, epoch=50)), joint)
    assert Valuation().classification(made, LABELS, replace(now, epoch=6)).item() != joint.item()


def test_alpha_is_judged_by_the_samples_as_they_are() -> None:
    made, now = in_model(6)
    torch.testing.assert_close(Valuation().loss(made, LABELS, now).judged, F.cross_entropy(made.fused, LABELS))


def test_mixed_labels_apply_to_copies_too() -> None:
    made, now = in_model(6)
    mixed = replace(now, settings=now.settings.model_copy(update={"uniform_labels": 1.0}))
    alone = Valuation().alone(made, now)
    count = copies(contributions(made.fused, alone, LABELS))
    each = [-one.log_softmax(dim=-1).mean(dim=-1) for one in (made.fused, alone)]
    expected = (each[0].sum() + (count * each[1]).sum()) / (4 + count.sum())
    torch.testing.assert_close(Valuation().classification(made, LABELS, mixed), expected)
