"""What the authors' code gave (`tables/`), and what our functions give for the same inputs, quantity by quantity."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Dirichlet, kl_divergence

from lfm_ray.config import RunConfig
from lfm_ray.datasets.media.audio import AudioSettings, log_spectrogram, samples, spectrogram_shape
from lfm_ray.datasets.reading.batches import ROWS, Batch
from lfm_ray.datasets.shards import DatasetCard, ModalityCard, ShardFile
from lfm_ray.methods import State
from lfm_ray.methods.agm import AGM, shapley
from lfm_ray.methods.domfn import DOMFN
from lfm_ray.methods.etmc import ETMC, evidence, evidential_loss, fused_evidence
from lfm_ray.methods.g_blend import GBlend, blend_weights
from lfm_ray.methods.greedy import Greedy
from lfm_ray.methods.losses import LossSettings, kl_to_mean
from lfm_ray.methods.mla import MLA, PROJECTION, WEIGHT, entropy_weighted
from lfm_ray.methods.mmpareto import MMPareto
from lfm_ray.methods.mses import MSES
from lfm_ray.methods.mslr import MSLR
from lfm_ray.methods.official import Official
from lfm_ray.methods.ogm_ge import OGMGE, deviation
from lfm_ray.methods.pmr import PMR, distances
from lfm_ray.methods.qmf import QMF, confidence, confidence_weighted, ranking_loss
from lfm_ray.methods.recon_boost import ReconBoost, boosting_loss, memory_loss
from lfm_ray.methods.umt import TEACHER, UMT, distillation_loss
from lfm_ray.models.classifier import ModelSettings, MultimodalClassifier, Outputs
from lfm_ray.models.encoders import ENCODERS, Encoder, build_encoder
from lfm_ray.models.fusion import FUSION_HEADS, Boosted, Channel, Concat
from lfm_ray.optimization.optimizer import OptimizerSettings, after_step, build_optimizer
from lfm_ray.optimization.schedules import AlphaGradient, OfficialQuintic
from lfm_ray.optimization.schedules import Official as OfficialAlpha
from lfm_ray.settings import load
from lfm_ray.training.loop import Splits, fit
from lfm_ray.training.trainer import Step, Trainer

TABLES = Path(__file__).parent / "tables"
Case = dict[str, Any]
Compared = Iterator[tuple[str, Any, Any]]
"""Name of a quantity, ours, theirs."""


def t(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def leaf(value: Any) -> Tensor:
    return t(value).requires_grad_()


def leaves(values: dict[str, Any]) -> dict[str, Tensor]:
    return {name: leaf(value) for name, value in values.items()}


def state(model: Any = None, memory: dict[str, Any] | None = None, epoch: int = 1, **more: Any) -> State:
    """epoch counts from 1, theirs mostly from 0."""
    kept = {} if memory is None else memory
    return State(cast(Any, model), LossSettings(), epoch=epoch, epochs=200, memory=kept, **more)


def slopes(loss: Tensor, *of: Tensor) -> Tensor:
    """The gradients by tensors of one shape, one after the other; 0 where there is none."""
    return torch.stack(torch.autograd.grad(loss, of, retain_graph=True, materialize_grads=True))


def linear(module: nn.Module, weights: dict[str, Any], prefix: str = "") -> None:
    module.load_state_dict({name: t(weights[f"{prefix}{name}"]) for name in ("weight", "bias")})


def agm(case: Case) -> Compared:
    i, o, name = case["inputs"], case["outputs"], case["name"]
    if name.startswith("coefficients"):
        now, mean = t([i["score_audio"], i["score_visual"]]).T, t([i["mean_audio"], i["mean_visual"]]).T
        ours = [AGM(modulation=a).coefficients(*pair) for a, *pair in zip(i["alpha"], mean, now, strict=True)]
        yield "coefficients", torch.stack(ours).T, [o["coefficient_audio"], o["coefficient_visual"]]
    elif "coefficients; the clamp" in name:
        for now, mean, a, theirs in zip(i["score"], i["mean"], i["alpha"], o["coefficient"], strict=True):
            yield "coefficients", AGM(modulation=a, highest_exponent=7).coefficients(t(mean), t(now)), theirs
    elif "shares from" in name:
        yield from agm_three(i, o)
    else:
        yield from agm_steps(i, o)


def agm_three(i: Case, o: Case) -> Compared:
    names = ("audio", "visual", "text")
    missing = {(1, 1, 1): "total", (1, 0, 1): "pad_visual", (0, 1, 1): "pad_audio", (1, 1, 0): "pad_text",
               (0, 0, 1): "pad_visual_audio", (1, 0, 0): "pad_visual_text", (0, 1, 0): "pad_audio_text"}  # fmt: skip

    def head(z: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        there = torch.stack([z[name][::2].flatten() for name in names], dim=1).int().tolist()
        return torch.cat([t(i[missing[tuple(one)]]) for one in there]), {}

    phi = shapley(cast(Any, head), {name: torch.ones(2, 1) for name in names})
    yield "shares", torch.stack([phi[name] for name in names]), [o[name] for name in names]


def agm_steps(i: Case, o: Case) -> Compared:
    method, names = AGM(modulation=i["alpha"], head_clip=1), ("audio", "visual")
    head = Concat(names, 5, 6).double()
    linear(head.classifier, i["head"], "fc_out.")
    before = zip(names, i["mean_scores_before"], strict=True)
    memory = {f"score/{name}": t(value) for name, value in before} if any(i["mean_scores_before"]) else {}
    for k, theirs in enumerate(o["steps"]):
        at = state(SimpleNamespace(head=head), memory, i["epoch"], steps=i["iteration_of_first_step"] - 1 + k)
        z, labels = leaves({name: i[f"{name}_embeddings"][k] for name in names}), torch.tensor(i["labels"][k])
        fused, unimodal = head(z)
        made = Outputs(fused, unimodal, z)
        phi = shapley(head, z)
        yield "shares", torch.stack([phi[name] for name in names]), [theirs[f"share_{name}"] for name in names]
        if method.active(at):
            kappa = method.kappa(phi, labels, at)
            yield "coefficients", [kappa[n] for n in names], [theirs[f"coefficient_{n}"] for n in names]
        loss = method.classification(made, labels, at)
        yield "loss", loss, theirs["loss"]
        ours = slopes(loss, *z.values())
        yield "gradient by embeddings", ours, [theirs[f"gradient_{name}_embedding"] for name in names]
        head.zero_grad()
        loss.backward()
        with torch.no_grad():
            method.after_backward(made, labels, at)
        for name, theirs_too in theirs["gradient_head_after_clipping"].items():
            ours_too = dict(head.classifier.named_parameters())[name.removeprefix("fc_out.")].grad
            yield "gradient of the head, clipped", ours_too, theirs_too
    yield "mean scores", [memory[f"score/{name}"] for name in names], [o[f"mean_score_{name}"] for name in names]


def domfn(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    if case["branch"] != "Paddle":  # another loss, for three modalities
        return
    z = [leaf([i[f"{name}_logits_before_sigmoid"]]) for name in ("text", "image", "fused")]
    made, labels = Outputs(z[2], {"text": z[0], "image": z[1]}, {}), torch.tensor([i["label"]])
    method = DOMFN(eta=i["eta"], gamma=i["gamma"] * i["tau"])
    d = method.divergences(made)
    yield "divergences", d[:, 0], [o["text_divergence"][0], o["image_divergence"][0]]
    yield "whether a sample is fused", float(method.agree(d)), float(o["fused"])
    loss = method.classification(made, labels, state())
    yield "loss", loss, o["loss"]
    theirs = [o["gradient_stepped_text"], o["gradient_stepped_image"], o["gradient_stepped_fused"] or [[0.0] * 3]]
    yield "gradient", slopes(loss, *z), theirs
    name = o["prediction"].removesuffix("_logit").replace("multi", "fused")
    yield "prediction", method.predict(made), [o[f"{name}_probabilities"][0]]


def etmc(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    if "alpha" in i:
        alpha = t(i["alpha"])
        yield "divergence", kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha))), o["kl"]
        return
    names = ("depth", "rgb", "pseudo")
    z, epoch = leaves({n: i[f"{n}_logits"] for n in names}), 10**6 if isinstance(i["epoch"], str) else i["epoch"]
    method = ETMC(annealing_epochs=i["annealing_epoch"])
    made, labels = Outputs(z["pseudo"], {"depth": z["depth"], "rgb": z["rgb"]}, {}), torch.tensor(i["labels"])
    views = [evidence(one) for one in z.values()]
    every = [*views, fused_evidence(views)]
    yield "Dirichlets", torch.stack(every) + 1, [o[f"{name}_alpha"] for name in (*names, "fused")]
    ours = [evidential_loss(one, labels, min(1.0, epoch / i["annealing_epoch"])) for one in every]
    yield "each loss", ours, o["losses_depth_rgb_pseudo_fused"]
    loss = method.classification(made, labels, state(epoch=epoch + 1))
    yield "loss", loss, o["loss"]
    yield "gradient", slopes(loss, *z.values()), [o[f"gradient_{name}"] for name in names]
    theirs = t(o["fused_alpha"])
    yield "prediction", method.predict(made).softmax(dim=1), theirs / theirs.sum(dim=1, keepdim=True)


def fusion_heads(case: Case) -> Compared:
    i, o, name = case["inputs"], case["outputs"], case["name"].split()[0]
    z = {"a": leaf(i["first"]), "v": leaf(i["second"])}
    if name == "channel":
        yield from channel(i, o, z)
        return
    head = FUSION_HEADS[{"film": "affine"}.get(name, name)](["a", "v"], 5, 3).double()
    named = {
        "sum": {"fc_x": "classifiers.a", "fc_y": "classifiers.v"},
        "concat": {"fc_out": "classifier"},
        "film": {"fc": "film", "fc_out": "classifier"},
        "gated": {"fc_x": "gate", "fc_y": "value", "fc_out": "classifier"},
    }[name]
    ours = {key: f"{named[key.split('.')[0]]}.{key.split('.')[1]}" for key in i["weights"]}
    head.load_state_dict({ours[key]: t(value) for key, value in i["weights"].items()})
    fused, _ = head(z)
    yield "fused logits", fused, o["fused"]
    (fused * t(i["upstream"])).sum().backward()
    yield "gradient by embeddings", [one.grad for one in z.values()], [o["gradient_first"], o["gradient_second"]]
    gradients = {key: value.grad for key, value in head.named_parameters()}
    for key, theirs in o["gradient_weights"].items():
        yield "gradient by weights", gradients[ours[key]], theirs


def mmtm(weights: dict[str, Any], prefix: str, classifiers: list[dict[str, Any]]) -> Channel:
    """Our head with their weights, at its defaults."""
    head = Channel(["a", "v"], 5, 3).double()
    for module, key in ((head.squeeze, "squeeze"), (head.excite["a"], "visual"), (head.excite["v"], "skeleton")):
        linear(module, weights, f"{prefix}fc_{key}.")
    for module, values in zip(head.classifiers.values(), classifiers, strict=True):
        linear(module, values)
    return head


def channel(i: Case, o: Case, z: dict[str, Tensor]) -> Compared:
    head = mmtm(i["weights"], "", [i["classifier_first"], i["classifier_second"]])
    yield "size of the squeeze", float(head.squeeze.out_features), float(o["squeeze_size"])
    yield "scales", list(head.scales(z).values()), [o["scale_first"], o["scale_second"]]
    fused, unimodal = head(z)
    yield "logits", list(unimodal.values()), [o["logits_first"], o["logits_second"]]
    yield "fused logits", fused, o["fused"]
    scales, upstream = head.scales(z), t(i["upstream"])
    rescaled = [scales[name] * one for name, one in z.items()]
    yield "rescaled embeddings", rescaled, [o["rescaled_first"], o["rescaled_second"]]
    ours = slopes((rescaled[0] * upstream).sum() + (rescaled[1] * upstream.flip(0)).sum(), *z.values())
    yield "gradient by embeddings", ours, [o["gradient_first"], o["gradient_second"]]


def g_blend(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    if "fused_logits" not in i:
        before, after = (
            {name: (value[f"train_{when}"], value[f"val_{when}"]) for name, value in i.items()}
            for when in ("before", "after")
        )
        weights = blend_weights(before, after)
        rises = "rises" in case["name"]
        yield f"estimated weights{', a loss rises' * rises}", [weights[n] for n in i], [o["weights"][n] for n in i]
        return
    names = ("audio", "visual", "fused")
    z = leaves({name: i[f"{name}_logits"] for name in names})
    method = GBlend(weights={name: i[f"{name.replace('fused', 'av')}_weight"] for name in names})
    made = Outputs(z["fused"], {"audio": z["audio"], "visual": z["visual"]}, {})
    loss = method.classification(made, torch.tensor(i["labels"]), state())
    yield "loss", loss, o["loss"]
    yield "gradient", slopes(loss, *z.values()), [o[f"gradient_{name}"] for name in names]


class One(nn.Module):
    """A module of one parameter, of which the squares of weight and gradient are given."""

    def __init__(self, squares: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.weight = nn.Parameter(t([squares[0] ** 0.5]))
        self.weight.grad = t([squares[1] ** 0.5])


def greedy(case: Case) -> Compared:
    """Each step with the numbers of theirs, but with our own memory, which goes from step to step."""
    i = case["inputs"]
    method = Greedy(tolerance=i["epsilon"], window=i["window"], first_epoch=i["starting_epoch"])
    memory: dict[str, Any] = {}
    for theirs in case["outputs"]["steps"]:
        z = {name: t(theirs[f"embedding_{k}"]) for k, name in enumerate("av")}
        fixed = {name: t(theirs[f"running_scale_{k}"]) for k, name in enumerate("av")}
        alone = memory.get("alone") or ""
        yield "who is alone", " av".index(alone or " "), 0 if theirs["alone"] is None else 1 + int(theirs["alone"])
        squares = theirs["squares_of_weights_and_gradients"]
        model = SimpleNamespace(
            encoders={name: One(squares[f"own_{k}"]) for k, name in enumerate("av")}, head=Channel(["a", "v"], 5, 3)
        )
        if theirs["step"] == 0:  # the only step of which the table has the weights
            w = i["weights"]
            own = [{key: w[f"net_view_{k}.fc.{key}"] for key in ("weight", "bias")} for k in (0, 1)]
            head = mmtm(w, "mmtm4.", own)
            fused, logits = head(z)
            made, labels = Outputs(fused, logits, z), torch.tensor(i["batches"][0]["labels"])
            yield "logits", list(logits.values()), [theirs["logits_0"], theirs["logits_1"]]
            at = state(SimpleNamespace(head=head), {})
            yield "loss", method.classification(made, labels, at), theirs["loss"]
            means = method.means(made, at)
            yield "running mean of the first view", means["a"], fixed["a"]
            yield "running mean of the second view", means["v"], fixed["v"]
        head = model.head
        head.squeeze = One()
        head.excite = nn.ModuleDict({name: One(squares[f"shared_{k}"]) for k, name in enumerate("av")})
        head.classifiers = nn.ModuleDict({name: One() for name in "av"})
        head.scales = lambda embeddings: {name: torch.zeros(1, 5).double() for name in "av"}
        with torch.no_grad():
            at = state(model, memory, theirs["epoch"], steps=theirs["step"])
            method.after_backward(Outputs(torch.zeros(1, 3), {}, z), torch.tensor([0]), at)
        yield "speeds", [memory["speed/a"], memory["speed/v"]], theirs["conditional_speed"]
        following = theirs["alone_in_next_step"]
        yield "who is next", " av".index(memory.get("alone") or " "), 0 if following is None else 1 + int(following)


def mla(case: Case) -> Compared:
    i, o, name = case["inputs"], case["outputs"], case["name"]
    if name.startswith("projection"):
        head = "HEAD" in name
        method = MLA(projection="none") if head else MLA()
        memory: dict[str, Any] = {}
        at = state(memory=memory, phase="a")
        for features, gradient, theirs in zip(i["features"], i["gradients"], o["steps"], strict=True):
            ours = method.gradient([{WEIGHT: t(gradient)}], at)[WEIGHT]
            yield f"projected gradient{'' if head else ', the name being met'}", ours, theirs["gradient"]
            method.after_backward(Outputs(torch.zeros(4, 3), {}, {"a": t(features)}), torch.zeros(4), at)
            projection = memory.get(PROJECTION, torch.eye(5).double())
            yield f"projection{'' if head else ', the name being met'}", projection, theirs["projection"]
        return
    logits = {key.removesuffix("_logits"): t(value) for key, value in i.items() if key.endswith("_logits")}
    if name.startswith("default"):
        two = {key: logits[key] for key in ("audio", "visual")}
        made = Outputs(torch.stack(list(two.values())).mean(dim=0), two, {})
        yield "fixed weights", MLA(weighting="mean").predict(made), o["two"]
        method = MLA(weighting="mean", shares={key: i[f"{key[0]}_alpha"] for key in logits})
        yield "fixed weights", method.predict(Outputs(torch.zeros(4, 3), logits, {})), o["three"]
    else:
        batch = name.startswith("weights of a batch")
        yield f"entropy weights, by {'batch' if batch else 'sample'}", entropy_weighted(logits), o["fused"]


def mmpareto(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    if "magnitude" not in i:
        g = {name: {"encoders.a.w": t(i[name])} for name in ("multimodal", "unimodal")}
        model = SimpleNamespace(encoders={"a": None})
        m, u = t(i["multimodal"]), t(i["unimodal"])
        wanted = 2 * (o["weights"][0] * m + o["weights"][1] * u)  # the shortest, from their weights
        if float(wanted.norm()) < 1e-12:  # exact opposites: 0 / 0 in theirs
            return
        wanted = 1.5 * wanted * max(1.0, float((m + u).norm() / wanted.norm()))
        yield "one tensor", MMPareto().gradient(list(g.values()), state(model))["encoders.a.w"], wanted
        return
    joint = {key: t(value) for key, value in i["gradients_multimodal"].items()}
    own = {key: torch.zeros_like(value) for key, value in joint.items()}
    for part in ("audio", "visual"):
        for key, value in i[f"gradients_{part}"].items():
            own[key] = own.get(key, 0.0) + t(value)
    joint = {key: joint.get(key, torch.zeros_like(value)) for key, value in own.items()}

    def ours(key: str) -> str:
        part, _, rest = key.partition("_net.")
        return f"encoders.{part}.{rest}" if rest else f"head.{key}"

    terms = [{ours(key): value for key, value in one.items()} for one in (joint, own)]
    model = SimpleNamespace(encoders={"audio": None, "visual": None})
    found = MMPareto(magnitude=i["magnitude"], rescale="tensor").gradient(terms, state(model))
    for key, theirs in o["gradient"].items():
        yield "gradient of encoders" if "_net." in key else "gradient of heads", found[ours(key)], theirs


def mses(case: Case) -> Compared:
    i, o, names = case["inputs"], case["outputs"], ("audio", "visual")
    method, memory = MSES(patience=i["patience"] + 1, smoothing=0.6), {}
    at = state(SimpleNamespace(encoders=dict.fromkeys(names)), memory)
    for k, theirs in enumerate(zip(o["factor_audio"], o["factor_visual"], strict=True)):
        method.on_epoch_end(at, {f"val/{name}/loss": i[f"loss_{name}"][k] for name in names})
        factors = method.learning_rate_factors(at)
        yield "who learns on", [factors.get(name, 1.0) for name in names], list(theirs)
        lowest = [o[f"smoothed_{name}"][o[f"best_epoch_{name}"][k] - 1] for name in names]
        for name, its in zip(names, lowest, strict=True):
            if factors.get(name, 1.0):
                yield "lowest loss", memory[f"lowest/{name}"], its
    yield "whether the run ends when all have stopped", 0.0, float(any(map(bool, o["run_ends"])))


def mslr(case: Case) -> Compared:
    i, o, names = case["inputs"], case["outputs"], ("audio", "visual")
    method = MSLR(strategy="dynamic", factors=dict(zip(names, (0.9, 1.1), strict=True)), history=5)
    at = state(SimpleNamespace(encoders=dict.fromkeys(names)), {})
    for k, accuracies in enumerate(zip(i["accuracy_audio"], i["accuracy_visual"], strict=True)):
        method.on_epoch_end(at, {f"val/{n}/accuracy": value for n, value in zip(names, accuracies, strict=True)})
        factors = method.learning_rate_factors(at)
        yield "factors", [factors[name] for name in names], [o[f"factor_{name}"][k] for name in names]


class TinyAudio(nn.Module):
    """(B, 5, 6) -> (B, 3): the audio encoder of the official code's tables."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, value: Tensor) -> Tensor:
        return F.softplus(self.bn(self.conv(value.unsqueeze(1)))).mean(dim=(2, 3))


