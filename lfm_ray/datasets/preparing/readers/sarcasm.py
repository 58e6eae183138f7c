"""Sarcasm: 24,635 tweets with an image, sarcastic or not; text and image (data/sarcasm.yaml)."""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import numbered_lines
from lfm_ray.errors import UserError

# codes/loadData.py of the authors (layout_source of the card, at f42b165) leaves out tweets with one of these tokens.
DISCARDED = frozenset(
    ["sarcasm", "sarcastic", "reposting", "<url>", "joke", "jokes", "humour", "humor", "irony", "ironic", "exgag"]
)
FILES = {"train": ("train.txt",), "val": ("valid2.txt", "valid.txt"), "test": ("test2.txt", "test.txt")}


def read(root: Path) -> pd.DataFrame:
    """Reads text/train.txt, text/valid2.txt and text/test2.txt, and the images dataset_image/ID.jpg.

    Each line is a Python list: id, text, and the label last (0 or 1). As the authors do, tweets that hold
    one of the words `DISCARDED` are left out, whose images are not distributed: 24,635 remain.

    Raises:
        UserError: a file is missing, or a line is not such a list.
    """
    rows = []
    for split, names in FILES.items():
        files = [root / "text" / name for name in names]
        file = next((file for file in files if file.is_file()), files[0])
        for number, line in numbered_lines(file):
            try:
                entry = ast.literal_eval(line)
                name, text, label = str(entry[0]), str(entry[1]), int(entry[-1])
            except (ValueError, SyntaxError, IndexError, TypeError, KeyError):
                raise UserError(f"{file}, line {number}: is not a list of id, text and label") from None
            if DISCARDED.intersection(text.split()):
                continue
            image = str(root / "dataset_image" / f"{name}.jpg")
            rows.append({"id": name, "label": str(label), "split": split, "text": text, "image": image})
    return pd.DataFrame(rows)
