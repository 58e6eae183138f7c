"""The same as `comparisons.py`, for methods that the paper does not compare with."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from comparisons import Case, Compared, leaf, leaves, linear, slopes, state, t
from torch import Tensor, nn

from lfm_ray.methods import State
from lfm_ray.methods.amss import AMSS, probabilities
from lfm_ray.methods.arl import ARL
from lfm_ray.methods.cggm import CGGM
from lfm_ray.methods.cml import ranking_loss
from lfm_ray.methods.dgl import DGL, alone
from lfm_ray.methods.info_reg import InfoReg
from lfm_ray.methods.mmcosine import MMCosine, label_contrast
from lfm_ray.methods.opm import OPM
from lfm_ray.methods.relearn import Relearn, cluster_purity
from lfm_ray.methods.valuation import Valuation, contributions, copies
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Concat, Cosine, Head, Multitask, Sum

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
    each = [F.cross_entropy(one, labels) for one in unimodal.values()]
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
    loss = F.cross_entropy(left, labels)
    yield "loss", loss, o["loss"]
    at = state(SimpleNamespace(head=head))
    by_z, by_weight = gradients(loss + method.pull_of_rates(Outputs(fused, unimodal, z), labels, at), z, head)
    yield "gradient by embeddings, that of the rates included", by_z, [o[f"gradient_{name}"] for name in NAMES]
    theirs = torch.cat([t(o[f"gradient_weight_{name}"]) for name in NAMES], dim=1)
    yield "gradient by weights", by_weight["classifier.weight"], theirs
    yield "gradient by the bias", by_weight["classifier.bias"], o["gradient_bias"]


class Small(nn.Module):
    """Two linear encoders and a head."""

    def __init__(self, weights: Case, names: tuple[str, str], head: Head) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()
        for name in names:
            rows, columns = t(weights[f"{name}_weight"]).shape
            self.encoders[name] = nn.Linear(columns, rows).double()
            linear(self.encoders[name], weights, f"{name}_")
        self.head = head

    def forward(self, inputs: dict[str, Tensor]) -> Outputs:
        z = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        return Outputs(*self.head(z), z)

    def encoder_gradients(self) -> dict[str, Any]:
        return {
            f"{name}_{key}": value.grad
            for name, encoder in self.encoders.items()
            for key, value in encoder.named_parameters()
        }


def info_reg(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    first = i["weights"]
    head = concat(torch.cat([t(first[f"head_{name}"]) for name in NAMES], dim=1), t(first["head_bias"]))
    model = Small(first, NAMES, head)
    method = InfoReg(pull_weights={"audio": 0.95, "visual": 0.1}, window_of="audio")
    memory = {f"trace/{name}": t(i["traces"]) for name in NAMES} if i["traces"] else {}
    optimiser = torch.optim.SGD(model.parameters(), lr=i["learning_rate"])
    traces: dict[str, list[float]] = {name: [] for name in NAMES}
    theirs_by_step = iter(o["steps"])
    for epoch in range(i["epochs"]):
        losses = torch.zeros(3, dtype=torch.float64)
        for batch in i["batches"]:
            at, labels = state(model, memory), torch.tensor(batch["labels"])
            made = model({name: t(batch[name]) for name in NAMES})
            loss = method.classification(made, labels, at)
            losses += torch.stack([F.cross_entropy(z.detach(), labels) for z in (made.fused, *made.unimodal.values())])
            yield "loss", loss, sum(F.cross_entropy(z, labels) for z in (made.fused, *made.unimodal.values()))
            optimiser.zero_grad()
            loss.backward()
            with torch.no_grad():
                method.after_backward(made.detach(), labels, at)
            theirs = next(theirs_by_step)
            for key, gradient in model.encoder_gradients().items():
                yield "gradient of the encoders, with the pull", gradient, theirs[key]
            by_head = torch.cat([t(theirs[f"head_{name}"]) for name in NAMES], dim=1)
            yield "gradient of the head", head.classifier.weight.grad, by_head
            optimiser.step()
        yield "losses", losses / len(i["batches"]), o["losses_fused_audio_visual"][epoch]
        row = method.on_epoch_end(state(model, memory), {})
        for name in NAMES:
            traces[name].append(row[f"fisher_trace/{name}"])
    yield "traces", list(traces.values()), [o[f"{name}_traces"] for name in NAMES]


def cggm(case: Case) -> Compared:
    i, o, names = case["inputs"], case["outputs"], ("vision", "text")
    weights = i["weights"]
    head = Multitask(names, len(weights["out_weight"][0]), 3).double()
    doubled = {"weight": t(weights["out_weight"]).repeat(1, 2), "bias": t(weights["out_bias"])}
    head.classifier.load_state_dict(doubled)
    for name, classifier in zip(names, weights["classifiers"], strict=True):
        linear(head.classifiers[name], classifier)
    model, memory = Small(weights, names, head), cast(Case, {})
    method = CGGM(magnitude=i["rou"], direction_weight=i["lamda"])
    for batch, theirs in zip(i["batches"], o["steps"], strict=True):
        at, labels = state(model, memory), torch.tensor(batch["labels"])
        made = model({name: t(batch[name]) for name in names})
        yield "accuracies", list(method.accuracies(made, labels).values()), theirs["accuracies"]
        yield "cosines", method.cosines(at), theirs["cosines"]
        logits = [made.fused, *method.of_classifiers(made, at).values()]
        losses = torch.stack([F.cross_entropy(one, labels) for one in logits])
        yield "losses of the fusion and the classifiers", losses[1:], theirs["losses_fused_vision_text"][1:]
        model.zero_grad()
        loss = method.classification(made, labels, at)
        yield "loss", loss - losses[1:].sum(), theirs["losses_fused_vision_text"][0] + apart(method, at, theirs)
        loss.backward()
        with torch.no_grad():
            method.after_backward(made.detach(), labels, at)
        for key, gradient in model.encoder_gradients().items():
            yield "gradient of the encoders", gradient, theirs["gradients"][key]
        both = torch.stack(head.classifier.weight.grad.chunk(2, dim=1)).sum(dim=0)
        yield "gradient of the fused classifier", both, theirs["gradients"]["out_weight"]
        yield "gradient of its bias", head.classifier.bias.grad, theirs["gradients"]["out_bias"]
        for name, classifier in zip(names, theirs["classifier_gradients"], strict=True):
            for key, gradient in classifier.items():
                yield "gradient of the classifiers", getattr(head.classifiers[name], key).grad, gradient


def apart(method: CGGM, at: State, theirs: Case) -> float:
    """lambda l_gm from their cosines and the coefficients of the step before; 0 in the first step."""
    c = [float(value) for key, value in at.memory.items() if key.startswith("coefficient/")]
    terms = [abs(one) - one * cosine for one, cosine in zip(c, theirs["cosines"], strict=False)]
    return method.direction_weight * sum(terms) / 2


def arl(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    z, labels = leaves({name: i[name] for name in NAMES}), torch.tensor(i["labels"])
    head = concat(t(i["weight"]), t(i["bias"]))
    method = ARL(unimodal_weight=i["gamma"], sharpness=i["T"], weights="equal")
    at = state(SimpleNamespace(head=head), epoch=i["epoch"] + 1)
    fused, unimodal = head(z)
    made = Outputs(fused, unimodal, z)
    own = torch.stack(list(method.alone(made, at).values()))
    yield "fused logits", fused, o["fused"]
    yield "logits of the modalities", own, [o[f"{name}_logits"] for name in NAMES]
    loss = method.classification(made, labels, at)
    gamma = i["gamma"] if i["epoch"] > 5 else 1
    each = [F.cross_entropy(t(o[f"{name}_logits"]), labels) for name in NAMES]
    yield "loss", loss, o["loss"]
    yield "weight of the modalities' losses", loss, F.cross_entropy(t(o["fused"]), labels) + gamma * sum(each)
    by_z, by_head = gradients(loss, z, head)
    factors = torch.stack(list(method.gradient_factors(made, labels, at).values()))
    yield "gradient by embeddings", by_z * factors[:, None, None], [o[f"gradient_{name}"] for name in NAMES]
    yield "gradient by weights", by_head["classifier.weight"], o["gradient_weight"]
    yield "gradient by the bias", by_head["classifier.bias"], o["gradient_bias"]
    if o["computed_weights"]:
        yield "weights that are computed", method.computed(own), o["computed_weights"]


def cml(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    logits, labels = [leaf(one) for one in i["logits"]], torch.tensor(i["labels"])
    loss = ranking_loss(logits, labels) * len(labels)
    yield "ranking loss, summed", loss, o["loss"]
    yield "its gradient", slopes(loss, *logits), o["gradients"]


def relearn(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    order = [(split, name) for name in NAMES for split in ("train", "val")]
    labels = [np.array(i[f"{split}_labels"]) for split, _ in order]
    ours = [cluster_purity(np.array(one), each) for one, each in zip(o["clusters"], labels, strict=True)]
    yield "purities of their clusters", ours, o["purities"]
    made = {split: {name: t(i[f"{split}_{name}"]) for name in NAMES} for split in ("train", "val")}
    method, row = Relearn(gap_weight=i["lambda"], period=1), cast(Case, {})
    for split, z in made.items():
        found = method.measures(Outputs(torch.zeros(1, 3), {}, z), torch.tensor(i[f"{split}_labels"]))
        row |= {f"{split}/{name}": value for name, value in found.items()}
    yield "purities", [row[f"{split}/{name}/purity"] for split, name in order], o["purities"]
    model = nn.Module()
    encoders = model.encoders = nn.ModuleDict()
    memory = {}
    for name in NAMES:
        now = {key: t(i["now"][f"{name}_net.{key}"]) for key in ("weight", "bias")}
        encoders[name] = nn.Linear(now["weight"].shape[1], now["weight"].shape[0]).double()
        encoders[name].load_state_dict(now)
        memory |= {f"first/{name}.{key}": t(i["first"][f"{name}_net.{key}"]) for key in now}
    weights = method.on_epoch_end(state(model, memory, epoch=2), row)
    yield "weights", list(weights.values()), o["weights"]
    for name in NAMES:
        for key, value in encoders[name].named_parameters():
            yield "encoders after it", value, o["after"][f"{name}_net.{key}"]


def valuation(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    z, labels = leaves({name: i[name] for name in NAMES}), torch.tensor(i["labels"])
    head = concat(t(i["weight"]), t(i["bias"]))
    made, at = Outputs(*head(z), z), state(SimpleNamespace(head=head), epoch=6)
    method = Valuation()
    phi = contributions(made.fused, method.alone(made, at), labels)
    yield "contributions", phi, o["contributions"]
    yield "copies", copies(phi), [o[f"copies_with_{name}_alone"] for name in NAMES]
    loss = method.classification(made, labels, at)
    yield "loss", loss, o["loss"]
    by_z, by_head = gradients(loss, z, head)
    yield "gradient by embeddings", by_z, [o[f"gradient_{name}"] for name in NAMES]
    yield "gradient by weights", by_head["classifier.weight"], o["gradient_weight"]
    yield "gradient by the bias", by_head["classifier.bias"], o["gradient_bias"]


def amss(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    head = concat(torch.cat([t(i[f"weight_{name}"]) for name in NAMES], dim=1), t(i["bias"]))
    short = {name: t(i[name]) for name in NAMES}
    z = {name: F.pad(one, (0, i["feature_size"] - one.shape[1])) for name, one in short.items()}
    method = AMSS(temperature=i["temperature"], unbiased=bool(i["isbias"]), label_entropy="softmax")
    shares = method.shares(Outputs(*head(short), z), torch.tensor(i["labels"]))
    yield "shares", shares, o["coefficients"]
    for name, share in zip(NAMES, shares.tolist(), strict=True):
        gradient, drawn = t(i[f"gradient_{name}"]), torch.tensor(i[f"drawn_{name}"])
        yield "how many filters learn", float(math.ceil(len(gradient) * share)), float(len(drawn))
        factors = method.mask(probabilities(gradient), drawn)
        yield "masked gradient", gradient * factors[:, None, None, None], o[f"masked_{name}"]


NEWER = {
    "amss": amss,
    "arl": arl,
    "cggm": cggm,
    "cml": cml,
    "dgl": dgl,
    "info_reg": info_reg,
    "mmcosine": mmcosine,
    "opm": opm,
    "relearn": relearn,
    "valuation": valuation,
}
