# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Model cards in the database: a row for each number.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model import limits
from services.registry.model.cards import SECTIONS, Card, CardDraft, CardUpdate
from services.registry.model.names import CardName, ModelName
from services.registry.store import rows
from services.registry.store.locks import lock_model
from services.registry.store.parents import MODEL

_GET = read(
    "cards.get",
    f"""
SELECT revision.value AS head, models.id IS NOT NULL AS has_model, found.*
  FROM {HEAD}
  LEFT JOIN models ON namespace_id = $1 AND model_id = $2
  LEFT JOIN LATERAL (SELECT {rows.CARD}, markdown, extra, front FROM cards
                      WHERE model = models.id AND ($3::bigint = 0 OR number = $3)
                      ORDER BY number DESC LIMIT 1) AS found ON true
""",
)

_LIST = page_of(
    "cards.numbers",
    f"""
SELECT {rows.CARD}, '' AS markdown, '{{}}' AS extra, '' AS front, octets FROM cards
 WHERE model = parent.id AND ($3::bigint IS NULL OR number < $3)
 ORDER BY number DESC LIMIT $4
""",
    parent=MODEL,
)

_NEWEST = Statement(
    "cards.newest",
    f"SELECT {rows.CARD}, markdown, extra, front FROM cards WHERE model = $1 ORDER BY number DESC LIMIT 1",
)

#: The next number of a card; $17 is all that a search may find in it.
MADE = f"""
, made AS (
    INSERT INTO cards (model, number, sections, markdown, extra, front, update_time, actor, revision, octets)
    SELECT $10, $11, $12::jsonb, $13, $14::jsonb, $15, next.moment, $4, value, $16 FROM next
    RETURNING {rows.CARD}, markdown, extra, front
)
"""

_WRITE = last(
    "cards.write",
    f"""
{MADE}
, found AS (
    UPDATE models
       SET card_words = words_of_card($17),
           search = model_words(model_id, display_name, labels, description) || words_of_card($17)
     WHERE id = $10
)
SELECT made.revision AS written, made.* FROM made
""",
)


@dataclass(frozen=True, slots=True)
class NextCard:
    """
    The next number of a card, under the lock of its model.

    Args:
        key: of the model.
        columns: the parameters $10 … $17 of what writes it.
        unchanged: the card as it is, when the next number would say the same.
    """

    key: int
    draft: CardDraft
    journal: Journal
    columns: list[Any]
    unchanged: Card | None


class CardStore:
    """
    Reads and writes cards.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: CardName, number: int) -> Read[Card]:
        """
        A number of a card; 0 means the newest.

        Raises:
            Missing: there is no such model, or it has no such card.
        """
        row = await self._database.fetch_row(_GET, name.namespace, name.model, number)
        if not row["has_model"]:
            raise Missing("MODEL_NOT_FOUND", name.parent, row["head"])
        if row["number"] is None:
            raise Missing("CARD_NOT_FOUND", name, row["head"])
        return Read(rows.to_card(row, name), row["head"])

    async def list_page(self, name: CardName, page: Page) -> Listed[Card]:
        """
        A page of the numbers of a card, the newest first, without Markdown and extra.

        Raises:
            Missing: there is no such model.
        """
        parent: ModelName = name.parent
        found = await self._database.fetch(_LIST, parent.namespace, parent.model, *after(page, 1))
        missing = ("MODEL_NOT_FOUND", parent)
        return listed(page, found, missing, lambda row: rows.to_card(row, name), lambda row: [row["number"]])

    async def write(self, transaction: Transaction, update: CardUpdate) -> Card:
        """
        Write the next number of a card.

        Raises:
            Missing: there is no such model, or it is deleted.
            Aborted: the card has changed since the client read it.
            ResourceExhausted: it has as many numbers as a card may have.
        """
        card = await next_card(transaction, update)
        if card.unchanged is not None:
            # Unchanged content: tools that write a card after every run do not fill its history.
            await transaction.nothing()
            return card.unchanged
        return rows.to_card((await transaction.last(_WRITE, card.journal, *card.columns))[0], update.name)


async def next_card(transaction: Transaction, update: CardUpdate) -> NextCard:
    """
    Prepare the next number of a card.

    Raises:
        Missing: there is no such model, or it is deleted.
        Aborted: the card has changed since the client read it.
        ResourceExhausted: it has as many numbers as a card may have.
    """
    name = update.name
    model = await lock_model(transaction, name.parent)
    row = await transaction.row(_NEWEST, model["id"])
    before = rows.to_card(row, name) if row is not None else None
    check_etag(name, update.etag, before.revision if before is not None else 0)
    base = before.draft if before is not None else CardDraft()
    draft = update.draft
    if update.paths is not None:
        # The largest front matter takes seconds to change, in which other calls go on.
        draft = await asyncio.to_thread(base.updated, update.draft, update.paths)
    unchanged = before if before is not None and draft == before.draft else None
    kind = ChangeKind.CREATED if before is None else ChangeKind.UPDATED
    journal = Journal.of(name, kind, before.draft.image() if before is not None else None, draft.image())
    sections = rows.packed({each: text for each, text in draft.own.items() if each in (*SECTIONS, "license")})
    number = before.number + 1 if before is not None else 1
    if unchanged is None:
        limits.CARD_NUMBERS.check(name, number)
    columns = [model["id"], number, sections, draft.markdown, rows.packed(draft.extra), draft.front]
    return NextCard(model["id"], draft, journal, [*columns, 512 + len(sections.encode()), draft.text], unchanged)
