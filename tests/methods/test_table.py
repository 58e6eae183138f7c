"""The table of the methods, in the docstring of `lfm_ray.methods`, is true."""

from __future__ import annotations

import re

import pytest

from lfm_ray import methods
from lfm_ray.methods import METHODS, Method

LINE = r"^    (\w+) +((?:[HLGRPY] )*[HLGRPY]) +\S.*?  +(\S+) (\S+) +\d\.\d +(any|2) +\S"
LINES = {found[0]: found[1:] for found in re.findall(LINE, methods.__doc__ or "", flags=re.MULTILINE)}
HOOKS = {
    "L": ("classification", "loss"),
    "G": ("gradient", "gradient_factors"),
    "R": ("learning_rate_factors",),
    "P": ("phases",),
    "Y": ("predict",),
}


def test_every_method_has_a_line() -> None:
    assert set(LINES) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_line_says_what_the_method_changes(name: str) -> None:
    changes, _, _, modalities = LINES[name]
    method = METHODS[name]
    assert ("H" in changes) == bool(method.heads)
    assert (modalities == "2") == method.exactly_two
    for letter, hooks in HOOKS.items():
        own = any(getattr(method, hook) is not getattr(Method, hook) for hook in hooks)
        if letter == "G":  # `after_backward` can change gradients too, or only remember something
            assert letter in changes or not own
        elif name != "lfm":  # its loss is the default
            assert (letter in changes) == own, letter
