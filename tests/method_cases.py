"""Settings under which every training method and every strategy for alpha does something, and made-up outputs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch

from lfm_ray.methods import State
from lfm_ray.methods.losses import LossSettings
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Concat

LABELS = torch.tensor([0, 1, 2, 1])

STRATEGIES = {
    "constant": ["alpha.value=0.4"],
    "stepwise": ["alpha.strategy=stepwise"],
    "heuristic": ["alpha.strategy=heuristic"],
    "polynomial": ["alpha.strategy=polynomial"],
    "learned": ["alpha.strategy=learned", "alpha.outer=held_out", "alpha.inner_iters=2", "alpha.eta_alpha=0.1"],
    "learned, inner batch": ["alpha.strategy=learned", "alpha.inner_iters=2", "alpha.eta_alpha=0.1"],
    "official": ["method=official", "alpha.strategy=official", "alpha.eta_alpha=1"],
}

# Methods with settings under which they do in a few steps what tells them from joint training.
CASES = {
    "lfm": ["method=lfm", "alpha.value=0.4"],
    "official": ["method=official", "alpha.value=0.4"],
    "unimodal": ["method=unimodal"],
    "ogm_ge": ["method=ogm_ge", "alpha.value=0.3"],
    "mslr": [
        "method=mslr",
        "method.factors={audio: 0.3}",
        "method.strategy=dynamic",
        "method.history=2",
        "alpha.value=0.3",
    ],
    "mses": ["method=mses", "method.patience=1", "optimizer.learning_rate=0.1"],
    "g_blend": ["method=g_blend", "method.super_epoch=1"],
    "agm": ["method=agm", "alpha.value=0.3"],
    "pmr": ["method=pmr", "method.entropy_weight=0.1"],
    "greedy": ["method=greedy", "method.window=2"],
    "domfn": ["method=domfn", "method.gamma=0.02"],
    "etmc": ["method=etmc", "method.annealing_epochs=2"],
    "mla": ["method=mla", "alpha.value=0.3"],
    "mmpareto": ["method=mmpareto", "alpha.value=0.3"],
    "qmf": ["method=qmf"],
    "recon_boost": ["method=recon_boost", "alpha.value=0.3"],
    "umt": ["method=umt"],
    "amss": ["method=amss", "alpha.value=0.3"],
    "relearn": ["method=relearn", "method.period=1", "alpha.value=0.3"],
    "valuation": ["method=valuation", "method.first_epoch=1", "alpha.value=0.3"],
    "info_reg": ["method=info_reg", "alpha.value=0.3"],
    "cggm": ["method=cggm", "method.highest=4", "alpha.value=0.3"],
    "arl": ["method=arl", "method.first_epoch=2", "alpha.value=0.3"],
    "cml": ["method=cml", "alpha.value=0.3"],
    "mmcosine": ["method=mmcosine", "method.contrast=0.5", "alpha.value=0.3"],
    "dgl": ["method=dgl", "alpha.value=0.3"],
    "opm": [
        "method=opm",
        "method.first_epoch=1",
        "method.probability=1",
        "method.rate_gradient=true",
        "alpha.value=0.3",
    ],
}

# Method -> its neutral setting, and what it is then: joint training with this head, if nothing else is said.
NEUTRAL = {
    "lfm": (["alpha.strategy=polynomial", "alpha.coefficients=[0, 0, 0, 0]"], ["model.fusion=sum"]),
    "ogm_ge": (["method.modulation=0"], ["model.fusion=sum"]),
    "mslr": (["method.factors={audio: 1}"], ["model.fusion=sum"]),
    "mses": (["method.unimodal_weight=0"], ["model.fusion=concat"]),
    "g_blend": (["method.weights={fused: 1}"], ["model.fusion=concat"]),
    "agm": (["method.modulation=0"], ["model.fusion=concat"]),
    "pmr": (["method.prototype_weight=0"], ["model.fusion=concat"]),
    "greedy": (["method.tolerance=null"], ["model.fusion=channel", "method=unimodal"]),
    "umt": (["method.teacher_share=0"], ["model.fusion=concat"]),
    "recon_boost": (["method.stage_epochs=0"], ["model.fusion=sum"]),
    "mmcosine": (["method.contrast=0"], ["model.fusion=cosine"]),
    "info_reg": (["method.pull_weight=0", "method.unimodal_weight=0"], ["model.fusion=sum"]),
    "amss": (["method.share=1"], ["model.fusion=sum"]),
    "relearn": (["method.gap_weight=0"], ["model.fusion=sum"]),
    "valuation": (["method.first_epoch=null"], ["model.fusion=sum"]),
    "opm": (["method.rate=0"], ["model.fusion=sum"]),
}
WITHOUT = {
    "official": "twice the loss, of the mean of the logits",
    "unimodal": "has no settings",
    "domfn": "squared losses of the modalities",
    "etmc": "losses of evidence, not of logits",
    "mla": "a step for each modality",
    "mmpareto": "losses of the modalities, which always count",
    "arl": "gradients weighted from the first epoch",
    "cggm": "gradients that follow the accuracies",
    "cml": "losses of fewer modalities",
    "dgl": "encoders without the gradient of the fusion",
    "qmf": "losses of the modalities, and weights that follow the samples",
}


def outputs() -> Outputs:
    """Four samples of three classes, two modalities, float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(columns: int) -> torch.Tensor:
        return torch.randn(4, columns, dtype=torch.float64, generator=generator).requires_grad_()

    return Outputs(draw(3), {"audio": draw(3), "image": draw(3)}, {"audio": draw(5), "image": draw(5)})


def state(alpha: float = 0.0, model: Any = None, memory: dict[str, Any] | None = None, **loss: Any) -> State:
    """A run's state, with the given settings of the section `loss`."""
    return State(cast(Any, model), LossSettings(**loss), alpha, memory=memory or {})


def in_model(epoch: int) -> tuple[Outputs, State]:
    """Outputs of two modalities from a head `concat`, and the state of an epoch of a run with that head."""
    torch.manual_seed(0)
    head = Concat(["audio", "image"], 5, 3).double()
    z = outputs().embeddings
    return Outputs(*head(z), z), replace(state(model=SimpleNamespace(head=head)), epoch=epoch)