TINY_AUDIO = Encoder(lambda card, settings, size: TinyAudio(), ("feature",), large=False)
TINY_VIDEO = Encoder(lambda card, settings, size: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), ("feature",), large=False)


def tiny(weights: dict[str, Any], *overrides: str, of: type[Trainer] = Trainer) -> Trainer:
    """A trainer of their tiny network with their settings, in float64."""
    settings = (
        "device=cpu", "method=official", "alpha.strategy=official", "model.embedding_size=3", "model.fusion=sum",
        "optimizer.name=sgd", "optimizer.learning_rate=0.01", "optimizer.momentum=0.9", "optimizer.weight_decay=1e-4",
        "optimizer.schedule=step", "optimizer.gradient_clip=null",
        "model.encoders={audio: {name: 'comparisons:TINY_AUDIO'}, video: {name: 'comparisons:TINY_VIDEO'}}",
    )  # fmt: skip
    shapes = {"audio": [5, 6], "video": [4]}
    card = DatasetCard(
        modalities={
            name: ModalityCard(kind="feature", shape=shape, dtype="float64", mean=0, std=1)
            for name, shape in shapes.items()
        },
        classes=["0", "1", "2"],
        splits={"train": [ShardFile(file="none", rows=32, sha256="0" * 64)]},
        preprocessing={},
        fingerprint="",
    )
    trainer = of(load(RunConfig, None, [*settings, *overrides]), card)
    trainer.model.double()
    named = {
        "audio_conv": "encoders.audio.conv",
        "audio_bn": "encoders.audio.bn",
        "video_linear": "encoders.video.0",
        "cls_a": "head.classifiers.audio",
        "cls_v": "head.classifiers.video",
    }
    ours = {f"{named[key.split('.')[0]]}.{key.split('.')[1]}": t(value) for key, value in weights.items()}
    state = trainer.model.state_dict() | ours
    trainer.model.load_state_dict(state)
    return trainer


