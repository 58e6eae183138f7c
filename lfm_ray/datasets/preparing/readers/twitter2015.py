"""Twitter2015: 5,338 tweets with an image, three sentiments towards a target (data/twitter2015.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import fields


def read(root: Path) -> pd.DataFrame:
    """Reads twitter2015/{train,dev,test}.tsv and twitter2015_images.

    The first line of each is a header; that of test.tsv has a field too few. Columns: index, label
    (0 negative, 1 neutral, 2 positive), image file, the tweet with $T$ for the target, and the target.
    The text is the tweet with the target put back in.
    """
    rows = []
    for file, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        lines = fields(root / "twitter2015" / f"{file}.tsv", 5, "\t", header=True, as_written=3)
        for index, label, image, tweet, target, *_ in lines:
            rows.append(
                {
                    "id": f"{file}-{index}",
                    "label": label,
                    "split": split,
                    "text": tweet.replace("$T$", target),
                    "image": str(root / "twitter2015_images" / image),
                }
            )
    return pd.DataFrame(rows)
