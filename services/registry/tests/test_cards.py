"""
Model cards over a real channel.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.registry.v1 import cards_pb2 as pb
from modelyard.registry.v1 import models_pb2
from services.chassis.checks import Checks
from services.registry.model.cards import SECTIONS
from services.registry.model.frontmatter import changed_front, parse_card
from services.registry.tests.calls import DEFAULT, create, get, update, write_card
from services.registry.tests.server import Failing, Registry
from tests.examples import examples

REAL = """---
# What the hub shows
language:
- en
- de
license: apache-2.0
tags: [vision, "image-classification"]   # as the hub knows them
datasets:
- imagenet-1k
released: 2024-01-31
model-index:
- name: resnet50
  results:
  - task: {type: image-classification}
    metrics:
    - {type: accuracy, value: 80.21}
big: 123456789012345678901234567890
nothing: ~
---
# ResNet-50

Knows a *thousand* things; 不知道 others.
"""


@pytest.fixture
async def model(registry: Registry) -> Registry:
    """
    A registry with a model m.
    """
    await create(registry, "m", models_pb2.Model(display_name="M"))
    return registry


async def card(registry: Registry, number: int = 0) -> pb.Card:
    """
    The card of m.
    """
    return await registry.cards.GetCard(pb.GetCardRequest(name=f"{DEFAULT}/models/m/card", number=number))


async def import_card(registry: Registry, content: str, **more: Any) -> pb.Card:
    """
    Import a card of m.
    """
    return await registry.cards.ImportCard(
        pb.ImportCardRequest(name=f"{DEFAULT}/models/m/card", content=content, **more)
    )


async def export(registry: Registry, number: int = 0) -> str:
    """
    Export the card of m.
    """
    request = pb.ExportCardRequest(name=f"{DEFAULT}/models/m/card", number=number)
    return (await registry.cards.ExportCard(request)).content


async def test_numbers(model: Registry) -> None:
    """
    Every write creates the next number; earlier ones stay unchanged, and the list states who wrote them.
    """
    with Failing() as failed:
        await card(model)
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "CARD_NOT_FOUND")
    first = await write_card(model, "m", intended_use="to look", markdown="# one")
    second = await write_card(model, "m", markdown="# two")
    assert (first.number, second.number) == (1, 2)
    assert (second.intended_use, second.markdown) == ("to look", "# two")
    assert await card(model) == second
    assert await card(model, 1) == first
    with Failing() as failed:
        await card(model, 3)
    assert failed.reason == "CARD_NOT_FOUND"
    request = pb.ListCardNumbersRequest(parent=f"{DEFAULT}/models/m/card")
    listed = (await model.cards.ListCardNumbers(request)).cards
    assert [(each.number, each.actor, each.markdown) for each in listed] == [(2, "anonymous", ""), (1, "anonymous", "")]


async def test_mask_and_etag(model: Registry) -> None:
    """
    Only what the mask names changes, and only if the card is the one that was read.
    """
    first = await write_card(model, "m", limitations="many", license="MIT")
    second = await write_card(model, "m", etag=first.etag, license="")
    assert (second.limitations, second.license) == ("many", "")
    with Failing() as failed:
        await write_card(model, "m", etag=first.etag, license="MIT")
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    with Failing() as failed:
        await model.cards.UpdateCard(
            pb.UpdateCardRequest(card=pb.Card(name=f"{DEFAULT}/models/m/card"), update_mask=FieldMask(paths=["number"]))
        )
    assert list(failed.fields) == ["update_mask"]


async def test_concurrent_writers(model: Registry) -> None:
    """
    Numbers have no gaps; of the writers that read the same card one succeeds.
    """
    cards = await asyncio.gather(*(write_card(model, "m", metrics=f"{n}") for n in range(20)))
    assert sorted(each.number for each in cards) == list(range(1, 21))
    newest = await card(model)
    tries = await asyncio.gather(
        *(write_card(model, "m", etag=newest.etag, metrics=f"again {n}") for n in range(10)), return_exceptions=True
    )
    assert sum(isinstance(each, pb.Card) for each in tries) == 1


async def test_retries(model: Registry) -> None:
    """
    The same request id writes once and is answered alike.
    """
    answers = [await import_card(model, REAL, request_id="r") for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert (await card(model)).number == 1
    with Failing() as failed:
        await import_card(model, "other", request_id="r")
    assert failed.reason == "REQUEST_ID_REUSED"


async def test_import_then_export(model: Registry) -> None:
    """
    An imported card is exported byte for byte, with its keys as fields or as extra.
    """
    made = await import_card(model, REAL)
    assert await export(model) == REAL
    assert made.license == "apache-2.0"
    assert made.markdown.startswith("# ResNet-50\n\nKnows")
    extra = MessageToDict(made.extra)
    assert extra["language"] == ["en", "de"]
    assert extra["released"] == "2024-01-31"
    assert extra["big"] == "123456789012345678901234567890"
    assert extra["nothing"] is None
    assert extra["model-index"][0]["results"][0]["metrics"][0]["value"] == 80.21


async def test_update_keeps_what_it_does_not_know(model: Registry) -> None:
    """
    After an update the export says the new, and keeps the other keys in their order and as they were written.
    """
    await import_card(model, REAL)
    await write_card(model, "m", license="mit", intended_use="Look at pictures: any")
    content = await export(model)
    front = content.split("---\n")[1]
    assert list(yaml.safe_load(front)) == [*yaml.safe_load(REAL.split("---\n")[1]), "modelyard"]
    assert "released: 2024-01-31\n" in front
    assert "big: 123456789012345678901234567890\n" in front
    assert "nothing: ~\n" in front
    assert yaml.safe_load(front)["license"] == "mit"
    assert yaml.safe_load(front)["modelyard"] == {"intended_use": "Look at pictures: any"}
    assert content.endswith(REAL.rpartition("---\n")[2])
    again = await import_card(model, content)
    assert (again.license, again.intended_use) == ("mit", "Look at pictures: any")
    await write_card(model, "m", markdown="other")
    assert await export(model) == f"---\n{front}---\nother"


async def test_update_of_extra(model: Registry) -> None:
    """
    Keys that an update of extra leaves out go, new ones come, the others stay as they were written.
    """
    made = await import_card(model, REAL)
    extra = MessageToDict(made.extra)
    del extra["tags"]
    extra |= {"pipeline_tag": "image-classification", "language": ["fr"], "count": 3}
    await write_card(model, "m", extra=ParseDict(extra, Struct()))
    front = (await export(model)).split("---\n")[1]
    data = yaml.safe_load(front)
    assert "tags" not in data
    assert (data["pipeline_tag"], data["language"], data["count"]) == ("image-classification", ["fr"], 3)
    assert "released: 2024-01-31\n" in front


async def test_markdown_alone(model: Registry) -> None:
    """
    A README without front matter is a card, too.
    """
    made = await import_card(model, "just text\n---\nwith a line")
    assert made.markdown == "just text\n---\nwith a line"
    assert await export(model) == "just text\n---\nwith a line"


def odd_number(value: float) -> Struct:
    """
    What no JSON can say, and a client's protobuf can.
    """
    extra = ParseDict({"results": [1, {"value": 0}]}, Struct())
    extra.fields["results"].list_value.values[1].struct_value.fields["value"].number_value = value
    return extra


BOMB = "\n".join(
    [
        "a: &a [x, x, x, x, x, x, x, x]",
        *(f"{b}: &{b} [{', '.join(['*' + a] * 8)}]" for a, b in zip("abcdef", "bcdefg", strict=True)),
    ]
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("---\na: 1\n", "line 1: .*never closed"),
        ("---\na: [1\n---\n", "line 3"),
        ("---\na: 1\nb: 2\na: 3\n---\n", 'line 4: the key "a" comes twice'),
        ("---\n- a\n---\n", "line 2: the front matter must be a mapping"),
        ("---\n? [a]\n: b\n---\n", "line 2: a key must be a plain word"),
        ("---\na: !!python/object/apply:os.system [ls]\n---\n", "line 2: the tag "),
        ("---\na: !secret x\n---\n", "line 2: the tag !secret"),
        (f"---\n{BOMB}\n---\n", "its aliases spelt out"),
        ("---\na: &a [*a]\n---\n", "nested more than"),
        (f"---\na: {'[' * 200_000}\n---\n", "line 2: is nested more than"),
        (f"---\na: {'x' * 300_000}\n---\n", "must be at most 262,144 bytes"),
        ("---\na: \x01\n---\n", ""),
        (f"---\nlicense: {'x' * 200}\n---\n", ""),
        ("x" * (1 << 20) + "x", "1,048,576"),
        ("a\0b", "NUL"),
    ],
)
async def test_bad_content(shared: Registry, content: str, words: str) -> None:
    """
    An invalid card is rejected with the line of the error.
    """
    with Failing() as failed:
        await shared.cards.ImportCard(pb.ImportCardRequest(name=f"{DEFAULT}/models/none/card", content=content))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert all(field.startswith("content") for field in failed.fields)
    assert words.partition(".*")[0] in str(failed.fields)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"intended_use": "x" * 65_537}, "card.intended_use"),
        ({"markdown": "€" * 400_000}, "card.markdown"),
        ({"extra": ParseDict({"license": "MIT"}, Struct())}, "card.extra.license"),
        ({"extra": ParseDict({"a": "x" * 300_000}, Struct())}, "card.extra"),
        ({"extra": odd_number(math.nan)}, "card.extra.results[1].value"),
        ({"extra": odd_number(-math.inf)}, "card.extra.results[1].value"),
    ],
)
async def test_bounds(shared: Registry, fields: dict[str, Any], name: str) -> None:
    """
    A field that is too large, or is not a number, is named.
    """
    with Failing() as failed:
        await write_card(shared, "none", **fields)
    assert list(failed.fields) == [name]


async def test_search_finds_the_card(model: Registry) -> None:
    """
    Words of the card find its model, mistyped, too, and after an update of the model; those of an old number do not.
    """

    async def found(query: str) -> list[str]:
        request = models_pb2.SearchModelsRequest(parent=DEFAULT, query=query)
        return [each.name.rpartition("/")[2] for each in (await model.models.SearchModels(request)).models]

    before = await get(model, "m")
    await write_card(model, "m", limitations="Never shown to a walrus", markdown="# Pelicans")
    assert await get(model, "m") == before
    assert [await found(query) for query in ("walrus", "pelican", "wallrus")] == [["m"]] * 3
    await update(model, "m", models_pb2.Model(owner="ann"), ["owner"])
    assert await found("walrus") == ["m"]
    await write_card(model, "m", limitations="none")
    assert await found("walrus") == []


async def test_deleted_model(model: Registry) -> None:
    """
    The card of a deleted model is read until it is purged, and not written.
    """
    made = await write_card(model, "m", markdown="# m")
    await model.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{DEFAULT}/models/m"))
    assert await card(model) == made
    with Failing() as failed:
        await write_card(model, "m", markdown="# no")
    assert failed.reason == "MODEL_NOT_FOUND"
    await model.models.PurgeModel(models_pb2.PurgeModelRequest(name=f"{DEFAULT}/models/m"))
    with Failing() as failed:
        await card(model)
    assert failed.reason == "MODEL_NOT_FOUND"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    st.dates(),
    st.datetimes(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcß ", min_size=1, max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
FRONTS = st.dictionaries(st.text("abcdeü_-", min_size=1, max_size=8), VALUES, max_size=6)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(front=FRONTS, text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), flow=st.booleans())
def test_any_front_matter_survives(front: dict[str, Any], text: str, flow: bool) -> None:
    """
    Whatever YAML holds: an import says the same to the letter, and after a change of the licence and a section every
    other key means what it meant.
    """
    written = f"---\n{yaml.safe_dump(front, allow_unicode=True, default_flow_style=flow, sort_keys=False)}---\n"
    checks = Checks()
    parsed = parse_card(checks, "content", written + text, SECTIONS)
    checks.raise_if_any()
    assert parsed.front + parsed.markdown == written + text
    own = {**parsed.own, "license": "new", "metrics": "some"}
    changed = changed_front(parsed.front, own, parsed.extra, SECTIONS)
    again = parse_card(checks, "content", changed, SECTIONS)
    checks.raise_if_any()
    assert (again.own, again.extra) == (own, parsed.extra)
    meant, means = yaml.safe_load(written.split("---\n")[1]) or {}, yaml.safe_load(changed[4:-4])
    assert {key: means[key] for key in meant if key != "license"} == {
        key: value for key, value in meant.items() if key != "license"
    }
    assert [key for key in means if key in meant] == list(meant)
