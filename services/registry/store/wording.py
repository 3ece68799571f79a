"""
What the words of a search mean: as text queries for the tiers of a search, and how much they narrow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.ledger.store.servers import Row, Snapshot
from services.ledger.store.statements import Statement

# Words that begin with a word; beyond so many the index is asked for the beginning itself, which is slower.
_MOST_LONGER = 100

# For each word: as it is indexed, stemmed, the words that begin with it, and, when there are none, up to five that are
# spelt nearly like it: trigrams find them, and a Levenshtein distance of two, or of one to a word of four letters,
# confirms them.
_MEANINGS = Statement(
    "models.words",
    f"""
SELECT tsvector_to_array(to_tsvector('pg_catalog.simple', plain_words(typed.word))) AS plain,
       tsvector_to_array(to_tsvector('pg_catalog.english', plain_words(typed.word))) AS stemmed,
       cardinality(longer.words) AS longer_count, lexemes_of(array_to_string(longer.words, ' ')) AS longer,
       lexemes_of(array_to_string(near.words, ' ')) AS near
  FROM (SELECT place, lower(word COLLATE pg_c_utf8) COLLATE "C" AS word
          FROM unnest($1::text[]) WITH ORDINALITY AS typed (word, place)) AS typed
 CROSS JOIN LATERAL (
    SELECT ARRAY(SELECT words.word FROM words WHERE words.word ^@ typed.word
                  ORDER BY length(words.word), words.word LIMIT {_MOST_LONGER + 1}) AS words
 ) AS longer
 CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT close.word
          FROM (SELECT words.word, similarity(words.word, typed.word) AS likeness FROM words
                 WHERE words.word % typed.word ORDER BY likeness DESC, words.word LIMIT 50) AS close
         WHERE levenshtein_less_equal(close.word, typed.word, 2) <= least(length(typed.word) - 3, 2)
           AND cardinality(longer.words) = 0 AND length(typed.word) >= 4
         ORDER BY levenshtein_less_equal(close.word, typed.word, 2), likeness DESC, close.word LIMIT 5) AS words
 ) AS near
 ORDER BY typed.place
""",  # noqa: S608 - a number of our own
)


@dataclass(frozen=True, slots=True)
class Wording:
    """
    What words mean, as the texts of three text queries, each of which finds what the one before it finds and more.

    Args:
        name: all words are in the name or the display name.
        whole: they are anywhere, as they are or stemmed.
        loose: something begins with them, or is spelt nearly like them.
        whole_lexemes: for each word, those of which `whole` needs one.
        loose_lexemes: the same for `loose`, without the words of which too much begins with them.
    """

    name: str
    whole: str
    loose: str
    whole_lexemes: tuple[frozenset[str], ...]
    loose_lexemes: tuple[frozenset[str], ...]


async def understand(snapshot: Snapshot, words: Sequence[str]) -> Wording:
    """
    Look the words up. Those that say nothing ("the") are dropped unless there is nothing else.
    """
    found = [row for row in await snapshot.fetch(_MEANINGS, [list(words)]) if row["plain"]]
    telling = [row for row in found if row["stemmed"]] or found
    return Wording(
        _every([[f"{_quoted(lexeme)}:A" for lexeme in row["plain"]] for row in telling]),
        _every([list(map(_quoted, _whole(row))) for row in telling]),
        _every([_loose(row) for row in telling]),
        tuple(_whole(row) for row in telling),
        tuple(_any_of(row) for row in telling if row["longer_count"] <= _MOST_LONGER),
    )


def _whole(row: Row) -> frozenset[str]:
    return frozenset([*row["plain"], *row["stemmed"]])


def _loose(row: Row) -> list[str]:
    if row["longer_count"] > _MOST_LONGER:
        return [*(f"{_quoted(lexeme)}:*" for lexeme in row["plain"]), *map(_quoted, row["stemmed"])]
    return [_quoted(lexeme) for lexeme in sorted(_any_of(row))]


def _any_of(row: Row) -> frozenset[str]:
    return _whole(row) | frozenset([*row["longer"], *row["near"]])


def _every(groups: Sequence[Sequence[str]]) -> str:
    return "&".join(f"({'|'.join(group)})" for group in groups)


def _quoted(lexeme: str) -> str:
    # As tsquery's input wants it: quotes and backslashes doubled.
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"
