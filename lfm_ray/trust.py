"""Whose code may run: parts of other packages are imported only if the user has asked for them.

A name such as `my_lab.methods:Tilt` may stand in a file from anybody: a sweep, a run, an exported model. What the
user names, on the command line, in a file given there or in a call from Python, is asked for (`ask`); everything
else is refused unless `--trust` is given (`ask_for_everything`). Ray workers are sent what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# package.module:Name; only where a word begins, or a long text without a colon would take hours.
PART = re.compile(r"(?<![\w.])[A-Za-z_][\w.]*:[A-Za-z_]\w*")

_asked: set[str] = set()
EVERYTHING = "*"


def ask(given: Any) -> None:
    """Notes every part that `given` names: a name, or mappings and lists of any depth that the user wrote."""
    if isinstance(given, str):
        _asked.update(PART.findall(given))
        if given == EVERYTHING:
            _asked.add(given)
    elif isinstance(given, Mapping):
        ask(list(given.keys()))
        ask(list(given.values()))
    elif isinstance(given, Iterable):
        for one in given:
            ask(one)


def ask_for_everything() -> None:
    """`--trust`: whatever is named may run."""
    _asked.add(EVERYTHING)


def everything() -> bool:
    """Whether whatever is named may run and be followed."""
    return EVERYTHING in _asked


def asked() -> frozenset[str]:
    """What has been asked for in this process, to be sent to a worker, which passes it to `ask`."""
    return frozenset(_asked)


def allowed(name: str) -> bool:
    """Whether a part may be imported."""
    return name in _asked or EVERYTHING in _asked
