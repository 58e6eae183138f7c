"""Parts by name: a built-in one, or anybody's own as `package.module:Name`.

Methods, schedules, encoders, fusion heads, readers, metrics and samplers each have a `Registry` beside the class
that they derive from. A name with a colon is imported, so that a part of one's own needs no edit here.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from lfm_ray import own_parts, trust
from lfm_ray.settings import Settings, nearest

Part = TypeVar("Part")


class Registry(Mapping[str, Part], Generic[Part]):
    """Name -> part. It iterates over the built-in names, and also resolves `package.module:Name`.

    what: such as "method", for error messages. builtin: name -> where it is, `module:Name`, or the module
    alone where it defines one class that fits (`parts_in`). fits: whether
    what was found is such a part; must_be: what it has to be, for the message.
    """

    def __init__(
        self, what: str, builtin: Mapping[str, str], fits: Callable[[Any], bool] = callable, must_be: str = "a function"
    ) -> None:
        self.what, self.builtin = what, dict(builtin)
        self.fits, self.must_be = fits, must_be
        self._found: dict[str, Part] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.builtin)

    def __len__(self) -> int:
        return len(self.builtin)

    def __contains__(self, name: object) -> bool:
        return name in self.builtin or (isinstance(name, str) and ":" in name)

    def __getitem__(self, name: str) -> Part:
        """The part.

        Raises:
            KeyError: the name is neither built in nor of the form `package.module:Name`.
            ValueError: nobody has asked for it (`lfm_ray.trust`), the module cannot be imported, or does not
                hold such a part.
        """
        if name not in self._found:
            if ":" in name and not trust.allowed(name):
                raise ValueError(
                    f"{name} is code of another package, named by a stored file; --trust (trust=True in Python) runs it"
                )
            path, _, attribute = (self.builtin[name] if ":" not in name else name).partition(":")
            try:
                module = importlib.import_module(path)
                part = getattr(module, attribute) if attribute else self._class_of(module)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # whatever somebody's module raises, be it sys.exit()
                reason = (str(error).splitlines() or [""])[0] or type(error).__name__
                raise ValueError(f"{self.what} {name} cannot be imported: {reason}") from None
            if not self.fits(part):
                raise ValueError(f"{self.what} {name}: must be {self.must_be}")
            if ":" in name:
                own_parts.note(self.what, name)
            self._found[name] = part
        return self._found[name]

    def _class_of(self, module: ModuleType) -> Any:
        """The class that the module defines, not one that it imports."""
        classes = [value for value in vars(module).values() if isinstance(value, type) and self.fits(value)]
        (found,) = [one for one in classes if one.__module__ == module.__name__]
        return found

    def check(self, name: str) -> str:
        """The name, for a validator.

        Raises:
            ValueError: there is no such part.
        """
        if name not in self:
            near = nearest(name, list(self))
            raise ValueError(f"must be one of {', '.join(self)}{near if 'did you mean' in near else ''}")
        if ":" in name:
            self[name]
        return name


def parts_in(package: str, shared: Iterable[str] = (), attribute: str = "") -> dict[str, str]:
    """The built-in parts of a package that holds one in each module: name of the module -> where the part is.

    Nothing is imported. shared: modules that hold none. attribute: what the part is called in its module;
    without it, the part is the module's class.
    """
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations
    names = sorted(module.name for module in pkgutil.iter_modules(found.submodule_search_locations))
    return {name: f"{package}.{name}{attribute and ':' + attribute}" for name in names if name not in shared}


def short_name(registry: Registry[Any], name: str) -> str:
    """`package.module:Name` -> `Name`, unless a built-in part is called so: as tables show it."""
    short = name.rpartition(":")[2]
    return name if short in registry.builtin else short


def choose(registry: Registry[Any], tag: str, default: str, value: Any) -> Any:
    """The settings of a part from what a user wrote: its name, or a mapping whose key `tag` names it.

    registry: of classes of settings; default: the name where the mapping has none.

    Raises:
        ValidationError: there is no such part, or one of its settings is wrong.
    """
    if isinstance(value, str):
        value = {tag: value}
    if not isinstance(value, dict):
        return value
    value = {tag: default, **value}
    name = value[tag]
    try:
        part: type[Settings] = registry[registry.check(name) if isinstance(name, str) else default]
    except ValueError as error:
        reason = (
            str(error) if ":" in str(name) else f"{name!r} is not one of {str(error).removeprefix('must be one of ')}"
        )
        unknown = PydanticCustomError("unknown_part", "{reason}", {"reason": reason})
        details = [InitErrorDetails(type=unknown, loc=(tag,), input=name)]
        raise ValidationError.from_exception_data(registry.what, details) from None
    return part.model_validate(value)
