"""The console that everything is printed on, in a terminal, a log file or a notebook."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from rich.console import Console
from rich.text import Text

# Without markup: names, labels and reasons are a user's, and may hold brackets.
console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
SILENT = Console(quiet=True, markup=False)


def notice(first: str, rest: str = "") -> Text:
    """A line whose beginning stands out."""
    return Text.assemble((first, "yellow"), rest)


def moves(to: Console) -> bool:
    """Whether a progress bar can move on a console: a terminal, or a notebook, which needs ipywidgets for it."""
    return not to.quiet and (to.is_terminal or (to.is_jupyter and find_spec("ipywidgets") is not None))
