"""NVGesture: 1,532 clips of 25 hand gestures; RGB, depth and optical flow (data/nvgesture.yaml)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import numbered_lines
from lfm_ray.datasets.preparing.splits import with_validation
from lfm_ray.errors import UserError

FRAMES_A_SECOND = 30  # of the SoftKinetic camera: colour and depth


def read(root: Path) -> pd.DataFrame:
    """Reads nvgesture_{train,test}_correct_cvpr2016_v2.lst and the videos that they name.

    A line: path:./Video_data/class_01/subject13_r0 depth:sk_depth:0:80 color:sk_color:0:80 ... label:1,
    with the gesture's first frame and the one after its last, of each camera; that of colour also holds for the
    optical flow. Optical flow does not come with the dataset; it is read from sk_flow.avi beside sk_color.avi.

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
                depth, *depth_range = parts["depth"].split(":")
                (start, end), (depth_start, depth_end) = _times(first, last), _times(*depth_range)
                label = str(int(parts["label"]))
            except (KeyError, ValueError, TypeError):
                raise UserError(f"{file}, line {number}: lacks path, color, depth or label") from None
            rows.append(
                {
                    "id": f"{folder.parent.name}/{folder.name}/{first}",
                    "label": label,
                    "split": split,
                    "rgb": str(folder / f"{color}.avi"),
                    "depth": str(folder / f"{depth}.avi"),
                    "flow": str(folder / "sk_flow.avi"),
                    "start": start,
                    "end": end,
                    "depth.start": depth_start,
                    "depth.end": depth_end,
                }
            )
    return with_validation(pd.DataFrame(rows))


def _times(first: str, last: str) -> tuple[str, str]:
    """Seconds, half a frame before the first frame and before the one after the last, where no rounding matters."""
    start, end = ((int(frame) - 0.5) / FRAMES_A_SECOND for frame in (first, last))
    return repr(max(0.0, start)), repr(end)
