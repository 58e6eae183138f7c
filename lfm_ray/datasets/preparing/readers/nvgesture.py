"""NVGesture: 1,532 clips of 25 hand gestures; RGB, depth and optical flow (data/nvgesture.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import numbered_lines, with_validation
from lfm_ray.errors import UserError

FRAMES_A_SECOND = 30  # of the SoftKinetic camera: colour and depth


def read(root: Path) -> pd.DataFrame:
    """Reads nvgesture_{train,test}_correct_cvpr2016_v2.lst and the videos that they name.

    A line: path:./Video_data/class_01/subject13_r0 depth:sk_depth:0:80 color:sk_color:0:80 ... label:1,
    with the first and the last frame of the gesture. Depth has its own range, but that of colour is used
    for all modalities. Optical flow does not come with the dataset; it is read from sk_flow.avi beside
    sk_color.avi.

    Raises:
        UserError: a list is missing, or a line lacks one of these parts.
    """
    rows = []
    for split in ("train", "test"):
        file = root / f"nvgesture_{split}_correct_cvpr2016_v2.lst"
        for number, line in numbered_lines(file):
            parts = dict(part.split(":", 1) for part in line.split() if ":" in part)
            try:
                folder = root / parts["path"]
                color, first, last = parts["color"].split(":")
                depth = parts["depth"].split(":")[0]
                start, end = int(first) / FRAMES_A_SECOND, int(last) / FRAMES_A_SECOND
                label = str(int(parts["label"]))
            except (KeyError, ValueError):
                raise UserError(f"{file}, line {number}: lacks path, color, depth or label") from None
            rows.append(
                {
                    "id": f"{folder.parent.name}/{folder.name}/{first}",
                    "label": label,
                    "split": split,
                    "rgb": str(folder / f"{color}.avi"),
                    "depth": str(folder / f"{depth}.avi"),
                    "flow": str(folder / "sk_flow.avi"),
                    "start": f"{start:.4f}",
                    "end": f"{end:.4f}",
                }
            )
    return with_validation(pd.DataFrame(rows))
