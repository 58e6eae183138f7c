from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.methods.dgl import DGL, alone
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import FUSION_HEADS, Head


def made_by(name: str) -> tuple[Head, Outputs]:
    torch.manual_seed(0)
    head = FUSION_HEADS[name](["audio", "image"], 5, 3).double()
    z = outputs().embeddings
    fused, unimodal = head(z)
    return head, Outputs(fused, unimodal, z)


@pytest.mark.parametrize("name", DGL.heads)
def test_the_head_learns_from_the_fusion_and_encoders_from_their_own_logits(name: str) -> None:
    head, made = made_by(name)
    loss = DGL(unimodal_weight=3).classification(made, LABELS, state(model=SimpleNamespace(head=head)))
    parameters = list(head.parameters())
    joint = F.cross_entropy(made.fused, LABELS)
    for ours, plain in zip(
        torch.autograd.grad(loss, parameters, retain_graph=True),
        torch.autograd.grad(joint, parameters, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)
    for modality, logits in alone(head, made.embeddings).items():
        z = made.embeddings[modality]
        (ours,) = torch.autograd.grad(loss, [z], retain_graph=True)
        (own,) = torch.autograd.grad(3 * F.cross_entropy(logits, LABELS), [z], retain_graph=True)
        torch.testing.assert_close(ours, own)


def test_logits_of_a_modality_have_the_whole_bias_of_one_classifier_and_their_own_of_several() -> None:
    head, made = made_by("concat")
    bias = head.get_parameter("classifier.bias")
    torch.testing.assert_close(alone(head, made.embeddings)["audio"], made.unimodal["audio"] + bias / 2)
    head, made = made_by("sum")
    torch.testing.assert_close(alone(head, made.embeddings)["audio"], made.unimodal["audio"])


def test_alpha_is_judged_by_the_fused_logits() -> None:
    head, made = made_by("concat")
    losses = DGL().loss(made, LABELS, state(0.3, model=SimpleNamespace(head=head), uniform_labels=0.1))
    torch.testing.assert_close(losses.judged, F.cross_entropy(made.fused, LABELS, label_smoothing=0.1))
    torch.testing.assert_close(losses.total, 0.7 * losses.classification + 0.3 * losses.matching)
