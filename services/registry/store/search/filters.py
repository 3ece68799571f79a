"""
Filters and orders as SQL. Values become parameters, never SQL text, which rules out SQL injection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from unicodedata import normalize

from services.ledger.model.pages import Key
from services.registry.model.names import NamespaceName
from services.registry.model.search.filters import (
    Comparison,
    Condition,
    CreateTime,
    Description,
    Every,
    Label,
    LabelKeys,
    LatestVersion,
    Negation,
    Op,
    ParameterCount,
    Score,
    Some,
    Text,
    UpdateTime,
    VersionNumber,
)

SQL_OPS = {
    Op.EQUAL: "=",
    Op.UNEQUAL: "<>",
    Op.LESS: "<",
    Op.AT_MOST: "<=",
    Op.MORE: ">",
    Op.AT_LEAST: ">=",
}
# The columns of versions that are not called like their fields.
_VERSION_TEXTS = {"model": "of_model", "actor": "creator"}
# In bytes; label_pairs has none that are longer (migration 0014).
_LONGEST_PAIR = 2500
_COLUMNS = {
    ParameterCount: "models.parameter_count",
    LatestVersion: "coalesce(models.newest_version, models.latest_version)",
    CreateTime: "models.create_time",
    UpdateTime: "models.update_time",
}


class Parameters:
    """
    The parameters of a statement under construction.
    """

    def __init__(self, *first: Any) -> None:
        self.values: list[Any] = list(first)

    def add(self, value: Any, kind: str) -> str:
        """
        What stands for *value* in the statement; *kind* is its PostgreSQL type.
        """
        self.values.append(value)
        return f"${len(self.values)}::{kind}"


def sql_of(condition: Condition, parent: NamespaceName, parameters: Parameters) -> str:
    """
    The SQL of a condition on the row `models`. It is never NULL, so that NOT of it is what the language says.
    """
    return _walk(condition, lambda each: _comparison(each.field, each.op, each.value, parent, parameters))


def version_sql_of(condition: Condition, parent: NamespaceName, parameters: Parameters) -> str:
    """
    The same on the row `versions`.
    """
    return _walk(condition, lambda each: _version_comparison(each.field, each.op, each.value, parent, parameters))


def _walk(condition: Condition, compare: Callable[[Comparison], str]) -> str:
    match condition:
        case Every(parts):
            return f"({' AND '.join(_walk(part, compare) for part in parts)})"
        case Some(parts):
            return f"({' OR '.join(_walk(part, compare) for part in parts)})"
        case Negation(part):
            return f"(NOT {_walk(part, compare)})"
        case Comparison():
            return compare(condition)


def _comparison(field: Any, op: Op, value: Any, parent: NamespaceName, parameters: Parameters) -> str:
    match field:
        case Text("name"):
            return _text("models.model_id", op, _bare(value, parent), parameters)
        case Text(name):
            return _text(f"models.{name}", op, value, parameters)
        case ParameterCount() | LatestVersion():
            return _number(_COLUMNS[type(field)], op, value, parameters)
        case CreateTime() | UpdateTime():
            return _time(_COLUMNS[type(field)], op, value, parameters)
        case Description():
            return _description(value, parameters)
        case LabelKeys():
            return "models.labels <> '{}'" if value is None else f"models.labels ? {parameters.add(value, 'text')}"
        case Label(key):
            return _label(key, op, value, parameters)
        case Score():
            return _score(field, op, value, parent, parameters)
    raise AssertionError(f"{field} is a field that this cannot compile")


def _version_comparison(field: Any, op: Op, value: Any, parent: NamespaceName, parameters: Parameters) -> str:
    match field:
        case Text(name):
            return _version_text(name, op, value, parent, parameters)
        case VersionNumber():
            return _number("versions.number", op, value, parameters)
        case CreateTime():
            return _time("versions.create_time", op, value, parameters)
        case UpdateTime():
            return _time("versions.update_time", op, value, parameters)
        case LabelKeys():
            return "versions.labels <> '{}'" if value is None else f"versions.labels ? {parameters.add(value, 'text')}"
        case Label(key):
            return _version_label(key, op, value, parameters)
    raise AssertionError(f"{field} is a field that this cannot compile")


def _version_text(name: str, op: Op, value: str | None, parent: NamespaceName, parameters: Parameters) -> str:
    column = f"versions.{_VERSION_TEXTS.get(name, name)}"
    bare = _bare(value, parent) if name == "model" else value
    if op is not Op.EQUAL or not bare:
        return _text(column, op, bare, parameters)
    if name == "model":
        # By the key of versions, whatever the order.
        where = (
            f"namespace_id = {parameters.add(parent.namespace, 'text')} AND model_id = {parameters.add(bare, 'text')}"
        )
        return f"versions.model = ANY(ARRAY(SELECT id FROM models AS named WHERE {where}))"  # noqa: S608 - parameters
    if bare.isascii():
        # As it is stored, and not of empty texts, as in the indexes: no form has to be made equal.
        return f"({column} <> '' AND {column} = {parameters.add(bare, 'text')})"
    return _text(column, op, bare, parameters)


def _version_label(key: str, op: Op, value: str | None, parameters: Parameters) -> str:
    if value is None:
        return f"versions.labels ? {parameters.add(key, 'text')}"
    if op in {Op.EQUAL, Op.HAS} and value.isascii():
        # Containment, which the index serves; what is not ASCII may be stored in another form than NFC.
        pair = json.dumps({key: value})
        return f"versions.labels @> {parameters.add(pair, 'jsonb')}"
    return _label_value("versions.labels", key, op, value, parameters)


def _text(column: str, op: Op, value: str | None, parameters: Parameters) -> str:
    if value is None:
        return f"{column} <> ''"
    parameter = parameters.add(value, "text")
    if op in {Op.LIKE, Op.ILIKE}:
        return f"({column} <> '' AND {_like(f'nfc({column})', op, parameter)})"
    if op is Op.HAS:
        return f"strpos(lower(nfc({column}) COLLATE pg_c_utf8), lower({parameter} COLLATE pg_c_utf8)) > 0"
    compared = f'nfc({column}) {SQL_OPS[op]} {parameter} COLLATE "C"'
    # Empty means unset, which does not compare as different from, before or after any value.
    return compared if op is Op.EQUAL else f"({column} <> '' AND {compared})"


def _description(value: str | None, parameters: Parameters) -> str:
    if value is None:
        return "models.description <> ''"
    # The words of descriptions have a weight of their own in the index.
    return f"models.search @@ description_query({parameters.add(value, 'text')})"


def _number(column: str, op: Op, value: int | None, parameters: Parameters) -> str:
    # 0 means unset, which is no number.
    if value is None:
        return f"{column} > 0"
    return f"({column} > 0 AND {column} {SQL_OPS[op]} {parameters.add(value, 'bigint')})"


def _time(column: str, op: Op, value: datetime | None, parameters: Parameters) -> str:
    return "true" if value is None else f"{column} {SQL_OPS[op]} {parameters.add(value, 'timestamptz')}"


def _label(key: str, op: Op, value: str | None, parameters: Parameters) -> str:
    if value is None:
        return f"models.labels ? {parameters.add(key, 'text')}"
    pair = normalize("NFC", f"{key}={value}")
    if op not in {Op.EQUAL, Op.HAS} or len(pair.encode()) > _LONGEST_PAIR:
        return _label_value("models.labels", key, op, value, parameters)
    # Containment, which the index on the pairs serves.
    contained = f"models.label_pairs @> {parameters.add([pair], 'text[]')}"
    if key.isascii() and pair.count("=") == 1:
        return contained
    # Other labels may have the same pair.
    return f"({contained} AND {_label_value('models.labels', key, op, value, parameters)})"


def _label_value(column: str, key: str, op: Op, value: str, parameters: Parameters) -> str:
    left, right = f"nfc({column} ->> {parameters.add(key, 'text')})", parameters.add(value, "text")
    if op in {Op.LIKE, Op.ILIKE}:
        return f"coalesce({_like(left, op, right)}, false)"
    return f'coalesce({left} COLLATE "C" {"=" if op is Op.HAS else SQL_OPS[op]} {right}, false)'


def _like(text: str, op: Op, pattern: str) -> str:
    if op is Op.LIKE:
        return f'{text} COLLATE "C" LIKE {pattern} COLLATE "C"'
    return f"lower({text} COLLATE pg_c_utf8) LIKE lower({pattern} COLLATE pg_c_utf8)"


def _score(field: Score, op: Op, value: float | None, parent: NamespaceName, parameters: Parameters) -> str:
    # With the namespace, so that what lies beyond a bound is found from the bound's side, too.
    keys = (("namespace_id", parent.namespace), ("dataset", field.dataset), ("metric", field.metric))
    where = [f"scored.{column} = {parameters.add(key, 'text')}" for column, key in keys]
    best = best_of(field, "scored")
    where.append(f"{best} IS NOT NULL" if value is None else f"{best} {SQL_OPS[op]} {parameters.add(value, 'float8')}")
    return f"EXISTS (SELECT FROM best AS scored WHERE scored.model = models.id AND {' AND '.join(where)})"


def best_of(field: Score, table: str) -> str:
    """
    The SQL of a model's best result, in a row of `best`; NULL when none counts.
    """
    return f"{table}.{'low' if field.lower else 'high'}"


def _bare(value: str | None, parent: NamespaceName) -> str | None:
    # Names in a filter may be full or just the last part: within one namespace they say the same.
    return value.removeprefix(f"{parent}/models/") if value is not None else None


def sql_after(columns: Sequence[tuple[str, str, bool]], key: Sequence[Key], parameters: Parameters) -> str:
    """
    The SQL of "comes after *key*".

    Args:
        columns: of the order: each an expression, its PostgreSQL type, and whether it is descending.
        key: the values of the last row, one for each column.
    """
    values = [parameters.add(part, kind) for part, (_, kind, _) in zip(key, columns, strict=True)]
    ways = {descending for _, _, descending in columns}
    if len(ways) == 1:
        # One way for all: a comparison of rows, which an index answers by going there.
        sign = "<" if ways.pop() else ">"
        return f"({', '.join(column for column, _, _ in columns)}) {sign} ({', '.join(values)})"
    alternatives = []
    for index, (column, _, descending) in enumerate(columns):
        same = [f"{columns[earlier][0]} = {values[earlier]}" for earlier in range(index)]
        alternatives.append(" AND ".join([*same, f"{column} {'<' if descending else '>'} {values[index]}"]))
    # It follows from the rest, and tells the index of the first column where to begin: without it page k reads all
    # pages before it.
    column, _, descending = columns[0]
    bound = f"{column} {'<=' if descending else '>='} {values[0]}"
    return f"({bound} AND ({' OR '.join(f'({alternative})' for alternative in alternatives)}))"


def sql_order(columns: Sequence[tuple[str, str, bool]]) -> str:
    """
    The SQL of an order.
    """
    return ", ".join(f"{column} DESC" if descending else column for column, _, descending in columns)
