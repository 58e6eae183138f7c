"""MVSA-Single and MVSA-Multiple: tweets with a picture, three sentiments (data/mvsa_*.yaml)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import numbered_lines
from lfm_ray.errors import UserError

SENTIMENTS = ("positive", "neutral", "negative")


def read(root: Path) -> pd.DataFrame:
    """Reads labelResultAll.txt, and data/ID.txt and data/ID.jpg.

    A line: the id, a tab, and the sentiment of the text and that of the picture, positive,neutral; in MVSA-Multiple
    those of three people, between tabs. As is usual, each is that of most people, neutral gives way to the other, and
    tweets without a majority, or positive and negative at once, are left out (data/mvsa_single.yaml, splits).

    Raises:
        UserError: the list is missing, or a line is otherwise.
    """
    file = root / "labelResultAll.txt"
    rows = []
    for number, line in numbered_lines(file):
        name, *given = (part.strip() for part in line.split("\t"))
        if name.upper() == "ID":
            continue
        pairs = [[one.strip().lower() for one in pair.split(",")] for pair in given if pair]
        if not pairs or any(len(pair) != 2 or not set(pair) <= set(SENTIMENTS) for pair in pairs):
            raise UserError(f"{file}, line {number}: is not an id and pairs such as positive,neutral between tabs")
        label = _agreed([_of_most(votes) for votes in zip(*pairs, strict=True)])
        if label is not None:
            text, image = (root / "data" / f"{name}.{suffix}" for suffix in ("txt", "jpg"))
            rows.append({"id": name, "label": label, "text": _text(text), "image": str(image)})
    return pd.DataFrame(rows)


def _of_most(votes: Sequence[str]) -> str | None:
    """What more than half of the votes say."""
    ((most, count),) = Counter(votes).most_common(1)
    return most if 2 * count > len(votes) else None


def _agreed(sentiments: Sequence[str | None]) -> str | None:
    """The sentiment of text and picture together; None: they contradict each other, or people did."""
    if None in sentiments:
        return None
    strong = {one for one in sentiments if one != "neutral"}
    return "neutral" if not strong else strong.pop() if len(strong) == 1 else None


def _text(file: Path) -> str:
    """A tweet; some are in Latin-1. Empty: there is none, which is a row that cannot be used."""
    try:
        content = file.read_bytes()
    except OSError:
        return ""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
