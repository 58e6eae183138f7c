"""The same as `comparisons.py`, for methods that the paper does not compare with."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from comparisons import Case, Compared, leaves, slopes, state, t
from torch import Tensor

from lfm_ray.methods.dgl import DGL, alone
from lfm_ray.methods.mmcosine import MMCosine, label_contrast
from lfm_ray.methods.opm import OPM
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Concat, Cosine, Head, Sum

NAMES = ("audio", "visual")


def gradients(loss: Tensor, z: dict[str, Tensor], head: Head) -> tuple[Tensor, dict[str, Tensor]]:
    """By embeddings, one after the other, and by the head's parameters."""
    named = dict(head.named_parameters())
    of = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
    return slopes(loss, *z.values()), dict(zip(named, of, strict=True))


def concat(weight: Tensor, bias: Tensor) -> Concat:
    """The head with these parameters, (C, 2 d) and (C,)."""
    head = Concat(NAMES, weight.shape[1] // 2, len(weight)).double()
    head.classifier.load_state_dict({"weight": weight, "bias": bias})
    return head


def mmcosine(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    z, labels = leaves({name: i[name] for name in NAMES}), torch.tensor(i["labels"])
    head = Cosine(NAMES, len(i["audio"][0]), 3, scale=i["scaling"]).double()
    head.load_state_dict({f"classifiers.{name}.weight": t(i[f"weight_{name}"]) for name in NAMES})
    fused, unimodal = head(z)
    each = [torch.nn.functional.cross_entropy(one, labels) for one in unimodal.values()]
    yield "losses of the modalities", torch.stack(each), [o[f"loss_{name}"] for name in NAMES]
    yield "contrastive loss", label_contrast(*z.values(), labels, 0.1), o["nce"]
    loss = MMCosine(contrast=i["lam"]).classification(Outputs(fused, unimodal, z), labels, state())
    yield "loss", loss, o["loss"]
    by_z, by_weight = gradients(loss, z, head)
    yield "gradient by embeddings", by_z, [o[f"gradient_{name}"] for name in NAMES]
    theirs = [o[f"gradient_weight_{name}"] for name in NAMES]
    yield "gradient by weights", torch.stack(list(by_weight.values())), theirs


def dgl(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    z, labels, weights = leaves({name: i[name] for name in NAMES}), torch.tensor(i["labels"]), i["weights"]
    if i["fusion"] == "concat":
        head: Head = concat(t(weights["fc_out.weight"]), t(weights["fc_out.bias"]))
        ours = {"fc_out.weight": "classifier.weight", "fc_out.bias": "classifier.bias"}
    else:
        head = Sum(NAMES, len(i["audio"][0]), 3).double()
        named = {"fc_x": "classifiers.audio", "fc_y": "classifiers.visual"}
        ours = {key: f"{named[key[:4]]}{key[4:]}" for key in weights}
        head.load_state_dict({ours[key]: t(value) for key, value in weights.items()})
    fused, unimodal = head(z)
    yield "fused logits", fused, o["fused"]
    yield "logits of the modalities", list(alone(head, z).values()), [o[f"{name}_logits"] for name in NAMES]
    method, at = DGL(unimodal_weight=i["alpha"]), state(SimpleNamespace(head=head))
    loss = method.classification(Outputs(fused, unimodal, z), labels, at)
    of_fused, *of_each = o["losses_fused_audio_visual"]
    yield "loss", loss, of_fused + i["alpha"] * sum(of_each)
    by_z, by_weight = gradients(loss, z, head)
    yield "gradient by embeddings", by_z, [o[f"gradient_{name}"] for name in NAMES]
    for key, theirs in o["gradient_weights"].items():
        yield "gradient by weights", by_weight[ours[key]], theirs


def opm(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    z, labels = leaves({name: i[name] for name in NAMES}), torch.tensor(i["labels"])
    head = concat(torch.cat([t(i[f"weight_{name}"]) for name in NAMES], dim=1), t(i["bias"]))
    fused, unimodal = head(z)
    yield "logits of the modalities", list(unimodal.values()), [o[f"{name}_logits"] for name in NAMES]
    method = OPM(rate=i["q_base"], lead_weight=i["lam"], probability=1, first_epoch=1, rate_gradient=True)
    q = method.rates(unimodal, labels)
    yield "q", q, o["q"]
    left, _ = head(method.dropped(z, t(i["kept"]), q.detach()))
    yield "logits", left, o["logits"]
    loss = torch.nn.functional.cross_entropy(left, labels)
    yield "loss", loss, o["loss"]
    at = state(SimpleNamespace(head=head))
    by_z, by_weight = gradients(loss + method.pull_of_rates(Outputs(fused, unimodal, z), labels, at), z, head)
    yield "gradient by embeddings, that of the rates included", by_z, [o[f"gradient_{name}"] for name in NAMES]
    theirs = torch.cat([t(o[f"gradient_weight_{name}"]) for name in NAMES], dim=1)
    yield "gradient by weights", by_weight["classifier.weight"], theirs
    yield "gradient by the bias", by_weight["classifier.bias"], o["gradient_bias"]


NEWER = {"mmcosine": mmcosine, "dgl": dgl, "opm": opm}
