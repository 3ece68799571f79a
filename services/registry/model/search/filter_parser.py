"""
The hand-written parser of the filter language. Every mistake has a position: 1 is the first character.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from services.chassis.checks import Checks
from services.registry.model.search.filter_fields import (
    QUOTED,
    FilterError,
    field_of,
    pattern_of,
    unquoted,
    value_of,
)
from services.registry.model.search.filters import (
    SIGNS,
    Comparison,
    Condition,
    Every,
    Field,
    LabelKeys,
    Negation,
    Op,
    Some,
)

MOST_FILTER = 4096
_MOST_TERMS = 100
_MOST_DEPTH = 50

# A word may have quoted parts after dots: evaluations."GLUE/SST-2".accuracy.
_TOKEN = re.compile(
    rf"""\s*(?:
        (?P<string>{QUOTED}|'(?:[^'\\]|\\.)*')
      | (?P<op><=|>=|!=|=|<|>|:)
      | (?P<paren>[()])
      | (?P<word>[^\s()"'<>=!:]+(?:(?<=\.){QUOTED}(?:\.[^\s()"'<>=!:]*)?)*)
    )""",
    re.VERBOSE | re.DOTALL,
)


class _Kind(Enum):
    STRING = auto()
    OP = auto()
    PAREN = auto()
    WORD = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    position: int

    def __str__(self) -> str:
        return "the end" if self.kind is _Kind.END else f'"{self.text[:40]}"'


def parse_filter(
    checks: Checks, field: str, text: str, field_of: Callable[[str, int], Field] = field_of
) -> Condition | None:
    """
    The condition in a request's `filter`; None when it is empty or does not parse, which is noted on *field*.

    Args:
        field_of: the field that a name at a position means; raises FilterError. By default one of models.
    """
    before = len(checks)
    checks.text(field, text, MOST_FILTER)
    if not text.strip() or len(checks) > before:
        return None
    try:
        return _Parser(_tokens(text), field_of).whole()
    except FilterError as error:
        checks.add(field, str(error))
        return None


class _Parser:
    """
    Recursive descent: expression = factor {AND factor}; factor = term {OR term}; term = [NOT] comparison | (…);
    comparison = field sign value | (like | ilike) "(" field "," string ")".
    """

    def __init__(self, tokens: list[_Token], field_of: Callable[[str, int], Field]) -> None:
        self._tokens = tokens
        self._field_of = field_of
        self._next = 0
        self._terms = 0

    def whole(self) -> Condition:
        condition = self._expression(0)
        if self._here.kind is not _Kind.END:
            raise FilterError(self._here.position, f"expected AND, OR or the end, found {self._here}")
        return condition

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._here
        self._next += token.kind is not _Kind.END
        return token

    def _skips(self, kind: _Kind, text: str) -> bool:
        found = self._here.kind is kind and self._here.text == text
        self._next += found
        return found

    def _expression(self, depth: int) -> Condition:
        if depth > _MOST_DEPTH:
            raise FilterError(self._here.position, f"is nested more than {_MOST_DEPTH} deep")
        parts = [self._factor(depth)]
        while self._skips(_Kind.WORD, "AND"):
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _factor(self, depth: int) -> Condition:
        parts = [self._term(depth)]
        while self._skips(_Kind.WORD, "OR"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _term(self, depth: int) -> Condition:
        negated = False
        while self._skips(_Kind.WORD, "NOT"):
            negated = not negated
        if self._skips(_Kind.PAREN, "("):
            condition = self._expression(depth + 1)
            if not self._skips(_Kind.PAREN, ")"):
                raise FilterError(self._here.position, f'expected ")", found {self._here}')
        else:
            condition = self._comparison()
        return Negation(condition) if negated else condition

    def _comparison(self) -> Condition:
        self._terms += 1
        if self._terms > _MOST_TERMS:
            raise FilterError(self._here.position, f"has more than {_MOST_TERMS} comparisons")
        name = self._take()
        if name.kind is not _Kind.WORD or name.text in {"AND", "OR"}:
            raise FilterError(name.position, f"expected a field, found {name}")
        if name.text in {Op.LIKE, Op.ILIKE} and self._skips(_Kind.PAREN, "("):
            return self._like(Op(name.text))
        field = self._field_of(name.text, name.position)
        sign = self._take()
        if sign.kind is not _Kind.OP:
            raise FilterError(sign.position, f"expected one of {' '.join(SIGNS)}, found {sign}")
        op = Op(sign.text)
        if isinstance(field, LabelKeys) and op is not Op.HAS:
            raise FilterError(sign.position, "labels takes only : and a key; write labels.KEY to compare a value")
        value = self._take()
        if value.kind not in {_Kind.WORD, _Kind.STRING}:
            raise FilterError(value.position, f"expected a value, found {value}")
        if value.kind is _Kind.WORD and '"' in value.text:
            raise FilterError(value.position, f"quote all of the value, found {value}")
        present = op is Op.HAS and value.kind is _Kind.WORD and value.text == "*"
        text = unquoted(value.text) if value.kind is _Kind.STRING else value.text
        return Comparison(field, op, None if present else value_of(field, op, text, value.position))

    def _like(self, op: Op) -> Condition:
        name = self._take()
        # A comma belongs to the word before it, unless that ends in quotes.
        text = name.text.removesuffix(",")
        if name.kind is not _Kind.WORD or not text:
            raise FilterError(name.position, f"expected a field, found {name}")
        if text == name.text and not self._skips(_Kind.WORD, ","):
            raise FilterError(self._here.position, f'expected ",", found {self._here}')
        field = self._field_of(text, name.position)
        pattern = self._take()
        if pattern.kind is not _Kind.STRING:
            raise FilterError(pattern.position, f"expected a pattern in quotes, found {pattern}")
        if not self._skips(_Kind.PAREN, ")"):
            raise FilterError(self._here.position, f'expected ")", found {self._here}')
        return Comparison(field, op, pattern_of(field, unquoted(pattern.text), pattern.position))


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            quoted = text[position] in "\"'"
            raise FilterError(position + 1, "the quote is never closed" if quoted else f'unexpected "{text[position]}"')
        kind = _Kind[match.lastgroup.upper()]
        tokens.append(_Token(kind, match[match.lastgroup], match.start(match.lastgroup) + 1))
        position = match.end()
    return [*tokens, _Token(_Kind.END, "", end + 1)]
