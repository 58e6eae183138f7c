"""The section of docs/methods.md on what goes together: each method is tried with each feature, as a run would be.

python docs/make_methods.py
"""

from __future__ import annotations

import re

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.methods import METHODS
from lfm_ray.models.fusion import FUSION_HEADS
from lfm_ray.settings import load

LEARNED = ["alpha=learned", "alpha.outer=val"]
FEATURES = {
    "L_MM, alpha(t) given": ["alpha=heuristic"],
    "alpha learned, `identity`": LEARNED,
    "`cg`, Hessian": [*LEARNED, "alpha.solver=cg", "alpha.product=hessian"],
    "`cg`, Gauss-Newton": [*LEARNED, "alpha.solver=cg", "alpha.product=gauss_newton"],
    "class weights": ["loss.class_weights=balanced"],
    "micro-batches": ["data.micro_batch_size=4"],
}
HEAD = """## What goes together

A run has one training method; this is what it can have beside it. Made by trying each as the settings of a run, so a
number is the reason by which `lfm-ray` refuses it. "Class weights" stands for `loss.focal` and `loss.label_smoothing`
too. "Three" is whether there may be more than two modalities, "heads" how many of the fusion heads it takes."""


def section() -> list[str]:
    """Its lines."""
    reasons: dict[str, int] = {}
    rows = []
    for name in METHODS:
        cells = [_cell(name, settings, reasons) for settings in FEATURES.values()]
        cells.append(_three(name, reasons))
        heads = [head for head in FUSION_HEADS if not refusal([f"method={name}", f"model.fusion={head}"])]
        cells.append("all" if len(heads) == len(FUSION_HEADS) else ", ".join(f"`{head}`" for head in heads))
        rows.append(f"| [`{name}`](#{name}) | {' | '.join(cells)} |")
    head = ["method", *FEATURES, "three", "heads"]
    lines = [*HEAD.splitlines(), "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows, ""]
    return lines + [f"{number}. {reason}" for reason, number in reasons.items()]


def refusal(settings: list[str]) -> str:
    """Why a run cannot have these settings; empty if it can."""
    try:
        load(RunConfig, None, settings)
    except UserError as error:
        return str(error)
    return ""


def _cell(name: str, settings: list[str], reasons: dict[str, int]) -> str:
    found = refusal([f"method={name}", *settings])
    return _numbered(found.removeprefix("settings: "), name, reasons)


def _three(name: str, reasons: dict[str, int]) -> str:
    try:
        load(RunConfig, None, [f"method={name}"]).method.check_modalities(["first", "second", "third"])
    except UserError as error:
        return _numbered(str(error).partition(", and there are")[0].removeprefix("method: "), name, reasons)
    return "yes"


def _numbered(reason: str, name: str, reasons: dict[str, int]) -> str:
    """The number of a reason, without the name of the method."""
    if not reason:
        return "yes"
    plain = re.sub(rf"^(method )?{name} ", "it ", reason)
    return str(reasons.setdefault(plain[0].upper() + plain[1:], len(reasons) + 1))


if __name__ == "__main__":
    print("\n".join(section()))
