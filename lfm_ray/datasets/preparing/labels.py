"""The column `label` of a manifest: one class, several labels such as `dog;rain`, or a number."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.preparing.row_checks import Problem, no_text
from lfm_ray.errors import UserError
from lfm_ray.visible import UNSHOWN, look, spelled

SEPARATORS = re.compile(r"[;|]")
LISTS = (list, tuple, set, frozenset, np.ndarray)
NO_LABEL = ";"  # of a row that has none of the labels; an empty field is one that somebody forgot
STRATA = 10  # of numbers, if each has as many rows


class Labels(ABC):
    """How labels of one kind are read; `text` is the column as text."""

    @abstractmethod
    def wrong(self, text: pd.Series[str]) -> Iterator[Problem]:
        """Rows whose label cannot be read."""

    @abstractmethod
    def strata(self, text: Sequence[str]) -> list[str]:
        """The group of each row; a split that the manifest does not make has the same share of each."""

    @abstractmethod
    def not_in_train(self, text: pd.Series[str], split: pd.Series[str]) -> Iterator[Problem]:
        """Rows with a label that no training row has."""

    @abstractmethod
    def classes(self, path: object, train: Sequence[str], order: Sequence[str] | None, because: str) -> list[str]:
        """The classes or labels of the training rows, in order; empty for numbers.

        path, because: for messages. order: one that is given, which may name more.

        Raises:
            UserError: there is nothing to tell apart, or two labels look alike.
        """

    @abstractmethod
    def stored(self, text: str, index: Mapping[str, int]) -> int | float | np.ndarray:
        """What the shards hold for a row; index: class or label -> its place."""


def _badly_written(text: pd.Series[str]) -> Iterator[Problem]:
    """What no label is, but a table can make of one."""
    for number, label in text.items():
        if "\n" in label or "\r" in label:
            yield _row(number), "label", "has a line break; is there a quotation mark that is not closed?"
        elif found := UNSHOWN.search(label):
            yield _row(number), "label", f"has a character that cannot be shown, {found[0]!a}; remove it"
        elif label.startswith("[") and label.endswith("]") and "," in label:
            yield _row(number), "label", "is a list written as text; write dog;rain, with --target multilabel"


class OfClasses(Labels):
    """One class: any text."""

    def wrong(self, text: pd.Series[str]) -> Iterator[Problem]:
        """Blanks at the ends, and what looks like several labels."""
        values = {label: [part.strip() for part in SEPARATORS.split(label)] for label in set(text)}
        having = Counter(part for parts in values.values() for part in set(parts))
        for number, label in text.items():
            if label != label.strip():
                yield _row(number), "label", "has blanks at its ends, and would be a class of its own; remove them"
            parts = values[label]
            if len(parts) > 1 and all(having[part] > 1 or part.isdigit() for part in parts):
                said = f"looks like {len(parts)} labels; a row has one, or several with --target multilabel"
                yield _row(number), "label", said
        yield from _badly_written(text)

    def strata(self, text: Sequence[str]) -> list[str]:
        """The class."""
        return list(text)

    def not_in_train(self, text: pd.Series[str], split: pd.Series[str]) -> Iterator[Problem]:
        """Classes that training does not have."""
        known = set(text[split == "train"])
        for number, label in text.items():
            if known and label not in known:
                yield _row(number), "label", f"this class of split {split[number]} does not occur in train"

    def classes(self, path: object, train: Sequence[str], order: Sequence[str] | None, because: str) -> list[str]:
        """All that occur, at least two."""
        found = set(train)
        if len(found) < 2:
            raise UserError(f"{path}: all labels are {found.pop()!r}; a classifier needs at least two classes{because}")
        return _in_order(path, found, order)

    def stored(self, text: str, index: Mapping[str, int]) -> int | float | np.ndarray:
        """The place of the class."""
        return index[text]


class OfSeveral(Labels):
    """Any number of labels, separated by `;` or `|`; `;` alone: none."""

    @staticmethod
    def parts(text: str) -> list[str]:
        """`dog; rain` -> dog, rain."""
        return [part.strip() for part in SEPARATORS.split(text) if part.strip()]

    def wrong(self, text: pd.Series[str]) -> Iterator[Problem]:
        """A label that is named twice."""
        yield from _badly_written(text)
        for number, label in text.items():
            twice = [part for part, count in Counter(self.parts(label)).items() if count > 1]
            if twice:
                yield _row(number), "label", f"names {twice[0]} twice"

    def strata(self, text: Sequence[str]) -> list[str]:
        """The rarest label of the row."""
        rows = [self.parts(one) for one in text]
        count = Counter(part for row in rows for part in row)
        return [min(row, key=lambda part: (count[part], part), default="") for row in rows]

    def not_in_train(self, text: pd.Series[str], split: pd.Series[str]) -> Iterator[Problem]:
        """Labels that training does not have."""
        known = {part for label in text[split == "train"] for part in self.parts(label)}
        for number, label in text.items():
            foreign = [part for part in self.parts(label) if part not in known]
            if known and foreign:
                said = f"the label {foreign[0]!r} of split {split[number]} does not occur in train"
                yield _row(number), "label", said

    def classes(self, path: object, train: Sequence[str], order: Sequence[str] | None, because: str) -> list[str]:
        """All that occur; not all rows have the same."""
        sets = {frozenset(self.parts(label)) for label in train}
        if len(sets) < 2:
            raise UserError(f"{path}: all rows of train have the same labels{because}")
        return _in_order(path, frozenset().union(*sets), order)

    def stored(self, text: str, index: Mapping[str, int]) -> int | float | np.ndarray:
        """1 for each label that the row has, (C,) uint8."""
        row = np.zeros(len(index), np.uint8)
        row[[index[part] for part in self.parts(text)]] = 1
        return row


class OfNumbers(Labels):
    """A number, such as a sentiment from -3 to 3."""

    def wrong(self, text: pd.Series[str]) -> Iterator[Problem]:
        """What is no finite number."""
        for number, label in text.items():
            if not math.isfinite(_number(label)):
                yield _row(number), "label", "must be a number, as --target regression says"

    def strata(self, text: Sequence[str]) -> list[str]:
        """By size: tenths, or as many parts as have ten rows each."""
        ranks = np.argsort(np.argsort([_number(label) for label in text], kind="stable"), kind="stable")
        parts = max(1, min(STRATA, len(text) // STRATA))
        return [str(rank * parts // len(text)) for rank in ranks.tolist()]

    def not_in_train(self, text: pd.Series[str], split: pd.Series[str]) -> Iterator[Problem]:
        """None: numbers need not recur."""
        yield from ()

    def classes(self, path: object, train: Sequence[str], order: Sequence[str] | None, because: str) -> list[str]:
        """None; the numbers differ."""
        if len({_number(label) for label in train}) < 2:
            raise UserError(f"{path}: all labels of train are {train[0]}; there is nothing to learn{because}")
        return []

    def stored(self, text: str, index: Mapping[str, int]) -> int | float | np.ndarray:
        """The number."""
        return _number(text)


LABELS: dict[TargetKind, Labels] = {
    "classes": OfClasses(),
    "multilabel": OfSeveral(),
    "regression": OfNumbers(),
}


def joined(value: object) -> object:
    """Labels of a row that are a list, as a manifest writes them; anything else as it is."""
    if not isinstance(value, LISTS):
        return value
    return ";".join(map(_part, _parts(value))) or NO_LABEL


def wrong_lists(labels: pd.Series[Any]) -> Iterator[Problem]:
    """Labels that are neither a text, a number nor a list, and lists with something else, or a separator, in them."""
    for number, value in enumerate(labels):
        if not isinstance(value, LISTS) and (what := no_text(value)):
            yield number, "label", f"holds {what} where a label, or a list of labels, belongs"
        for part in _parts(value) if isinstance(value, LISTS) else ():
            if not isinstance(part, bytes) and (what := no_text(part)):
                yield number, "label", f"is a list that holds {what} where a text or a number belongs"
            elif part is None or part != part or not _part(part):
                yield number, "label", "is a list with an empty label in it"
            elif SEPARATORS.search(_part(part)):
                yield number, "label", f"is a list that holds {_part(part)!r}, and ; and | separate labels; rename it"


def _parts(value: Any) -> list[Any]:
    """The members of a list of labels; those of a set in an order that is always the same."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return list(np.atleast_1d(value)) if isinstance(value, np.ndarray) else list(value)


