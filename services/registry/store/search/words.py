"""
The words of a search as text search queries (tsquery) for its tiers, and the lexemes that estimate their selectivity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from services.ledger.store.servers import Row, Snapshot
from services.ledger.store.statements import Statement
from services.registry.model.names import NamespaceName

# Words that begin with a word; beyond so many the index is asked for the beginning itself, which is slower.
_MOST_LONGER = 100
# As many words may stand for a mistyped one.
_MOST_NEAR = 8
# A shorter word is another one with any letter changed.
_MIN_CORRECTED = 4

# The words, and for each: as it is indexed, stemmed, and the words of the namespace that begin with it, in the order of
# the index, so that no more of it is read than is taken. What is written without spaces has its characters in place of
# a word.
_MEANINGS = Statement(
    "models.words",
    f"""
WITH piece AS MATERIALIZED (
    SELECT typed.place, part.place AS part, word.place AS number, part.characters, coalesce(word.word, '') AS word
      FROM unnest($2::text[]) WITH ORDINALITY AS typed (typed, place)
     CROSS JOIN LATERAL text_parts(separated(typed.typed)) AS part
      LEFT JOIN LATERAL string_to_table(part.rest, ' ') WITH ORDINALITY AS word (word, place) ON true
), meant AS MATERIALIZED (
    SELECT piece.*, ARRAY(SELECT known.word FROM vocabulary AS known
                           WHERE known.namespace_id = $1 AND known.word >= piece.word COLLATE "C"
                             AND known.word < piece.word || chr(1114111) COLLATE "C"
                           ORDER BY known.word LIMIT {_MOST_LONGER + 1}) AS longer
      FROM piece
)
SELECT word, characters, cardinality(longer) AS longer_count,
       tsvector_to_array(to_tsvector('pg_catalog.simple', word)) AS plain,
       tsvector_to_array(to_tsvector('pg_catalog.english', word)) AS stemmed,
       lexemes_of(array_to_string(longer, ' ')) AS longer
  FROM meant
 WHERE characters IS NOT NULL OR word <> ''
 ORDER BY place, part, number
""",  # noqa: S608 - only constants are interpolated
)

# The words of the namespace that are spelt nearly like a word: those that have a spelling in common with it are all
# that are at most two letters apart, and a few more, which the Levenshtein distance (of one for a word of four letters,
# otherwise of two) tells from them. The likeliest first. Names often end in a size or a release: a word typed without
# digits is also compared with the known word without its trailing digits (`resnt`: resnet50), as far as the spellings,
# which are those of the first seven letters, have it.
_NEAR = Statement(
    "models.spellings",
    f"""
SELECT typed.place, lexemes_of(array_to_string(ARRAY(
           SELECT near.word
             FROM (SELECT known.word,
                          (SELECT min(levenshtein_less_equal(form, typed.word, 2))
                             FROM unnest(ARRAY[known.word, rtrim(known.word, typed.digits)]) AS form
                            WHERE form <> typed.word) AS distance
                     FROM vocabulary AS known
                    WHERE known.namespace_id = $1
                      AND spellings(known.namespace_id, known.word) && spellings($1, typed.word)) AS near
            WHERE near.distance BETWEEN 1 AND least(length(typed.word) - {_MIN_CORRECTED - 1}, 2)
            ORDER BY near.distance, similarity(near.word, typed.word) DESC, near.word LIMIT {_MOST_NEAR}), ' ')) AS near
  FROM (SELECT word, place, CASE WHEN word ~ '[0-9]' THEN '' ELSE '0123456789' END AS digits
          FROM unnest($2::text[]) WITH ORDINALITY AS each (word, place)) AS typed
 ORDER BY typed.place
