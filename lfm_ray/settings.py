"""What all typed settings in lfm_ray share: strict checks, YAML, `--set`, and one-line errors.

A settings class is a pydantic model derived from `Settings`. `load` builds one from a YAML file
and `--set path.to.setting=value` overrides, and turns whatever is wrong into one `UserError` that
names the key, the file and line, what is allowed, and the nearest valid name.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
import yaml.constructor
from pydantic import BaseModel, ConfigDict, ValidationError

from lfm_ray import trust
from lfm_ray.checksums import is_seal_right
from lfm_ray.errors import UserError
from lfm_ray.files import check_regular

AnySettings = TypeVar("AnySettings", bound="Settings")
Overrides = Sequence[str] | Mapping[str, Any]  # `--set` of a command, or `settings` of a function

# Sections that choose between kinds, and the key that makes the choice; changing it empties the rest of the section.
KINDS = {"alpha": "strategy", "method": "name"}


class Settings(BaseModel):
    """Base of all settings: unknown keys are rejected, and values are immutable once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def part(cls, name: str) -> type[Settings] | None:
        """The class of the settings under this name, where a section of this class is a choice between parts."""
        return None

    def to_yaml(self, defaults: bool = True) -> str:
        """The settings as YAML that `load` reads back to an equal object; defaults: include those at their default."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=not defaults), sort_keys=False)


def load(cls: type[AnySettings], path: Path | None, overrides: Overrides = ()) -> AnySettings:
    """Reads `cls` from a YAML file (None: only defaults) and applies overrides (`parse_overrides`).

    Raises:
        UserError: the file cannot be read, or a setting is unknown, mistyped or out of bounds.
    """
    values = read_yaml(path) if path else {}
    changes = parse_overrides(overrides)
    return build(cls, merge(values, changes), source=path, changed=changes)


def build(
    cls: type[AnySettings],
    values: Mapping[str, Any],
    *,
    source: Path | None = None,
    changed: Mapping[str, Any] | None = None,
) -> AnySettings:
    """Checks `values` against `cls`; `source` and `changed` only serve to make error messages precise."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(_explain(error, cls, values, source, changed or {})) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file, read by the safe loader."""
    try:
        text = _text_of(path)
        content = read_text(text)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}{where}: not valid YAML: {' '.join(str(getattr(error, 'problem', error)).split())}"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not is_seal_right(text):
        raise UserError(
            f"{path}: was altered since it was written (its checksum differs); if that was meant, remove its first and"
            " last line"
        )
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping of settings, not {type(content).__name__}")
    return content


LONGEST_SHOWN = 200  # characters of a value
MOST_BITS = 64
LARGEST_FILE = 2 * 2**20  # bytes; of twice as many keys as are read
DEEPEST = 50  # settings are nested five deep
MOST_NODES = 100_000  # keys and values, each alias counted as what it stands for