def _part(value: object) -> str:
    """One label of a list: bytes as UTF-8, and 2.0, as columns with gaps have it, as 2."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def strata_of(target: TargetKind) -> Callable[[pd.Series[Any]], list[str]] | None:
    """What `splits.with_validation` takes as the group of a row; None: its class."""
    if target == "classes":
        return None
    return lambda labels: LABELS[target].strata([str(joined(value)) for value in labels])


def _row(number: object) -> int:
    assert isinstance(number, int)
    return number


def _number(text: str) -> float:
    """The number; NaN if it is none. Python's `1_000` is none."""
    try:
        return float("nan" if "_" in text else text)
    except ValueError:
        return float("nan")


def _in_order(path: object, labels: Collection[str], order: Sequence[str] | None) -> list[str]:
    """The labels in the given order, else sorted, numbers as numbers."""
    looks: dict[str, str] = {}
    for label in sorted(labels):
        other = looks.setdefault(look(label), label)
        if other != label:
            raise UserError(
                f"{path}: the labels {spelled(other)} and {spelled(label)} differ only in how they are written; make"
                " them one, or rename one"
            )
    if order:
        return [name for name in dict.fromkeys(order) if name in labels]
    numbers = {label: _number(label) for label in labels}
    if any(math.isnan(number) for number in numbers.values()):
        return sorted(labels)
    return sorted(labels, key=lambda label: (numbers[label], label))
