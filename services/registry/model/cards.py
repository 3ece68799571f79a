"""
Model cards (Mitchell et al., "Model Cards for Model Reporting", FAT* 2019): prose by sections, Markdown, and whatever
else a card says. Every update makes a new number; old ones stay as they were.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from services.chassis.checks import Checks
from services.ledger.model.changes import Image
from services.registry.model.frontmatter import MOST_FRONT, changed_front
from services.registry.model.names import CardName, VersionName

SECTIONS = (
    "intended_use",
    "training_data",
    "evaluation_data",
    "metrics",
    "limitations",
    "ethical_considerations",
)
MUTABLE = (*SECTIONS, "license", "markdown", "extra")
MOST_SECTION = 65_536
MOST_LICENSE = 128
MOST_MARKDOWN = 1 << 20
_MOST_DEPTH = 32


@dataclass(frozen=True, slots=True)
class CardDraft:
    """
    The fields of a card that a client sets.

    Args:
        markdown: at most 1 MiB in UTF-8.
        extra: front matter that has no field of its own, as JSON.
        front: the front matter as an export gives it; empty when there is none.
    """

    intended_use: str = ""
    training_data: str = ""
    evaluation_data: str = ""
    metrics: str = ""
    limitations: str = ""
    ethical_considerations: str = ""
    license: str = ""
    markdown: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    front: str = ""

    def check(self, checks: Checks, at: str, only: Collection[str] = MUTABLE) -> None:
        """
        Report invalid fields.

        Args:
            at: the path of the card in the request.
            only: the fields to check; an update checks those in its mask.
        """
        for name in sorted(set(only) & {*SECTIONS, "license"}):
            checks.text(f"{at}.{name}", getattr(self, name), MOST_LICENSE if name == "license" else MOST_SECTION)
        if "markdown" in only:
            check_markdown(checks, f"{at}.markdown", self.markdown)
        if "extra" in only:
            _check_extra(checks, f"{at}.extra", self.extra)

    def updated(self, other: CardDraft, paths: Collection[str]) -> CardDraft:
        """
        This draft with the fields in *paths* taken from *other*, and the front matter that says so.
        """
        draft = replace(self, **{path: getattr(other, path) for path in paths})
        return replace(draft, front=changed_front(self.front, draft.own, draft.extra, SECTIONS))

    @property
    def own(self) -> dict[str, str]:
        """
        The nonempty prose fields by name, without the Markdown.
        """
        return {name: text for name in (*SECTIONS, "license") if (text := getattr(self, name))}

    @property
    def text(self) -> str:
        """
        The searchable text.
        """
        return "\n".join([*self.own.values(), *_texts(self.extra), self.markdown])

    def image(self) -> Image:
        """
        The card as the audit log records it: the Markdown, which may be a megabyte, as size and digest only. Its text
        is stored with each number of the card.
        """
        markdown = self.markdown.encode()
        digest = {"bytes": len(markdown), "sha256": hashlib.sha256(markdown).hexdigest()}
        return {**self.own, "markdown": digest, "extra": self.extra}


@dataclass(frozen=True, slots=True)
class CardImported:
    """
    The outcome of importing a card.

    Args:
        fields: of the model, that were filled.
        version: that the results are of; None when there are none.
        recorded, replaced: how many results were stored, and how many they replaced.
        warnings: what was not imported.
    """

    fields: tuple[str, ...]
    version: VersionName | None
    recorded: int
    replaced: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """
    One number of a card.
    """

    name: CardName
    number: int
    draft: CardDraft
    update_time: datetime
    actor: str
    revision: int
    imported: CardImported | None = None


@dataclass(frozen=True, slots=True)
class CardUpdate:
    """
    What UpdateCard and ImportCard ask for.

    Args:
        paths: the fields to take from *draft*; None means all of them, its front matter to the letter.
        etag: of the card that the client read; empty when it does not care.
    """

    name: CardName
    draft: CardDraft
    paths: frozenset[str] | None
    etag: str


def check_markdown(checks: Checks, field: str, text: str) -> None:
    """
    Markdown is at most 1 MiB of UTF-8 and has no NUL.
    """
    if (size := len(text.encode())) > MOST_MARKDOWN:
        checks.add(field, f"must be at most {MOST_MARKDOWN:,} bytes; it has {size:,}")
    checks.text(field, text, MOST_MARKDOWN)


def _check_extra(checks: Checks, field: str, extra: dict[str, Any]) -> None:
    if _depth(extra) > _MOST_DEPTH:
        checks.add(field, f"must be nested at most {_MOST_DEPTH} deep")
        return
    for path in _not_finite(field, extra):
        checks.add(path, "must be a finite number")
    text = json.dumps(extra, ensure_ascii=False)
    if (size := len(text.encode())) > MOST_FRONT:
        checks.add(field, f"must be at most {MOST_FRONT:,} bytes as JSON; it has {size:,}")
    if "\\u0000" in text:
        checks.add(field, "must not contain the character NUL")
    for name in sorted({"license", "modelyard"} & set(extra)):
        # It is the card's own field and would reappear from there.
        if isinstance(extra[name], str if name == "license" else dict):
            checks.add(f"{field}.{name}", "has a field of its own in the card: set that")


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= _MOST_DEPTH:
        deepest += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values]
    return deepest


def _not_finite(path: str, value: Any) -> Iterator[str]:
    """
    The paths of NaN and the infinities, which JSON does not have.
    """
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _not_finite(f"{path}.{key}", each)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _not_finite(f"{path}[{number}]", each)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return []
