"""Tables whose rows are shown as they are measured, and one table of the rows that several programs gathered.

python benchmarks/rows.py FILE       the rows in FILE, which the programs' --gather FILE wrote
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

GATHERED = {"part": 14, "case": 34, "time": 12, "goal": 6, "memory": 8, "its goal": 8}


class RunningTable:
    """A table on standard output: column -> its width. The first is aligned to the left, the others to the right."""

    def __init__(self, columns: Mapping[str, int], title: str = "") -> None:
        self.widths = list(columns.values())
        if title:
            print(title, flush=True)
        self.add(*columns)
        print("-" * (sum(self.widths) + len(self.widths) - 1), flush=True)

    def add(self, *cells: str) -> None:
        """One row, at once."""
        first, *others = zip(cells, self.widths, strict=True)
        right = [cell.rjust(width) for cell, width in others]
        print(" ".join([first[0].ljust(first[1]), *right]).rstrip(), flush=True)


def gather(file: Path | None, part: str, case: str, time: str, goal: str = "", memory: str = "", its: str = "") -> None:
    """Adds a row to a file, if there is one. time, memory: over those of what it is compared with, with their goals."""
    if file is not None:
        with file.open("a", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerow((part, case, time, goal, memory, its))


def main() -> None:
    """Prints the gathered rows, or adds one: FILE PART CASE TIME."""
    file, *row = sys.argv[1:]
    if row:
        gather(Path(file), *row)
        return
    table = RunningTable(GATHERED)
    with Path(file).open(newline="", encoding="utf-8") as lines:
        for cells in csv.reader(lines):
            table.add(*cells)


if __name__ == "__main__":
    main()
