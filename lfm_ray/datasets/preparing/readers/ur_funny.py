"""UR-FUNNY, version 2: 10,166 passages of TED talks, funny or not; text, audio and video (data/ur_funny.yaml)."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import clip_finder, numbered_lines
from lfm_ray.errors import UserError

LINE = re.compile(r"(\w+),\s*(FUNNY|NOTFUNNY),\s*###\s*(.*)")


def read(root: Path) -> pd.DataFrame:
    """Reads ur_funny_train.txt, ur_funny_valid.txt and ur_funny_test.txt, and clips ID.mp4 anywhere below `root`.

    A line: 340, FUNNY, ### and i like this one. The authors publish labels and words as pickles, which are not
    read, as a pickle can run code; these lists hold the same, with splits of their own.

    Raises:
        UserError: a list is missing, or a line is otherwise.
    """
    clip = clip_finder(root)
    rows = []
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        file = root / f"ur_funny_{name}.txt"
        for number, line in numbered_lines(file):
            if (found := LINE.match(line)) is None:
                raise UserError(f"{file}, line {number}: is not an id, FUNNY or NOTFUNNY, ### and a text")
            rows.append({"id": found[1], "label": found[2], "split": split, "text": found[3], **clip(found[1])})
    return pd.DataFrame(rows)
