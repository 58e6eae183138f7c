"""UCF-101: 13,320 clips of 101 actions; RGB and both components of optical flow (data/ucf101.yaml)."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import numbered_lines
from lfm_ray.errors import UserError

VAL_SHARE = 0.1  # of the groups of train


def read(root: Path) -> pd.DataFrame:
    """Reads ucfTrainTestlist/trainlist01.txt and testlist01.txt, UCF-101/CLASS/NAME.avi and tvl1_flow/{u,v}/NAME/*.jpg.

    A line: ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi, with the number of its class in the training list. Where
    there is a folder jpegs_256, frames are read from jpegs_256/NAME/*.jpg. Clips of one group (g08) come from one
    video, so val is made of the first groups of the training list.

    Raises:
        UserError: a list is missing, or a line names no clip of a class and a group.
    """
    frames = root / "jpegs_256"
    rows = []
    for split in ("train", "test"):
        file = root / "ucfTrainTestlist" / f"{split}list01.txt"
        for number, line in numbered_lines(file):
            found = re.match(r"(\w+)/(v_\w+_(g\d+)_c\d+)\.avi", line)
            if found is None:
                raise UserError(f"{file}, line {number}: is not CLASS/v_CLASS_g01_c01.avi")
            label, name, group = found.groups()
            rgb = frames / name if frames.is_dir() else root / "UCF-101" / label / f"{name}.avi"
            flow = {f"flow_{part}": str(root / "tvl1_flow" / part / name) for part in "uv"}
            rows.append({"id": name, "label": label, "split": split, "group": group, "rgb": str(rgb), **flow})
    table = pd.DataFrame(rows)
    groups = sorted(table["group"][table["split"] == "train"].unique())
    val = groups[: max(1, round(VAL_SHARE * len(groups)))]
    table.loc[(table["split"] == "train") & table["group"].isin(val), "split"] = "val"
    return table.drop(columns="group")