def sample(values: dict[str, Any], first: int | None = None) -> Batch:
    inputs = {name: t(values[name])[:first] for name in ("audio", "video")}
    return Batch(inputs, torch.tensor(values["labels"])[:first])


def official(case: Case) -> Compared:
    i, o, name = case["inputs"], case["outputs"], case["name"]
    if name.startswith("alignment"):
        first, second = leaf(i["first"]), leaf(i["second"])
        loss = kl_to_mean(first, second)
        yield "alignment loss", loss, o["loss"]
        yield "its gradient", slopes(loss, first, second), [o["gradient_first"], o["gradient_second"]]
    elif name.startswith("training loss"):
        z = leaves({n: i[f"{n}_logits"] for n in ("audio", "video")})
        at = state(alpha=i["alpha"])
        losses = Official().loss(Outputs(torch.zeros(1), z, {}), torch.tensor(i["labels"]), at)
        ours = [losses.total, losses.classification, losses.matching]
        yield "losses", ours, [o["total"], o["classification"], o["alignment"]]
        yield "gradient", slopes(losses.total, *z.values()), [o["gradient_audio"], o["gradient_video"]]
    elif name.startswith("gradient of alpha"):
        trainer = tiny(i["weights"])
        trainer.alpha.value, trainer.steps = i["alpha"], 0 if i["mode"] == "train" else 1
        trainer.alpha.begin_epoch(1)
        found = trainer.alpha_gradient_before_epoch(sample(i, 8))
        yield "gradient of alpha", found.value, o["alpha_gradient"]
        trainer.alpha.move(found, 0)
        yield "alpha", trainer.alpha.value, o["alpha"]
        norm = cast(nn.BatchNorm2d, trainer.model.get_submodule("encoders.audio.bn"))
        yield (
            "running statistics",
            [norm.running_mean, norm.running_var],
            [o["running_mean_after"], o["running_var_after"]],
        )
    elif name.startswith("update of alpha"):
        e, rate = i["epoch"], abs(i["lr_alpha"])
        sign = 1 if i["lr_alpha"] > 0 else -1
        rate *= 2 ** ((e - 1) // 20 if e else 0)  # what the rate began with, before it was halved
        schedule = OfficialAlpha(strategy="official", eta_alpha=rate)
        yield "alpha", schedule.updated(i["alpha"], AlphaGradient(sign * i["alpha_gradient"]), e + 1), o["alpha"]
    elif name.startswith("quintic"):
        quintic = OfficialQuintic(strategy="official_quintic", clip=False)
        yield "quintic", [quintic.alpha(e + 1, 200) for e in range(200)], o["alpha"]
    elif name.startswith("learning rate"):
        yield "learning rate", rates(i["learning_rate"], i["step_size"]), o["learning_rate"]
    elif name.startswith("head"):
        classes, size = i["shape"]
        card = ModalityCard(kind="feature", shape=[4], dtype="float32", mean=0, std=1)
        settings = ModelSettings(embedding_size=size, head_init="xavier")
        torch.manual_seed(0)
        drawn = [MultimodalClassifier({"a": card}, classes, settings).head.classifiers["a"] for _ in range(20)]
        deviation_of_all = torch.stack([one.weight for one in drawn]).std()
        yield (
            "deviation of the head's weights, to 10 %",
            (deviation_of_all / o["standard_deviation"] - 1).abs() < 0.1,
            True,
        )
        yield "biases of the head", drawn[0].bias, o["bias"]
    else:
        card = ModalityCard(kind="audio", shape=[1, 32, 32], dtype="float32", mean=0, std=1)
        encoder = build_encoder("audio", card, ENCODERS["resnet18"].settings_class(name="resnet18"), 8)
        weight = next(encoder.parameters())
        yield "shape of the first convolution", list(weight.shape), i["shape"]
        close = (weight.std() / o["standard_deviation"] - 1).abs() < 0.1
        yield "deviation of the convolution's weights, to 10 %", close, True


def rates(learning_rate: float, step_size: int) -> list[float]:
    """The learning rate of 200 epochs of three steps."""
    settings = OptimizerSettings(
        name="sgd", learning_rate=learning_rate, schedule="step", step_at=[step_size, 2 * step_size], gradient_clip=None
    )
    optimizer, scheduler = build_optimizer(settings, nn.Linear(1, 1), 3, 200)
    found = []
    for _ in range(200):
        found.append(optimizer.param_groups[0]["lr"])
        for _ in range(3):
            optimizer.step()
            after_step(scheduler)
    return found


class Listed:
    """Batches that are the same in every epoch."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.steps = batches, len(batches)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return iter(self.batches)


class Watched(Trainer):
    """Keeps the losses of every step."""

    def training_step(self, batch: Batch, before_alpha: bool = False) -> Step:
        step = super().training_step(batch, before_alpha)
        losses = (step.losses.total, step.losses.matching, step.losses.classification)
        self.__dict__.setdefault("seen", []).append([float(one.detach()) for one in losses])
        return step


def official_trajectory(case: Case) -> Compared:
    """Six epochs of four steps by `fit`, with their rates, which are shortened so that they show."""
    i, epochs = case["inputs"], case["outputs"]["epochs"]
    size, halved = i["step_lr"]["step_size"], i["halved_before_epochs"]
    trainer = tiny(
        i["weights"], f"epochs={len(epochs)}", f"alpha.initial={i['alpha']}", f"alpha.eta_alpha={i['lr_alpha']}",
        f"alpha.halve_every={halved[0]}", f"optimizer.step_at=[{size}, {2 * size}]", of=Watched,
    )  # fmt: skip
    states: list[dict[str, Tensor]] = []

    def keep(run: Trainer) -> None:
        states.append({name: value.clone() for name, value in run.model.state_dict().items()})

    val = {"audio": i["test"]["audio"], "video": i["test"]["video"], "labels": i["test"]["labels"]}
    train = Listed([sample(batch) for batch in i["batches"]])
    splits = Splits(train, Listed([sample(val)]), Listed([sample(i["held_out"], 8)]))
    history = fit(trainer, splits, keep)
    for row, after, theirs in zip(history, states, epochs, strict=True):
        yield "alpha", row["alpha"], theirs["alpha_after"]
        mine = trainer.__dict__["seen"][(row["epoch"] - 1) * train.steps : row["epoch"] * train.steps]
        yield "losses", mine, [[step["loss"], step["alignment"], step["classification"]] for step in theirs["steps"]]
        yield "accuracy", row["val/fused/accuracy"], theirs["test_accuracy"]
        reference = tiny(theirs["weights_after"]).model.state_dict()
        for name, value in reference.items():
            if "num_batches" not in name:
                yield "weights and running statistics", after[name], value


def lfm(case: Case) -> Compared:
    """The quintic alone; the paper's other schedules and InfoNCE are not in the published code."""
    quintic = OfficialQuintic(strategy="official_quintic", clip=False)
    yield "quintic", [quintic.alpha(e + 1, 200) for e in range(200)], case["outputs"]["alpha"]


def official_audio(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    settings = AudioSettings(sample_rate=22050, seconds=20, padding="repeat", n_fft=512, hop=353, center=True)
    if "rows" not in i:
        if o["samples"] == samples(settings):  # a clip below a second stays shorter there
            yield "shape", spectrogram_shape(settings), [1, *o["shape"]]
        return
    if i["pad_mode"] == "constant":  # librosa from 0.10 on
        read = json.loads((TABLES / "official_audio.json").read_text(encoding="utf-8"))["inputs"]["samples"]
        waveform = np.clip(np.tile(np.array(read, dtype=np.float32), 20), -1, 1)
        found = log_spectrogram(torch.from_numpy(waveform), settings)[0]
        yield "logarithm", found[i["rows"]][:, i["columns"]], o["values"]


def ogm_ge(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    if "alpha" not in i:
        ours = [float(OGMGE().active(state(epoch=epoch + 1))) for epoch in i["epochs"]]
        yield "modulated epochs", ours, list(map(float, o["modulated"]))
        return
    unimodal = {name: t(i[f"{name}_logits"]) for name in ("audio", "visual")}
    made, labels = Outputs(t(i["fused_logits"]), unimodal, {}), torch.tensor(i["labels"])
    yield "fused logits", sum(unimodal.values()), i["fused_logits"]
    method, model = OGMGE(modulation=i["alpha"], noise=False, tensors="convolutions"), nn.Module()
    model.encoders = nn.ModuleDict({name: nn.Module() for name in unimodal})
    for key, value in i["gradient_before"].items():
        part, _, rest = key.partition("_net.")
        parameter = nn.Parameter(torch.zeros_like(t(value)))
        parameter.grad = t(value)
        if rest:
            model.encoders[part].register_parameter(rest.replace(".", "_"), parameter)
        else:
            model.register_parameter(key.replace(".", "_"), parameter)
    k = method.gradient_factors(made, labels, state())
    yield "coefficients", [k["audio"], k["visual"]], [o["coefficient_audio"], o["coefficient_visual"]]
    for key, theirs in o["noise_standard_deviation"].items():
        yield "deviation of the noise", deviation(t(i["gradient_before"][key])), theirs
    method.after_backward(made, labels, state(model))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for key, theirs in o["gradient_ogm"].items():
        part, _, rest = key.partition("_net.")
        name = f"encoders.{part}.{rest.replace('.', '_')}" if rest else key.replace(".", "_")
        yield "gradient", gradients[name], theirs


def pmr(case: Case) -> Compared:
    i, o, names = case["inputs"], case["outputs"], ("audio", "visual")
    if "fused_logits" in i:
        method, z, labels = PMR(prototype_weight=i["alpha"]), leaves({n: i[n] for n in names}), i["labels"]
        w, b = (leaf(i["fusion"][f"fc_out.{key}"]) for key in ("weight", "bias"))
        made = Outputs(torch.cat(list(z.values()), dim=1) @ w.T + b, {}, z)
        memory = {"prototypes": torch.stack([t(i[f"{name}_prototypes"]) for name in names])}
        far = [distances(one, its) for one, its in zip(z.values(), memory["prototypes"], strict=True)]
        yield "distances", far, [o[f"{name}_distances"] for name in names]
        ours = [F.cross_entropy(-one, torch.tensor(labels)) for one in far]
        yield "losses of the prototypes", ours, [o[f"loss_{name}_prototypes"] for name in names]
        if i["epoch"] <= i["modulation_ends"]:
            slow = method.slow([-one for one in far], torch.tensor(labels)) * i["alpha"]
            yield "factors", slow, [o[f"factor_{name}"] for name in names]
        loss = method.classification(made, torch.tensor(labels), state(memory=memory, epoch=i["epoch"] + 1))
        yield "loss", loss, o["loss"]
        yield "gradient by embeddings", slopes(loss, *z.values()), [o[f"gradient_{name}"] for name in names]
        yield "gradient of the fusion", slopes(loss, w)[0], o["gradient_fusion"]["fc_out.weight"]
    elif "momentum" in i:
        method, at = PMR(momentum=i["momentum"]), state(memory={})
        for call, theirs in zip(i["calls"][1:], o["calls"][1:], strict=True):  # the first is before training
            for batch in call["batches_used"]:
                made = Outputs(torch.zeros(4, 6).double(), {}, {name: t(batch[name]) for name in names})
                method.after_backward(made, torch.tensor(batch["labels"]), at)
            method.on_epoch_end(at, {})
            yield "prototypes", at.memory["prototypes"], [theirs[name] for name in names]


def qmf(case: Case) -> Compared:
    i, o, name = case["inputs"], case["outputs"], case["name"]
    if name.startswith("ranking"):
        confidences = leaf(i["confidences"])
        loss = ranking_loss(confidences, t(i["hardness"]))
        yield "ranking loss", loss, o["loss"]
        yield "its gradient", slopes(loss, confidences)[0], o["gradient"]
    elif name.startswith("RGB-D"):  # only its fusion is offered
        for rgb, depth, theirs in zip(i["rgb_logits"], i["depth_logits"], o["steps"], strict=True):
            yield "fused logits", confidence_weighted({"rgb": t(rgb), "depth": t(depth)}), theirs["fused"]
    else:
        method, memory, names = QMF(), {}, ("text", "image")
        at = state(memory=memory, samples=i["samples"])
        for step, theirs in zip(i["steps"], o["steps"], strict=True):
            z, labels = leaves({n: step[f"{n}_logits"] for n in names}), torch.tensor(step["labels"])
            made = Outputs(confidence_weighted(z), z, {}, extra={ROWS: t(step["rows"])[:, None]})
            ours = [confidence(z[n])[:, None] for n in names]
            yield "confidences", ours, [theirs[f"confidence_{n}"] for n in names]
            yield "fused logits", method.predict(made), theirs["fused"]
            loss = method.classification(made, labels, at)
            yield "loss", loss, theirs["loss"]
            yield "gradient", slopes(loss, *z.values()), [theirs[f"gradient_{n}"] for n in names]
            method.after_backward(made, labels, at)
            sums = [F.pad(memory[n], (0, i["samples"] - len(memory[n]))) for n in names]
            yield "summed losses", sums, [theirs[f"history_{n}"] for n in names]


def recon_boost(case: Case) -> Compared:
    i, o, name = case["inputs"], case["outputs"], case["name"]
    if "weight1" in i:
        yield from boosting(i, o)
    elif name.startswith("ensemble"):
        head = Boosted(["audio", "visual"], 5, 6, rate=i["boosting_rate"]).double()
        logits = {n: t(i[f"{n}_logits"]) for n in ("audio", "visual")}
        head.classifier = nn.Identity()
        head.rate = nn.Parameter(t(i["boosting_rate"]))
        fused, _ = head(logits)
        yield "fused logits", fused, o["all"]
        for n in logits:  # what boosting_loss takes for the others
            yield "logits of the others", fused - head.rate * logits[n], o[f"without_{n}"]
    elif name.startswith("head"):
        head = Boosted(["audio"], 5, 3, hidden=4).double()
        linear(head.classifier[0], i["weights"], "fc1.")
        linear(head.classifier[2], i["weights"], "fc2.")
        yield "logits", head({"audio": t(i["embedding"])})[1]["audio"], o["logits"]
    elif name.startswith("order"):
        method = ReconBoost(stage_epochs=i["epochs_per_stage"], rectify_epochs=i["correct_epoch"])
        both = i["epochs_per_stage"] + i["correct_epoch"]
        for names, theirs in ((["audio", "visual"], o["CREMAD"]), (["text", "visual", "audio"], o["MOSEI"])):
            model = SimpleNamespace(encoders=dict.fromkeys(names))
            turns = [method.turn(state(model, epoch=both * k + 1)) for k in i["stages"]]
            yield "order of turns", [names.index(turn[0]) for turn in turns if turn], [*map(names.index, theirs)]


def boosting(i: Case, o: Case) -> Compared:
    own, before, labels = leaf(i["own_logits"]), t(i["before_logits"]), torch.tensor(i["labels"])
    scale, classes = i["weight1"] / i["classes"], i["classes"]  # theirs over ours
    others = t(i["others_logits"])
    yield "consolidation", memory_loss(own, before), o["consolidation"]
    if others.shape[1] != classes:  # the others are one random number: the cross-entropy of all samples, (w1 - w2) / C
        loss = boosting_loss(own, torch.zeros(4, classes).double(), labels, 0.0)
        factor = scale - i["weight2"] / classes
        yield "boosting loss", factor * loss, o["boosting_loss"]
        yield "gradient", factor * slopes(loss, own)[0], o["gradient_of_loss"]
        return
    ratio = i["weight2"] / i["weight1"]
    loss = boosting_loss(own, others, labels, ratio)
    yield "boosting loss", scale * loss, o["boosting_loss"]
    yield "gradient of boosting", scale * slopes(loss, own)[0], o["gradient_of_boosting"]
    names = ("audio", "visual")
    model = SimpleNamespace(encoders=dict.fromkeys(names), head=None)
    epoch = 1 if i["stage"] == 0 else 2 * 8 + 1  # a turn of the first modality
    for consolidation in (i["alpha"], 0.0):
        method = ReconBoost(
            reconcilement=ratio,
            consolidation=consolidation,
            cross_entropy_weight=i["weight1"],
            stage_epochs=4,
            rectify_epochs=4,
        )
        # With more than two modalities `before` is not the sum of the others.
        made = Outputs(own + others, {"audio": own, "visual": before}, {})
        total = method.classification(made, labels, state(model, epoch=epoch))
        if consolidation:
            yield "loss", scale * total, o["loss"]
        else:  # their consolidation has no gradient, so without it ours is theirs
            yield "gradient", scale * slopes(total, own)[0], o["gradient_of_loss"]


def umt(case: Case) -> Compared:
    i, o = case["inputs"], case["outputs"]
    students, teachers, fused = leaves(i["students"]), i["teachers"], leaf(i["fused_logits"])
    taught = {name: t(value) for name, value in teachers.items()}
    yield "distance", distillation_loss(students, taught), o["distillation"]
    method = UMT(distillation=i["scaling"], teacher_share=0, last_epoch=i["modulation_ends"] + 1)
    made = Outputs(fused, {}, students, extra={f"{TEACHER}{name}": value for name, value in taught.items()})
    loss = method.classification(made, torch.tensor(i["labels"]), state(epoch=i["epoch"] + 1))
    yield "loss", loss, o["loss"]
    yield "gradient by students", slopes(loss, *students.values()), [o["gradient_students"][n] for n in students]
    yield "gradient by the fused logits", slopes(loss, fused)[0], o["gradient_fused"]


COMPARISONS: dict[str, Callable[[Case], Compared]] = {
    "agm": agm,
    "domfn": domfn,
    "etmc": etmc,
    "fusion_heads": fusion_heads,
    "g_blend": g_blend,
    "greedy": greedy,
    "mla": mla,
    "mmpareto": mmpareto,
    "mses": mses,
    "mslr": mslr,
    "lfm": lfm,
    "official": official,
    "official_audio": official_audio,
    "official_trajectory": official_trajectory,
    "ogm_ge": ogm_ge,
    "pmr": pmr,
    "qmf": qmf,
    "recon_boost": recon_boost,
    "umt": umt,
}


def cases(table: str) -> list[Case]:
    """The cases of a table; one that has inputs and outputs at its top only is a case itself."""
    read = json.loads((TABLES / f"{table}.json").read_text(encoding="utf-8"))
    return read.get("cases") or [{"name": table, **read}]


def difference(ours: Any, theirs: Any) -> float:
    """The largest absolute difference, infinite where one is not a number or the shapes differ."""
    a, b = as_tensor(ours), as_tensor(theirs)
    if a.shape != b.shape:
        return float("inf")
    largest = float((a - b).abs().max())
    return largest if largest == largest else float("inf")


def as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().double()
    if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
        return torch.stack([one.detach().double() for one in value])
    return t(value)
