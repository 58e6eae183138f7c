"""IEMOCAP: 5,531 turns of ten actors, four emotions; text, audio and video (data/iemocap.yaml)."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.preparing.readers.annotations import numbered_lines
from lfm_ray.datasets.preparing.splits import with_validation
from lfm_ray.errors import UserError

EMOTIONS = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}  # others are left out
TURN = re.compile(r"\[(\d+\.\d+)\s*-\s*(\d+\.\d+)\]\s+(Ses\w+)\s+(\w{3})\s+\[")
SAID = re.compile(r"(Ses\w+)\s+\[[\d.\s-]+\]:\s*(.*)")
TEST = "Session5"


def read(root: Path) -> pd.DataFrame:
    """Reads SessionN/dialog/EmoEvaluation/*.txt and transcriptions/*.txt, sentences/wav and dialog/avi/DivX.

    A turn: [6.2901 - 8.2357], its name, the emotion, and its values; what was said: the name, [006.2901-008.2357]: and
    the words. Excited counts as happy, and only angry, happy, neutral and sad are taken. Sound is that of the
    turn, the video that of the dialogue, which shows both actors, from the turn's start to its end.

    Raises:
        UserError: there are no dialogues.
    """
    rows = []
    for file in sorted(root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
        session, dialogue = file.parents[2], file.stem
        said = _said(session / "dialog" / "transcriptions" / file.name)
        for _, line in numbered_lines(file):
            if (turn := TURN.match(line)) is None or turn[4] not in EMOTIONS:
                continue
            start, end, name, emotion = turn.groups()
            rows.append(
                {
                    "id": name,
                    "label": EMOTIONS[emotion],
                    "split": "test" if session.name == TEST else "train",
                    "text": said.get(name, ""),
                    "audio": str(session / "sentences" / "wav" / dialogue / f"{name}.wav"),
                    "video": str(session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi"),
                    "video.start": start,
                    "video.end": end,
                }
            )
    if not rows:
        raise UserError(f"{root}: holds no turns in Session1/dialog/EmoEvaluation/Ses*.txt; --root must hold Session1")
    return with_validation(pd.DataFrame(rows))


def _said(file: Path) -> dict[str, str]:
    """Turn -> its words."""
    found = (SAID.match(line) for _, line in numbered_lines(file))
    return {line[1]: line[2].strip() for line in found if line}
