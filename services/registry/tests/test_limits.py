"""
Resources that are not garbage collected are limited; the error names the field and what to do.
"""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from modelyard.registry.v1 import cards_pb2
from services.registry.model import limits
from services.registry.tests.calls import DEFAULT, add_version, create, move, record, result, sql, write_card
from services.registry.tests.server import Failing, Registry

NAME = f"{DEFAULT}/models/m"


async def numbers(registry: Registry) -> int:
    """
    How many numbers the card has.
    """
    request = cards_pb2.ListCardNumbersRequest(parent=f"{NAME}/card", page_size=100)
    return len((await registry.cards.ListCardNumbers(request)).cards)


async def test_numbers_of_a_card(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The numbers of a card are limited; writing unchanged content does not create another one.
    """
    monkeypatch.setattr(limits, "CARD_NUMBERS", replace(limits.CARD_NUMBERS, most=2))
    await create(registry, "m")
    first = await write_card(registry, "m", markdown="one")
    assert await write_card(registry, "m", markdown="one") == first
    assert await write_card(registry, "m", etag=first.etag, markdown="one") == first
    await write_card(registry, "m", markdown="two")
    with Failing() as failed:
        await write_card(registry, "m", markdown="three")
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CARD_NUMBERS")
    assert (failed.metadata["field"], failed.metadata["most"]) == ("card", "2")
    assert "card: namespaces/default/models/m/card may have 2 numbers: record what changes" in failed.message
    assert await numbers(registry) == 2


async def test_results_of_a_version(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The evaluations of a version are limited; the limit applies to each version of a model by itself.
    """
    monkeypatch.setattr(limits, "EVALUATIONS", replace(limits.EVALUATIONS, most=3))
    await create(registry, "m")
    for _ in range(2):
        await add_version(registry, "m")
    await record(registry, *(result("m", 1, "d", "a", n) for n in range(2)))
    with Failing() as failed:
        await record(registry, *(result("m", 1, "d", "b", n) for n in range(2)), result("m", 2, "d", "a", 1))
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "EVALUATION_COUNT")
    assert (failed.metadata["field"], failed.metadata["resource"]) == ("evaluations", f"{NAME}/versions/1")
    assert "may have 3 results: record summaries" in failed.message
    await record(registry, result("m", 1, "d", "b", 1), *(result("m", 2, "d", "a", n) for n in range(3)))
    assert await sql(registry, "SELECT count(*) FROM evaluations") == 6


async def test_aliases_of_a_model(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The aliases of a model are limited; moved and removed ones do not count.
    """
    monkeypatch.setattr(limits, "ALIASES", replace(limits.ALIASES, most=2))
    await create(registry, "m")
    for _ in range(2):
        await add_version(registry, "m")
    await move(registry, "m", ("a", 1), ("b", 1))
    await move(registry, "m", ("a", 2), ("b", 2))
    with Failing() as failed:
        await move(registry, "m", ("c", 1))
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ALIAS_COUNT")
    assert (failed.metadata["field"], failed.metadata["resource"]) == ("moves", NAME)
    assert "may have 2 aliases: remove some" in failed.message
    await move(registry, "m", ("a", 0), ("c", 1))
