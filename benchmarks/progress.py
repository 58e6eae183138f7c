"""What the benchmarks share: each says at its start how long it takes, and shows every figure once it is measured."""

from __future__ import annotations

import time
from typing import Any

from rich.table import Table

_began = time.monotonic()


def begin(takes: str) -> None:
    """Says how long the benchmark takes, and on what; with other options it is another time."""
    global _began
    _began = time.monotonic()
    print(f"takes {takes}; each figure is printed as it is measured, with the seconds so far", flush=True)


def say(text: str) -> None:
    """Prints a line with the seconds so far."""
    print(f"{time.monotonic() - _began:6.0f} s  {text}", flush=True)


class Rows(Table):
    """A table whose rows are also printed one by one; the whole is printed at the end, by whoever fills it."""

    def add_row(self, *cells: Any, **style: Any) -> None:
        """Adds a row, and prints it with the headings of its columns, of which the first goes without saying."""
        super().add_row(*cells, **style)
        pairs = list(zip((str(column.header) for column in self.columns[1:]), cells[1:], strict=False))
        named = [str(cell) if heading in ("", "value") else f"{heading} {cell}" for heading, cell in pairs if cell]
        say(f"{cells[0]}: {', '.join(named)}")
