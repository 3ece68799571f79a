"""
The filters and orders of MLflow's searches, rendered in the registry's filter language.

A filter is a conjunction: `name LIKE 'res%' AND tags.team = 'vision'`. A tag that a model does not have makes every
comparison false, which is the registry's rule, too; but for the tag of prompts, see `_PROMPT`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import InvalidArgument
from services.doors.model.mlflow.names import model_id
from services.doors.model.mlflow.tags import label_of

_MOST_FILTER: Final = 10_000
# Every search of models by an MLflow client ends in: AND tag.`mlflow.prompt.is_prompt` != 'true'. For this tag, models
# that do not have it are no prompts.
_PROMPT: Final = "mlflow.prompt.is_prompt"
# Ids that were made of names end so, see names.model_id.
_HASHED: Final = "%-" + "_" * 12
_TEXT_SIGNS: Final = ("=", "!=", "LIKE", "ILIKE")
_NUMBER_SIGNS: Final = ("=", "!=", "<", "<=", ">", ">=")

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<field>(?:[A-Za-z_]\w*\.)?`[^`]*`|[A-Za-z_]\w*\."[^"]*"|[A-Za-z_][\w./-]*)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>-?[0-9]+)
      | (?P<sign><=|>=|!=|<>|=|<|>)
      | (?P<mark>[(),])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str

    @property
    def word(self) -> str:
        return self.text.upper() if self.kind == "field" else ""


@dataclass(frozen=True, slots=True)
class _Clause:
    key: str
    tag: bool
    sign: str
    values: tuple[str, ...]
    number: bool = False


def models_filter(text: str) -> str:
    """
    The registry's filter for a search of registered models.

    Args:
        text: as MLflow's clients send it; empty for all models.

    Raises:
        InvalidArgument: it does not parse, or names what models do not have.
    """
    return _rendered(text, {"name": _model_name}, prompts=True)


def versions_filter(text: str) -> str:
    """
    The registry's filter for a search of model versions.

    Args:
        text: as MLflow's clients send it; empty for all versions.

    Raises:
        InvalidArgument: it does not parse, or names what versions do not have.
    """
    fields = {"name": _version_name, "run_id": _run, "source_path": _source, "version_number": _number}
    return _rendered(text, fields, prompts=False)


def order(clauses: Sequence[str], fields: Mapping[str, str]) -> str:
    """
    The registry's order for `order_by`.

    Args:
        clauses: such as "name DESC".
        fields: the registry's field by MLflow's.

    Raises:
        InvalidArgument: a clause does not parse, or names another field.
    """
    found: dict[str, str] = {}
    for clause in clauses:
        match = re.fullmatch(r'\s*(?:attributes?\.)?[`"]?(\w{1,64})[`"]?(?:\s+(asc|desc))?\s*', clause, re.IGNORECASE)
        if match is None or match[1] not in fields:
            known = ", ".join(fields)
            raise _wrong(f"Invalid order_by clause {clause[:100]!r}: expected one of {known}, with ASC or DESC")
        direction = " desc" if (match[2] or "").lower() == "desc" else ""
        found.setdefault(fields[match[1]], direction)
    return ", ".join(f"{field}{direction}" for field, direction in found.items())


def _rendered(text: str, fields: Mapping[str, Callable[[_Clause], str]], *, prompts: bool) -> str:
    if len(text) > _MOST_FILTER:
        raise _wrong(f"Invalid filter: it is longer than {_MOST_FILTER:,} characters")
    parts = []
    for clause in _clauses(text):
        if clause.tag:
            parts.append(_tag(clause, prompts=prompts))
        elif clause.key in fields:
            parts.append(fields[clause.key](clause))
        else:
            raise _wrong(f"Invalid attribute key {clause.key[:100]!r} specified. Valid keys are {sorted(fields)}")
    return " AND ".join(parts)


def _clauses(text: str) -> list[_Clause]:
    tokens = _tokens(text)
    found: list[_Clause] = []
    position = 0
    while position < len(tokens):
        if found:
            if tokens[position].word != "AND":
                raise _wrong(f"Invalid clause(s) in filter string: expected AND, found {tokens[position].text[:100]!r}")
            position += 1
        clause, position = _clause(tokens, position)
        found.append(clause)
    return found


def _clause(tokens: Sequence[_Token], position: int) -> tuple[_Clause, int]:
    kinds = [each.kind for each in tokens[position : position + 2]]
    if kinds[:1] != ["field"]:
        raise _wrong("Invalid clause(s) in filter string: expected name, tag.KEY or another attribute")
    key, tag = _key(tokens[position].text)
    position += 1
    sign = ""
    if kinds[1:] == ["sign"]:
        sign = {"<>": "!="}.get(tokens[position].text, tokens[position].text)
        position += 1
    else:
        while position < len(tokens) and tokens[position].word in {"NOT", "LIKE", "ILIKE", "IN"}:
            sign = f"{sign} {tokens[position].word}".strip()
            position += 1
    if sign in {"IN", "NOT IN"}:
        values, position = _list(tokens, position)
        return _Clause(key, tag, sign, values), position
    if sign not in {*_TEXT_SIGNS, *_NUMBER_SIGNS}:
        raise _wrong(f"Invalid clause(s) in filter string: no comparator after {key[:100]!r}")
    if position >= len(tokens) or tokens[position].kind not in {"text", "number"}:
        raise _wrong(f"Expected a quoted string value after {key[:100]!r} {sign} (e.g. 'my-value')")
    value = tokens[position]
    return _Clause(key, tag, sign, (_value(value),), number=value.kind == "number"), position + 1


def _list(tokens: Sequence[_Token], position: int) -> tuple[tuple[str, ...], int]:
    values = []
    marks = "("
    while position < len(tokens) and tokens[position].text == marks:
        if position + 1 >= len(tokens) or tokens[position + 1].kind != "text":
            break
        values.append(_value(tokens[position + 1]))
        position += 2
        marks = ","
    if not values or position >= len(tokens) or tokens[position].text != ")":
        raise _wrong("While parsing a list in the query, expected a non-empty list of quoted string values: ('a', 'b')")
    return tuple(values), position + 1


def _key(text: str) -> tuple[str, bool]:
    head, dot, rest = text.partition(".")
    if text.startswith("`") or not dot:
        return text.strip("`"), False
    if head.lower() not in {"tag", "tags", "attribute", "attributes"}:
        raise _wrong(f"Invalid entity type {head[:100]!r}. Valid entity types are attribute, tag and tags")
    quoted = len(rest) > 1 and rest[0] in '`"'
    return rest[1:-1] if quoted else rest, head.lower().startswith("tag")


def _tokens(text: str) -> list[_Token]:
    found, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise _wrong(f"Invalid filter: it cannot be parsed at {text[position:].lstrip()[:40]!r}")
        found.append(_Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


def _value(token: _Token) -> str:
    if token.kind == "number":
        return token.text
    quote = token.text[0]
    return token.text[1:-1].replace(quote * 2, quote)


def _model_name(clause: _Clause) -> str:
    if clause.sign in {"LIKE", "ILIKE"}:
        by_id, by_name = (_text(field, clause) for field in ("name", "display_name"))
        # Only of models whose id was made of it, the display name is the name.
        return f"({by_id} OR (like(name, {_quoted(_HASHED)}) AND {by_name}))"
    return _text("name", clause, model_id)


def _version_name(clause: _Clause) -> str:
    return _text("model", clause, model_id)


def _run(clause: _Clause) -> str:
    return _present("run", clause)


def _source(clause: _Clause) -> str:
    if "IN" in clause.sign.split():
        raise _wrong("Only the 'run_id' and 'name' attributes support comparison with a list of quoted string values.")
    return _present("source", clause)


def _number(clause: _Clause) -> str:
    if clause.sign not in _NUMBER_SIGNS or not re.fullmatch(r"-?[0-9]{1,18}", clause.values[0]):
        raise _wrong("version_number is compared with a number, by one of = != < <= > >=")
    return f"number {clause.sign} {int(clause.values[0])}"


def _tag(clause: _Clause, *, prompts: bool) -> str:
    if clause.sign not in _TEXT_SIGNS or clause.number:
        raise _wrong("Tags are compared with a quoted string value, by one of = != LIKE ILIKE")
    field = f"labels.{_quoted(clause.key)}"
    if prompts and clause.key == _PROMPT:
        if (clause.sign, clause.values[0]) == ("!=", "true"):
            return f'NOT {field} = "true"'
        if (clause.sign, clause.values[0]) == ("=", "false"):
            return f'NOT {field} != "false"'
    return _text(field, clause, label_of)


def _present(field: str, clause: _Clause) -> str:
    # What is not there compares as unequal to nothing.
    text = _text(field, clause)
    return f'({text} AND {field} != "")' if clause.sign in {"!=", "NOT IN"} else text


def _text(field: str, clause: _Clause, changed: Callable[[str], str] = str) -> str:
    if clause.number:
        raise _wrong(f"Expected a quoted string value for {clause.key[:100]!r}")
    if clause.sign in {"LIKE", "ILIKE"}:
        # A backslash stands for itself in MLflow's patterns.
        pattern = clause.values[0].replace("\\", "\\\\")
        return f"{clause.sign.lower()}({field}, {_quoted(pattern)})"
    if clause.sign not in {"=", "!=", "IN", "NOT IN"}:
        raise _wrong(f"{clause.key[:100]!r} is compared by one of = != LIKE ILIKE IN")
    sign, word = ("!=", " AND ") if clause.sign in {"!=", "NOT IN"} else ("=", " OR ")
    parts = [f"{field} {sign} {_quoted(changed(each))}" for each in clause.values]
    return parts[0] if len(parts) == 1 else f"({word.join(parts)})"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _wrong(message: str) -> InvalidArgument:
    return InvalidArgument.of("", message)
