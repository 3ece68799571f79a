"""
What holds for whatever is given: names, filters, masks, page tokens, the history of aliases, the change stream.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modelyard.registry.v1 import (
    aliases_pb2,
    audit_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)
from services.chassis.checks import MOST_INT64, Checks, Name
from services.chassis.errors import InvalidArgument
from services.ledger.model.pages import Key, Query
from services.registry.model.field_masks import check_mask
from services.registry.model.models import MUTABLE, ModelDraft
from services.registry.model.names import (
    AliasName,
    CardName,
    DeploymentName,
    ModelName,
    NamespaceName,
    VersionName,
)
from services.registry.model.search.filter_parser import parse_filter
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    deploy,
    import_items,
    move,
    record,
    result,
    update,
    watch,
    write_card,
)
from services.registry.tests.server import Failing, Registry
from tests.examples import examples


def real(count: int) -> settings:
    """
    For tests that talk to a server: fewer examples, as long as they take.
    """
    return settings(max_examples=examples(count), deadline=None, suppress_health_check=list(HealthCheck))


NAMESPACES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
WORDS = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
NAMES: st.SearchStrategy[Name] = st.one_of(
    st.builds(NamespaceName, NAMESPACES),
    st.builds(ModelName, NAMESPACES, MODELS),
    st.builds(VersionName, NAMESPACES, MODELS, st.integers(1, MOST_INT64)),
    st.builds(AliasName, NAMESPACES, MODELS, WORDS),
    st.builds(CardName, NAMESPACES, MODELS),
    st.builds(DeploymentName, NAMESPACES, WORDS),
)
KINDS: list[type[Name]] = [NamespaceName, ModelName, VersionName, AliasName, CardName, DeploymentName]


@given(name=NAMES)
def test_names_come_back(name: Name) -> None:
    """
    A name is what its text says, and a name of no other kind.
    """
    for kind in KINDS:
        if isinstance(name, kind):
            assert kind.parse(str(name)) == name
        else:
            with pytest.raises(InvalidArgument):
                kind.parse(str(name))


@given(name=NAMES, at=st.integers(0, 300), put=st.characters())
def test_no_other_text_is_a_name(name: Name, at: int, put: str) -> None:
    """
    A name with one character replaced is rejected, or is another valid name.
    """
    text = str(name)
    changed = text[:at] + put + text[at + 1 :]
    try:
        found = type(name).parse(changed)
    except InvalidArgument:
        return
    assert str(found) == changed


@given(text=st.text(max_size=60))
def test_any_text_as_a_name(text: str) -> None:
    """
    A text that is no name is rejected as such, and never with another error.
    """
    for kind in KINDS:
        with suppress(InvalidArgument):
            assert str(kind.parse(text)) == text


@dataclass
class Known:
    """
    A model as the filters' reference sees it.
    """

    model_id: str
    task: str
    owner: str
    parameter_count: int
    labels: dict[str, str]
    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)


@pytest.fixture(scope="module")
async def population(new_registry: Registry) -> list[Known]:
    """
    Models with few different values, so that conditions meet some of them.
    """
    dice = random.Random(11)  # noqa: S311 - test data
    found = []
    items = []
    for number in range(120):
        known = Known(
            f"m{number:03}",
            dice.choice(["", "audio", "image-classification", "ä"]),
            dice.choice(["", "ann", "Bob"]),
            dice.choice([0, 1, 10, 25_000_000]),
            {key: dice.choice(["x", "y", "x y"]) for key in ("team", "tier") if dice.random() < 0.6},
        )
        for place in (("imagenet", "top1"), ("imagenet-a", "top5")):
            if dice.random() < 0.6:
                known.scores[place] = [dice.choice([1.0, 50.5, 85.0]) for _ in range(dice.randrange(1, 3))]
        found.append(known)
        evaluations = [
            evaluations_pb2.Evaluation(version="1", dataset=dataset, metric=metric, value=value)
            for (dataset, metric), values in known.scores.items()
            for value in values
        ]
        model = models_pb2.Model(
            task=known.task, owner=known.owner, parameter_count=known.parameter_count, labels=known.labels
        )
        items.append(
            imports_pb2.ImportModelsRequest.Item(
                model_id=known.model_id, model=model, versions=[versions_pb2.Version()], evaluations=evaluations
            )
        )
    await import_items(new_registry, items)
    return found


Condition = tuple[str, Callable[[Known], bool]]
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _text(name: str, sign: str, value: str) -> Condition:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if sign == ":":
        return f"{name}:{quoted}", lambda known: value.lower() in getattr(known, name).lower()
    return (
        f"{name} {sign} {quoted}",
        # What nobody has said compares with nothing, but `= ""` asks for it.
        lambda known: (
            (sign == "=" or getattr(known, name) != "") and _SIGNS[sign](getattr(known, name).encode(), value.encode())
        ),
    )


def _number(name: str, sign: str, value: int) -> Condition:
    return (
        f"{name} {sign} {value}",
        lambda known: known.parameter_count > 0 and _SIGNS[sign](known.parameter_count, value),
    )


def _label(key: str, sign: str, value: str) -> Condition:
    compare = operator.eq if sign == ":" else _SIGNS[sign]
    return (
        f'labels.{key} {sign} "{value}"',
        lambda known: key in known.labels and compare(known.labels[key].encode(), value.encode()),
    )


def _score(place: tuple[str, str], sign: str, value: float) -> Condition:
    return (
        f"evaluations.{place[0]}.{place[1]} {sign} {value}",
        lambda known: place in known.scores and _SIGNS[sign](max(known.scores[place]), value),
    )


def _present(name: str) -> Condition:
    match name.split("."):
        case ["labels", key]:
            return f"{name}:*", lambda known: key in known.labels
        case ["labels"]:
            return "labels:*", lambda known: bool(known.labels)
        case ["evaluations", dataset, metric]:
            return f"{name}:*", lambda known: (dataset, metric) in known.scores
        case ["parameter_count"]:
            return f"{name}:*", lambda known: known.parameter_count != 0
        case _:
            return f"{name}:*", lambda known: getattr(known, name) != ""


COMPARISONS: st.SearchStrategy[Condition] = st.one_of(
    st.builds(
        _text,
        st.sampled_from(["task", "owner"]),
        st.sampled_from([*_SIGNS, ":"]),
        st.sampled_from(["", "audio", "AUDIO", "image", "ann", "Bob", "b", "ä", "Ä", "'", '"', "\\", "%", "_"]),
    ),
    st.builds(
        _number,
        st.sampled_from(["parameter_count", "parameters"]),
        st.sampled_from(list(_SIGNS)),
        st.sampled_from([-1, 0, 1, 9, 10, 25_000_000, 10**18]),
    ),
    st.builds(
        _label, st.sampled_from(["team", "tier"]), st.sampled_from([*_SIGNS, ":"]), st.sampled_from(["x", "y", "x y"])
    ),
    st.builds(
        _score,
        st.sampled_from([("imagenet", "top1"), ("imagenet-a", "top5"), ("none", "none")]),
        st.sampled_from(list(_SIGNS)),
        st.sampled_from([0.0, 1.0, 50.5, 85.0, 1e300]),
    ),
    st.builds(
        _present,
        st.sampled_from(["labels", "labels.team", "task", "owner", "parameter_count", "evaluations.imagenet.top1"]),
    ),
)


def _all(parts: list[Condition]) -> Condition:
    return " AND ".join(f"({text})" for text, _ in parts), lambda known: all(holds(known) for _, holds in parts)


def _any(parts: list[Condition]) -> Condition:
    return " OR ".join(f"({text})" for text, _ in parts), lambda known: any(holds(known) for _, holds in parts)


def _not(part: Condition) -> Condition:
    return f"NOT ({part[0]})", lambda known: not part[1](known)


CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(_all, st.lists(inner, min_size=2, max_size=3)),
        st.builds(_any, st.lists(inner, min_size=2, max_size=3)),
        st.builds(_not, inner),
    ),
    max_leaves=6,
)


@real(120)
@given(condition=CONDITIONS)
async def test_filters_mean_what_they_say(
    new_registry: Registry, population: list[Known], condition: Condition
) -> None:
    """
    Whatever is asked, the models that are found are those of which a plain program says that they meet the condition.
    """
    text, holds = condition
    found, token = set(), ""
    while True:
        request = models_pb2.SearchModelsRequest(parent=DEFAULT, filter=text, page_size=200, page_token=token)
        page = await new_registry.models.SearchModels(request)
        found |= {each.name.rpartition("/")[2] for each in page.models}
        token = page.next_page_token
        if not token:
            break
    assert found == {known.model_id for known in population if holds(known)}


@given(text=st.text(max_size=60))
@example(text="task = ")
@example(text="(((")
def test_any_text_as_a_filter(text: str) -> None:
    """
    A filter that does not parse is a violation with a position within it, and never another error.
    """
    checks = Checks()
    parse_filter(checks, "filter", text)
    try:
        checks.raise_if_any()
    except InvalidArgument as error:
        for violation in error.violations:
            if violation.description.startswith("at "):
                position = int(violation.description.removeprefix("at ").partition(":")[0])
                assert 1 <= position <= len(text) + 1


DRAFTS = st.builds(
    ModelDraft,
    *([st.text("ab", max_size=3)] * 6),
    labels=st.dictionaries(st.sampled_from("abc"), st.text("x", max_size=2)),
    annotations=st.dictionaries(st.sampled_from("abc"), st.text("x", max_size=2)),
    parameter_count=st.integers(0, 9),
)


@given(
    before=DRAFTS, other=DRAFTS, paths=st.lists(st.sampled_from([*MUTABLE, "*", "name", "revision", ""]), max_size=4)
)
def test_masks(before: ModelDraft, other: ModelDraft, paths: list[str]) -> None:
    """
    An update changes exactly the fields of its mask; a mask with any other path is rejected.
    """
    checks = Checks()
    taken = check_mask(checks, paths, MUTABLE)
    if not paths or (paths != ["*"] and not set(paths) <= set(MUTABLE)):
        assert len(checks) > 0
        return
    assert len(checks) == 0
    after = before.updated(other, taken)
    named = set(MUTABLE) if paths == ["*"] else set(paths)
    for name in MUTABLE:
        assert getattr(after, name) == getattr(other if name in named else before, name)


KEYS: dict[type[Key], st.SearchStrategy[Any]] = {
    str: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    int: st.integers(-MOST_INT64, MOST_INT64),
    float: st.floats(allow_nan=False, allow_infinity=False),
    datetime: st.datetimes(datetime(2, 1, 1), datetime(9990, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
}


@given(data=st.data(), parts=st.lists(st.text(max_size=8), max_size=3).map(tuple), at=st.integers(0, 400))
def test_page_tokens(data: st.DataObject, parts: tuple[str, ...], at: int) -> None:
    """
    A token gives back its position, for its own query only; any other text is no token.
    """
    kinds = tuple(data.draw(st.lists(st.sampled_from(list(KEYS)), min_size=1, max_size=3)))
    key = [data.draw(KEYS[kind]) for kind in kinds]
    query = Query("List", parts, kinds)
    token = query.token(key)
    assert query.position(token) == tuple(key)
    assert Query("Other", parts, kinds).position(token) is None
    assert Query("List", (*parts, ""), kinds).position(token) is None
    place = at % len(token)
    other = "A" if token[place] != "A" else "B"
    changed = token[:place] + other + token[place + 1 :]
    assert query.position(changed) in {None, tuple(key)}  # the last character may have bits that say nothing
    assert query.position(token[: len(token) // 2]) is None


async def test_every_list_is_whole_at_any_page_size(new_registry: Registry, population: list[Known]) -> None:
    """
    Page by page, of any size, every list gives each row once and in one order.
    """
    del population
    registry, model = new_registry, f"{DEFAULT}/models/m000"
    for _ in range(4):
        await add_version(registry, "m000")
        await write_card(registry, "m000", metrics="some")
    for number in (1, 2, 3, 4):
        await move(registry, "m000", ("a", number), ("b", number), (f"c{number}", number))
        await deploy(registry, f"d{number}", "m000")
    await record(registry, *(result("m000", 1, "d", "m", n) for n in range(7)))
    lists: list[tuple[Any, dict[str, Any], str]] = [
        (registry.models.ListModels, {"parent": DEFAULT}, "models"),
        (registry.models.SearchModels, {"parent": DEFAULT}, "models"),
        (registry.versions.ListVersions, {"parent": model}, "versions"),
        (registry.aliases.ListAliases, {"parent": model}, "aliases"),
        (registry.aliases.ListAliasMoves, {"parent": f"{model}/aliases/a"}, "moves"),
        (registry.cards.ListCardNumbers, {"parent": f"{model}/card"}, "cards"),
        (registry.evaluations.ListEvaluations, {"parent": model}, "evaluations"),
        (registry.deployments.ListDeployments, {"parent": DEFAULT}, "deployments"),
        (registry.namespaces.ListNamespaces, {}, "namespaces"),
        (registry.audit.ListAuditEntries, {"resource_prefix": f"{DEFAULT}/models/m000"}, "entries"),
    ]
    requests: dict[str, Any] = {
        "ListModels": models_pb2.ListModelsRequest,
        "SearchModels": models_pb2.SearchModelsRequest,
        "ListVersions": versions_pb2.ListVersionsRequest,
        "ListAliases": aliases_pb2.ListAliasesRequest,
        "ListAliasMoves": aliases_pb2.ListAliasMovesRequest,
        "ListEvaluations": evaluations_pb2.ListEvaluationsRequest,
        "ListNamespaces": namespaces_pb2.ListNamespacesRequest,
        "ListCardNumbers": cards_pb2.ListCardNumbersRequest,
        "ListDeployments": deployments_pb2.ListDeploymentsRequest,
        "ListAuditEntries": audit_pb2.ListAuditEntriesRequest,
    }
    for call, wanted, field_name in lists:
        method = call._method.decode().rpartition("/")[2]
        whole = await _rows(call, requests[method](page_size=1000, **wanted), field_name)
        assert len(set(whole)) == len(whole) > 0, method
        for size in (1, 2, 3, 7):
            assert await _rows(call, requests[method](page_size=size, **wanted), field_name) == whole, (method, size)


async def _rows(call: Any, request: Any, field_name: str) -> list[bytes]:
    found: list[bytes] = []
    while True:
        page = await call(request)
        assert len(getattr(page, field_name)) <= request.page_size
        found += [each.SerializeToString(deterministic=True) for each in getattr(page, field_name)]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


_examples = itertools.count()


@real(12)
@given(
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("move"), st.integers(0, 3)),
            st.tuples(st.just("rollback"), st.just(0)),
        ),
        min_size=1,
        max_size=8,
    ),
    name=st.from_regex(r"[a-z][a-z0-9]{8}", fullmatch=True),
)
async def test_the_history_of_an_alias(
    new_registry: Registry, population: list[Known], moves: list[tuple[str, int]], name: str
) -> None:
    """
    After any moves, removals and rollbacks the history is what a list of them says, at every moment of it.
    """
    del population
    registry, model = new_registry, "m001"
    while (
        await registry.models.GetModel(models_pb2.GetModelRequest(name=f"{DEFAULT}/models/{model}"))
    ).latest_version < 3:
        await add_version(registry, model)
    name = f"{name}-{next(_examples)}"
    alias = f"{DEFAULT}/models/{model}/aliases/{name}"
    known: list[int] = []
    # Where each came from: a rollback stands for what it restored.
    origins: list[int] = []
    for kind, number in moves:
        if kind == "move":
            await move(registry, model, (name, number))
            if number != (known[-1] if known else 0):
                origins.append(len(known))
                known.append(number)
        else:
            rollback = registry.aliases.RollbackAlias(aliases_pb2.RollbackAliasRequest(name=alias))
            earlier = [place for place in range(origins[-1] if origins else 0) if known[place] != known[-1]]
            if not earlier or not known[earlier[-1]]:
                with Failing() as failed:
                    await rollback
                assert failed.code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
            else:
                await rollback
                known.append(known[earlier[-1]])
                origins.append(origins[earlier[-1]])
    told = list(reversed(await history(registry, alias)))
    assert [int(each.version.rpartition("/")[2] or 0) for each in told] == known
    for number, each in enumerate(told):
        if number + 1 < len(told):
            assert each.end_time == told[number + 1].start_time
        request = aliases_pb2.GetAliasRequest(name=alias, read_time=each.start_time)
        if known[number]:
            assert (await registry.aliases.GetAlias(request)).version == each.version
        else:
            with Failing() as failed:
                await registry.aliases.GetAlias(request)
            assert failed.reason == "ALIAS_NOT_FOUND"


async def history(registry: Registry, alias: str) -> list[aliases_pb2.AliasMove]:
    """
    All moves of an alias, the newest first; none if there never was one.
    """
    try:
        answer = await registry.aliases.ListAliasMoves(aliases_pb2.ListAliasMovesRequest(parent=alias))
    except grpc.aio.AioRpcError:
        return []
    return list(answer.moves)


@real(10)
@given(cuts=st.lists(st.integers(1, 6), max_size=6), prefixed=st.booleans(), writes=st.integers(1, 25))
async def test_the_stream_has_no_gaps(
    new_registry: Registry, population: list[Known], cuts: list[int], prefixed: bool, writes: int
) -> None:
    """
    However often a watcher reconnects, and whatever its prefix, it receives each revision that concerns it once, in
    order.
    """
    del population
    registry = new_registry
    prefix = f"{DEFAULT}/models/m00" + "2" if prefixed else ""
    start = (await update(registry, "m002", models_pb2.Model(owner="x"), ["owner"])).revision + 1

    async def write() -> list[int]:
        own = []
        for number in range(writes):
            model = f"m00{2 + number % 3}"
            made = await update(registry, model, models_pb2.Model(owner=f"{number}"), ["owner"])
            if not prefixed or model == "m002":
                own.append(made.revision)
        await asyncio.sleep(0)
        return own

    writing = asyncio.create_task(write())
    told: list[int] = []
    after = start - 1
    for count in cuts:
        after = await follow(registry, prefix, after, told, count, after + 1 if writing.done() else None)
    own = await writing
    head = (await update(registry, "m005", models_pb2.Model(owner="end"), ["owner"])).revision
    await follow(registry, prefix, after, told, None, head)
    assert [each for each in told if each < head] == own


async def follow(
    registry: Registry, prefix: str, after: int, told: list[int], count: int | None, until: int | None
) -> int:
    """
    Watch for so many revisions, or until a revision is passed, and say how far that went.
    """
    heartbeat = Duration(nanos=100_000_000)
    request = {"start_revision": after + 1, "resource_prefix": prefix, "heartbeat_interval": heartbeat}
    beats = 0
    async with asyncio.timeout(20), aclosing(watch(registry, **request)) as messages:
        async for message in messages:
            assert not message.HasField("discontinuity")
            if message.HasField("revision"):
                told.append(message.revision.revision)
                count = count - 1 if count else count
            after = max(after, message.revision.revision or message.heartbeat.applied_revision)
            if count == 0 or (until is not None and after >= until):
                break
            # Nothing more may come of what a cut waits for: a heartbeat after the first message ends it, too.
            beats += message.HasField("heartbeat")
            if count is not None and beats > 1:
                break
    return after


async def test_a_mask_of_another_message(new_registry: Registry, population: list[Known]) -> None:
    """
    Over the wire, too: an update with any single field changes that field alone.
    """
    del population
    full = models_pb2.Model(
        display_name="d", description="e", owner="o", task="t", framework="f", license="l", labels={"a": "b"},
        annotations={"c": "d"}, parameter_count=5,
    )  # fmt: skip
    await create(new_registry, "masked")
    for path in MUTABLE:
        await new_registry.models.UpdateModel(
            models_pb2.UpdateModelRequest(
                model=models_pb2.Model(name=f"{DEFAULT}/models/masked"), update_mask=FieldMask(paths=["*"])
            )
        )
        changed = await update(new_registry, "masked", full, [path])
        for name in MUTABLE:
            expected = getattr(full if name == path else models_pb2.Model(), name)
            assert getattr(changed, name) == expected, (path, name)
