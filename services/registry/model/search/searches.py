"""
Searches: words, conditions and an order over the models of a namespace.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.chassis.checks import Checks
from services.ledger.model.pages import Key
from services.registry.model.names import NamespaceName
from services.registry.model.search.filter_fields import QUOTED, FilterError, field_of
from services.registry.model.search.filters import Condition, Score

MOST_QUERY = 1024
MOST_WORDS = 32
MOST_WORD = 128
_MOST_ORDER = 1024

#: The number of the tier of models that match corrected words.
CORRECTED = 5

# Whatever separates words in names, titles and prose; letters of all scripts stay.
_SEPARATORS = re.compile(r"[\s!-/:-@\[-`{-~]+")
_ORDER = re.compile(r"\s*(\S+)(?:\s+(asc|desc))?\s*")
_QUOTED = re.compile(QUOTED, re.DOTALL)


@dataclass(frozen=True, slots=True)
class OrderKey:
    """
    One column to sort by.

    Args:
        score: the result that it is, of each model the highest one when it is descending, otherwise the lowest; None
            for a field of the model.
    """

    field: str
    descending: bool = False
    score: Score | None = None

    @property
    def type(self) -> type[Key]:
        """
        The type of its values.
        """
        return float if self.score is not None else ORDERS[self.field]


ORDERS: dict[str, type[Key]] = {"name": str, "parameter_count": int, "create_time": datetime, "update_time": datetime}


@dataclass(frozen=True, slots=True)
class Search:
    """
    What SearchModels asks for.

    Args:
        query: as it was asked for, without spaces around it: the model of exactly this name comes first.
        words: of the query; all of them must match; empty means all models.
        condition: must hold; None means no condition.
        order: its last key is unique, so that the order is total; empty means best match first, then newest.
        full: return the aliases and the newest versions of models, too.
    """

    parent: NamespaceName
    query: str
    words: tuple[str, ...]
    condition: Condition | None
    order: tuple[OrderKey, ...]
    full: bool = False

    @property
    def ranked(self) -> bool:
        """
        Whether the best match comes first.
        """
        return not self.order

    @property
    def key_types(self) -> tuple[type[Key], ...]:
        """
        The types of the sort key's parts: of a ranked search the tier, the model's number and, where names give the
        order, its name; of another one those of the order, and whether its words
        were corrected. The last may be missing.
        """
        return (*(key.type for key in self.order), int) if self.order else (int, int, str)

    def is_corrected(self, key: Sequence[Key]) -> bool:
        """
        Whether the previous page had matches with corrected spelling.
        """
        return key[0] == CORRECTED if self.ranked else len(key) > len(self.order) and key[-1] == 1


def parse_words(checks: Checks, field: str, query: str) -> tuple[str, ...]:
    """
    The words of a query: a name such as convnext_base.fb_in22k is three of them, as it is in the index.
    """
    before = len(checks)
    checks.text(field, query, MOST_QUERY)
    words = tuple(dict.fromkeys(word for word in _SEPARATORS.split(query) if word))
    if len(words) > MOST_WORDS:
        checks.add(field, f"must have at most {MOST_WORDS} words; it has {len(words):,}")
    if any(len(word) > MOST_WORD for word in words):
        checks.add(field, f"must not have a word of more than {MOST_WORD} characters")
    return words if len(checks) == before else ()


def parse_order(checks: Checks, field: str, text: str) -> tuple[OrderKey, ...]:
    """
    The order that `order_by` asks for, made total by the name; empty when it asks for none.
    """
    keys = _keys(checks, field, text)
    if not keys or any(key.field == "name" for key in keys):
        return keys
    # After the keys that were asked for, names run the way of the last of them: then one index serves the whole
    # order, read forwards or backwards.
    return (*keys, OrderKey("name", descending=keys[-1].descending))


def _keys(checks: Checks, field: str, text: str) -> tuple[OrderKey, ...]:
    before = len(checks)
    checks.text(field, text, _MOST_ORDER)
    if not text.strip() or len(checks) > before:
        return ()
    keys: list[OrderKey] = []
    # Commas in quotes do not separate.
    masked = _QUOTED.sub(lambda quoted: "x" * len(quoted[0]), text)
    position = 0
    for part in masked.split(","):
        start = position + len(part) - len(part.lstrip()) + 1
        try:
            key = _key(text, position, part, start)
            if any(each.field == key.field for each in keys):
                raise FilterError(start, f"{key.field} comes twice")
            if key.score is not None and keys:
                raise FilterError(start, "a result can only be the first key")
        except FilterError as error:
            checks.add(field, str(error))
            return ()
        keys.append(key)
        position += len(part) + 1
    return _until_unique(keys)


def _key(text: str, position: int, masked: str, start: int) -> OrderKey:
    match = _ORDER.fullmatch(masked)
    if match is not None:
        name = text[position + match.start(1) : position + match.end(1)]
        if name in ORDERS:
            return OrderKey(name, match[2] == "desc")
        if name.startswith("evaluations.") and isinstance(score := field_of(name, start), Score):
            return OrderKey(name, match[2] == "desc", score)
    known = f"{', '.join(ORDERS)} or evaluations.DATASET.METRIC"
    raise FilterError(start, f"expected {known}, each with asc or desc or nothing")


def _until_unique(keys: Sequence[OrderKey]) -> tuple[OrderKey, ...]:
    # Names are unique: keys after one never matter.
    kept: list[OrderKey] = []
    for key in keys:
        kept.append(key)
        if key.field == "name":
            break
    return tuple(kept)