""",  # noqa: S608 - only constants are interpolated
)


@dataclass(frozen=True, slots=True)
class SearchTerm:
    """
    One word of a search, with its lexemes.

    Args:
        word: as it was typed, in lower case; empty when it is written without spaces.
        characters: of which it consists when it is written without spaces; otherwise none. The index has pairs of them,
            side by side; a single one begins such a pair, or is the last one of a text.
        plain, stemmed: otherwise: as it is, and without its ending.
        longer: the words that begin with it; None when there are too many.
        near: the words that it may be a typo of.
    """

    word: str
    characters: tuple[str, ...]
    plain: frozenset[str]
    stemmed: frozenset[str]
    longer: frozenset[str] | None
    near: frozenset[str] = frozenset()

    def name(self) -> str:
        """
        The query for it in names.
        """
        return self._side_by_side("A") if self.characters else _any(self.plain, "A")

    def whole(self) -> str:
        """
        The query for it anywhere.
        """
        return self._side_by_side() if self.characters else _any(self.whole_lexemes)

    def loose(self) -> str:
        """
        The query for what begins with it.
        """
        if self.characters:
            return self.whole()
        if self.longer is None or self._is_code:
            return "|".join(
                [*(f"{_quoted(each)}:*" for each in sorted(self.plain)), *map(_quoted, sorted(self.stemmed))]
            )
        return _any(self.whole_lexemes | self.longer)

    def corrected(self) -> str:
        """
        The query for words that begin with it or that it may be a typo of. In a text without spaces, for its
        pairs wherever they stand: far from the text's beginning the index does not know any more what is side by side.
        """
        if self.characters:
            return "&".join(map(_quoted, self.pairs)) or self.whole()
        return f"{self.loose()}|{_any(self.near)}" if self.near else self.loose()

    @property
    def has_corrections(self) -> bool:
        """
        Whether `corrected` finds more than `loose`.
        """
        return bool(self.near) or len(self.pairs) > 1

    @property
    def whole_lexemes(self) -> frozenset[str]:
        """
        As it is and without its ending.
        """
        return self.plain | self.stemmed

    def needs(self, *, loose: bool = False, corrected: bool = False) -> Iterator[frozenset[str]]:
        """
        Groups of lexemes: what a query finds has one of each. What is not known of is left out.
        """
        if self.characters:
            yield from (frozenset([pair]) for pair in self.pairs)
        elif not loose:
            yield self.whole_lexemes
        elif self.longer is not None:
            yield self.whole_lexemes | self.longer | (self.near if corrected else frozenset())

    @property
    def pairs(self) -> list[str]:
        """
        The pairs of its characters.
        """
        return [one + next_ for one, next_ in pairwise(self.characters)]

    def _side_by_side(self, weight: str = "") -> str:
        if len(self.characters) == 1:
            return f"{_quoted(self.characters[0])}:*{weight}"
        return "<->".join(_weighted(pair, weight) for pair in self.pairs)

    @property
    def _is_code(self) -> bool:
        # Digests and the like are in no vocabulary.
        return len(self.word) >= _MIN_CORRECTED and any(letter.isdigit() for letter in self.word)


@dataclass(frozen=True, slots=True)
class SearchTerms:
    """
    The words of a search.
    """

    words: tuple[SearchTerm, ...]

    @property
    def name(self) -> str:
        """
        All words are in the name or the display name.
        """
        return _every(word.name() for word in self.words)

    @property
    def whole(self) -> str:
        """
        They are anywhere, as they are or stemmed.
        """
        return _every(word.whole() for word in self.words)

    @property
    def loose(self) -> str:
        """
        Something begins with them.
        """
        return _every(word.loose() for word in self.words)

    @property
    def corrected(self) -> str:
        """
        Something begins with them or is spelt nearly like them.
        """
        return _every(word.corrected() for word in self.words)

    @property
    def has_corrections(self) -> bool:
        """
        Whether `corrected` finds more than `loose`.
        """
        return any(word.has_corrections for word in self.words)

    def needs(self, *, loose: bool = False, corrected: bool = False) -> list[frozenset[str]]:
        """
        Groups of lexemes, of each of which `whole` needs one; or `loose`, or `corrected`.
        """
        return [group for word in self.words for group in word.needs(loose=loose, corrected=corrected)]


async def look_up_terms(snapshot: Snapshot, parent: NamespaceName, words: Sequence[str]) -> SearchTerms:
    """
    Look the words up in the vocabulary. Stop words ("the") are dropped unless there are no others.
    """
    found = [_word(row) for row in await snapshot.fetch(_MEANINGS, [parent.namespace, list(words)])]
    known = [word for word in found if word.characters or word.plain]
    return SearchTerms(tuple([word for word in known if word.characters or word.stemmed] or known))


async def add_corrections(snapshot: Snapshot, parent: NamespaceName, terms: SearchTerms) -> SearchTerms:
    """
    Look up the words that the searched ones may be typos of.
    """
    typed = [word.word if len(word.word) >= _MIN_CORRECTED else "" for word in terms.words]
    if not any(typed):
        return terms
    found = await snapshot.fetch(_NEAR, [parent.namespace, typed])
    words = zip(terms.words, found, strict=True)
    return SearchTerms(tuple(replace(word, near=frozenset(row["near"])) for word, row in words))


def _word(row: Row) -> SearchTerm:
    longer = frozenset(row["longer"]) if row["longer_count"] <= _MOST_LONGER else None
    characters = tuple(row["characters"] or ())
    return SearchTerm(row["word"], characters, frozenset(row["plain"]), frozenset(row["stemmed"]), longer)


def _any(lexemes: frozenset[str], weight: str = "") -> str:
    return "|".join(_weighted(lexeme, weight) for lexeme in sorted(lexemes))


def _weighted(lexeme: str, weight: str) -> str:
    return f"{_quoted(lexeme)}:{weight}" if weight else _quoted(lexeme)


def _every(queries: Iterator[str]) -> str:
    return "&".join(f"({query})" for query in queries)


def _quoted(lexeme: str) -> str:
    # As tsquery's input wants it: quotes and backslashes doubled.
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"
