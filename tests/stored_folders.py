"""What commit 9ab4c28 wrote: shards, a sweep of them and a run (see tests/test_old_folders.py)."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(folder: Path) -> Path:
    """Unpacks them into a folder."""
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
    with tarfile.open(Path(__file__).parent / "stored" / "9ab4c28.tar.xz") as stored:
        stored.extractall(folder, **safely)  # type: ignore[arg-type]
    return folder
