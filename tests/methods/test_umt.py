from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state
from torch import nn

from lfm_ray.methods import State
from lfm_ray.methods.umt import UMT, distillation_loss


def in_epoch(epoch: int, **at: int) -> State:
    """Of a run of four epochs, of a model with the weight 1."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    return replace(state(model=model, uniform_labels=0.3), epoch=epoch, epochs=4, **at)


def test_teachers_are_trained_for_their_share_of_the_epochs() -> None:
    assert [UMT(teacher_share=share).teacher_epochs(in_epoch(1)) for share in (0, 0.25, 0.5, 0.9)] == [0, 1, 2, 4]


def test_the_distance_from_the_teachers_worked_out_by_hand() -> None:
    students = {"audio": torch.tensor([[1.0, 2.0]]), "image": torch.tensor([[0.0, 0.0], [3.0, 0.0]])}
    teachers = {"image": torch.tensor([[0.0, 2.0], [0.0, 0.0]]), "audio": torch.tensor([[1.0, 0.0]])}
    for one in (*students.values(), *teachers.values()):
        one.requires_grad_()
    loss = distillation_loss(students, teachers)
    assert loss.item() == (0 + 4) / 2 + (0 + 4 + 9 + 0) / 4
    loss.backward()
    assert students["audio"].grad is not None
    assert teachers["audio"].grad is None


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_the_loss_of_the_teachers_epochs_and_of_those_after_them(epoch: int) -> None:
    made, method = outputs(), UMT(distillation=3)
    alone = sum(F.cross_entropy(z, LABELS, label_smoothing=0.3).item() for z in made.unimodal.values())
    joint = F.cross_entropy(made.fused, LABELS, label_smoothing=0.3).item()
    expected = alone if epoch <= 2 else joint
    assert method.classification(made, LABELS, in_epoch(epoch)).item() == pytest.approx(expected, rel=1e-12)
    made.extra.update({f"teacher/{name}": z.detach() + 2 for name, z in made.embeddings.items()})
    made.extra["other"] = torch.zeros(4, 1)
    expected = alone if epoch <= 2 else joint + 3 * (4 + 4)
    assert method.classification(made, LABELS, in_epoch(epoch)).item() == pytest.approx(expected, rel=1e-12)


def test_the_first_weights_come_back_after_the_teachers_epochs_and_what_was_learnt_is_the_teacher() -> None:
    method, at = UMT(), in_epoch(1)
    method.after_backward(outputs(), LABELS, at)
    at.model.weight.data.fill_(2.0)
    method.after_backward(outputs(), LABELS, replace(at, steps=1))
    assert {key: value.item() for key, value in at.memory.items()} == {"first/weight": 1}
    at.memory["other"] = "kept"
    assert method.on_epoch_end(at, {}) == {}
    assert at.model.weight.item() == 2
    assert method.on_epoch_end(replace(at, epoch=2), {}) == {}
    assert at.model.weight.item() == 1
    assert at.memory.pop("other") == "kept"
    at.model.weight.data.fill_(3.0)
    assert {key: value.item() for key, value in at.memory.items()} == {"teacher/weight": 2}
    method.on_epoch_end(replace(at, epoch=3), {})
    assert at.model.weight.item() == 3


def test_without_teachers_no_weights_are_kept() -> None:
    at = in_epoch(1)
    UMT(teacher_share=0).after_backward(outputs(), LABELS, at)
    assert not at.memory
