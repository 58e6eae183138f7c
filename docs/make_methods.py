"""Writes docs/methods.md from the methods' classes and docstrings.

python docs/make_methods.py
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import make_combinations

from lfm_ray.methods import METHODS, Method

PAGE = Path(__file__).parent / "methods.md"
CHANGES = {
    "the loss": ("classification", "loss", "combined"),
    "gradients": ("gradient", "gradient_factors"),
    "learning rates": ("learning_rate_factors",),
    "steps per batch": ("phases",),
    "the prediction": ("predict",),
    "the inputs": ("forward",),
}
HEAD = """# Training methods

Made from the code by `python docs/make_methods.py`. Each method is one file in `lfm_ray/methods`, chosen by
`method: NAME`; settings other than the defaults are given as `method: {name: NAME, SETTING: VALUE}` or
`--set method.SETTING=VALUE`. Every method but those marked can be combined with L_MM by alpha.
`python benchmarks/methods.py` measures what a step of each costs. How each was compared with its authors' code:
`tests/parity/README.md`. "Changes" lists the hooks of `lfm_ray.methods.Method` that a method overrides. "Passes" are
those of each encoder in a training step, forward and backward, at most; m is the number of modalities. "Targets" are
what rows are labelled with: classes, or [several labels or a number](data.md#several-labels-or-a-number) as well.
"Missing": whether [rows may lack a modality](data.md#rows-that-lack-a-modality).
"""


def page() -> str:
    """The whole page."""
    classes = {name: METHODS[name] for name in METHODS}
    lines = [
        HEAD,
        "| method | | changes | passes | modalities | missing | targets | fusion heads | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(name, method) for name, method in classes.items()]
    lines += ["", *make_combinations.section()]
    for name, method in classes.items():
        lines += ["", f"## {name}", "", *_body(method)]
    return "\n".join(lines) + "\n"


def _row(name: str, method: type[Method]) -> str:
    changes = [what for what, hooks in CHANGES.items() if any(_own(method, hook) for hook in hooks)]
    heads = ", ".join(method.heads) or "any"
    alone = "" if method.combines else " (without L_MM)"
    modalities = "2" if method.exactly_two else "any"
    cells = [
        f"[`{name}`](#{name})",
        _summary(method) + alone,
        ", ".join(changes) or "-",
        ", ".join(method.passes),
        modalities,
        "yes" if method.takes_missing else "no",
        "classes" if method.only_classes else "any, see below" if _own(method, "check_target") else "any",
        heads,
        method.source,
    ]
    return f"| {' | '.join(cells)} |"


def _own(method: type[Method], hook: str) -> bool:
    return getattr(method, hook, None) is not getattr(Method, hook, None)


def _summary(method: type[Method]) -> str:
    module = inspect.getdoc(sys.modules[method.__module__]) or ""
    return module.splitlines()[0].rstrip(".").partition(": ")[2] or module.splitlines()[0].rstrip(".")


def _body(method: type[Method]) -> list[str]:
    texts = [inspect.getdoc(sys.modules[method.__module__]) or "", inspect.getdoc(method) or ""]
    lines = [line for text in texts for line in (*_markdown(text), "")]
    settings = {name: field for name, field in method.model_fields.items() if name != "name"}
    if settings:
        lines += ["| setting | default | |", "| --- | --- | --- |"]
        for name, field in settings.items():
            default = "null" if field.default is None else str(field.get_default(call_default_factory=True))
            lines.append(f"| `{name}` | {default} | {field.description or ''} |")
    return lines


def _markdown(text: str) -> list[str]:
    """A docstring as Markdown: what is indented there is shown as it is."""
    return [re.sub(r"^ {4,}", "    ", line) for line in text.splitlines()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
