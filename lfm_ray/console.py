"""The console that everything is printed on, in a terminal, a log file or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from lfm_ray.visible import UNSHOWN, visible


class PlainConsole(Console):
    """A console that shows texts as they are: names, labels and reasons are a user's, or a stranger's.

    Brackets are no markup, and characters that a terminal would obey are escaped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as text; here, too, so that the width of columns is right."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The pieces that something is printed as."""
        for piece in super().render(renderable, options):
            is_text = piece.control is None and UNSHOWN.search(piece.text)
            yield Segment(visible(piece.text), piece.style) if is_text else piece


console = PlainConsole(highlight=False, width=None if sys.stdout.isatty() else 100)
SILENT = PlainConsole(quiet=True)


def notice(first: str, rest: str = "") -> Text:
    """A line whose beginning stands out."""
    return Text.assemble((first, "yellow"), rest)


def moves(to: Console) -> bool:
    """Whether a progress bar can move on a console: a terminal, or a notebook, which needs ipywidgets for it."""
    return not to.quiet and (to.is_terminal or (to.is_jupyter and find_spec("ipywidgets") is not None))
