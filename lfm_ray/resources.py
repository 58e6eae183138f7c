"""The files that come with the package: search spaces, dataset cards, the speech of the demo."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def repository_file(path: str | Path) -> Path:
    """`path` as given, or else the file of that name in the repository (search_spaces/..., data/...)."""
    given = Path(path)
    shipped = REPOSITORY / given
    return shipped if shipped.exists() and not given.exists() else given
