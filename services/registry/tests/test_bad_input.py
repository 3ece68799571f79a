"""
Bad input to any method: refused, named, and nothing written.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from modelyard.registry.v1 import (
    aliases_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)
from services.registry.tests.calls import DEFAULT, create, import_items, sql
from services.registry.tests.contract import call, methods, request_class
from services.registry.tests.server import Failing, Registry

METHODS = {method.name: method for method in methods()}
MODEL = f"{DEFAULT}/models/m"

# The field with which each unary method names what it is about.
NAMES = {
    "CreateNamespace": "namespace_id",
    "GetNamespace": "name",
    "CreateModel": "parent",
    "GetModel": "name",
    "BatchGetModels": "parent",
    "ListModels": "parent",
    "SearchModels": "parent",
    "UpdateModel": "model.name",
    "CreateVersion": "parent",
    "GetVersion": "name",
    "ListVersions": "parent",
    "ResolveVersion": "parent",
    "FinalizeVersion": "name",
    "DeleteVersion": "name",
    "CopyVersion": "source",
    "FindVersions": "parent",
    "MoveAliases": "parent",
    "GetAlias": "name",
    "ListAliases": "parent",
    "ListAliasMoves": "parent",
    "RecordEvaluations": "parent",
    "ListEvaluations": "parent",
    "QueryLeaderboard": "parent",
}

# What is no name of anything, or a name of nothing that can be.
MALFORMED = [
    "",
    "x",
    "namespaces/",
    "namespaces/a/b",
    "namespaces/-a",
    f"namespaces/{'a' * 65}",
    "namespaces/a\0",
    "A" * 10_000,
    "namespaces/default/models/",
    "namespaces/default/models/m/",
    " namespaces/default",
    "namespaces/default\n",
    "ａ",
    "namespaces/default/models/m/versions/0",
    "namespaces/default/models/m/versions/01",
    "namespaces/default/models/m/versions/9223372036854775808",
    "namespaces/default/models/m/aliases/.a",
]

LISTS: dict[str, Message] = {
    "ListNamespaces": namespaces_pb2.ListNamespacesRequest(),
    "ListModels": models_pb2.ListModelsRequest(parent=DEFAULT),
    "SearchModels": models_pb2.SearchModelsRequest(parent=DEFAULT),
    "ListVersions": versions_pb2.ListVersionsRequest(parent=MODEL),
    "ListAliases": aliases_pb2.ListAliasesRequest(parent=MODEL),
    "ListAliasMoves": aliases_pb2.ListAliasMovesRequest(parent=f"{MODEL}/aliases/a"),
    "ListEvaluations": evaluations_pb2.ListEvaluationsRequest(parent=MODEL),
    "QueryLeaderboard": evaluations_pb2.QueryLeaderboardRequest(parent=DEFAULT, dataset="imagenet", metric="top1"),
}

# The same lists asked for something else.
OTHERS: dict[str, Message] = {
    "ListModels": models_pb2.ListModelsRequest(parent=DEFAULT, show_deleted=True),
    "SearchModels": models_pb2.SearchModelsRequest(parent=DEFAULT, order_by="name"),
    "ListVersions": versions_pb2.ListVersionsRequest(parent=f"{DEFAULT}/models/n"),
    "ListAliases": aliases_pb2.ListAliasesRequest(parent=f"{DEFAULT}/models/n"),
    "ListAliasMoves": aliases_pb2.ListAliasMovesRequest(parent=f"{MODEL}/aliases/b"),
    "ListEvaluations": evaluations_pb2.ListEvaluationsRequest(parent=MODEL, min_value=0),
    "QueryLeaderboard": evaluations_pb2.QueryLeaderboardRequest(
        parent=DEFAULT, dataset="imagenet", metric="top1", ascending=True
    ),
}


def put(request: Any, path: str, value: Any) -> Any:
    """
    The request with one field set.
    """
    *where, field = path.split(".")
    target = request
    for part in where:
        target = getattr(target, part)
    setattr(target, field, value)
    return request


@pytest.mark.parametrize("name", NAMES)
async def test_malformed_names(shared: Registry, name: str) -> None:
    """
    Every method rejects a malformed name, whatever else the request contains.
    """
    for text in MALFORMED:
        if name == "CreateNamespace" and text == "x":
            continue
        request = put(request_class(METHODS[name])(), NAMES[name], text)
        with Failing() as failed:
            await call(shared, METHODS[name], request)
        assert failed.code is grpc.StatusCode.INVALID_ARGUMENT, text
        assert failed.reason == "INVALID_FIELDS"
        assert NAMES[name] in failed.fields


async def test_everything_at_once(registry: Registry) -> None:
    """
    All that is wrong is said in one answer, each with the path of its field, and nothing is written.
    """
    model = models_pb2.Model(
        display_name="x" * 257,
        description="y\0",
        owner="z" * 257,
        labels={"a\n": "a", "ok": "b" * 257, "": "c"},
        annotations={"a" * 251: "d", "b": "e" * 100_001},
        parameter_count=-1,
    )
    with Failing() as failed:
        await registry.models.CreateModel(models_pb2.CreateModelRequest(model_id="!", model=model, request_id="\n"))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(failed.fields) == {
        "parent",
        "model_id",
        "model.display_name",
        "model.description",
        "model.owner",
        'model.labels["a\\n"]',
        'model.labels["ok"]',
        'model.labels[""]',
        f'model.annotations["{"a" * 80}…"]',
        'model.annotations["b"]',
        "model.parameter_count",
        "request_id",
    }
    assert await sql(registry, "SELECT value FROM revision") == 1


async def test_too_many_labels(shared: Registry) -> None:
    """
    At most 256 labels.
    """
    labels = {f"k{n}": "" for n in range(257)}
    with Failing() as failed:
        await create(shared, "m", models_pb2.Model(labels=labels))
    assert list(failed.fields) == ["model.labels"]


async def test_ten_megabytes(shared: Registry) -> None:
    """
    A text of megabytes is rejected: by the limit of its field or, beyond the message size limit, as a whole.
    """
    with Failing() as failed:
        await create(shared, "m", models_pb2.Model(description="x" * 6_000_000))
    assert list(failed.fields) == ["model.description"]
    with Failing() as failed:
        await create(shared, "m", models_pb2.Model(description="x" * 10_000_000))
    assert failed.code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT}
    with Failing() as failed:
        await create(shared, "m", models_pb2.Model(labels={"x" * 1_000_000: "y"}))
    assert all(len(field) < 200 for field in failed.fields)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("size", [-1, -(2**31)])
async def test_negative_page_size(shared: Registry, name: str, size: int) -> None:
    """
    A negative page size is rejected.
    """
    with Failing() as failed:
        await call(shared, METHODS[name], put(type(LISTS[name])(), "page_size", size))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "page_size" in failed.fields


@pytest.mark.parametrize("name", LISTS)
async def test_tokens_belong_to_their_query(full: Registry, name: str) -> None:
    """
    A page token of another list, of the same list with other parameters, a truncated one and an invented one are all
    rejected.
    """

    async def token_of(list_: str, request: Message) -> str:
        copy = put(type(request)(), "page_size", 1)
        copy.MergeFrom(request)
        token: str = (await call(full, METHODS[list_], copy)).next_page_token
        assert token
        return token

    good = await token_of(name, LISTS[name])
    other = "ListNamespaces" if name != "ListNamespaces" else "ListModels"
    bad = [await token_of(other, LISTS[other]), good[:-2], good[2:], f"A{good[1:]}", "x", "=", "é", "\0", "a" * 100_000]
    if name in OTHERS:
        bad.append(await token_of(name, OTHERS[name]))
    for token in bad:
        if token == good:
            continue
        request = type(LISTS[name])()
        request.CopyFrom(LISTS[name])
        with Failing() as failed:
            await call(full, METHODS[name], put(request, "page_token", token))
        assert (failed.code, list(failed.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


async def test_page_sizes(shared: Registry) -> None:
    """
    0 means the default size; a size above the maximum means the maximum.
    """
    items = [imports_pb2.ImportModelsRequest.Item(model_id=f"s{n:04}") for n in range(1000)]
    await import_items(
        shared, items, [*items[:1], imports_pb2.ImportModelsRequest.Item(model_id="t")], skip_existing=True
    )
    for method, usual, most in (("ListModels", 50, 1000), ("SearchModels", 20, 1000)):
        for size, expected in ((0, usual), (7, 7), (2**31 - 1, most)):
            request = put(request_class(METHODS[method])(parent=DEFAULT), "page_size", size)
            answer = await call(shared, METHODS[method], request)
            assert len(answer.models) == expected
            assert answer.next_page_token


async def test_pages_fit_a_message(registry: Registry) -> None:
    """
    A page of huge models is cut to the message size of every client, and the next page continues after it.
    """
    annotations = {f"k{n}": "x" * 4096 for n in range(64)}
    for n in range(30):
        await create(registry, f"m{n:02}", models_pb2.Model(annotations=annotations))
    names, token, pages = [], "", 0
    while True:
        request = models_pb2.ListModelsRequest(parent=DEFAULT, page_size=1000, page_token=token)
        answer = await registry.models.ListModels(request)
        names += [model.name for model in answer.models]
        token, pages = answer.next_page_token, pages + 1
        if not token:
            break
    assert names == [f"{DEFAULT}/models/m{n:02}" for n in range(30)]
    assert pages > 1
    with Failing() as failed:
        await registry.models.BatchGetModels(models_pb2.BatchGetModelsRequest(parent=DEFAULT, names=names))
    assert list(failed.fields) == ["names"]
