"""Parts of other packages that fail: one line that names the part, what it raised, and where.

What a part is given is checked before it is called, and what it gives where it is used (`returned`). Anything else that
goes wrong in it is an exception of whose traceback it is a part (`blamed`).
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from lfm_ray.errors import TrainingFailed, UserError

OURS = __name__.partition(".")[0]

_imported: dict[str, str] = {}  # package.module:Name -> what it is, such as "method"


def note(what: str, name: str) -> None:
    """Notes that a part is imported. what: such as "method"; name: `package.module:Name`."""
    if name.partition(".")[0].partition(":")[0] != OURS:
        _imported[name] = what


def blamed(error: BaseException) -> str:
    """The line that says which part of another package raised `error`, and where; empty if none did.

    Memory that does not suffice is nobody's fault, and what a part says on purpose (UserError) is said already. A part
    that ends the process (SystemExit) is to blame as well; Ctrl-C is not its doing.
    """
    if not _imported or isinstance(error, KeyboardInterrupt) or _is_no_fault(error):
        return ""
    for one in _with_causes(error):
        for frame, line in reversed(list(traceback.walk_tb(one.__traceback__))):
            if names := _parts_of(frame.f_code):
                place = f" ({_shown(frame.f_code.co_filename, names[0])}, line {line})"
                return f"{_all_of(names)} raised {one_line(one)}{place}; correct it there"
        if names := _wrongly_called(one):
            return f"{_all_of(names)} cannot be called: {one}; correct it (docs/extending.md)"
    return ""


def one_line(error: BaseException) -> str:
    """The class of an exception and the first line of what it says."""
    try:
        said = str(error)
    except Exception:  # an exception of somebody's own that cannot say what it is
        said = ""
    details = getattr(error, "errors", None)
    if callable(details) and type(error).__module__.startswith("pydantic"):
        first = details()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def called(part: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What a part gives that is called. part: what it is and its name.

    Raises:
        UserError: it takes other arguments.
    """
    try:
        return function(*given, **named)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # it never began
            raise UserError(f"{part} cannot be called: {error}; correct it (docs/extending.md)") from None
        raise


def returned(part: str, value: Any, right: bool, must_be: str) -> None:
    """Checks what a part has returned.

    part: what it is and its name, or the setting that names it; must_be: what it has to return.

    Raises:
        UserError: it is not `right`.
    """
    if not right:
        raise UserError(f"{part} returned {_described(value)}; it must return {must_be}")


def is_number(value: Any) -> bool:
    """Whether a value is one number, be it in an array or a tensor."""
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        return False
    return not isinstance(value, str | bytes)


def imported() -> dict[str, str]:
    """The parts that this process has imported: `package.module:Name` -> what it is."""
    return dict(_imported)


def cannot_be_imported(parts: Mapping[str, str]) -> str:
    """The first of some parts that this process cannot import, and why; empty if it can import all."""
    for name, what in sorted(parts.items()):
        try:
            getattr(importlib.import_module(_module(name)), name.partition(":")[2])
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever somebody's module raises, be it sys.exit()
            return f"{what} {name} cannot be imported: {one_line(error)}"
    return ""


def _is_no_fault(error: BaseException) -> bool:
    return isinstance(error, UserError | TrainingFailed | MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those from which it came."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _parts_of(code: CodeType) -> list[str]:
    """The parts to which a piece of code belongs: by their name, else by their file, else by their package."""
    in_file = [name for name in _imported if code.co_filename == _file(_module(name))]
    named = [name for name in in_file if code.co_qualname.partition(".")[0] == name.rpartition(":")[2]]
    if named or in_file:
        return named or in_file
    return [name for name in _imported if (folder := _folder(name)) and Path(code.co_filename).is_relative_to(folder)]


def _wrongly_called(error: BaseException) -> list[str]:
    """The parts whose function was called with other arguments than it takes, so that it never began."""
    match = re.match(r"([A-Za-z_]\w*)(\.\w+)*\(\) (takes|missing|got)", str(error))
    if not isinstance(error, TypeError) or match is None:
        return []
    return [name for name in _imported if hasattr(sys.modules.get(_module(name)), match[1])]


def _all_of(names: list[str]) -> str:
    return " or ".join(f"{_imported[name]} {name}" for name in names)


def _module(name: str) -> str:
    return name.partition(":")[0]


def _file(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)


def _folder(name: str) -> Path | None:
    """The folder of the package that a part belongs to; None if that is a single file."""
    package = sys.modules.get(_module(name).partition(".")[0])
    file = getattr(package, "__file__", None)
    return Path(file).parent if file and hasattr(package, "__path__") else None


def _shown(file: str, name: str) -> str:
    folder = _folder(name)
    return str(Path(file).relative_to(folder.parent)) if folder else Path(file).name


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, int | float | str | bool | None):
        return repr(value)[:60]
    return f"{'an' if type(value).__name__[0] in 'AEIOUaeiou' else 'a'} {type(value).__name__}"
