"""The settings that depend on the media themselves: what was left open is decided for each column by its own files."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lfm_ray.datasets.kinds import Kind, Storage
from lfm_ray.datasets.media import audio, features, pictures
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.content import reason_of
from lfm_ray.datasets.media.features import FeatureSettings
from lfm_ray.datasets.media.pictures import ImageSettings
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.decoding import modality_card
from lfm_ray.datasets.preparing.embedded import Embedded, path_of
from lfm_ray.datasets.preparing.manifest import Row
from lfm_ray.errors import UserError
from lfm_ray.settings import nearest

# The kinds that each storage is for.
STORED_AS: dict[Storage, tuple[Kind, ...]] = {
    "tensor": ("audio", "image", "video", "text", "feature"),
    "waveform": ("audio",),
    "jpeg": ("image", "video"),
}
MOST_SECONDS = 10.0
MOST_SAMPLE_RATE = 16000
MOST_PIXELS = 224
ASKED = 64  # training files of a column, whose majority decides

Found = TypeVar("Found")


def resolve(config: PrepareConfig, kinds: Mapping[str, Kind], rows: Sequence[Row]) -> PrepareConfig:
    """Fills in the nulls of `config` from the headers of the training rows' files, for each column by itself.

    Where files of a column differ, most of them decide. Broken files are skipped; `decode` reports them.

    Raises:
        UserError: a setting names no modality or does not fit it, or no file of a column can be read or there is none.
    """
    _check_names(config, kinds)
    resolved = {}
    for name, kind in kinds.items():
        having = [row for row in rows if name in row.values]
        if not having:
            raise UserError(f"no training row has {name}; leave it out")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, as in `decode`
            resolved[name] = _resolved(name, kind, config.of(name, kind), having)
    update: dict[str, Any] = {"columns": {}}
    for kind in dict.fromkeys(kinds.values()):
        own = {name: settings for name, settings in resolved.items() if kinds[name] == kind}
        first, *others = own.values()
        if all(other == first for other in others):
            update[kind] = first
        else:
            update["columns"][kind] = {name: settings.model_dump() for name, settings in own.items()}
    config = config.model_copy(update=update)
    for name, kind in kinds.items():
        modality_card(name, kind, config)
    return config


def _check_names(config: PrepareConfig, kinds: Mapping[str, Kind]) -> None:
    for setting, given in (("noise", config.noise), ("storage", config.storage)):
        for name in set(given) - set(kinds):
            raise UserError(f"{setting}.{name}: there is no such modality{nearest(name, list(kinds))}")
    for kind, own in config.columns.items():
        known = [name for name in kinds if kinds[name] == kind]
        for name, settings in own.items():
            if name not in known:
                raise UserError(f"{kind}.{name}: is neither a setting nor a column of {kind}{nearest(name, known)}")
            if kind == "text" and "tokenizer" in settings:
                raise UserError(f"text.{name}.tokenizer: all texts share one tokenizer; set text.tokenizer")
    for name, storage in config.storage.items():
        if kinds[name] not in STORED_AS[storage]:
            allowed = ", ".join(item for item, with_kinds in STORED_AS.items() if kinds[name] in with_kinds)
            raise UserError(f"storage.{name}: {kinds[name]} cannot be stored as {storage}, only as {allowed}")
    for name, amount in config.noise.items():
        if kinds[name] == "text":
            raise UserError(f"noise.{name}: text takes no noise, since its tokens are not quantities")
        if amount < 0:
            raise UserError(f"noise.{name}: must be 0 or more (it is {amount:g})")


def _resolved(name: str, kind: Kind, settings: Any, rows: Sequence[Row]) -> Any:
    if kind == "audio":
        return _resolve_audio(settings, name, rows)
    if kind == "image" and not (settings.size and settings.channels):
        return _resolve_image(settings, name, rows)
    if kind == "feature" and not settings.shape:
        if settings.length is None:
            settings = settings.model_copy(update={"length": _most_steps(name, rows)})
        return _resolve_feature(settings, name, rows)
    return settings


def _resolve_audio(settings: AudioSettings, name: str, rows: Sequence[Row]) -> AudioSettings:
    longest, rates = settings.seconds or 0.0, Counter[int]()
    for row in _spread(rows):
        if (settings.sample_rate or sum(rates.values()) >= ASKED) and longest >= (settings.seconds or MOST_SECONDS):
            break
        try:
            with path_of(row.values[name]) as path:
                file_rate, duration = audio.header(path)
        except Exception:  # reported when it is decoded
            continue
        rates[file_rate] += 1
        start, end = row.clip(name)
        duration = duration if end is None else min(duration, end)
        longest = max(longest, duration - (start or 0.0))
    if (not settings.sample_rate and not rates) or longest <= 0:
        raise _unreadable(name, "as audio", "audio", audio.header, rows)
    rate = settings.sample_rate or min(rates.most_common(1)[0][0], MOST_SAMPLE_RATE)
    return settings.model_copy(update={"sample_rate": rate, "seconds": settings.seconds or min(longest, MOST_SECONDS)})


def _resolve_image(settings: ImageSettings, name: str, rows: Sequence[Row]) -> ImageSettings:
    found = list(_headers(pictures.image_header, name, rows))
    if not found:
        raise _unreadable(name, "as an image", "image", pictures.image_header, rows)
    side, channels = (_most([one[part] for one in found]) for part in (0, 1))
    return settings.model_copy(
        update={"size": settings.size or min(side, MOST_PIXELS), "channels": settings.channels or channels}
    )


def _resolve_feature(settings: FeatureSettings, name: str, rows: Sequence[Row]) -> FeatureSettings:
    found = [tuple(shape) for shape in _headers(features.header, name, rows)]
    if not found:
        raise _unreadable(name, "as .npy", "feature", features.header, rows)
    if settings.length:
        sequences = [shape for shape in found if len(shape) == 2]
        if not sequences:
            raise UserError(f"feature.length: {name} holds no sequences (T, d), but shapes such as {list(found[0])}")
        return settings.model_copy(update={"shape": [settings.length, _most([shape[1] for shape in sequences])]})
    return settings.model_copy(update={"shape": list(_most(found))})


def _most_steps(name: str, rows: Sequence[Row]) -> int | None:
    """Of sequences in one array: its steps, so that none is cut."""
    known = (value.most_steps for row in rows if isinstance(value := row.values[name], Embedded))
    return max((steps for steps in known if steps), default=None)


def _headers(read: Callable[[str], Found], name: str, rows: Sequence[Row]) -> Iterable[Found]:
    """What some files say that can be read, from all over the rows."""
    count = 0
    for row in _spread(rows):
        try:
            with path_of(row.values[name]) as path:
                found = read(path)
        except Exception:  # reported when it is decoded
            continue
        yield found
        count += 1
        if count == ASKED:
            return


def _spread(rows: Sequence[Row]) -> Iterator[Row]:
    """All rows, so that any number of the first ones lies evenly among them: the odd ones often stand together."""
    step = max(1, len(rows) // ASKED)
    for first in range(step):
        yield from rows[first::step]


def _most(found: Sequence[Found]) -> Found:
    """The most frequent one; of several the first."""
    return Counter(found).most_common(1)[0][0]


def _unreadable(name: str, how: str, kind: Kind, read: Callable[[str], object], rows: Sequence[Row]) -> UserError:
    value = rows[0].values[name]
    reason = "holds nothing"
    try:
        with path_of(value) as path:
            try:
                read(path)
            except Exception as error:  # decoders raise all kinds of exceptions
                reason = reason_of(error, path, kind)
    except ValueError as error:  # what is embedded cannot be read
        reason = str(error)
    return UserError(f"no training file of {name} can be read {how}; the first one, {value}, {reason}")
