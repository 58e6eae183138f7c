"""UPMC Food-101: 90,704 pictures of 101 dishes with the titles of their pages; text and image (data/food101.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import fields
from lfm_ray.datasets.preparing.splits import with_validation


def read(root: Path) -> pd.DataFrame:
    """Reads texts/train_titles.csv and texts/test_titles.csv, and images/{train,test}/CLASS/NAME.jpg.

    A line: apple_pie_0.jpg,"Easy apple pie, a recipe",apple_pie. There is no header.
    """
    rows = []
    for split in ("train", "test"):
        for image, title, label, *_ in fields(root / "texts" / f"{split}_titles.csv", 3, as_written=1):
            path = root / "images" / split / label / image
            rows.append({"id": f"{split}/{image}", "label": label, "split": split, "text": title, "image": str(path)})
    return with_validation(pd.DataFrame(rows))
