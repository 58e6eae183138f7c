"""The files that come with the package: search spaces, dataset cards, the speech of the demo.

In a clone they lie beside the package, in search_spaces/ and data/; a wheel holds them within it.
"""

from __future__ import annotations

from pathlib import Path

from lfm_ray.errors import UserError

_PACKAGE = Path(__file__).parent
SPACES, DATA = "search_spaces", "data"


def shipped_folder(name: str) -> Path:
    """The folder `search_spaces` or `data`, wherever this installation has it."""
    within = _PACKAGE / name
    return within if within.is_dir() else _PACKAGE.parent / name


def shipped_file(path: str | Path) -> Path:
    """`path` as given, or else the shipped file of that name (search_spaces/..., data/...)."""
    given = Path(path)
    if given.exists() or given.is_absolute() or not given.parts or given.parts[0] not in (SPACES, DATA):
        return given
    shipped = shipped_folder(given.parts[0]).joinpath(*given.parts[1:])
    return shipped if shipped.exists() else given


def shipped_names(folder: str) -> list[str]:
    """The names of the search spaces, or of the dataset cards, without their suffix."""
    return sorted(file.stem for file in shipped_folder(folder).glob("*.yaml"))


def space_file(name: str | Path) -> Path:
    """The file of a search space: a path, or the bare name of a shipped one, such as `alpha_schedule`.

    A file of the user's goes before a shipped one.

    Raises:
        UserError: there is no such file; the shipped spaces that are nearest in name are named.
    """
    found = shipped_file(name)
    if not found.exists() and not found.suffix and len(found.parts) == 1:
        found = shipped_folder(SPACES) / f"{name}.yaml"
    if not found.is_file():
        raise UserError(f"{name}: there is no such file{_nearest_space(Path(name).stem)}")
    return found


def _nearest_space(name: str) -> str:
    known = shipped_names(SPACES)
    # Imported here, in the error: the parsers read this file, and --help is to answer at once.
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f"; shipped search spaces: {', '.join(known)}"
