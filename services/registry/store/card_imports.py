# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
ImportCard: a card and the metadata extracted from it, in one write.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.chassis.errors import ResourceExhausted
from services.ledger.model.calls import Missing
from services.ledger.model.changes import Change, Entry, Journal
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last
from services.registry.model import limits
from services.registry.model.card_metadata import CardMetadata, CardResult
from services.registry.model.cards import Card, CardImported, CardUpdate
from services.registry.model.evaluations import EvaluationDraft
from services.registry.model.names import ModelName, VersionName
from services.registry.store import rows
from services.registry.store.cards import MADE, next_card
from services.registry.store.evaluations import DeletedResult, check_counts, journal_of, result_columns
from services.registry.store.models import model_columns

_MODEL = Statement("models.to_fill", f"SELECT {rows.MODEL} FROM models WHERE id = $1")
_NEWEST = Statement(
    "versions.newest",
    "SELECT number FROM versions WHERE model = $1 AND version_counts(state) ORDER BY model DESC, number DESC LIMIT 1",
)
_VERSION = Statement(
    "versions.named", "SELECT number FROM versions WHERE model = $1 AND number = $2 AND delete_time IS NULL"
)

_SAME = Statement(
    "evaluations.same_as_card",
    """
SELECT evaluations.id, dataset, metric, value, evaluations.parameters::text AS parameters
  FROM unnest($3::text[], $4::text[], $5::text[]) AS result (dataset, metric, said)
  JOIN evaluations USING (dataset, metric)
 WHERE model = $1 AND version = $2 AND parameters = said::jsonb
""",
)

# The revision of the model is that of the last write to it: only a write that changes it has one.
_IMPORT = last(
    "cards.import",
    f"""
{MADE}
, filled AS (
    UPDATE models
       SET task = $18, framework = $19, license = $20, labels = $21::jsonb, octets = $22,
           card_words = words_of_card($17),
           search = model_words(model_id, display_name, $21::jsonb, description) || words_of_card($17),
           update_time = CASE WHEN $23 THEN next.moment ELSE update_time END,
           revision = CASE WHEN $23 THEN next.value ELSE models.revision END
      FROM next
     WHERE id = $10
), removed AS (
    DELETE FROM evaluations WHERE id = ANY ($24::bigint[])
), recorded AS (
    INSERT INTO evaluations (namespace_id, model, version, dataset, metric, value, parameters, evaluate_time,
                             create_time, revision, octets)
    SELECT $25, model, version, dataset, metric, result.value, parameters::jsonb, coalesce(evaluate_time, next.moment),
           next.moment, next.value, octets
      FROM next, unnest($26::bigint[], $27::bigint[], $28::text[], $29::text[], $30::float8[], $31::text[],
                        $32::timestamptz[], $33::integer[])
           WITH ORDINALITY
           AS result (model, version, dataset, metric, value, parameters, evaluate_time, octets, ordinal)
     ORDER BY ordinal
)
SELECT made.revision AS written, made.* FROM made
""",
)


@dataclass(frozen=True, slots=True)
class _Results:
    """
    The results of a card to store, and the ones that they replace.
    """

    version: VersionName | None
    drafts: tuple[EvaluationDraft, ...] = ()
    removed: tuple[DeletedResult, ...] = ()


async def import_card(
    transaction: Transaction, update: CardUpdate, facts: CardMetadata, named: VersionName | None
) -> Card:
    """
    Write the next number of a card, and take over what it says of its model.

    Args:
        named: the version that the results are of; None for the newest that counts.

    Raises:
        Missing: there is no such model or version, or the model is deleted.
    """
    card = await next_card(transaction, update)
    name = update.name.parent
    row = await transaction.row(_MODEL, card.key)
    assert row is not None  # noqa: S101 - for the type checker: it is locked
    before = rows.to_model(row).draft
    draft, fields, left = facts.fill_empty(before)
    warnings = [*facts.warnings, *left]
    number = await _number(transaction, card.key, named)
    if facts.results and number is None:
        warnings.append("model-index: the model has no version that the results could be of")
    found = await _results(transaction, card.key, name, number, facts.results if number is not None else ())
    try:
        await check_counts(transaction, {name.model: card.key}, found.drafts, found.removed)
    except ResourceExhausted as error:
        warnings.append(f"model-index: {error}")
        found = _Results(found.version)
    imported = CardImported(tuple(fields), found.version, len(found.drafts), len(found.removed), tuple(warnings))
    if card.unchanged is not None and not (fields or found.drafts or found.removed):
        await transaction.nothing()
        return replace(card.unchanged, imported=imported)
    limits.CARD_NUMBERS.check(update.name, card.columns[1])
    journal = _with(card.journal, journal_of(found.drafts, found.removed))
    if fields:
        journal = _with(journal, Journal.updated(name, before.image(), draft.image()))
    columns = [draft.task, draft.framework, draft.license, rows.packed(draft.labels), model_columns(name, draft)[-1]]
    results = result_columns([(card.key, each.version.number, each) for each in found.drafts])
    more = [*columns, bool(fields), [each.id for each in found.removed], name.namespace, *results]
    written = (await transaction.last(_IMPORT, journal, *card.columns, *more))[0]
    return replace(rows.to_card(written, update.name), imported=imported)


async def _number(transaction: Transaction, key: int, named: VersionName | None) -> int | None:
    row = await (transaction.row(_VERSION, key, named.number) if named is not None else transaction.row(_NEWEST, key))
    if row is None and named is not None:
        raise Missing("VERSION_NOT_FOUND", named)
    return row["number"] if row is not None else None


async def _results(
    transaction: Transaction, key: int, model: ModelName, number: int | None, results: Sequence[CardResult]
) -> _Results:
    if number is None or not results:
        return _Results(None)
    version = VersionName(model.namespace, model.model, number)
    columns = [[each.dataset for each in results], [each.metric for each in results]]
    parameters = [rows.packed(each.parameters) for each in results]
    there: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in await transaction.rows(_SAME, key, number, *columns, parameters):
        same = CardResult(row["dataset"], row["metric"], row["value"], json.loads(row["parameters"]))
        there.setdefault(same.key, []).append((row["id"], row["value"]))
    drafts, removed = [], []
    for each in results:
        known = there.get(each.key, [])
        # The same card again writes no result again.
        if [value for _, value in known] == [each.value]:
            continue
        drafts.append(each.of(version))
        removed += [DeletedResult(id_, version, [each.dataset, each.metric, value]) for id_, value in known]
    return _Results(version, tuple(drafts), tuple(removed))


def _with(journal: Journal, other: Journal) -> Journal:
    changes: list[Change] = [*journal.changes, *other.changes]
    entries: list[Entry] = [*journal.entries, *other.entries]
    return Journal(changes, entries)