class _Loader(yaml.SafeLoader):
    """The safe loader, without what a few lines can fill the memory with, and without keys that hide others."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node of the tree."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.constructor.ConstructorError(None, None, f"nested more than {DEEPEST} deep", self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys differ."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                said = f"{key.value[:60]!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer, of 64 bits at most: Python reads longer ones, and cannot write those of 4,300 digits."""
        mark = node.start_mark
        try:
            value: int = super().construct_yaml_int(node)  # type: ignore[no-untyped-call]
        except ValueError:
            said = f"{str(node.value)[:60]!r} is no whole number that can be read"
            raise yaml.constructor.ConstructorError(None, None, said, mark) from None
        if value.bit_length() > MOST_BITS:
            said = f"a whole number has at most {MOST_BITS} bits"
            raise yaml.constructor.ConstructorError(None, None, said, mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_text(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        yaml.YAMLError, ValueError: it is not YAML, is too large or nested too deep, has a key twice, or a number
            or a date that does not exist.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MOST_NODES:
            raise ValueError(f"has more than {MOST_NODES:,} keys and values, its aliases (*NAME) written out")
        return None if node is None else loader.construct_document(node)
    except (RecursionError, OverflowError, TypeError, AttributeError) as error:  # what PyYAML makes of odd texts
        raise ValueError(str(error)) from None
    except KeyError as error:  # !!bool 7
        raise ValueError(f"{error} is not a value of the type that is written before it") from None
    finally:
        loader.dispose()


def _text_of(path: Path) -> str:
    """The content of a file of settings, which nobody writes by the megabyte."""
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path}: is larger than {LARGEST_FILE / 2**20:g} MiB; are these settings?")
    return content.decode("utf-8")


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The nodes of a tree; known: those of parts that have been counted."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # of a node within itself
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def parse_overrides(overrides: Overrides) -> dict[str, Any]:
    """`["loss.tau=0.1"]` -> `{"loss.tau": 0.1}`; values are read as YAML. A mapping is flattened where it is nested."""
    if isinstance(overrides, Mapping):
        flat = flatten(overrides)
        return {in_full(key) if isinstance(value, str) else key: value for key, value in flat.items()}
    changes = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {item[:LONGEST_SHOWN]}: write it as path.to.setting=value")
        try:
            read = read_text(value)
            trust.ask(read)
            changes[in_full(key.strip()) if isinstance(read, str) else key.strip()] = read
        except (yaml.YAMLError, ValueError):
            raise UserError(f"--set {item[:LONGEST_SHOWN]}: the value is not valid YAML") from None
    return changes


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested `values` in which dotted keys are replaced.

    Changing `alpha.strategy` first empties the section `alpha`, since the settings of one strategy
    mean nothing to another. So does `method.name`; a bare `method: NAME` is short for it.
    """
    result = _deep_copy(values)
    for name, kind in KINDS.items():
        if isinstance(result.get(name), str):
            result[name] = {kind: result[name]}
    changes = {in_full(key) if isinstance(value, str) else key: value for key, value in changes.items()}
    kind_keys = [f"{name}.{kind}" for name, kind in KINDS.items()]
    for dotted in sorted(changes, key=lambda key: key not in kind_keys):
        *sections, key = dotted.split(".")
        section = result
        for name in sections:
            inner = section.get(name)
            if inner is None:
                inner = section[name] = {}
            if not isinstance(inner, dict):
                raise UserError(f"{dotted}: {name} is a single value and has no setting {key!r}")
            section = inner
        if dotted in kind_keys and section.get(key) != changes[dotted]:
            section.clear()
        section[key] = changes[dotted]
    return result


def in_full(key: str) -> str:
    """`method` -> `method.name`: for the name of a section, the key that chooses its kind."""
    return f"{key}.{KINDS[key]}" if key in KINDS else key


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings -> `{"loss.tau": 0.1, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nearest(name: str, allowed: Sequence[str]) -> str:
    """`; did you mean X?`, or all allowed names if none is close."""
    similar = _similar(name, allowed)
    return similar or (f"; allowed: {', '.join(sorted(allowed))}" if allowed else "")


def _similar(name: str, allowed: Sequence[str]) -> str:
    match = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _deep_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _explain(
    error: ValidationError,
    cls: type[Settings],
    values: Mapping[str, Any],
    source: Path | None,
    changed: Mapping[str, Any],
) -> str:
    details = error.errors(include_url=False)
    first = details[0]
    keys, fields = _walk(cls, first["loc"], values)
    dotted = ".".join(keys)
    if first["type"] == "extra_forbidden":
        message = f"unknown setting{nearest(keys[-1], fields)}"
    elif first["type"] == "unknown_part":
        message = first["msg"]
    elif first["type"] == "model_type":
        message = f"must be a section, with settings of its own (it is {_short(first['input'])})"
    elif first["type"] == "missing":
        message = "is missing and has no default"
    else:
        text = first["msg"].removeprefix("Value error, ")
        message = f"{text[0].lower()}{text[1:]}"
        named = isinstance(first["input"], str) and ":" in first["input"] and first["input"] in message
        if not named and not isinstance(first["input"], (dict, list, Settings)):
            message += f" (it is {_short(first['input'])})"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{_where(dotted, keys, source, changed)}{dotted or 'settings'}: {message}{more}"


def _short(value: Any) -> str:
    """A value for a message, of which its beginning is enough."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _where(dotted: str, keys: Sequence[str], source: Path | None, changed: Mapping[str, Any]) -> str:
    if any(dotted == key or dotted.startswith(f"{key}.") for key in changed):
        return "--set "
    if source is None:
        return ""
    line = line_of(source, keys)
    return f"{source}, line {line}: " if line else f"{source}: "


def line_of(source: Path, keys: Sequence[str], *, whole: bool = False) -> int | None:
    """The line, from 1, of the last of `keys` that the file contains; None if `whole` and it does not contain all."""
    node, line = _composed(source.read_text(encoding="utf-8")), None
    for key in keys:
        found = [pair for pair in node.value if pair[0].value == key] if isinstance(node, yaml.MappingNode) else []
        if not found:
            return None if whole else line
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line


@lru_cache(maxsize=8)
def _composed(text: str) -> yaml.Node | None:
    """The tree of a YAML text; cached, since a search space looks up the line of every setting, even a right one."""
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _walk(cls: type[BaseModel], loc: Sequence[int | str], values: Any) -> tuple[list[str], list[str]]:
    """Pydantic's location in `values` -> the keys as a user writes them, and the settings valid there."""
    model: type[BaseModel] | None = cls
    beside: list[str] = []
    of_each: type[BaseModel] | None = None  # the class of the values in a mapping with the user's own keys
    for part in loc:
        values = values.get(part) if isinstance(values, Mapping) else None
        beside = list(model.model_fields) if model else []
        if of_each is not None:
            model, of_each = _chosen(of_each, values), None
            continue
        annotation = model.model_fields[str(part)].annotation if model and str(part) in model.model_fields else None
        model = _model_in(annotation)
        if typing.get_origin(annotation) is dict:
            model, of_each = None, model
        elif model is not None:
            model = _chosen(model, values)
    return [str(part) for part in loc], beside


def _chosen(model: type[BaseModel], values: Any) -> type[BaseModel]:
    """The class of settings that `values` choose, where the section is a choice between parts."""
    tags = [values.get(tag) for tag in KINDS.values()] if isinstance(values, Mapping) else [values]
    name = next((tag for tag in tags if isinstance(tag, str)), None)
    try:
        return (model.part(name) or model) if name is not None and issubclass(model, Settings) else model
    except ValueError:  # a part that cannot be had, which is what the error is about
        return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
