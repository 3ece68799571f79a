"""
The vocabulary for typo correction. Triggers add the words of every write; this module deletes the words that no model
has any more.
"""

from __future__ import annotations

from services.ledger.store.database import Database
from services.ledger.store.statements import Statement

# Words that are looked at in one go.
_MOST = 1_000

# What follows a word, and whether a model has it, as it is or stemmed. A word that is among the most common ones in the
# planner's statistics is taken for granted: to find one model of half a million the index gives all of them.
_LOOK = Statement(
    "words.look",
    f"""
WITH common AS MATERIALIZED (
    SELECT most_common_elems::text::text[] AS lexemes FROM pg_stats
     WHERE schemaname = current_schema() AND tablename = 'models' AND attname = 'search'
)
SELECT known.namespace_id, known.word, known.doubt_time IS NOT NULL AS doubted,
       known.doubt_time < now() - interval '1 minute' AS long_doubted,
       EXISTS (SELECT FROM common WHERE common.lexemes && lexemes_of(known.word))
       OR EXISTS (SELECT FROM models
                   WHERE models.namespace_id = known.namespace_id
                     AND models.search @@ array_to_string(ARRAY(SELECT quote_literal(lexeme)
                                                                  FROM unnest(lexemes_of(known.word)) AS lexeme),
                                                          '|')::tsquery) AS is_there
  FROM (SELECT * FROM vocabulary WHERE (namespace_id, word) > ($1, $2)
         ORDER BY namespace_id, word LIMIT {_MOST}) AS known
 ORDER BY known.namespace_id, known.word
""",  # noqa: S608 - only constants are interpolated
)

# Rows that another transaction has locked are skipped until the next pass: this must never wait for a writer.
_MINE = """
SELECT namespace_id, word FROM vocabulary
  JOIN unnest($1::text[], $2::text[]) AS wanted (namespace_id, word) USING (namespace_id, word)
   FOR UPDATE OF vocabulary SKIP LOCKED
"""
_DOUBT = Statement(
    "words.doubt",
    f"""
WITH mine AS ({_MINE})
UPDATE vocabulary SET doubt_time = CASE WHEN $3 THEN now() END FROM mine
 WHERE vocabulary.namespace_id = mine.namespace_id AND vocabulary.word = mine.word
""",  # noqa: S608 - only constants are interpolated
)
_FORGET = Statement(
    "words.forget",
    f"""
WITH mine AS ({_MINE})
DELETE FROM vocabulary USING mine
 WHERE vocabulary.namespace_id = mine.namespace_id AND vocabulary.word = mine.word
   AND vocabulary.doubt_time < now() - interval '1 minute'
""",  # noqa: S608 - only constants are interpolated
)


class Vocabulary:
    """
    Prunes the vocabulary, in repeated passes.

    An unused word is marked first (`doubt_time`), and deleted when a check at least a minute later finds no model
    either: a write of a model with the word clears the mark (`learn_words`), and no statement that saw the unmarked
    word runs for so long.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last = ("", "")

    async def forget(self) -> int:
        """
        Check the next thousand words.

        Returns:
            How many were deleted.
        """
        found = await self._database.fetch(_LOOK, *self._last)
        self._last = (found[-1]["namespace_id"], found[-1]["word"]) if len(found) == _MOST else ("", "")
        doubtful = [row for row in found if not row["is_there"] and not row["doubted"]]
        found_again = [row for row in found if row["is_there"] and row["doubted"]]
        removed = [row for row in found if not row["is_there"] and row["long_doubted"]]
        for rows, statement, more in (
            (doubtful, _DOUBT, (True,)),
            (found_again, _DOUBT, (False,)),
            (removed, _FORGET, ()),
        ):
            if rows:
                names = [row["namespace_id"] for row in rows], [row["word"] for row in rows]
                await self._database.fetch(statement, *names, *more)
        return len(removed)
