"""
How many rows of a large vocabulary the lookup of search words reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from bench.prose import vocabulary
from embedded.postgres import owner
from services.registry.store.search import words

# `make plans` fills the table with five times as many. With fewer words than these the planner reads all of them.
WORDS = 100_000 if "MODELYARD_PLANS_SCALE" in os.environ else 20_000
# The most rows that may be read for each word: all that begin with it, and some hundred that are spelt alike.
MOST_LONGER = 101
MOST_NEAR = 1_000

Explain = Callable[[str, str], Any]


@pytest.fixture(scope="module")
async def connection(new_database: Callable[[], str]) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """
    To a database whose namespace `default` has WORDS words, and another one some, too.
    """
    found = await asyncpg.connect(owner(new_database()))
    index = await found.fetchval("SELECT pg_get_indexdef('vocabulary_by_spelling'::regclass)")
    words = [("default", word) for word in vocabulary()[:WORDS]] + [("other", word) for word in vocabulary()[:1000]]
    # An index is built faster than it grows.
    await found.execute("SET maintenance_work_mem = '256MB'; DROP INDEX vocabulary_by_spelling")
    await found.copy_records_to_table("vocabulary", columns=("namespace_id", "word"), records=words)
    await found.execute(index)
    await found.execute("VACUUM ANALYZE vocabulary")
    yield found
    await found.close()


async def looked_at(connection: asyncpg.Connection[asyncpg.Record], sql: str, word: str) -> int:
    """
    The number of words that a statement reads for *word*, including those that are filtered out.
    """
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"
    plan = json.loads(await connection.fetchval(explain, "default", [word]))[0]["Plan"]
    return sum(_rows(node) for node in _nodes(plan) if node.get("Relation Name") == "vocabulary")


def _rows(node: dict[str, Any]) -> int:
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int((node["Actual Rows"] + dropped) * node["Actual Loops"])


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", ()) for node in _nodes(inner))]


@pytest.mark.parametrize("place", [0, 100, WORDS // 10, WORDS - 1])
async def test_a_word(connection: asyncpg.Connection[asyncpg.Record], place: int) -> None:
    """
    Of the words that begin with a word, only those in the result are read, whether it is common, rare or short.
    """
    word = vocabulary()[place]
    for typed in (word, word[:3], word[:1]):
        assert 1 <= await looked_at(connection, words._MEANINGS.sql, typed) <= MOST_LONGER


@pytest.mark.parametrize("place", [WORDS // 8, WORDS // 5, WORDS // 2, WORDS - 1])
async def test_a_typo(connection: asyncpg.Connection[asyncpg.Record], place: int) -> None:
    """
    For a mistyped word only those with a similar spelling are read, not the vocabulary.
    """
    word = vocabulary()[place]
    for typed in (word[:2] + word[3:], word[:3] + "x" + word[4:], word + "q", "q" + word):
        assert 1 <= await looked_at(connection, words._NEAR.sql, typed) <= MOST_NEAR


@pytest.mark.parametrize("place", [WORDS // 8, WORDS // 3])
async def test_near_words_are_exact(connection: asyncpg.Connection[asyncpg.Record], place: int) -> None:
    """
    No word within two letters is missed: comparing every word finds the same ones.
    """
    word = vocabulary()[place]
    for typed in (word[1:], word[:-2], "q" + word[:2] + "q" + word[2:], word[1] + word[0] + word[2:]):
        near = "SELECT array_agg(word ORDER BY word) FROM vocabulary WHERE namespace_id = 'default'"
        every = await connection.fetchval(f"{near} AND levenshtein_less_equal(word, $1, 2) <= 2", typed)
        found = await connection.fetchval(
            f"{near} AND spellings(namespace_id, word) && spellings('default', $1)"
            " AND levenshtein_less_equal(word, $1, 2) <= 2",
            typed,
        )
        assert word in every
        assert found == every
